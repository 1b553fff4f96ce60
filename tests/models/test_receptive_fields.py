"""What each model reads of the pixels before one, exactly, by gradients: the papers' triangle, wedge and whole past."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.receptive_fields import receptive_field
from micrognm.models.autoregressive.gated_pixelcnn import GatedPixelCNN
from micrognm.models.autoregressive.pixel_rnn import PixelRNN
from micrognm.models.autoregressive.pixelcnn import PixelCNN
from micrognm.models.autoregressive.pixelsnail import PixelSNAIL

H, W = 11, 11
CENTRE = 7, 5
PIXELS = list(itertools.product(range(H), range(W)))


def seen(make, at=CENTRE, seeds=4):
    """The pixels that any of some models with random weights reads."""
    rng = np.random.default_rng(0)
    fields = [receptive_field(make, (H, W, 1), at, rng) for _ in range(seeds)]
    return {(int(y), int(x)) for y, x in np.argwhere(np.sum(fields, axis=0))}


def earlier(at=CENTRE):
    return {pixel for pixel in PIXELS if pixel < at}


def pixelcnn(blocks):
    return lambda shape, rng: PixelCNN(shape, rng, blocks=blocks, h=16)


def pixel_rnn(kind, layers=1):
    return lambda shape, rng: PixelRNN(shape, rng, kind=kind, layers=layers, h=8)


def right_of_the_wedge(y, x, at=CENTRE):
    """Three pixels to the right in the row above, by the 7 x 7 taps, and one more for each row further up."""
    return x - at[1] > (at[0] - y) + 2


@pytest.mark.parametrize("blocks", [7, 9])
def test_pixelcnn_misses_its_wedge_at_any_depth(blocks):
    missed = {(y, x) for y, x in earlier() if y < CENTRE[0] and right_of_the_wedge(y, x)}
    assert {(6, 9), (6, 10), (5, 10)} == missed
    assert seen(pixelcnn(blocks)) == earlier() - missed


def test_pixelcnn_reads_what_its_taps_reach():
    """7 x 7 without blocks, and one row and column more with each block of 3 x 3."""
    assert seen(pixelcnn(0)) == {(y, x) for y, x in earlier() if y >= 4 and 2 <= x <= 8}
    assert seen(pixelcnn(1)) == {(y, x) for y, x in earlier() if y >= 3 and 1 <= x <= 9} - {(6, 9)}


@pytest.mark.parametrize("at", [CENTRE, (7, 0), (7, 10), (0, 5), (10, 10)])
def test_gated_pixelcnn_reads_all_earlier_pixels(at):
    assert seen(lambda shape, rng: GatedPixelCNN(shape, rng, layers=12, p=8), at) == earlier(at)


@pytest.mark.parametrize("at", [CENTRE, (7, 0), (7, 10), (0, 5), (10, 10)])
def test_pixelsnail_reads_all_earlier_pixels_by_attention(at):
    def make(attend):
        return lambda shape, rng: PixelSNAIL(
            shape, rng, levels=2, mixtures=0, blocks=1, resnets=1, F=8, keys=4, attend=attend
        )

    assert seen(make(True), at) == earlier(at)
    if at == CENTRE:
        # 1 x 3 above and 2 x 1 on the left, then 2 x 2 twice
        assert seen(make(False)) == {
            (y, x) for y, x in earlier() if CENTRE[0] - 3 <= y and CENTRE[1] - 3 <= x <= CENTRE[1] + 1
        }


@pytest.mark.parametrize("layers", [1, 2])
def test_row_lstm_reads_a_triangle(layers):
    """The 7 x 7 taps give three pixels on both sides, input-to-state one on the left a layer, each row one on both."""

    def within(y, x):
        up, aside = CENTRE[0] - y, x - CENTRE[1]
        return -(3 + layers) - up <= aside and not (up and right_of_the_wedge(y, x))

    triangle = {pixel for pixel in earlier() if within(*pixel)}
    assert len(triangle) < len(earlier())
    assert seen(pixel_rnn("row", layers)) == triangle


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("at", [CENTRE, (7, 0), (7, 6), (7, 7), (7, 10), (0, 5), (10, 10)])
def test_diagonal_bilstm_reads_all_earlier_pixels_but_one(layers, at):
    """It misses the last pixel of the row above, where the 7 x 7 taps do not reach it, at any depth.

    The features of a row know the pixels before their own, so none of that row knows its last pixel. It is known on
    the next row, from four columns before the end, and the way back from there counts one row later.
    """
    missed = {(at[0] - 1, W - 1)} if at[0] > 0 and at[1] + 3 < W - 1 else set()
    assert seen(pixel_rnn("diagonal", layers), at) == earlier(at) - missed
