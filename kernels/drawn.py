"""What a kernel's inputs.py gives to the tests."""

from __future__ import annotations

from typing import Any, NamedTuple


class Drawn(NamedTuple):
    """The arguments of one call. terms: the longest sum behind an element of the output, for the error bound."""

    args: tuple[Any, ...]
    terms: int
