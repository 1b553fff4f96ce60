"""IWAE: Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov 2015, arXiv 1509.00519).

A VAE trained on the log of the average of k importance weights w_i = p(x, h_i) / q(h_i | x) instead of the average of
their logs: L_k = E[log 1/k sum_i w_i] (section 3). It grows with k towards log p(x) (theorem 1), so that q need not be
the posterior for the bound to be tight. Its gradient is sum_i w~_i grad log w_i with the normalised weights w~ as
constants, which is what differentiating the log-sum-exp gives.

Where what is: one and two stochastic layers (section 5), `elbo` with the same k as the control ("VAE, k"), the
learning rate in stages (section 5), log p(x) from 5,000 draws (section 5.1, in gaussian.py), active units
(section 5.2, metrics.py). The paper's h_l is z_l here. Beyond the paper: DReG (Tucker et al. 2018, arXiv 1810.04152),
whose gradient for q has the same expectation and a signal that does not vanish as k grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from micrognm.engine import Tensor, grad, stop_gradient
from micrognm.models.latent.gaussian import Gaussian, LatentGaussianModel, Pixels, log_density, log_mean_exp
from micrognm.nn import Parameter, init
from micrognm.ops import softmax


class IWAE(LatentGaussianModel):
    """Binary images [N, *shape].

    units: dimensions of each stochastic layer, from the one next to x. hidden: for each, the widths of the two
    deterministic tanh layers below it, used upwards by q and downwards by p. mean: the training images' [*shape], to
    which the bias of the output is set.
    """

    def __init__(
        self, units: Sequence[int], hidden: Sequence[Sequence[int]], rng: Generator, *, mean: np.ndarray
    ) -> None:
        if not units or len(units) != len(hidden) or min(units) < 1:
            raise ValueError(
                f"IWAE: expected hidden layers for each of 1 or more stochastic layers, got units={list(units)}, "
                f"hidden={list(map(list, hidden))}"
            )
        if not (mean.min() >= 0 and mean.max() <= 1):
            raise ValueError(f"IWAE: mean must lie in [0, 1], got {mean.min()} to {mean.max()}: binarise the images")
        start, D = init.glorot_uniform(), mean.size
        below = [D, *units[:-1]]
        q = [Gaussian(n, widths, m, rng, start) for n, widths, m in zip(below, hidden, units, strict=True)]
        p = [
            Gaussian(above, widths[::-1], n, rng, start)
            for above, widths, n in zip(units[1:], hidden[1:], units[:-1], strict=True)
        ]
        decoder = Pixels(units[0], hidden[0][::-1], D, rng, start)
        share = mean.reshape(D).clip(0.001, 0.999)
        decoder.logits.bias = Parameter(np.log(share / (1 - share)).astype(np.float32))
        super().__init__(mean.shape, q, p, decoder)

    def bound(self, x: Tensor, k: int, rng: Generator) -> Tensor:
        """L_k, [N] nats."""
        return log_mean_exp(self.log_weights(x, k, rng))

    def elbo(self, x: Tensor, k: int, rng: Generator) -> Tensor:
        """The evidence lower bound from k draws, [N] nats: the paper's VAE with the same k."""
        return self.log_weights(x, k, rng).mean(axis=1)

    def dreg(self, x: Tensor, k: int, rng: Generator) -> Tensor:
        """L_k, [N] nats, with the doubly reparametrised gradient for q (Tucker et al. 2018).

        For p the gradient is L_k's. For q it is sum_i w~_i^2 (d log w_i / d z_i) (d z_i / d q), by the draws alone.
        """
        rows = self.rows(x, k)
        z, _ = self.infer(self.q[0](rows), k, rng)
        fixed = [Tensor(value.data, requires_grad=True) for value in z]  # the same draws, which depend on nothing
        log_p = self.log_joint(rows, fixed)
        q = [layer(below) for layer, below in zip(self.q, [rows, *fixed], strict=False)]
        log_w = log_p - log_density(fixed, q)
        w = stop_gradient(softmax(log_w, axis=1))
        slopes = grad((w * w * log_w).sum(), fixed)
        surrogate = (w * log_p).sum(axis=1)
        for value, slope in zip(z, slopes, strict=True):
            surrogate = surrogate + (value * slope).sum(axis=(1, 2))
        return stop_gradient(log_mean_exp(log_w)) + surrogate - stop_gradient(surrogate)


def stages(epoch: int) -> Callable[[int], float]:
    """The paper's learning rate at a step, for `epoch` steps an epoch: 10^(-3 - i/7) in stage i = 0 ... 7.

    Stage i has 3^i epochs, all eight 3,280; the last rate stays after them.
    """

    def rate(step: int) -> float:
        i = 0
        while i < 7 and step >= epoch * (3 ** (i + 1) - 1) // 2:
            i += 1
        return 10 ** (-3 - i / 7)

    return rate
