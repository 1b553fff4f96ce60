"""The nearest entry as an operation: shapes, devices of errors, no gradient."""

import numpy as np
import pytest

from micrognm import Tensor
from micrognm.ops.nearest import nearest


def test_leading_axes_are_kept(rng):
    z, codebook = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((7, 5))
    index, square = nearest(Tensor(z, requires_grad=True), Tensor(codebook, requires_grad=True))
    distances = ((z[..., None, :] - codebook) ** 2).sum(axis=-1)
    assert index.dtype == np.int64 and index.node is None and square.node is None
    np.testing.assert_array_equal(index.numpy(), distances.argmin(axis=-1))
    np.testing.assert_allclose(square.numpy(), distances.min(axis=-1), rtol=1e-12)
    one, _ = nearest(z[0, 0, 0], codebook)
    assert one.shape == () and one.item() == index.numpy()[0, 0, 0]
    assert nearest(np.zeros((0, 5)), codebook)[0].shape == (0,)


@pytest.mark.parametrize(
    ("z", "codebook", "error", "message"),
    [
        (np.zeros((2, 3)), np.zeros((4, 5)), ValueError, r"z \[2, 3\] must be \[\.\.\., D\] and codebook \[4, 5\]"),
        (np.zeros((2, 3)), np.zeros(3), ValueError, r"codebook \[3\] \[K, D\]"),
        (np.zeros(()), np.zeros((1, 1)), ValueError, r"z \[\] must be"),
        (np.zeros((2, 3)), np.zeros((0, 3)), ValueError, r"codebook \[0, 3\] has no entry"),
        (np.zeros((2, 3), int), np.zeros((4, 3)), TypeError, r"z must be a Tensor or array of float32 .* got int"),
        (np.zeros((2, 3)), [[0.0]], TypeError, r"codebook must be a Tensor or array .* got list"),
        (np.zeros((2, 3), np.float32), np.zeros((4, 3)), TypeError, r"z is float32 on cpu, codebook float64 on cpu"),
    ],
)  # fmt: skip
def test_errors_say_what_does_not_fit(z, codebook, error, message):
    with pytest.raises(error, match=f"nearest: .*{message}"):
        nearest(z, codebook)
