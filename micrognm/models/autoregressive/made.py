"""MADE: Masked Autoencoder for Distribution Estimation (Germain, Gregor, Murray & Larochelle 2015, arXiv 1502.03509).

An autoencoder becomes a product of conditionals, p(x) = prod_d p(x_d | x before d), when every path from x_d' to
output d is cut unless d' comes before d in some order. Each unit gets a degree m, and a connection stays where degrees
do not fall, so one pass gives all D conditionals. Training over a list of orders and degrees gives one network with as
many factorisations; at test time their joint probabilities are averaged, which is a mixture and so a likelihood.

Where what is: degrees and masks (section 4, equations 8 and 9), direct connections (4.1), order- and
connectivity-agnostic training (4.2, 4.3), loss (equation 2). Beyond the paper: with levels > 2 a dimension has a
softmax over its levels and is read one-hot; sampling computes each unit once; an image is completed from any set of
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np  # for degrees, which are integers on the host; tensors' values do not pass through it
from numpy.random import Generator

from micrognm import backend
from micrognm.distributions import Bernoulli, Categorical
from micrognm.engine import Tensor, no_grad
from micrognm.nn import Dropout, Module, Parameter, init
from micrognm.ops import affine, concat, logsumexp, one_hot, relu, stack

Degrees = list[Any]  # of the inputs, then of each hidden layer: integer arrays [D], [H_1], ...


class MADE(Module):
    """A density of images [N, *shape] with values 0 .. levels - 1 (floats 0 and 1 for two levels, else integers).

    hidden: units of each hidden layer. masks: how many orders and degrees to train over, each made once from rng.
    order_agnostic, connectivity_agnostic: whether the order, and the hidden degrees, differ among them. natural_order:
    row by row, instead of a random order. direct: connections from input to output. companion: a second weight for each
    connection, which counts where the mask keeps it, so that the network knows its mask (section 4.3's U).
    """

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int],
        rng: Generator,
        *,
        levels: int = 2,
        masks: int = 1,
        order_agnostic: bool = True,
        connectivity_agnostic: bool = True,
        natural_order: bool = False,
        direct: bool = False,
        companion: bool = False,
        dropout: float = 0.0,
    ) -> None:
        self.shape, self.levels = tuple(shape), levels
        self.D = math.prod(shape)
        self.K = 1 if levels == 2 else levels  # numbers that read, or predict, one dimension
        if self.D < 2 or levels < 2 or masks < 1 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"MADE: expected 2 or more dimensions and levels, 1 or more masks and hidden units, "
                f"got shape={self.shape}, levels={levels}, masks={masks}, hidden={list(hidden)}"
            )
        if natural_order and masks > 1 and order_agnostic:
            raise ValueError("MADE: natural_order is one order; with masks > 1 it needs order_agnostic=False")
        drawn: list[Degrees] = []
        for s in range(masks):
            order = None if s == 0 or order_agnostic else drawn[0][0]
            degrees = draw_degrees(self.D, hidden, rng, order=rng.permutation(self.D) + 1 if order is None else order)
            if natural_order:
                degrees[0].sort()
            drawn.append(degrees if s == 0 or connectivity_agnostic else [degrees[0], *drawn[0][1:]])
        self.degrees = [Tensor(np.stack(m)) for m in zip(*drawn, strict=True)]  # [S, D], [S, H_1], ...
        sizes = [self.D * self.K, *hidden, self.D * self.K]
        pairs = list(pairwise(sizes))
        self.W = [Parameter(init.orthogonal()(rng, pair)) for pair in pairs]  # the last is the paper's V
        self.b = [Parameter(init.zeros()(rng, (n,))) for _, n in pairs]  # the last is the paper's c
        self.A = Parameter(init.zeros()(rng, (sizes[0], sizes[-1]))) if direct else None
        self.U = [Parameter(init.zeros()(rng, pair)) for pair in pairs] if companion else []
        self.dropout = Dropout(dropout, rng)
        self._masks: dict[int, list[backend.Array]] = {}  # made from the degrees when first used

    @property
    def S(self) -> int:
        """The number of masks."""
        return len(self.degrees[0])

    def load(self, state: Any) -> None:
        """Take up parameters and degrees; see Module.load."""
        super().load(state)
        self._masks.clear()

    def masks(self, s: int) -> list[backend.Array]:
        """The masks of degrees s, for each of W and then for A: 0 or 1, of the weights' shapes."""
        if s not in self._masks:
            self._masks[s] = self.make_masks([m.numpy()[s] for m in self.degrees])
        return self._masks[s]

    def make_masks(self, degrees: Degrees) -> list[backend.Array]:
        """The masks that degrees describe."""
        m = [degrees[0].repeat(self.K), *degrees[1:]]  # K numbers read, or predict, each dimension
        kept = [after[None, :] >= before[:, None] for before, after in pairwise(m)]
        kept += [m[0][None, :] > before[:, None] for before in (m[-1], m[0])]  # outputs: strictly before, and so for A
        return [backend.asarray(k.astype(self.W[0].dtype)) for k in kept]

    def logits(self, x: Tensor, masks: Sequence[backend.Array]) -> Tensor:
        """Of all conditionals at once: [N, D], or [N, D, K] for more than two levels; x [N, *shape]."""
        h = x0 = self.read(x)
        for i, (W, b, M) in enumerate(zip(self.W, self.b, masks, strict=False)):
            if self.U:
                b = b + (self.U[i] * M).sum(axis=0)
            h = affine(h, W * M, b)
            if i < len(self.W) - 1:
                h = self.dropout(relu(h))
        if self.A is not None:
            h = h + x0 @ (self.A * masks[-1])
        return h if self.K == 1 else h.reshape(shape=(len(h), self.D, self.K))

    def read(self, x: Tensor) -> Tensor:
        """Images as the rows that enter the network, [N, D] or one-hot [N, D K]."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"MADE: expected images [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if self.K == 1:
            return x.reshape(shape=(len(x), self.D))
        return one_hot(x.reshape(shape=(len(x), self.D)), self.K, self.W[0].dtype).reshape(
            shape=(len(x), self.D * self.K)
        )

    def conditionals(self, logits: Tensor) -> Bernoulli | Categorical:
        """p(x_d | x before d) from the outputs for d."""
        return Bernoulli(logits) if self.K == 1 else Categorical(logits)

    def log_prob(self, x: Tensor, s: int | None = None) -> Tensor:
        """log p(x), [N] nats, under masks s; by default of the ensemble, log of the mean over s of p_s(x)."""
        if s is None and self.S > 1:
            each = stack(*(self.log_prob(x, s) for s in range(self.S)), axis=0)
            return logsumexp(each, axis=0) - math.log(self.S)
        logits = self.logits(x, self.masks(s or 0))
        return self.conditionals(logits).log_prob(x.reshape(shape=(len(x), self.D))).sum(axis=1)

    def sample(self, n: int, rng: Generator) -> Tensor:
        """n images [n, *shape] of the ensemble: each under masks drawn at random, as a mixture is sampled."""
        return self._draw(rng.integers(self.S, size=n), rng)[0]

    def complete(self, x: Tensor, known: Any, rng: Generator, candidates: int = 256) -> Tensor:
        """Images x [N, *shape] with the pixels that are not known drawn anew, given those that are.

        Likelihood weighting: each candidate keeps the known pixels and draws the others in the order of its masks,
        which misses what the later known ones say of the earlier others. So candidates are weighed by the probability
        of their known pixels, and one is drawn by that weight. It follows p(unknown | known) in the limit of many
        candidates, and with one where the known pixels come first in the order. known: booleans [*shape], or such as
        broadcast to it.
        """
        if np.broadcast_shapes(known.shape, self.shape) != self.shape or candidates < 1:
            raise ValueError(
                f"MADE.complete: expected known that broadcasts to {list(self.shape)} and candidates >= 1, "
                f"got {list(known.shape)} and {candidates}"
            )
        N, known = len(x), np.broadcast_to(known, self.shape)
        drawn, weight = self._draw(
            rng.integers(self.S, size=N * candidates), rng, x[np.arange(N).repeat(candidates)], known
        )
        pick = Categorical(weight.reshape(shape=(N, candidates))).sample(rng)
        return drawn[np.arange(N) * candidates + pick.numpy()]

    def _draw(self, of: Any, rng: Generator, x: Tensor | None = None, known: Any = None) -> tuple[Tensor, Tensor]:
        """What sample_from gives for as many images as `of`, the i-th under masks of[i]."""
        u = backend.uniform(rng, (len(of), self.D), self.W[0].dtype)
        places = [(of == s).nonzero()[0] for s in range(self.S)]
        parts = [
            self.sample_from(Tensor(u[i]), [m.numpy()[s] for m in self.degrees], None if x is None else x[i], known)
            for s, i in enumerate(places)
        ]
        back = np.concatenate(places).argsort()
        images, weights = zip(*parts, strict=True)
        return concat(*images, axis=0)[back], concat(*weights, axis=0)[back]

    @no_grad()
    def sample_from(
        self, u: Tensor, degrees: Degrees, x: Tensor | None = None, known: Any = None
    ) -> tuple[Tensor, Tensor]:
        """Images [n, *shape] from uniform numbers u [n, D], one for each dimension; known pixels are those of x.

        Also gives [n], the log-probability of the known pixels where they stood (0 without any). Units are sorted by
        degree. One of degree d reads what has degree d or less, so it is computed once, right after the d-th dimension
        is drawn: in all, the products of one forward pass.
        """
        n, D, K = len(u), self.D, self.K
        order = degrees[0].argsort()  # the dimension of rank d + 1 stands at d
        inputs = (order[:, None] * K + np.arange(K)).reshape(D * K)
        sort = [inputs, *(m.argsort(kind="stable") for m in degrees[1:]), inputs]
        ranks = np.arange(D + 1)
        upto = [ranks * K, *(np.sort(m).searchsorted(ranks, "right") for m in degrees[1:])]  # units of degree d or less
        M = self.make_masks(degrees)
        W = [(w * m)[i][:, j] for w, m, i, j in zip(self.W, M, sort[:-1], sort[1:], strict=False)]
        b = [b[j] for b, j in zip(self.b, sort[1:], strict=True)]
        if self.U:
            b = [c + (v * m).sum(axis=0)[j] for c, v, m, j in zip(b, self.U, M, sort[1:], strict=False)]
        V = W.pop().transpose()  # [D K, H]: what one dimension needs lies together
        A = None if self.A is None else (self.A * M[-1])[inputs][:, inputs].transpose()
        sizes = [D * K, *(len(m) for m in degrees[1:])]
        h = [Tensor(backend.zeros((n, size), u.dtype)) for size in sizes]  # inputs, then hidden units
        drawn = Tensor(backend.zeros((n, D), u.dtype if K == 1 else np.int64))
        weight = Tensor(backend.zeros((n,), u.dtype))
        given = None if x is None else x.reshape(shape=(n, D))
        fixed = np.zeros(D, bool) if known is None else known.reshape(D)
        for d in range(D):
            i, here, k = int(order[d]), slice(d * K, (d + 1) * K), int(upto[-1][d])
            z = h[-1][:, :k] @ V[here, :k].transpose() + b[-1][here]
            if A is not None:
                z = z + h[0][:, : d * K] @ A[here, : d * K].transpose()
            p = self.conditionals(z[:, 0] if K == 1 else z)
            if fixed[i] and given is not None:
                value = given[:, i]
                weight = weight + p.log_prob(value)
            else:
                value = p.sample_from(u[:, i])
            drawn[:, i] = value
            h[0][:, here] = value[:, None] if K == 1 else one_hot(value, K, u.dtype)
            for layer, w in enumerate(W):
                reads, new = int(upto[layer][d + 1]), slice(int(upto[layer + 1][d]), int(upto[layer + 1][d + 1]))
                if new.start < new.stop:
                    h[layer + 1][:, new] = relu(affine(h[layer][:, :reads], w[:reads, new], b[layer][new]))
        return drawn.reshape(shape=(n, *self.shape)), weight


def draw_degrees(D: int, hidden: Sequence[int], rng: Generator, order: Any) -> Degrees:
    """Degrees of the inputs (their ranks in the order, from 1) and, drawn uniformly, of each hidden layer's units.

    A unit's degree is at least the smallest of the layer below, or nothing would reach it, and at most D - 1.
    """
    degrees = [order]
    for size in hidden:
        degrees.append(rng.integers(degrees[-1].min(), D, size=size))
    return degrees
