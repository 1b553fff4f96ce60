"""Conv, MaskedConv, ConvTranspose: their maps, where they start, and that no output sees a later pixel or colour."""

import itertools
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from micrognm import Tensor, check, grad, optim
from micrognm.incremental import incremental
from micrognm.nn import Module, WeightNorm, init
from micrognm.nn.conv import Conv, ConvTranspose, MaskedConv
from micrognm.ops import elu
from micrognm.ops.conv import conv, conv_transpose
from micrognm.taps import Taps, box, causal, down_right_shifted, line, past, square, taps


def image(rng: np.random.Generator, *shape: int) -> Tensor:
    return Tensor(rng.standard_normal(shape).astype(np.float32))


def filled(layer: Any, rng: np.random.Generator) -> Any:
    """The layer with a bias that is not 0."""
    layer.bias.data[...] = rng.standard_normal(layer.bias.shape)
    return layer


LAYERS: dict[str, Any] = {
    "1-D": (lambda rng: Conv(4, 6, past(3).dilate(2), rng), (5, 9, 4)),
    "2-D": (lambda rng: Conv(4, 6, square(3), rng), (5, 7, 6, 4)),
    "strided": (lambda rng: Conv(4, 6, square(4), rng, stride=2), (5, 7, 6, 4)),
    "grouped": (lambda rng: Conv(4, 6, square(3), rng, stride=(1, 2), groups=2), (5, 5, 6, 4)),
    "shaped": (lambda rng: Conv(4, 6, square(4).shift(1, 1), rng, shape=(2, 3)), (5, 5, 6, 4)),
    "3-D": (lambda rng: Conv(4, 6, box(2, 3, 1), rng), (5, 3, 4, 2, 4)),
    "masked": (lambda rng: MaskedConv(6, 9, causal(3, "B"), rng, mask="A"), (5, 4, 5, 6)),
    "transposed": (lambda rng: ConvTranspose(4, 6, square(4), rng, stride=2), (5, 3, 4, 4)),
    "transposed 1-D": (lambda rng: ConvTranspose(4, 6, line(5), rng, stride=2, shape=(9,)), (5, 5, 4)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


# ---- the maps --------------------------------------------------------------------------------------------------------


def test_conv_is_the_operation(rng):
    layer = filled(Conv(4, 6, square(3), rng, stride=(1, 2), groups=2), rng)
    x = image(rng, 2, 5, 6, 4)
    want = conv(x, layer.weight, layer.bias, taps=square(3), stride=(1, 2), groups=2)
    np.testing.assert_array_equal(layer(x).numpy(), want.numpy())
    assert layer.weight.shape == (9, 2, 6) and layer(x).shape == (2, 5, 3, 6)
    assert list(layer.named_parameters()) == ["weight", "bias"]
    assert list(Conv(1, 1, square(3), rng, bias=False).named_parameters()) == ["weight"]
    assert Conv(3, 2, square(4).shift(1, 1), rng, shape=(1, 1))(image(rng, 2, 4, 4, 3)).shape == (2, 1, 1, 2)


def test_conv_transpose_is_the_operation(rng):
    layer = filled(ConvTranspose(4, 6, square(4), rng, stride=2, shape=(7, 8)), rng)
    x = image(rng, 2, 4, 4, 4)
    want = conv_transpose(x, layer.weight, layer.bias, taps=square(4), stride=2, shape=(7, 8))
    np.testing.assert_array_equal(layer(x).numpy(), want.numpy())
    assert layer.weight.shape == (16, 6, 4) and layer(x).shape == (2, 7, 8, 6)


def test_a_transposed_layer_is_the_adjoint_of_the_layer_with_its_weight(rng):
    up = ConvTranspose(3, 5, square(5), rng, stride=2, bias=False)
    down = Conv(5, 3, square(5), rng, stride=2, bias=False)
    down.weight.data[...] = up.weight.data
    small, large = image(rng, 2, 4, 3, 3), image(rng, 2, 8, 6, 5)
    np.testing.assert_allclose((up(small) * large).sum().item(), (small * down(large)).sum().item(), rtol=1e-4)


@every_layer
def test_an_activation_is_applied_to_the_outputs(name, rng):
    make, shape = LAYERS[name]
    layer = filled(make(rng), rng)
    x = image(rng, *shape)
    want = elu(layer(x)).numpy()
    layer.activation = elu
    np.testing.assert_allclose(layer(x).numpy(), want, rtol=1e-6, atol=1e-6)


def test_activations_are_given_to_every_layer(rng):
    x = image(rng, 2, 4, 4, 3)
    layers = [
        Conv(3, 3, causal(3, "B"), rng, activation=elu),
        MaskedConv(3, 3, causal(3, "B"), rng, mask="B", activation=partial(elu, alpha=0.5)),
        ConvTranspose(3, 3, square(4), rng, stride=2, activation=elu),
    ]
    for layer, least in zip(layers, (-1, -0.5, -1), strict=True):
        layer.bias.data[...] = -100
        np.testing.assert_array_equal(layer(x).numpy(), np.float32(least))
    with pytest.raises(TypeError, match="MaskedConv: activation is tanh; expected a formula"):
        MaskedConv(3, 3, causal(3, "B"), rng, mask="B", activation=np.tanh)


def test_a_pixel_at_a_time_has_the_activation_too(rng):
    layer = filled(Conv(2, 4, causal(3, "B"), rng, activation=elu), rng)
    x = image(rng, 1, 3, 3, 2)
    whole = layer(x).numpy()
    with incremental((3, 3)) as at:
        for y, column in np.ndindex(3, 3):
            with at(y, column):
                found = layer(x).numpy()
            np.testing.assert_allclose(found[:, 0, 0], whole[:, y, column], rtol=1e-5, atol=1e-6)


@every_layer
def test_gradients_to_order_two(name, rng):
    make, shape = LAYERS[name]
    layer = make(rng)
    weight = layer.effective_weight()
    small = (1, *(min(n, 3) for n in shape[1:-1]), shape[-1])
    check(lambda x, w, b: layer.apply(x, w, b), small, weight.shape, layer.bias.shape, rng=rng)


@every_layer
def test_state_and_load(name, rng):
    make, shape = LAYERS[name]
    one, two = make(np.random.default_rng(1)), make(np.random.default_rng(2))
    filled(one, rng)
    x = image(rng, *shape)
    assert not np.array_equal(one(x).numpy(), two(x).numpy())
    two.load(one.state())
    np.testing.assert_array_equal(one(x).numpy(), two(x).numpy())
    assert "weight [" in repr(one)


# ---- where they start ------------------------------------------------------------------------------------------------


def test_the_weight_starts_by_its_fan_in(rng):
    layer = Conv(64, 60, square(3), rng, groups=4)
    bound = 1 / np.sqrt(9 * 16)
    w = layer.weight.numpy()
    assert np.abs(w).max() <= bound and w.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert layer.bias is not None and (layer.bias.numpy() == 0).all()
    np.testing.assert_array_equal(Conv(2, 2, square(3), rng, init=init.constant(0.5)).weight.numpy(), 0.5)
    again = [Conv(3, 4, square(3), np.random.default_rng(3)).weight.numpy() for _ in range(2)]
    np.testing.assert_array_equal(again[0], again[1])


@pytest.mark.parametrize("groups", [1, 3])
def test_each_group_starts_as_a_layer_of_its_own(groups, rng):
    w = Conv(6, 6, line(2), rng, groups=groups, init=init.orthogonal()).weight.numpy()
    for k in range(groups):
        block = w[..., k * 6 // groups : (k + 1) * 6 // groups].reshape(-1, 6 // groups)
        np.testing.assert_allclose(block.T @ block, np.eye(6 // groups), atol=1e-6)


def test_each_phase_of_a_transposed_layer_starts_as_a_layer_of_its_own(rng):
    layer = ConvTranspose(6, 5, line(5), rng, stride=2, init=init.orthogonal())
    w = layer.effective_weight().numpy()
    for taps_of_phase in ([0, 2, 4], [1, 3]):  # offsets -2, 0, 2 and -1, 1
        rows = w[taps_of_phase].reshape(-1, 5)
        np.testing.assert_allclose(rows.T @ rows, np.eye(5), atol=1e-6)


@pytest.mark.parametrize(("k", "stride"), [(4, 2), (5, 2), (3, 1), (3, 2)])
def test_a_transposed_layer_starts_alike_in_every_phase(k, stride, rng):
    """The outputs of all phases have the variance that relu keeps: no chequerboard before the first step."""
    layer = ConvTranspose(256, 64, square(k), rng, stride=stride, init=init.he_normal(1.0))
    y = layer(image(rng, 16, 6, 6, 256)).numpy()[:, stride:-stride, stride:-stride]
    for i, j in np.ndindex(stride, stride):
        assert y[:, i::stride, j::stride].std() == pytest.approx(1, rel=0.05)


# ---- masks -----------------------------------------------------------------------------------------------------------


def sees(net: Module, height: int, width: int, colours: int, rng: np.random.Generator) -> np.ndarray:
    """[pixel and colour in, pixel and colour out]: whether an output moves when an input is perturbed."""
    net.cast("float64")
    x = rng.standard_normal((height, width, colours))
    moved = np.repeat(x[None], x.size + 1, 0)
    for i, at in enumerate(np.ndindex(x.shape)):
        moved[(i, *at)] += rng.uniform(1, 2)
    y = net(Tensor(moved)).numpy()
    assert y.shape[1:3] == (height, width) and y.shape[3] % colours == 0
    moves = np.abs(y[:-1] - y[-1:]).reshape(x.size, height * width, colours, -1).max(axis=-1)
    return moves.reshape(x.size, x.size) > 1e-12


class Stack(Module):
    """A first layer that hides the present, and more that show it, with a bend between them."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(x * x + x)
        return x


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_no_output_sees_a_later_pixel(depth, rng):
    net = Stack([Conv(1, 4, causal(5, "A"), rng), *(Conv(4, 4, causal(3, "B"), rng) for _ in range(depth - 1))])
    matrix = sees(net, 4, 5, 1, rng)
    np.testing.assert_array_equal(np.tril(matrix), False)
    assert matrix[0, 1] and matrix[0, 5]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_no_output_sees_a_later_pixel_or_colour(depth, rng):
    """Order: pixel by pixel, in each red, green, blue. Every earlier value within reach is seen, none that is later."""
    first = MaskedConv(3, 6, causal(3, "B"), rng, mask="A")
    more = [MaskedConv(6, 6, causal(3, "B"), rng, mask="B") for _ in range(depth - 1)]
    matrix = sees(Stack([first, *more]), 3, 4, 3, rng)
    np.testing.assert_array_equal(np.tril(matrix), False)
    own = matrix.reshape(12, 3, 12, 3)
    for pixel in range(12):
        np.testing.assert_array_equal(own[pixel, :, pixel], np.triu(np.ones((3, 3), bool), 1))
    if depth == 4:
        reach = reachable([(first.taps, "A"), *((layer.taps, "B") for layer in more)], 3, 4)
        np.testing.assert_array_equal(matrix, reach)


def reachable(layers: list[tuple[Taps, str]], height: int, width: int) -> np.ndarray:
    """Which (pixel, colour) reaches which, layer by layer, from the taps and the rule of colours alone."""
    places = list(itertools.product(range(height), range(width), range(3)))
    total = np.eye(len(places), dtype=bool)
    for t, mask in layers:
        step = np.zeros_like(total)
        for (i, (y, x, c)), (j, (v, u, d)) in itertools.product(enumerate(places), enumerate(places)):
            offset = (y - v, x - u)
            own = offset != (0, 0) or c < d or (c == d and mask == "B")
            step[i, j] = offset in t.offsets and own
        total = (total.astype(int) @ step) > 0
    return total


@pytest.mark.parametrize("mask", ["A", "B"])
def test_a_one_by_one_convolution_keeps_the_order_of_colours(mask, rng):
    layer = MaskedConv(6, 9, square(1), rng, mask=mask)
    seen = (layer.effective_weight().numpy()[0] != 0).reshape(3, 2, 3, 3)
    want = np.triu(np.ones((3, 3), bool), 1 if mask == "A" else 0)
    np.testing.assert_array_equal(seen.all(axis=(1, 3)), want)
    np.testing.assert_array_equal(seen.any(axis=(1, 3)), want)


OPTIMISERS: dict[str, Any] = {
    "sgd": lambda net: optim.SGD(net, 0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda net: optim.Adam(net, 0.01, weight_decay=0.1),
    "adamax": lambda net: optim.Adamax(net, 0.01),
    "rmsprop": lambda net: optim.RMSProp(net, 0.01),
}


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("normalised", [False, True])
def test_hidden_weights_stay_zero_under_every_optimiser(name, normalised, rng):
    layer = MaskedConv(6, 6, causal(3, "B"), rng, mask="A")
    hidden = layer.mask.numpy() == 0
    assert hidden.sum() == 6 * 2 * 2 and not layer.weight.numpy()[hidden].any()
    net = WeightNorm(layer) if normalised else layer
    x = image(rng, 4, 5, 5, 6)
    net(x)
    optimiser = OPTIMISERS[name](net)
    before = layer.weight.numpy().copy()
    for _ in range(5):
        optimiser.zero_grad()
        y = net(x)
        (y * y * y).mean().backward()
        optimiser.step()
    assert not layer.weight.numpy()[hidden].any()
    assert (layer.weight.numpy() != before)[~hidden].mean() > 0.9


def test_a_hidden_weight_has_no_influence_even_if_it_is_not_zero(rng):
    layer = MaskedConv(3, 6, causal(3, "B"), rng, mask="B")
    x = image(rng, 2, 4, 4, 3)
    before = layer(x).numpy()
    state = layer.state()
    hidden = state["mask"] == 0
    state["weight"][hidden] = 1e30
    layer.load(state)
    np.testing.assert_array_equal(layer(x).numpy(), before)
    g = grad(layer(x).sum(), layer.weight)
    assert not g.numpy()[hidden].any() and g.numpy()[~hidden].all()


# ---- weight normalisation --------------------------------------------------------------------------------------------


@every_layer
def test_weight_norm_sets_mean_and_scale_and_keeps_lengths(name, rng):
    make, shape = LAYERS[name]
    norm = WeightNorm(make(rng), init_scale=0.5)
    x = image(rng, *shape)
    y = norm(x).numpy().astype(np.float64)
    axes = tuple(range(y.ndim - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axes), 0.5, rtol=1e-4)
    weight = norm.effective_weight().numpy()
    assert weight.shape[-1] == y.shape[-1] == norm.gain.size
    np.testing.assert_allclose(np.sqrt((weight**2).sum((0, 1))), norm.gain.numpy(), rtol=1e-5)
    for p, g in zip(norm.parameters(), grad((norm(x) ** 2).sum(), norm.parameters()), strict=True):
        assert g.shape == p.shape and np.isfinite(g.numpy()).all()


# ---- what does not fit -----------------------------------------------------------------------------------------------


BAD: list[tuple[Any, str]] = [
    (lambda rng: Conv(0, 3, square(3), rng), "Conv: n_in and n_out must be 1 or more, got 0 and 3"),
    (lambda rng: Conv(4, 6, square(3), rng, groups=4), "Conv: groups=4 must divide n_in and n_out, which are 4 and 6"),
    (lambda rng: ConvTranspose(4, 0, square(3), rng), "ConvTranspose: n_in and n_out must be 1 or more, got 4 and 0"),
    (lambda rng: MaskedConv(3, 3, causal(3, "B"), rng, mask="C"), 'mask must be "A", which hides the own'),
    (lambda rng: MaskedConv(4, 6, causal(3, "B"), rng, mask="A"), "in three parts, one a colour; got 4 and 6"),
    (lambda rng: MaskedConv(3, 3, causal(3, "A"), rng, mask="A"), "the centre must be read, and nothing after"),
    (lambda rng: MaskedConv(3, 3, square(3), rng, mask="B"), "by causal(k, 'B'); got\n# # #\n# @ #\n# # #"),
    (lambda rng: Conv(4, 6, square(3), rng)(image(rng, 2, 5, 5, 3)), "w is for 4 channels of x, which has 3"),
    (lambda rng: Conv(4, 6, square(3), rng)(image(rng, 2, 5, 4)), "with taps of 2 axes x has 4"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_does_not_fit_is_named(call, message, rng):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(rng)


def test_taps_must_be_taps(rng):
    with pytest.raises(TypeError, match=r"Conv: taps is int; expected Taps, as micrognm\.taps\.square\(3\) makes them"):
        Conv(4, 6, 3, rng)  # type: ignore[arg-type]


def test_taps_drawn_by_hand_make_a_layer(rng):
    assert Conv(1, 2, taps("# # #\n# o ."), rng).weight.shape == (4, 1, 2)
    assert MaskedConv(3, 3, down_right_shifted(2, 2), rng, mask="B").weight.shape == (4, 3, 3)
