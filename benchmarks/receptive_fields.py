"""What a pixel's prediction reads, of the models that write an image pixel by pixel, in one picture.

    python benchmarks/receptive_fields.py

Writes benchmarks/receptive_fields.png: for each model the size of the gradient of one pixel's outputs with respect to
each input pixel, summed over random weights and images. An input that no path leads from has gradient 0.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from micrognm import Tensor, grad, storage
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.pixel_rnn import PixelRNN
from micrognm.models.autoregressive.pixelcnn import PixelCNN
from micrognm.models.autoregressive.pixelsnail import PixelSNAIL
from micrognm.models.autoregressive.raster import Raster

Make = Callable[[tuple[int, int, int], np.random.Generator], Raster]

# Deep enough that what is not read is missed at any depth.
MODELS: dict[str, Make] = {
    "PixelCNN:\na blind spot to the right": lambda shape, rng: PixelCNN(shape, rng, blocks=max(shape), h=16),
    "Gated PixelCNN:\ntwo stacks, no blind spot": lambda shape, rng: GatedPixelCNN(shape, rng, layers=max(shape), p=8),
    "Row LSTM, one layer:\na triangle": lambda shape, rng: PixelRNN(shape, rng, kind="row", layers=1, h=8),
    "Diagonal BiLSTM, one layer:\nall earlier pixels but one": lambda shape, rng: PixelRNN(
        shape, rng, kind="diagonal", layers=1, h=8
    ),
    "PixelSNAIL, one block:\nall earlier pixels": lambda shape, rng: PixelSNAIL(
        shape, rng, levels=2, mixtures=0, blocks=1, resnets=2, F=16
    ),
}


@dataclass
class Settings:
    out: Path = Path("benchmarks/receptive_fields.png")
    """the picture"""
    side: int = 27
    """pixels of the image's sides"""
    seeds: int = 4
    """how many random weights and images to sum over"""


def receptive_field(
    make: Make, shape: tuple[int, int, int], at: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """|d outputs at a pixel / d inputs|, [H, W], of the model with random weights, on a random image, in float64.

    Outputs are weighed at random, so that their gradients do not cancel.
    """
    model = make(shape, rng)
    model.eval()
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    image = Tensor(rng.uniform(-1, 1, (1, *shape)), requires_grad=True)
    out = model.pixels(image, model.rows(image, None), None)[(0, *at)]
    return np.abs(grad(out, image, Tensor(rng.standard_normal(out.shape))).numpy()[0]).sum(axis=-1)


def draw(fields: dict[str, np.ndarray], at: tuple[int, int], path: Path) -> None:
    """A panel for each field: blue is read, the darker the more; orange is earlier and not read; grey comes later."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Patch

    colours = {"read, the darker the more": "#08519c", "earlier, and not read": "#fd8d3c", "later": "#e0e0e0"}
    read, missed, later = (np.array(to_rgb(colour)) for colour in colours.values())
    figure = Figure(figsize=(2.3 * len(fields), 3.2), layout=ConstrainedLayoutEngine(h_pad=0.1))
    for panel, (name, field) in zip(figure.subplots(1, len(fields)), fields.items(), strict=True):
        H, W = field.shape
        earlier = np.arange(H * W).reshape(H, W) < at[0] * W + at[1]
        with np.errstate(divide="ignore"):
            size = np.log10(field / field.max())
        strength = np.clip(1 + size / 8, 0.15, 1)[..., None]  # logarithmic, from the strongest to 1e-7 of it
        picture = np.where(field[..., None] > 0, 1 - strength * (1 - read), missed)
        picture = np.where((field > 0)[..., None] | earlier[..., None], picture, later)
        picture[at] = to_rgb("#cb181d")
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(name, fontsize=9)
        panel.set(xticks=[], yticks=[])
    patches = [Patch(color=colour, label=label) for label, colour in {"the pixel": "#cb181d", **colours}.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    storage.write(path, file.getvalue())


def main(settings: Settings) -> None:
    shape, at = (settings.side, settings.side, 1), (settings.side * 3 // 4, settings.side // 2)
    fields = {}
    for name, make in MODELS.items():
        rng = np.random.default_rng(0)
        field = np.sum([receptive_field(make, shape, at, rng) for _ in range(settings.seeds)], axis=0)
        fields[name] = field
        earlier = at[0] * shape[1] + at[1]
        print(f"{name.split(':')[0]}: {np.count_nonzero(field)} of {earlier} earlier pixels are read")
    draw(fields, at, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
