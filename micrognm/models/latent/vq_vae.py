"""VQ-VAE: Neural Discrete Representation Learning (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv 1711.00937).

An encoder turns an image x into a small map z_e(x) of vectors; each is replaced by the nearest of K codebook entries,
z_q(x) = e_k (equations 1 and 2), and a decoder turns them back into the image. The choice has no gradient, so the
decoder's is passed to the encoder as it is. Since an image is now a few codes, a PixelCNN can learn which codes go
together, p(z), and what it draws, decoded, are new images.

Where what is: -log p(x | z_q) + codebook term + beta * commitment (equation 3), the last two in nn.quantiser, with the
averaged codebook of appendix A.1; encoder and decoder (section 4.1): strided 4 x 4 convolutions and residual blocks
relu, 3 x 3, relu, 1 x 1, mirrored. All three terms are means over their numbers here, where the paper sums over pixels
and over the D numbers of a latent. A 1 x 1 convolution to D, and a 3 x 3 one in the decoder, are not in the paper.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.random import Generator

from micrognm.distributions import LogisticMixture
from micrognm.engine import Tensor, no_grad
from micrognm.models.autoregressive.raster import Raster
from micrognm.nn import Conv, ConvTranspose, Module, Sequential
from micrognm.nn.quantiser import Quantised, Quantiser
from micrognm.ops import clip, mean, relu, softmax, split, stack, sum, tanh
from micrognm.taps import square


class Residual(Module):
    """x + conv 1 x 1 (relu(conv 3 x 3 (relu(x)))), with r features between."""

    def __init__(self, h: int, r: int, rng: Generator) -> None:
        self.inner, self.outer = Conv(h, r, square(3), rng, activation=relu), Conv(r, h, square(1), rng)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(relu(x)))


def encoder(n_in: int, h: int, r: int, blocks: int, halvings: int, rng: Generator) -> Sequential:
    """[N, H, W, n_in] -> [N, H / 2^halvings, W / 2^halvings, h]."""
    layers: list[Any] = []
    for i in range(halvings):
        layers += [Conv(h if i else n_in, h, square(4), rng, stride=2), *([relu] if i + 1 < halvings else [])]
    return Sequential(*layers, *(Residual(h, r, rng) for _ in range(blocks)), relu)


def decoder(n_in: int, h: int, r: int, blocks: int, doublings: int, n_out: int, rng: Generator) -> Sequential:
    """[N, h, w, n_in] -> [N, h 2^doublings, w 2^doublings, n_out]."""
    layers: list[Any] = [Conv(n_in, h, square(3), rng), *(Residual(h, r, rng) for _ in range(blocks))]
    for i in range(doublings):
        layers += [relu, ConvTranspose(h, h if i + 1 < doublings else n_out, square(4), rng, stride=2)]
    return Sequential(*layers)


class Autoencoder(Module):
    """What VQ-VAE and VQ-VAE-2 share: pixels, likelihood and the bound. A model says how it encodes and decodes.

    Images are integers [N, H, W, colours] of 0 .. levels - 1, codes integers [N, h, w].
    """

    def __init__(self, shape: tuple[int, int, int], levels: int, mixtures: int, halvings: int) -> None:
        name = type(self).__name__
        if len(shape) != 3 or shape[2] not in (1, 3) or levels < 2 or mixtures < 0 or halvings < 1:
            raise ValueError(
                f"{name}: expected shape (height, width, 1 or 3 colours), 2 or more levels, 0 or more mixtures and 1 "
                f"or more halvings, got {tuple(shape)}, {levels}, {mixtures} and {halvings}"
            )
        if min(shape) < 1 or shape[0] % 2**halvings or shape[1] % 2**halvings:
            raise ValueError(
                f"{name}: {halvings} halvings need sides that {2**halvings} divides, got {shape[0]} x {shape[1]}; "
                "pad the images, or halve less often"
            )
        self.shape, self.levels, self.mixtures = tuple(shape), levels, mixtures
        self.outputs = shape[2] if not mixtures else mixtures * (3 if shape[2] == 1 else 10)

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder says of scaled images, [N, H, W, outputs], and the quantisers' loss."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> Any:
        """The codes of images. The codebook stays as it is, in training too."""
        raise NotImplementedError

    def decoded(self, codes: Any) -> Tensor:
        """What the decoder says of codes, [N, H, W, outputs]."""
        raise NotImplementedError

    def read(self, x: Tensor) -> Tensor:
        """Images scaled to -1 .. 1. ValueError for other shapes and values."""
        name = type(self).__name__
        if x.shape[1:] != self.shape:
            raise ValueError(f"{name}: expected images [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}")
        if x.dtype.kind not in "iu" or (x.size and not 0 <= x.data.min() <= x.data.max() <= self.levels - 1):
            raise ValueError(
                f"{name}: expected integers from 0 to {self.levels - 1}, got {x.dtype}"
                + (f" from {x.data.min()} to {x.data.max()}" if x.size else "")
            )
        return x.cast(self.parameters()[0].dtype) * (2 / (self.levels - 1)) - 1

    def loss(self, x: Tensor) -> Tensor:
        """Equation 3, one number: per pixel and colour -log p(x | z_q), plus the quantisers' terms.

        Without mixtures p is a Gaussian of variance 1/2 on pixels scaled to -1 .. 1: their mean squared error.
        """
        scaled = self.read(x)
        out, loss = self.out(scaled)
        if self.mixtures:
            return loss - self._likelihood(out, x).mean() / self.shape[2]
        error = scaled - out
        return loss + mean(error * error)

    def image(self, out: Tensor) -> Tensor:
        """The reconstruction, of [0, 1]: the mixture's mean of each pixel, its components cut to what pixels can be."""
        if self.mixtures:
            out = _means(out, self.mixtures, self.shape[2])
        return (clip(out, -1, 1) + 1) * 0.5

    @no_grad()
    def decode(self, codes: Any) -> Tensor:
        """Codes to images [N, *shape] of [0, 1]."""
        return self.image(self.decoded(codes))

    @no_grad()
    def squared_error(self, x: Tensor) -> Tensor:
        """Of the reconstruction of each image, the mean over its pixels, which count from 0 to 1: [N]."""
        error = (self.read(x) + 1) * 0.5 - self.decode(self.encode(x))
        return mean(error * error, axis=(1, 2, 3))

    @no_grad()
    def log_prob_given(self, x: Tensor, codes: Any) -> Tensor:
        """log p(x | z_q) of a decoder with mixtures, [N] nats."""
        if not self.mixtures:
            raise ValueError(
                f"{type(self).__name__}: a decoder without mixtures has no likelihood of whole levels; "
                "make it with mixtures=1 or more"
            )
        return sum(self._likelihood(self.decoded(codes), x), axis=(1, 2))

    def _likelihood(self, out: Tensor, x: Tensor) -> Tensor:
        return LogisticMixture(out, self.levels, self.mixtures).log_prob(x)


def _means(out: Tensor, mixtures: int, colours: int) -> Tensor:
    """[N, H, W, colours] from parameters as `LogisticMixture` orders them, with red's mean where green looks at red."""
    parts = split(out, [mixtures] * (out.shape[-1] // mixtures))
    weights, found = softmax(parts[0]), list[Tensor]()
    for c in range(colours):
        component = parts[1 + c]
        for j, earlier in enumerate(found):
            component = component + tanh(parts[2 * colours + c + j]) * earlier.reshape(shape=(*earlier.shape, 1))
        found.append(sum(weights * clip(component, -1, 1), axis=-1))
    return stack(*found, axis=-1)


class VQVAE(Autoencoder):
    """Images to codes [N, h, w] of 0 .. K - 1 and back; h = H / 2^halvings.

    h, r, blocks: features, features inside a residual block, and how many of these. D: numbers of a codebook entry.
    beta, decay, revive are the Quantiser's. mixtures: of discretised logistics, whose likelihood the decoder then
    raises; 0 for the squared error.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 256,
        halvings: int = 2,
        h: int = 128,
        r: int = 32,
        blocks: int = 2,
        K: int = 512,
        D: int = 64,
        beta: float = 0.25,
        decay: float = 0.99,
        revive: float = 0.03,
        mixtures: int = 0,
    ) -> None:
        super().__init__(shape, levels, mixtures, halvings)
        self.size = (shape[0] >> halvings, shape[1] >> halvings)
        self.encoder = encoder(shape[2], h, r, blocks, halvings, rng)
        self.to_z = Conv(h, D, square(1), rng)
        self.quantiser = Quantiser(K, D, rng, beta=beta, decay=decay, revive=revive)
        self.decoder = decoder(D, h, r, blocks, halvings, self.outputs, rng)

    def z_e(self, x: Tensor) -> Tensor:
        """The encoder's map [N, h, w, D] of scaled images."""
        return self.to_z(self.encoder(x))

    def out(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q: Quantised = self.quantiser(self.z_e(x))
        return self.decoder(q.z_q), q.loss

    @no_grad()
    def encode(self, x: Tensor) -> Tensor:
        return self.quantiser.choose(self.z_e(self.read(x)))

    def decoded(self, codes: Any) -> Tensor:
        return self.decoder(self.quantiser.entries(codes))

    @no_grad()
    def bound(self, x: Tensor, prior: Raster | None = None) -> Tensor:
        """log p(x | z) + log p(z) <= log p(x) for the codes z of x, [N] nats.

        prior: of maps of codes [N, h, w, 1]; without it, p(z) = K^-(h w), as in training and in the paper's figures.
        """
        codes = self.encode(x)
        if prior is None:
            known: Any = -self.size[0] * self.size[1] * math.log(self.quantiser.K)
        else:
            known = prior.log_prob(codes.reshape(shape=(*codes.shape, 1)))
        return self.log_prob_given(x, codes) + known

    @no_grad()
    def sample(self, n: int, rng: Generator, prior: Raster, *, temperature: float = 1.0) -> Tensor:
        """n images of [0, 1]: the decoder's reconstructions of codes that the prior draws."""
        return self.decode(prior.sample(n, rng, temperature=temperature)[..., 0])
