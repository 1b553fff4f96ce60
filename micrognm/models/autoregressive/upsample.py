"""The up-sampling network that conditional models share: deconvolutions from a vector or a small map to a large map.

It is the m of s = m(h) in Gated PixelCNN (van den Oord et al. 2016b, section 2.3), which turns a vector h into a map s
that says what is where; GatedPixelCNN(told=n_out) takes s in every layer by an unmasked 1 x 1 convolution (equation 5).
It is also the one of the multi-scale PixelRNN (van den Oord et al. 2016a, section 3.6), from a small image.

The papers do not say its sizes. Here each deconvolution multiplies the sides by a prime, the largest first; taps of
twice the stride reach each output equally often; a relu follows each, and a 3 x 3 convolution ends the network.
"""

from __future__ import annotations

import itertools

from numpy.random import Generator

from micrognm.engine import Tensor
from micrognm.nn import Conv, ConvTranspose, Module
from micrognm.ops import relu
from micrognm.taps import Taps, square


class Upsample(Module):
    """Maps [N, *small, n_in], or vectors [N, n_in] where small is (1, 1), -> maps [N, *large, n_out].

    width: channels between the layers. ValueError where a side of `large` is no multiple of that of `small`.
    """

    def __init__(
        self, small: tuple[int, int], large: tuple[int, int], n_in: int, n_out: int, rng: Generator, width: int = 32
    ) -> None:
        if min(small) < 1 or any(b < a or b % a for a, b in zip(small, large, strict=True)):
            raise ValueError(f"Upsample: the sides {tuple(large)} must be multiples of the given {tuple(small)}")
        self.small, self.n_in = tuple(small), n_in
        self.deconvolutions = []
        size, channels = tuple(small), n_in
        for stride in itertools.zip_longest(*(_primes(b // a) for a, b in zip(small, large, strict=True)), fillvalue=1):
            # Where nothing can overlap, of one pixel or without a stride, taps beyond it would never be used.
            reach = [range(s) if s == 1 or n == 1 else range(1 - s, s + 1) for s, n in zip(stride, size, strict=True)]
            taps = Taps(tuple(itertools.product(*reach)))
            self.deconvolutions.append(ConvTranspose(channels, width, taps, rng, stride=stride, activation=relu))
            size, channels = (size[0] * stride[0], size[1] * stride[1]), width
        self.last = Conv(channels, n_out, square(3), rng)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            x = x.reshape(shape=(len(x), 1, 1, x.shape[1]))
        if x.shape[1:] != (*self.small, self.n_in):
            raise ValueError(f"Upsample: expected maps [N, {(*self.small, self.n_in)}], got {list(x.shape)}")
        for layer in self.deconvolutions:
            x = layer(x)
        return self.last(x)


def _primes(n: int) -> list[int]:
    """The prime factors of n, the largest first."""
    found, p = [], 2
    while n > 1:
        while n % p:
            p += 1
        found.append(p)
        n //= p
    return found[::-1]
