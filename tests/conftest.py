"""What every test shares: a seeded generator, hypothesis profiles and no windows."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side: threads that wait for work take no core from the other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"  # the environment, so that scripts started by tests inherit it

# No deadline: the first call of a kernel compiles it.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under `-n 2 --dist loadgroup` one worker runs all tests of a kernel, so that nobody compiles it twice.

    Examples, which take longest, go by chapter.
    """
    for item in items:
        group = item.path.stem.removeprefix("test_")
        if group == "every":
            group = item.nodeid.partition("[")[2].partition(".")[0] if "kernels" in item.path.parts else "operations"
        if group == "examples" and "[examples/" in item.nodeid:
            group = item.nodeid.partition("[examples/")[2].partition("/")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator whose draws are the same in every run."""
    return np.random.default_rng(0)
