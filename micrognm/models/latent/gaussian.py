"""Deep latent Gaussian models: what VAE and IWAE share.

A chain of normal variables generates an image, p(x, z) = p(z_L) p(z_{L-1} | z_L) ... p(x | z_1) with p(z_L) standard,
and a recognition network guesses them back, q(z | x) = q(z_1 | x) q(z_2 | z_1) ... (Rezende et al. 2014; one layer is
Kingma and Welling's model). All that is computed from the two are the importance weights of Burda et al. 2015,
log w_i = log p(x, z_i) - log q(z_i | x) for k draws z_i of q, a matrix [N, k]: its mean over k is the evidence lower
bound, its log-mean-exp a tighter one, and log p(x) where k is large.

An image passes the first recognition layer once; draws alone are multiplied by k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from numpy.random import Generator

from micrognm import backend
from micrognm import formula as f
from micrognm.distributions import Bernoulli, Normal
from micrognm.engine import Tensor, no_grad
from micrognm.formula import formula
from micrognm.nn import Linear, Module, Sequential
from micrognm.nn.init import Initialiser
from micrognm.ops import concat, logsumexp, sigmoid, stack, tanh

Keep = Sequence[Any] | None  # booleans [n] for each layer, from z_1; None keeps all units
Masks = Sequence[Tensor] | None
ROWS = 4096  # draws at once, in evaluation: few enough for the processor's caches


class Gaussian(Module):
    """A normal variable [..., n_out] given x [..., n_in]: tanh layers, then its mean and the log of its deviation.

    Where log_std comes from is as in the papers, a linear layer (of the log-variance there: a factor of 2).
    squash: the mean passes a sigmoid, for pixels in [0, 1]. linear: what its layers are made by.
    """

    def __init__(
        self, n_in: int, hidden: Sequence[int], n_out: int, rng: Generator, init: Initialiser, squash: bool = False,
        linear: type[Linear] = Linear,
    ) -> None:  # fmt: skip
        self.hidden = layers(n_in, hidden, rng, init, linear)
        last = [n_in, *hidden][-1]
        self.mean = linear(last, n_out, rng, init=init)
        self.log_std = linear(last, n_out, rng, init=init)
        self.squash, self.n_out = squash, n_out

    def forward(self, x: Tensor) -> Normal:
        h = self.hidden(x)
        mean = self.mean(h)
        return Normal(sigmoid(mean) if self.squash else mean, self.log_std(h))

    def log_likelihood(self, rows: Tensor, z: Tensor) -> Tensor:
        """log p(rows | z), [N, k], of rows [N, 1, D] and z [N, k, n]."""
        return log_density([rows], [self(z)])


class Pixels(Module):
    """Bernoulli pixels [..., n_out] given z [..., n_in]: tanh layers, then logits. linear: what makes the layers."""

    def __init__(
        self, n_in: int, hidden: Sequence[int], n_out: int, rng: Generator, init: Initialiser,
        linear: type[Linear] = Linear,
    ) -> None:  # fmt: skip
        self.hidden = layers(n_in, hidden, rng, init, linear)
        self.logits = linear([n_in, *hidden][-1], n_out, rng, init=init)

    def forward(self, z: Tensor) -> Bernoulli:
        return Bernoulli(self.logits(self.hidden(z)))

    def log_likelihood(self, rows: Tensor, z: Tensor) -> Tensor:
        """log p(rows | z), [N, k], of rows [N, 1, D] and z [N, k, n]. ValueError for rows outside [0, 1]."""
        low, high = (rows.data.min(), rows.data.max()) if rows.size else (0, 0)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"Pixels: x must lie in [0, 1], got values from {low} to {high}. Binarise it")
        return log_bernoulli(rows, self(z).logits)


def layers(
    n_in: int, hidden: Sequence[int], rng: Generator, init: Initialiser, linear: type[Linear] = Linear
) -> Sequential:
    """Linear layers of these widths, a tanh after each."""
    steps = [(linear(a, b, rng, init=init), tanh) for a, b in pairwise([n_in, *hidden])]
    return Sequential(*(step for pair in steps for step in pair))


class LatentGaussianModel(Module):
    """Images [N, *shape] explained by normal variables z_1 ... z_L.

    q: the recognition layers of z_1 ... z_L. p: the generative layers of z_1 ... z_{L-1}. decoder: of x given z_1.
    """

    def __init__(
        self, shape: Sequence[int], q: Sequence[Gaussian], p: Sequence[Gaussian], decoder: Pixels | Gaussian
    ) -> None:
        self.shape, self.D = tuple(shape), math.prod(shape)
        self.q, self.p, self.decoder = list(q), list(p), decoder

    def log_weights(self, x: Tensor, k: int, rng: Generator, keep: Keep = None) -> Tensor:
        """log w [N, k] of k draws from q(z | x) for each image.

        keep: for each layer booleans [n]; the units left out are removed from the model, and are 0 for all others.
        """
        rows = self.rows(x, k)
        return self._log_weights(rows, self.q[0](rows), k, rng, self.masks(keep))

    def _log_weights(self, rows: Tensor, first: Normal, k: int, rng: Generator, masks: Masks) -> Tensor:
        z, q = self.infer(first, k, rng, masks)
        return self.log_joint(rows, z, masks) - log_density(z, q, masks)

    def infer(self, first: Normal, k: int, rng: Generator, masks: Masks = None) -> tuple[list[Tensor], list[Normal]]:
        """k draws of z_1 ... z_L, each [N, k, n], and their distributions q(z_l | z_{l-1}), given q(z_1 | x)."""
        z: list[Tensor] = []
        q = [first]
        for layer in range(len(self.q)):
            if layer:
                q.append(self.q[layer](z[-1]))
            N, _, n = q[-1].mean.shape
            drawn = q[-1].sample_from(backend.normal(rng, (N, k, n), q[-1].mean.dtype))
            z.append(drawn * masks[layer] if masks else drawn)
        return z, q

    def log_joint(self, rows: Tensor, z: Sequence[Tensor], masks: Masks = None) -> Tensor:
        """log p(x, z), [N, k], of rows [N, 1, D]."""
        p = [*(layer(above) for layer, above in zip(self.p, z[1:], strict=True)), standard(z[-1])]
        return self.decoder.log_likelihood(rows, z[0]) + log_density(z, p, masks)

    @no_grad()
    def log_prob(self, x: Tensor, rng: Generator, samples: int = 5000, keep: Keep = None) -> Tensor:
        """An estimate of log p(x), [N] nats: the log of the mean weight of so many draws.

        It is below log p(x) in expectation, and the nearer the more draws there are. They are made and summed up in
        parts, so that memory does not grow with them. keep: see log_weights.
        """
        rows, masks = self.rows(x, samples), self.masks(keep)
        first = self.q[0](rows)
        part = max(1, ROWS // max(1, len(x)))
        total = None
        for start in range(0, samples, part):
            log_w = self._log_weights(rows, first, min(part, samples - start), rng, masks)
            here = logsumexp(log_w, axis=1)
            total = here if total is None else logsumexp(stack(total, here, axis=0), axis=0)
        assert total is not None  # samples is 1 or more
        return total - math.log(samples)

    @no_grad()
    def posterior_means(self, x: Tensor, rng: Generator, k: int = 100) -> list[Tensor]:
        """E_q(z_l | x)[z_l] for each layer, [N, n]: exact for the first, and for others from k draws of those below."""
        rows = self.rows(x, k)
        part = max(1, ROWS // k)
        found = []
        for start in range(0, len(x), part):
            _, q = self.infer(self.q[0](rows[start : start + part]), k, rng)
            found.append([of.mean.mean(axis=1) for of in q])
        return [concat(*means, axis=0) for means in zip(*found, strict=True)]

    def ancestral(self, n: int, rng: Generator) -> Bernoulli | Normal:
        """p(x | z_1) for n draws of z_1 from the prior, its parameters [n, 1, D]."""
        z = Tensor(backend.normal(rng, (n, 1, self.q[-1].n_out), self.decoder.parameters()[0].dtype))
        for layer in reversed(self.p):
            z = layer(z).sample(rng)
        return self.decoder(z)

    @no_grad()
    def sample(self, n: int, rng: Generator) -> Tensor:
        """n images [n, *shape]."""
        return self.images(self.ancestral(n, rng).sample(rng))

    @no_grad()
    def sample_means(self, n: int, rng: Generator) -> Tensor:
        """The expected pixels of n images [n, *shape]: what is usually shown as samples."""
        return self.images(self.ancestral(n, rng).mean)

    @no_grad()
    def reconstruct(self, x: Tensor, rng: Generator) -> Tensor:
        """The expected pixels [N, *shape] given one draw of q(z_1 | x)."""
        z, _ = self.infer(self.q[0](self.rows(x, 1)), 1, rng)
        return self.images(self.decoder(z[0]).mean)

    def rows(self, x: Tensor, k: int) -> Tensor:
        """Images [N, *shape] as [N, 1, D]; ValueError for other shapes, or fewer draws than one."""
        if x.shape[1:] != self.shape or k < 1:
            raise ValueError(
                f"{type(self).__name__}: expected images [N, {', '.join(map(str, self.shape))}] and 1 or more draws, "
                f"got {list(x.shape)} and {k}"
            )
        return x.reshape(shape=(len(x), 1, self.D))

    def masks(self, keep: Keep) -> Masks:
        """keep as 0 and 1 for the layers' units; ValueError where it does not fit them."""
        if keep is None:
            return None
        sizes, found = [layer.n_out for layer in self.q], [len(mask) for mask in keep]
        if sizes != found:
            raise ValueError(
                f"{type(self).__name__}: keep must hold a mask of units for each layer, {sizes}; got {found}"
            )
        return [Tensor(backend.asarray(mask, self.q[0].mean.weight.dtype)) for mask in keep]

    def images(self, rows: Tensor) -> Tensor:
        """Rows [N, 1, D] as images [N, *shape]."""
        return rows.reshape(shape=(len(rows), *self.shape))


def log_density(z: Sequence[Tensor], of: Sequence[Normal], masks: Masks = None) -> Tensor:
    """The log-density [N, k] of all layers' z [N, k, n] together, each under its distribution."""
    kept: Sequence[Tensor | float] = masks or [1.0] * len(z)
    first, *rest = (
        log_normal(value, each.mean, each.log_std, mask) for value, each, mask in zip(z, of, kept, strict=True)
    )
    return sum(rest, first)


@formula
def log_normal(z: Any, mean: Any, log_std: Any, keep: Any) -> Any:
    """Normal(mean, log_std).log_prob(z), times keep, summed over the last axis: in one pass."""
    e = (z - mean) * f.exp(-log_std)
    return f.sum(keep * (-0.5 * e * e - log_std - 0.5 * math.log(2 * math.pi)), axes=1)


@formula
def log_bernoulli(x: Any, logits: Any) -> Any:
    """Bernoulli(logits).log_prob(x), summed over the last axis: in one pass, and one back."""
    return f.sum(x * logits - f.softplus(logits), axes=1)


def standard(like: Tensor) -> Normal:
    """The standard normal distribution, which broadcasts to any shape."""
    zero = Tensor(backend.zeros((1,), like.dtype))
    return Normal(zero, zero)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """[N, k] -> [N]: the log of the mean weight."""
    return logsumexp(log_w, axis=1) - math.log(log_w.shape[1])
