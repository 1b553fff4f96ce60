"""The convolution kernel: the reference against loops and SciPy, laws of both, and the plans of the Numba kernel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.signal
from micrognm.kernels.conv import cpu, reference
from micrognm.kernels.conv.plan import plan
from micrognm.kernels.formula.program import Activation

from micrognm.formula import formula

MODULES = pytest.mark.parametrize("module", [reference, cpu])
SQUARE = tuple(itertools.product((-1, 0, 1), repeat=2))
# space, channels, outputs, offsets, stride, output space, groups
PROBLEMS = {
    "1-D, dilated, causal": ((23,), 4, 6, ((0,), (-5,), (-10,)), (1,), (23,), 1),
    "2-D": ((7, 5), 3, 5, SQUARE, (1, 1), (7, 5), 1),
    "2-D, strides 2 and 3, more outputs than a block": ((8, 9), 2, 35, SQUARE, (2, 3), (4, 3), 1),
    "2-D, a larger output": ((4, 4), 2, 3, SQUARE, (1, 1), (6, 7), 1),
    "2-D, an offset twice, one far outside": ((5, 5), 2, 3, ((0, 1), (0, 1), (9, -9)), (1, 1), (5, 5), 1),
    "2-D, stride without taps for some phases": ((6, 6), 2, 3, ((0, 0), (1, 0)), (3, 2), (2, 3), 1),
    "2-D, no taps": ((3, 3), 2, 3, (), (1, 1), (3, 3), 1),
    "2-D, groups": ((5, 4), 6, 9, SQUARE, (1, 1), (5, 4), 3),
    "2-D, depthwise": ((5, 4), 19, 19, SQUARE, (2, 1), (3, 4), 19),
    "2-D, depthwise, two outputs a channel": ((5, 4), 3, 6, SQUARE, (1, 1), (5, 4), 3),
    "2-D, larger than a job": ((90, 40), 33, 5, SQUARE, (1, 1), (90, 40), 1),
    "3-D": ((4, 3, 5), 2, 3, ((0, 0, 0), (-1, 1, 0), (1, -1, 2)), (1, 2, 1), (4, 2, 5), 1),
}


@pytest.fixture(params=PROBLEMS)
def problem(request, rng):
    space, channels, outputs, offsets, stride, shape, groups = PROBLEMS[request.param]
    x = rng.standard_normal((3, *space, channels))
    w = rng.standard_normal((len(offsets), channels // groups, outputs))
    g = rng.standard_normal((3, *shape, outputs))
    return x, w, g, offsets, stride, shape, groups


def terms(x, offsets, stride, shape):
    """Tap, pixel of y and pixel of x, for every one that lies inside the image."""
    for p in np.ndindex(*shape):
        for t, offset in enumerate(offsets):
            q = tuple(i * s + o for i, s, o in zip(p, stride, offset, strict=True))
            if all(0 <= i < size for i, size in zip(q, x.shape[1:-1], strict=True)):
                yield t, (slice(None), *p), (slice(None), *q)


def test_the_reference_is_the_definition(problem):
    x, w, g, offsets, stride, shape, groups = problem
    channels, outputs = x.shape[-1] // groups, w.shape[-1] // groups
    y, x_gradient, w_gradient = np.zeros_like(g), np.zeros_like(x), np.zeros_like(w)
    for t, p, q in terms(x, offsets, stride, shape):
        for k in range(groups):
            i, o = slice(k * channels, (k + 1) * channels), slice(k * outputs, (k + 1) * outputs)
            y[(*p, o)] += x[(*q, i)] @ w[t, :, o]
            x_gradient[(*q, i)] += g[(*p, o)] @ w[t, :, o].T
            w_gradient[t, :, o] += x[(*q, i)].T @ g[(*p, o)]
    rest = offsets, stride
    bias, input_bias = np.arange(outputs * groups) + 0.5, np.arange(channels * groups) - 0.5
    close = dict(rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(reference.forward(x, w, bias, *rest, shape, groups), y + bias, **close)
    found = reference.input_gradient(g, w, input_bias, *rest, x.shape[1:-1], groups)
    np.testing.assert_allclose(found, x_gradient + input_bias, **close)
    np.testing.assert_allclose(reference.weight_gradient(x, g, *rest, groups), w_gradient, **close)


@MODULES
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_correlates_as_scipy_does(module, axes, rng):
    space, sides = (9, 8, 7)[:axes], (3, 3, 3)[:axes]
    x, w = rng.standard_normal((2, *space, 3)), rng.standard_normal((3**axes, 3, 2))
    offsets = tuple(itertools.product((-1, 0, 1), repeat=axes))
    y = module.forward(x, w, None, offsets, (1,) * axes, space, 1)
    for n, o in np.ndindex(2, 2):
        parts = [scipy.signal.correlate(x[n, ..., i], w[:, i, o].reshape(sides), "same", "direct") for i in range(3)]
        np.testing.assert_allclose(y[n, ..., o], sum(parts), rtol=1e-12, atol=1e-12)


@MODULES
def test_the_three_are_one_trilinear_form(module, problem):
    """<forward(x, w), g> = <x, input_gradient(g, w)> = <w, weight_gradient(x, g)>."""
    x, w, g, offsets, stride, shape, groups = problem
    y = module.forward(x, w, None, offsets, stride, shape, groups)
    x_gradient = module.input_gradient(g, w, None, offsets, stride, x.shape[1:-1], groups)
    w_gradient = module.weight_gradient(x, g, offsets, stride, groups)
    form = (y * g).sum()
    scale = 1e-13 * max(1.0, np.abs(y * g).sum())
    assert abs((x * x_gradient).sum() - form) < scale and abs((w * w_gradient).sum() - form) < scale


@MODULES
def test_one_tap_of_ones_moves_the_image(module, rng):
    x = rng.standard_normal((2, 6, 5, 4))
    y = module.forward(x, np.eye(4)[None], None, ((1, -2),), (1, 1), (6, 5), 1)
    moved = np.zeros_like(x)
    moved[:, :-1, 2:] = x[:, 1:, :-2]
    np.testing.assert_array_equal(y, moved)


@MODULES
def test_images_do_not_mix_and_nan_stays_where_it_is_read(module, rng):
    x, w = rng.standard_normal((30, 4, 4, 3)), rng.standard_normal((9, 3, 20))
    y = module.forward(x, w, None, SQUARE, (1, 1), (4, 4), 1)
    x[7, 0, 0] = np.nan
    z = module.forward(x, w, None, SQUARE, (1, 1), (4, 4), 1)
    changed = np.zeros((30, 4, 4), bool)
    changed[7, :2, :2] = True
    assert np.isnan(z[changed]).all()
    np.testing.assert_array_equal(z[~changed], y[~changed])


@MODULES
def test_a_masked_convolution_is_the_dense_one_with_weights_zero(module, rng):
    x, w = rng.standard_normal((2, 6, 6, 4)), rng.standard_normal((9, 4, 8))
    seen = SQUARE[:4]
    dense = np.where(np.arange(9)[:, None, None] < 4, w, 0)
    a = module.forward(x, w[:4], None, seen, (1, 1), (6, 6), 1)
    np.testing.assert_allclose(a, module.forward(x, dense, None, SQUARE, (1, 1), (6, 6), 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [5, 16, 64, 128])
def test_many_images_in_both_dtypes(dtype, channels, rng):
    """Enough pixels for several jobs of several images, several parts, and threads."""
    x = rng.standard_normal((70, 8, 8, channels)).astype(dtype)
    w = rng.standard_normal((9, channels, 24)).astype(dtype)
    g = rng.standard_normal((70, 4, 4, 24)).astype(dtype)
    calls = [
        ("forward", (x, w, None, SQUARE, (2, 2), (4, 4), 1)),
        ("input_gradient", (g, w, None, SQUARE, (2, 2), (8, 8), 1)),
        ("weight_gradient", (x, g, SQUARE, (2, 2), 1)),
    ]
    for name, args in calls:
        exact = getattr(reference, name)(*[a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args])
        found = getattr(cpu, name)(*args)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact, rtol=0, atol=20 * np.finfo(dtype).eps * np.abs(exact).max())


@MODULES
@pytest.mark.parametrize("function", ["forward", "input_gradient"])
@pytest.mark.parametrize("keep", [False, True])
def test_an_activation_meets_every_element_once(module, function, keep, problem):
    @formula
    def twice_and_one(x):
        return 2 * x + 1

    x, w, g, *rest, groups = problem
    x, g = (np.concatenate([v] * 8) for v in (x, g))  # images enough for several a job
    args = (x, w, None, *rest, groups) if function == "forward" else (g, w, None, *rest[:-1], x.shape[1:-1], groups)
    before = getattr(module, function)(*args)
    found = getattr(module, function)(*args, Activation(twice_and_one.program, {}), keep)
    made, kept = found if keep else (found, before)
    np.testing.assert_array_equal(kept, before)
    np.testing.assert_array_equal(made, 2 * before + 1)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 3, 64])
@pytest.mark.parametrize(
    ("space", "shape", "stride"),
    [((8, 8), (8, 8), (1, 1)), ((300, 3), (300, 3), (1, 1)), ((9, 6), (4, 3), (2, 2)), ((5000,), (5000,), (1,))],
)
def test_jobs_write_every_pixel_once_and_read_inside_their_copy(space, shape, stride, n, transposed):
    offsets = tuple(itertools.product((-1, 0, 2), repeat=len(space)))
    if transposed:
        space, shape = shape, space
    channels, outputs = 6, 4
    p = plan(n, space, channels, channels, outputs, offsets, stride, shape, channels, 16, transposed)
    height, images, band, bands = p.geometry[11:15]
    image_pitch, row_pitch = p.geometry[17:]
    written = np.zeros(n * image_pitch // outputs, int)
    for job in range(p.jobs):
        first, row = job // bands * images, job % bands * band
        for rows, wide, at, here, count in p.phases.reshape(-1, 5):
            pixels = min(images, n - first) * max(0, min(band, rows - row)) * wide
            own = p.target[at : at + pixels]
            written[(first * image_pitch + row * row_pitch + own) // outputs] += 1
            reads = p.source[at : at + pixels, None] + p.steps[None, here : here + count]
            assert reads.size == 0 or (reads.min() >= 0 and reads.max() < p.scratch - 64)
    assert (written == 1).all() and bands * band >= p.phases[::5].max() and height > 0
