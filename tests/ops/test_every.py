"""What every operation must do, for every line of the table in `cases.py`."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micrognm import Tensor, check, grad, ops
from tests.ops.cases import CASES, TESTED_APART, Case
from tests.strategies import alike, generators, laid_out

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def test_every_operation_has_a_case():
    assert {case.name for case in CASES} | TESTED_APART.keys() == set(ops.__all__)
    for name, file in TESTED_APART.items():
        assert f"{name}(" in Path(__file__).with_name(f"test_{file}.py").read_text(encoding="utf-8")


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=15)
@given(data=st.data(), rng=generators(), edges=st.sampled_from([0.0, 0.3, 1.0]), recorded=st.booleans())
def test_forward(case: Case, dtype, data, rng, edges, recorded):
    wanted, options = data.draw(case.inputs)
    with np.errstate(all="ignore"):
        arrays = [x.astype(x.dtype if x.dtype == bool else dtype) for x in case.arrays(rng, wanted, edges)]
        arrays = [laid_out(data.draw, x) for x in arrays]
        copies = [x.copy() for x in arrays]
        got = case.outputs(*(Tensor(x, requires_grad=recorded and x.dtype != bool) for x in arrays), **options)
        exact = [x if x.dtype == bool else x.astype(np.float64) for x in arrays]
        want = case.oracle(*exact, **options)
        scale = case.scale(*exact, **options)
    want = want if isinstance(want, list) else [np.asarray(want)]
    assert len(got) == len(want)
    for y, w in zip(got, want, strict=True):
        assert isinstance(y, Tensor)
        assert y.dtype == (dtype if w.dtype.kind == "f" and case.name != "one_hot" else y.dtype)
        assert y.dtype.kind == w.dtype.kind
        alike(y.numpy(), w, 32 * np.finfo(dtype).eps, scale)
    for x, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@every_case
@settings(max_examples=8)
@given(data=st.data(), rng=generators())
def test_gradients(case: Case, data, rng):
    """To order 2 along random directions, from random cotangents; and a number per tensor, of its shape and dtype."""
    wanted, options = data.draw(case.inputs)
    arrays = case.arrays(rng, wanted, edges=0.0)
    floats = [i for i, x in enumerate(arrays) if x.dtype != bool]

    def of(i: int):
        def f(*leaves: Tensor) -> Tensor:
            inputs: list = list(arrays)
            for place, leaf in zip(floats, leaves, strict=True):
                inputs[place] = leaf
            return case.outputs(*inputs, **options)[i]

        return f

    for i, y in enumerate(case.outputs(*(Tensor(x, requires_grad=x.dtype != bool) for x in arrays), **options)):
        constant = (case.name == "slogdet" and i == 0) or (case.name == "top_k" and i == 1)
        if not case.differentiable or constant or not floats:
            assert y.node is None
        else:
            assert y.node is not None
            check(of(i), *(arrays[j] for j in floats), rng=rng)


@every_case
@settings(max_examples=4)
@given(data=st.data(), rng=generators())
def test_backward_changes_no_array(case: Case, data, rng):
    wanted, options = data.draw(case.inputs)
    arrays = [laid_out(data.draw, x) for x in case.arrays(rng, wanted, edges=0.0)]
    copies = [x.copy() for x in arrays]
    leaves = [Tensor(x, requires_grad=x.dtype != bool) for x in arrays]
    for y in case.outputs(*leaves, **options):
        if y.node is not None:
            cotangent = laid_out(data.draw, rng.standard_normal(y.shape))
            before, out = cotangent.copy(), y.numpy().copy()
            targets = [x for x in leaves if x.node is not None]
            for target, g in zip(targets, grad(y, targets, Tensor(cotangent), create_graph=True), strict=True):
                assert g.shape == target.shape and g.dtype == target.dtype
            np.testing.assert_array_equal(cotangent, before)
            np.testing.assert_array_equal(y.numpy(), out)
    for x, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(x, copy)
