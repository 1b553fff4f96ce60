"""PixelCNN auto-encoder: Conditional Image Generation with PixelCNN Decoders (van den Oord et al. 2016b), section 2.4.

An encoder of convolutions turns an image x into a few numbers h(x), as in any auto-encoder, but the decoder is a
conditional Gated PixelCNN, p(x | h). Both are trained end to end on -log p(x | h(x)). The decoder models what is near
by itself, so h is free to say what the image shows, and a reconstruction is another image that shows the same.

h enters every layer of the decoder, either as it is (equation 4) or as a map s = m(h) by deconvolutions (equation 5).
The paper takes m = 10 and m = 100 numbers (not checked against its text). Encoder and up-sampling network are ours: the
paper gives neither. p(x | h(x)) is no density of x, for h(x) has seen x; there is no prior of h, so no `sample(n)`.
"""

from __future__ import annotations

from itertools import pairwise

from numpy.random import Generator

from micrognm.engine import Tensor, no_grad
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.upsample import Upsample
from micrognm.nn import Conv, Linear, Module
from micrognm.ops import relu
from micrognm.taps import square


class PixelCNNAutoencoder(Module):
    """Images [N, H, W, colours] of values 0 .. levels - 1 to h [N, m], and back by a Gated PixelCNN; see there.

    encoder: features of its convolutions, each of which halves the sides. maps: channels of s = m(h), which tells every
    place something of its own; 0 tells all places h itself. layers, p, k, head, mixtures are the decoder's.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rng: Generator,
        *,
        levels: int = 2,
        m: int = 10,
        encoder: tuple[int, ...] = (32, 64),
        maps: int = 0,
        layers: int = 6,
        p: int = 32,
        k: int = 3,
        head: int = 64,
        mixtures: int = 0,
    ) -> None:
        if m < 1 or not encoder or maps < 0:
            raise ValueError(
                "PixelCNNAutoencoder: expected m of 1 or more, one or more encoder layers and maps of 0 or more, "
                f"got m={m}, encoder={encoder}, maps={maps}"
            )
        self.decoder = GatedPixelCNN(
            shape, rng, levels=levels, layers=layers, p=p, k=k, head=head, mixtures=mixtures, told=maps or m
        )
        self.shape, self.levels, (H, W, colours) = self.decoder.shape, levels, shape
        self.encoder = [Conv(a, b, square(4), rng, stride=2, activation=relu) for a, b in pairwise((colours, *encoder))]
        H, W = (-(-side // 2 ** len(encoder)) for side in (H, W))
        self.to_h = Linear(H * W * encoder[-1], m, rng)
        self.to_s = Upsample((1, 1), shape[:2], m, maps, rng) if maps else None

    def encode(self, x: Tensor) -> Tensor:
        """h(x), [N, m]."""
        z = self.decoder.read(x)
        for layer in self.encoder:
            z = layer(z)
        return self.to_h(z.reshape(shape=(len(z), self.to_h.weight.shape[0])))

    def log_prob(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """log p(x | h), [N] nats, for h [N, m]; without h log p(x | h(x)), which training raises."""
        return self.decoder.log_prob(x, self._told(self.encode(x) if h is None else h))

    @no_grad()
    def decode(self, h: Tensor, rng: Generator, *, temperature: float = 1.0) -> Tensor:
        """An image of p(. | h) for each h [N, m]. Logits are divided by the temperature."""
        return self.decoder.sample(len(h), rng, self._told(h), temperature=temperature)

    @no_grad()
    def reconstruct(self, x: Tensor, rng: Generator, *, temperature: float = 1.0) -> Tensor:
        """An image of p(. | h(x)) for each x."""
        return self.decode(self.encode(x), rng, temperature=temperature)

    def _told(self, h: Tensor) -> Tensor:
        return h if self.to_s is None else self.to_s(h)
