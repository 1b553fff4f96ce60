"""Taps: pictures and offsets are the same thing, families hold what their papers say, and a bad drawing shows where."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from micrognm.taps import (
    Taps,
    box,
    causal,
    down_right_shifted,
    down_shifted,
    horizontal,
    line,
    past,
    square,
    taps,
    vertical,
)


def lists(dims: int) -> st.SearchStrategy[Taps]:
    offset = st.tuples(*[st.integers(-4, 4)] * dims)
    return st.lists(offset, min_size=1, max_size=12, unique=True).map(lambda offsets: Taps(tuple(offsets)))


every_dims = st.integers(1, 3).flatmap(lists)


# ---- pictures --------------------------------------------------------------------------------------------------------


@given(every_dims)
def test_a_picture_reads_back(t):
    assert taps(t.draw(), t.dims) == t


@given(every_dims, st.data())
def test_spaces_mean_nothing(t, data):
    rows = [" " * data.draw(st.integers(0, 3)) + row.replace(" ", "") for row in t.draw().splitlines()]
    assert taps("\n\n" + "\n".join(rows) + " \n  \n", t.dims) == t


def test_pictures_by_eye():
    assert taps("""  # # #
                     # o .
                     . . .  """).offsets == ((-1, -1), (-1, 0), (-1, 1), (0, -1))  # fmt: skip
    assert taps("# . @ #", dims=1).offsets == ((-2,), (0,), (1,))
    assert taps("o #").offsets == ((0, 1),)
    assert taps("# .\n. .\n\n. .\n. @\n\n. .\n. #", dims=3).offsets == ((-1, -1, -1), (0, 0, 0), (1, 0, 0))
    assert causal(3, "A").draw() == "# # #\n# o ."
    assert square(2).draw() == "@ #\n# #"
    assert past(2).dilate(2).draw() == "# . @"
    assert box(2, 1, 2).draw() == "@ #\n\n# #"
    assert box(1, 3).shift(-2, 0).draw() == "# # #\n. . .\n. o ."


SIGNS = "# is read, . is not read, @ is the centre and is read, o is the centre and is not read"
BAD: dict[str, tuple[str, int, str]] = {
    "no centre": ("# #\n# #", 2, "no centre is drawn: @ is a centre that is read, o is one that is not read"),
    "empty": ("  \n ", 2, "no centre is drawn"),
    "two centres": (
        "# o\n# @", 2,
        "line 2, character 3: a second centre is drawn; there is one. The drawing:\n# o\n# @\n  ^",
    ),
    "a sign": (
        " # o\n # x\n # #", 2,
        f"line 2, character 4: 'x' is not a sign: {SIGNS}. The drawing:\n # o\n # x\n   ^\n # #",
    ),
    "ragged": (
        "# # #\n  # o\n# # #", 2,
        "line 2: this row has 2 signs, the first has 3. The drawing:\n# # #\n  # o\n  ^^^\n# # #",
    ),
    "two planes": ("# o\n\n# #", 2, "line 3: a second plane is drawn; with dims=2 there is one"),
    "two rows": ("# o\n# #", 1, "line 2: a second row is drawn; with dims=1 there is one"),
    "uneven planes": ("# o\n# #\n\n# #", 3, "line 4: the plane that ends here has 1 rows, the first has 2"),
    "nothing": (". o\n. .", 2, "nothing is read: no # and no @ is drawn. The drawing:\n. o\n. ."),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_drawing_is_shown(case):
    picture, dims, message = BAD[case]
    with pytest.raises(ValueError, match="^taps: ?" + re.escape(message)):
        taps(picture, dims)


# ---- values ----------------------------------------------------------------------------------------------------------


@given(every_dims, st.randoms())
def test_a_value_without_order(t, random):
    shuffled = random.sample(t.offsets, len(t))
    again = Taps(tuple(shuffled))
    assert again == t and hash(again) == hash(t) and again.offsets == tuple(sorted(t.offsets))
    with pytest.raises(AttributeError):
        t.offsets = ()


@given(every_dims)
def test_centre(t):
    zero = (0,) * t.dims
    assert t.centre == (t.offsets.index(zero) if zero in t.offsets else None)
    assert ("@" in t.draw()) == (t.centre is not None) != ("o" in t.draw())


@given(every_dims, st.integers(1, 4), st.integers(1, 4))
def test_dilations_multiply(t, a, b):
    assert t.dilate(a).dilate(b) == t.dilate(a * b)
    assert set(t.dilate(a).offsets) == {tuple(a * i for i in offset) for offset in t.offsets}


@given(every_dims, st.data())
def test_shifts_add(t, data):
    first, second = (data.draw(st.tuples(*[st.integers(-3, 3)] * t.dims)) for _ in range(2))
    assert t.shift(*first).shift(*second) == t.shift(*(a + b for a, b in zip(first, second, strict=True)))
    assert t.shift(*first).shift(*(-a for a in first)) == t
    moved = tuple(a + b for a, b in zip(t.offsets[0], first, strict=True))
    assert t.shift(*first).offsets[0] == moved


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Taps(()), "no offset is given"),
        (lambda: Taps(((0, 1), (0, 1))), "may be given once, got (0, 1) twice"),
        (lambda: Taps(((0, 1), (0,))), "the same 1, 2 or 3 numbers, got (0,), (0, 1)"),
        (lambda: Taps(((0, 0, 0, 0),)), "the same 1, 2 or 3 numbers"),
        (lambda: square(3).dilate(0), "the factor must be 1 or more, got 0"),
        (lambda: square(3).shift(1), "expected 2 numbers, one an axis, got 1"),
        (lambda: box(), "box: expected 1, 2 or 3 sizes"),
        (lambda: box(3, 0), "box: expected 1, 2 or 3 sizes of 1 or more, got (3, 0)"),
        (lambda: past(0), "past: expected"),
        (lambda: down_shifted(0, 1), "down_shifted: expected"),
        (lambda: down_right_shifted(1, -1), "down_right_shifted: expected"),
        (lambda: causal(3, "C"), 'causal: mask must be "A", which hides the centre, or "B"'),
        (lambda: vertical(4, "A"), "vertical: k must be odd"),
        (lambda: horizontal(1, "A"), 'horizontal: k must be odd, and with mask "A" 3 or more'),
        (lambda: taps("o #", dims=4), "dims must be 1, 2 or 3, got 4"),
    ],
)
def test_bad_settings(make: Any, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_offsets_are_whole_numbers():
    with pytest.raises(TypeError):
        Taps(((0.5, 1.0),))  # type: ignore[arg-type]


# ---- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(1, 8))
def test_a_box_is_full_and_centred(k):
    reach = [offset[0] for offset in line(k).offsets]
    assert reach == list(range(-((k - 1) // 2), k // 2 + 1)) and len(reach) == k
    assert square(k).offsets == tuple((i, j) for i in reach for j in reach)
    assert box(k, 2, 1).dims == 3 and len(box(k, 2, 1)) == 2 * k


def test_a_strided_even_box_reads_inner_pixels_equally_often():
    pixels = [2 * p + offset for p in range(10) for (offset,) in line(4).offsets]
    assert [pixels.count(i) for i in range(20)] == [1] + [2] * 18 + [1]


odd = pytest.mark.parametrize("k", [3, 5, 7])


@odd
def test_causal_masks_are_the_past_in_raster_order(k):
    a, b = causal(k, "A"), causal(k, "B")
    assert len(a) == (k * k - 1) // 2 and len(b) == len(a) + 1
    assert a.centre is None and b.centre == len(a)
    assert all(offset < (0, 0) for offset in a.offsets)
    opposite = {(-y, -x) for y, x in a.offsets}
    assert set(a.offsets) | opposite | {(0, 0)} == set(square(k).offsets)
    assert causal(1, "B") == square(1)


@odd
def test_gated_stacks_together_see_what_the_mask_sees(k):
    for mask in "AB":
        rows, row = vertical(k, "A"), horizontal(k, mask)
        assert not set(rows.offsets) & set(row.offsets)
        assert set(rows.offsets) | set(row.offsets) == set(causal(k, mask).offsets)
    assert vertical(k, "B") == down_shifted(k // 2 + 1, k)
    assert vertical(k, "A").draw().splitlines()[-1].split() == ["."] * (k // 2) + ["o"] + ["."] * (k // 2)


def test_pixelsnail_families():
    assert down_shifted(2, 3) == taps("# # #\n# @ #")
    assert down_shifted(1, 3).shift(-1, 0) == taps("# # #\n. o .")
    assert down_right_shifted(2, 2) == taps("# #\n# @")
    assert down_right_shifted(2, 1).shift(0, -1) == taps("# .\n# o")


def test_series():
    assert past(3).dilate(2).offsets == ((-4,), (-2,), (0,))
    assert past(2).shift(-1).offsets == ((-2,), (-1,))
