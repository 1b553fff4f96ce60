"""The vector quantiser of VQ-VAE: a codebook of K entries, learned by a loss or as averages of what uses them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from micrognm import backend
from micrognm.engine import Tensor, no_grad, stop_gradient
from micrognm.formula import formula
from micrognm.nn.init import uniform
from micrognm.nn.module import Module, Parameter
from micrognm.operation import op
from micrognm.ops import mean, nearest, scatter_add


@op
def straight_through(z: Any, e: Any) -> Any:
    """e, with the gradient of z, and none of e: the choice is the identity to whoever asks for its slope."""
    if z.shape != e.shape:
        raise ValueError(f"z {list(z.shape)} and e {list(e.shape)} must have one shape")
    return e


straight_through.vjp(z=lambda g: g, e=None)


@formula
def _squared_error(a, b):  # type: ignore[no-untyped-def]
    """(a - b)^2"""
    return (a - b) * (a - b)


class Quantised(NamedTuple):
    """z_q [..., D], which passes its gradient to z_e; codes [...], the entries chosen; the loss of both sides."""

    z_q: Tensor
    codes: Tensor
    loss: Tensor


class Quantiser(Module):
    """z_e [..., D] -> the nearest of K entries e (van den Oord et al. 2017, equations 1 to 3, and appendix A.1).

    loss = beta |z_e - sg(e)|^2, which commits the encoder to its entries, and with decay 0 also |sg(z_e) - e|^2, which
    trains the entries; both are means over all numbers of z_e, where the paper sums over the D numbers of a latent.

    With a decay of gamma the entries are no parameters but moving averages, m_i / N_i, of the z_e that chose them:
    N_i = gamma N_i + (1 - gamma) n_i, m_i = gamma m_i + (1 - gamma) sum of these z_e. Both start at 0, which cancels in
    the ratio, so nothing is left to debias: after the first batch each used entry is the mean of its z_e. Smoothing
    adds EPS of an observation that lies where the entry is, so one that nothing uses stays where it is.

    An entry whose share N_i / sum N has fallen below `revive` times 1 / K is dead: it is put on a z_e of the batch,
    drawn from rng, with an even share. The first batch so scatters over its z_e all entries that none of them chose.
    Averages and revivals happen in training alone; N, m and e are buffers, and rng is kept.
    """

    EPS = 1e-5

    def __init__(
        self, K: int, D: int, rng: Generator, *, beta: float = 0.25, decay: float = 0.99, revive: float = 0.03
    ) -> None:
        if K < 1 or D < 1:
            raise ValueError(f"Quantiser: the codebook needs K and D of 1 or more, got K={K} and D={D}")
        if not (beta >= 0 and 0 <= decay < 1 and 0 <= revive < 1):
            raise ValueError(
                "Quantiser: expected beta >= 0, decay in [0, 1) and revive in [0, 1), "
                f"got beta={beta}, decay={decay}, revive={revive}"
            )
        self.K, self.D, self.beta, self.decay, self.revive = K, D, beta, decay, revive
        e = uniform(1 / K)(rng, (K, D))
        if decay == 0:
            self.e: Tensor = Parameter(e)
            return
        self.e, self.N, self.m = Tensor(e), Tensor(backend.zeros((K,))), Tensor(backend.zeros((K, D)))
        self.rng = rng

    def forward(self, z_e: Tensor) -> Quantised:
        """ValueError where there is no latent to quantise."""
        if z_e.size == 0:
            raise ValueError(f"Quantiser({self.K}, {self.D}): there is no latent in z_e {list(z_e.shape)}")
        index = self.choose(z_e)
        e = self.entries(index)
        loss = self.beta * mean(_squared_error(z_e, stop_gradient(e)))
        if self.decay == 0:
            loss = loss + mean(_squared_error(e, stop_gradient(z_e)))
        elif self.training:
            self._average(z_e, index)
        return Quantised(straight_through(z_e, e), index, loss)

    def choose(self, z_e: Tensor) -> Tensor:
        """The index of the nearest entry, [...] int64. It changes nothing, in training neither."""
        return nearest(z_e, self.e)[0]

    def entries(self, index: Any) -> Tensor:
        """e[index], [..., D]. TypeError where index holds no integers, IndexError where one is outside 0..K-1."""
        index = backend.asarray(index.data if isinstance(index, Tensor) else index)
        if index.dtype.kind not in "iu":
            raise TypeError(f"Quantiser({self.K}, {self.D}): codes must be integers, got {index.dtype}")
        if index.size and not 0 <= index.min() <= index.max() < self.K:
            raise IndexError(
                f"Quantiser({self.K}, {self.D}): codes run from {index.min()} to {index.max()}, "
                f"the entries from 0 to {self.K - 1}"
            )
        return self.e[index]

    @no_grad()
    def _average(self, z_e: Tensor, index: Tensor) -> None:
        """Move the averages by one batch, and revive what is dead."""
        z, index = z_e.reshape(shape=(index.size, self.D)), index.reshape(shape=(index.size,))
        ones = Tensor(np.ones_like(z.data[:, 0]))
        rest = 1 - self.decay
        N = self.decay * self.N + rest * scatter_add(ones, index, (self.K,))
        m = self.decay * self.m + rest * scatter_add(z, index, (self.K, self.D))
        e = (m + self.EPS * self.e) / (N + self.EPS).reshape(shape=(self.K, 1))
        even = N.sum() / self.K
        dead = np.flatnonzero(N.data < (self.revive * even).data)[: len(z)]
        if len(dead):
            e[dead] = z[self.rng.permutation(len(z))[: len(dead)]]
            N[dead] = even
            m[dead] = even * e[dead]
        self.N[...], self.m[...], self.e[...] = N, m, e


def perplexity(index: Any, K: int) -> float:
    """exp of the entropy of how often each of K codes occurs: K where all are used alike, 1 where one is used."""
    index = backend.asarray(index.data if isinstance(index, Tensor) else index).reshape(-1)
    if not index.size:
        raise ValueError("perplexity: there are no codes")
    p = np.bincount(index, minlength=K) / index.size
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p))))
