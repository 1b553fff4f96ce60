"""What every test shares: a seeded generator, hypothesis profiles and no windows."""

import os

import numpy as np
import pytest
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"  # the environment, so that scripts started by tests inherit it

# No deadline: the first call of a kernel compiles it.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator whose draws are the same in every run."""
    return np.random.default_rng(0)
