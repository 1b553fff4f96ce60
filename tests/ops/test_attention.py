"""Attention: laws of a softmax over the keys that a row reads, gradients, and errors."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, ops
from micrognm.ops.attention import MASKS, attention
from tests.strategies import generators

REACH = {"none": 10**6, "causal": 1, "strictly causal": 0}


def oracle(q, k, v, mask, keys, scale):
    """Softmax of each row over what it reads, in float64."""
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for n, i, h in np.ndindex(out.shape[:3]):
        read = np.arange(k.shape[1]) < i + REACH[mask]
        if keys is not None:
            read &= keys[n]
        if read.any():
            s = scale * k[n, read, h] @ q[n, i, h]
            w = np.exp(s - s.max())
            out[n, i, h] = w / w.sum() @ v[n, read, h]
    return out


def drawn(rng, images=2, length=9, m=11, heads=2, d=3, e=5):
    shapes = ((images, length, heads, d), (images, m, heads, d), (images, m, heads, e))
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("mask", MASKS)
@given(rng=generators(), length=st.sampled_from([1, 9, 70]), m=st.sampled_from([1, 11, 66]), padded=st.booleans())
@settings(max_examples=10)
def test_the_value_is_that_of_an_explicit_softmax(rng, length, m, padded, mask):
    q, k, v = drawn(rng, length=length, m=m)
    keys = rng.random((2, m)) < 0.5 if padded else None
    for scale, factor in ((None, 3**-0.5), (0.3, 0.3)):
        out = attention(q, k, v, mask=mask, keys=keys, scale=scale)
        np.testing.assert_allclose(out.numpy(), oracle(q, k, v, mask, keys, factor), atol=1e-13)


@pytest.mark.parametrize("mask", MASKS)
@given(rng=generators(), length=st.sampled_from([1, 40, 100]))
@settings(max_examples=10)
def test_weights_sum_to_one(rng, length, mask):
    q, k, _ = drawn(rng, length=length, m=length)
    keys = rng.random((2, length)) < 0.9
    out = attention(q, k, np.ones((2, length, 2, 1)), mask=mask, keys=keys).numpy()
    reads = np.arange(length) < np.arange(length)[:, None] + REACH[mask]
    reads = (reads & keys[:, None]).any(axis=-1)
    np.testing.assert_allclose(out, np.broadcast_to(reads[:, :, None, None], out.shape), atol=1e-14)


@pytest.mark.parametrize(("mask", "later"), [("causal", 1), ("strictly causal", 0)])
@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 99])
def test_no_row_reads_a_later_column(mask, later, at):
    rng = np.random.default_rng(1)
    q, k, v = drawn(rng, length=100, m=100)
    before = attention(q, k, v, mask=mask).numpy()
    k[:, at] += 1
    v[:, at] -= 1
    changed = (attention(q, k, v, mask=mask).numpy() != before).any(axis=(0, 2, 3))
    np.testing.assert_array_equal(changed, np.arange(100) >= at + 1 - later)


def test_the_first_row_reads_nothing_under_the_strict_mask():
    leaves = [Tensor(x, requires_grad=True) for x in drawn(np.random.default_rng(2), length=5, m=5)]
    out = attention(*leaves, mask="strictly causal")
    assert (out.numpy()[:, 0] == 0).all()
    first = np.zeros(out.shape)
    first[:, 0] = 1
    for create_graph in (False, True):
        for x in grad(out, leaves, Tensor(first), create_graph=create_graph):
            assert (x.numpy() == 0).all()
    q, k, v = (x.numpy() for x in grad(out, leaves, Tensor(np.ones(out.shape))))
    assert (q[:, 0] == 0).all() and (k[:, -1] == 0).all() and (v[:, -1] == 0).all()
    assert (v[:, 0] > 0).all()


def test_a_key_that_is_not_read_may_hold_anything_finite():
    rng = np.random.default_rng(3)
    q, k, v = drawn(rng, m=70)
    keys = rng.random((2, 70)) < 0.5
    leaves = [Tensor(x, requires_grad=True) for x in (q, k, v)]
    out = attention(*leaves, keys=keys)
    g = Tensor(rng.standard_normal(out.shape))
    before = [out, *grad(out, leaves, g)]
    k[~keys], v[~keys] = 1e3, -1e3
    leaves = [Tensor(x, requires_grad=True) for x in (q, k, v)]
    out = attention(*leaves, keys=Tensor(keys))
    after = [out, *grad(out, leaves, g)]
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert (after[2].numpy()[~keys] == 0).all() and (after[3].numpy()[~keys] == 0).all()


def test_equal_scores_give_the_mean():
    _, k, v = drawn(np.random.default_rng(4), length=80, m=80)
    out = attention(np.zeros((2, 80, 2, 3)), k, v, mask="causal").numpy()
    mean = np.cumsum(v, axis=1) / np.arange(1, 81)[:, None, None]
    np.testing.assert_allclose(out, mean, atol=1e-14)


@given(rng=generators())
@settings(max_examples=10)
def test_the_order_of_keys_does_not_matter(rng):
    q, k, v = drawn(rng, m=90)
    keys, order = rng.random((2, 90)) < 0.7, rng.permutation(90)
    out = attention(q, k, v, keys=keys).numpy()
    moved = attention(q, k[:, order], v[:, order], keys=keys[:, order]).numpy()
    np.testing.assert_allclose(moved, out, atol=1e-13)


def test_heads_and_images_do_not_mix():
    q, k, v = drawn(np.random.default_rng(5))
    whole = attention(q, k, v, mask="causal").numpy()
    for n in range(2):
        for h in range(2):
            one = (slice(n, n + 1), slice(None), slice(h, h + 1))
            np.testing.assert_allclose(attention(q[one], k[one], v[one], mask="causal").numpy(), whole[one], atol=1e-14)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("length", "m", "padded"), [(4, 4, True), (5, 3, False), (3, 5, False)])
def test_gradients_to_order_two(mask, length, m, padded):
    rng = np.random.default_rng(6)
    keys = np.array([[True] * (m - 1) + [False], [False] * m]) if padded else None
    check(lambda q, k, v: attention(q, k, v, mask=mask, keys=keys), *drawn(rng, length=length, m=m, d=2, e=3))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [7, 130])
@pytest.mark.parametrize("padded", [False, True])
def test_the_fused_gradients_are_the_composed_ones(mask, length, padded):
    rng = np.random.default_rng(7)
    leaves = [Tensor(x, requires_grad=True) for x in drawn(rng, length=length, m=length)]
    keys = rng.random((2, length)) < 0.5 if padded else None
    out = attention(*leaves, mask=mask, keys=keys)
    g = Tensor(rng.standard_normal(out.shape))
    fused, composed = (grad(out, leaves, g, create_graph=recorded) for recorded in (False, True))
    for x, y in zip(fused, composed, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), atol=1e-12)
        assert x.node is None and y.node is not None


def test_self_attention_of_one_tensor():
    rng = np.random.default_rng(8)
    check(lambda x: attention(x, x, x, mask="causal"), rng.standard_normal((1, 4, 2, 3)))


def test_float32_stays():
    leaves = [Tensor(x.astype(np.float32), requires_grad=True) for x in drawn(np.random.default_rng(9))]
    out = attention(*leaves, mask="causal", keys=np.ones((2, 11), bool))
    assert out.dtype == np.float32
    assert all(x.dtype == np.float32 for x in grad(out.sum(), leaves))


def test_no_keys_give_zeros():
    leaves = [Tensor(x, requires_grad=True) for x in drawn(np.random.default_rng(10), m=0)]
    out = attention(*leaves)
    assert (out.numpy() == 0).all()
    for recorded in (False, True):
        q, k, v = grad(out.sum(), leaves, create_graph=recorded, allow_unused=True)
        assert (q.numpy() == 0).all() and k.shape == (2, 0, 2, 3) and v.shape == (2, 0, 2, 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": np.ones((2, 9, 6))}, ValueError, "q must have 4 axes, has 3"),
        ({"v": np.ones((2, 11, 1, 5))}, ValueError, "equally many heads (axis 2), have [2, 2, 1]"),
        ({"q": np.ones((3, 9, 2, 3))}, ValueError, "equally many images (axis 0), have [3, 2, 2]"),
        ({"q": np.ones((2, 9, 2, 4))}, ValueError, "q and k must have equal widths D (axis 3), have 4 and 3"),
        ({"v": np.ones((2, 9, 2, 5))}, ValueError, "k and v must have equal lengths M (axis 1), have 11 and 9"),
        ({"mask": "casual"}, ValueError, "mask 'casual' is unknown; known ones: 'none', 'causal', 'strictly causal'"),
        ({"keys": np.ones((2, 11))}, TypeError, "keys must hold booleans"),
        ({"keys": np.ones((2, 9), bool)}, ValueError, "keys must be [N, M] = [2, 11], is [2, 9]"),
        ({"k": np.ones((2, 11, 2, 3), int)}, TypeError, "k must hold floating-point numbers, got int64"),
        ({"v": np.ones((2, 11, 2, 5), np.float32)}, TypeError, "mixed dtypes"),
    ],
)
def test_errors_say_what_is_wrong(change, error, message):
    given = {"q": np.ones((2, 9, 2, 3)), "k": np.ones((2, 11, 2, 3)), "v": np.ones((2, 11, 2, 5)), **change}
    with pytest.raises(error, match=re.escape(message)) as raised:
        attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)
    assert str(raised.value).startswith("attention(")


def test_it_is_softmax_of_a_product():
    q, k, v = (Tensor(x[:, :, 0]) for x in drawn(np.random.default_rng(11)))
    want = ops.matmul(ops.softmax(ops.matmul(q, ops.swap(k)) * 0.2), v)
    out = attention(*(ops.reshape(x, shape=(2, -1, 1, x.shape[-1])) for x in (q, k, v)), scale=0.2)
    np.testing.assert_allclose(out.numpy()[:, :, 0], want.numpy(), atol=1e-14)
