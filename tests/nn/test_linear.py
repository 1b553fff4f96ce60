"""Linear and MaskedLinear: the map, its gradients, and what a mask cuts."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, no_grad
from micrognm.nn import Linear, MaskedLinear, init


def tensor(x: np.ndarray) -> Tensor:
    return Tensor(x.astype(np.float32))


@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (2, 1, 3), (0,), (3, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_map_on_the_last_axis(lead, bias, rng):
    layer = Linear(5, 4, rng, bias=bias)
    for p in layer.parameters():
        p.data[...] = rng.standard_normal(p.shape)
    x = rng.standard_normal((*lead, 5)).astype(np.float32)
    got = layer(Tensor(x)).numpy()
    want = x.astype(np.float64) @ layer.weight.numpy() + (layer.bias.numpy() if layer.bias is not None else 0)
    assert got.shape == (*lead, 4) and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert list(layer.named_parameters()) == (["weight", "bias"] if bias else ["weight"])


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_to_order_two(lead, bias, rng):
    layer = Linear(4, 2, rng)
    inputs = [(*lead, 4), (4, 2), *([(2,)] if bias else [])]
    check(lambda x, w, b=None: layer.apply(x, w, b), *inputs, rng=rng)


def test_where_it_starts(rng):
    layer = Linear(400, 300, rng)
    bound = 1 / np.sqrt(400)
    w = layer.weight.numpy()
    assert np.abs(w).max() <= bound and w.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)
    assert layer.bias is not None and (layer.bias.numpy() == 0).all()
    np.testing.assert_array_equal(Linear(3, 2, rng, init=init.constant(0.5)).weight.numpy(), np.full((3, 2), 0.5))
    again = [Linear(6, 5, np.random.default_rng(3)).weight.numpy() for _ in range(2)]
    np.testing.assert_array_equal(again[0], again[1])


@pytest.mark.parametrize("shape", [(2, 4), (5, 2), (6,), ()])
def test_a_wrong_last_axis_names_the_layer(shape, rng):
    for layer, name in ((Linear(5, 3, rng), "Linear"), (MaskedLinear(5, 3, rng), "MaskedLinear")):
        message = f"{name}(5, 3): expected x [..., 5], got float32{list(shape)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            layer(Tensor(np.zeros(shape, np.float32)))


def test_sizes_must_be_positive(rng):
    with pytest.raises(ValueError, match="MaskedLinear: n_in and n_out must be 1 or more, got 0 and 3"):
        MaskedLinear(0, 3, rng)


# ---- masks -----------------------------------------------------------------------------------------------------------


def masked(rng, mask: np.ndarray) -> MaskedLinear:
    n_in, n_out = mask.shape
    layer = MaskedLinear(n_in, n_out, rng, mask=tensor(mask))
    assert layer.bias is not None
    layer.bias.data[...] = rng.standard_normal(layer.bias.shape)
    return layer


@settings(max_examples=40)
@given(
    n_in=st.integers(1, 6), n_out=st.integers(1, 6), share=st.sampled_from([0.0, 0.4, 1.0]), seed=st.integers(0, 999)
)
def test_masked_weights_have_no_influence_and_no_gradient(n_in, n_out, share, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((n_in, n_out)) < share
    layer = masked(rng, mask)
    x = tensor(rng.standard_normal((3, n_in)))
    before = layer(x)
    cotangent = tensor(rng.standard_normal(before.shape))
    (g,) = grad(before, [layer.weight], cotangent)
    assert (g.numpy()[~mask] == 0).all()
    np.testing.assert_allclose(g.numpy(), mask * (x.numpy().T @ cotangent.numpy()), rtol=1e-5, atol=1e-6)
    layer.weight.data[~mask] = rng.choice([-1e30, 1e30], (~mask).sum())
    np.testing.assert_array_equal(layer(x).numpy(), before.numpy())
    assert layer.bias is not None
    expected = x.numpy() @ np.where(mask, layer.weight.numpy(), 0) + layer.bias.numpy()
    np.testing.assert_allclose(before.numpy(), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 999))
def test_an_output_depends_on_exactly_the_inputs_its_mask_names(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5)) < 0.5
    layer = masked(rng, mask)
    x = Tensor(rng.standard_normal((1, 4)).astype(np.float32), requires_grad=True)
    y = layer(x)
    jacobian = np.stack([grad(y[0, k], x).numpy()[0] for k in range(5)], axis=1)
    np.testing.assert_array_equal(jacobian != 0, mask)


def test_gradients_through_a_mask_to_order_two(rng):
    layer = masked(rng, rng.random((4, 3)) < 0.5)
    mask = layer.mask.numpy()
    check(lambda x, w, b: layer.apply(x, w * mask.astype(w.dtype), b), (2, 4), (4, 3), (3,), rng=rng)


def test_without_a_mask_it_is_linear(rng):
    layer = MaskedLinear(4, 3, np.random.default_rng(5))
    plain = Linear(4, 3, np.random.default_rng(5))
    x = tensor(rng.standard_normal((2, 4)))
    np.testing.assert_array_equal(layer(x).numpy(), plain(x).numpy())
    assert list(layer.named_parameters()) == ["weight", "bias"] and list(layer.named_buffers()) == ["mask"]


def test_a_mask_can_be_exchanged_and_is_part_of_the_state(rng):
    first, second = (tensor(rng.random((4, 3)) < 0.5) for _ in range(2))
    layer = MaskedLinear(4, 3, rng, mask=first)
    x = tensor(rng.standard_normal((2, 4)))
    layer.mask = second
    np.testing.assert_allclose(layer(x).numpy(), x.numpy() @ (layer.weight.numpy() * second.numpy()), atol=1e-6)
    assert np.shares_memory(layer.mask.numpy(), second.numpy())
    state = layer.state()
    np.testing.assert_array_equal(state["mask"], second.numpy())
    layer.mask = first
    given_array = first.numpy().copy()
    layer.load(state)
    np.testing.assert_array_equal(layer.mask.numpy(), second.numpy())
    np.testing.assert_array_equal(first.numpy(), given_array)  # the first mask, kept elsewhere, is not overwritten
    layer.cast("float64")
    with no_grad():
        assert layer(Tensor(np.zeros((1, 4)))).dtype == np.float64


def test_a_mask_that_does_not_fit_raises(rng):
    layer = MaskedLinear(4, 3, rng)
    before = layer.mask
    bad: list[tuple[object, type[Exception], str]] = [
        (np.ones((4, 3)), TypeError, "expected a Tensor, got ndarray"),
        (tensor(np.ones((3, 4))), ValueError, r"expected float32\[4, 3\], got float32\[3, 4\]"),
        (tensor(np.ones((1, 3))), ValueError, r"got float32\[1, 3\]"),
        (Tensor(np.ones((4, 3), bool)), ValueError, "got bool"),
        (tensor(np.full((4, 3), 0.5)), ValueError, "expected 0 and 1 alone"),
        (tensor(np.full((4, 3), np.nan)), ValueError, "expected 0 and 1 alone"),
    ]
    for mask, error, message in bad:
        with pytest.raises(error, match=r"MaskedLinear\(4, 3\)\.mask: .*" + message):
            layer.mask = mask  # type: ignore[assignment]
    assert layer.mask is before
