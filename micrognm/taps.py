"""Which neighbours a convolution reads: a mask is a list of offsets, drawn as a picture.

    x = taps('''  # # #        A sign is one pixel around the centre: # is read, . is not read,
                  # @ .        @ is the centre and is read, o is the centre and is not.
                  . . .  ''')

How the papers' masks are written, on images of which a pixel may see the rows above and the pixels to its left:

- PixelCNN: `causal(7, "A")`, then `causal(3, "B")`. Mask A hides the centre, mask B shows it.
- Gated PixelCNN: `vertical(k, mask)`, the rows above, and `horizontal(k, mask)`, the row so far.
- Row LSTM: input-to-state `horizontal(3, "B")`, state-to-state `box(1, 3).shift(-1, 0)`.
- PixelSNAIL: `down_shifted(2, 3)` and `down_right_shifted(2, 2)`; strictly earlier ones
  `down_shifted(1, 3).shift(-1, 0)` and `down_right_shifted(2, 1).shift(0, -1)`.
- Series: `past(2).dilate(4)`; strictly earlier, `past(2).shift(-1)`.
"""

from __future__ import annotations

import itertools
import operator
from dataclasses import dataclass

Offset = tuple[int, ...]

_SIGNS = "# is read, . is not read, @ is the centre and is read, o is the centre and is not read"


@dataclass(frozen=True)
class Taps:
    """Offsets from a pixel to the neighbours that are read: d integers each, d = 1, 2 or 3 axes, in row-major order.

    A weight [taps, in, out] has one matrix for each, in this order. ValueError for none, for one given twice and for
    offsets of different lengths.
    """

    offsets: tuple[Offset, ...]

    def __post_init__(self) -> None:
        offsets = sorted(tuple(map(operator.index, offset)) for offset in self.offsets)
        if not offsets:
            raise ValueError("Taps: no offset is given, so nothing would be read; give one or more")
        if {len(offset) for offset in offsets} not in ({1}, {2}, {3}):
            raise ValueError(f"Taps: each offset must have the same 1, 2 or 3 numbers, got {_listed(offsets)}")
        if twice := [a for a, b in itertools.pairwise(offsets) if a == b]:
            raise ValueError(f"Taps: an offset may be given once, got {_listed(twice)} twice")
        object.__setattr__(self, "offsets", tuple(offsets))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def dims(self) -> int:
        """The number of axes: 1 for a series, 2 for an image, 3 for a volume."""
        return len(self.offsets[0])

    @property
    def centre(self) -> int | None:
        """The place of the tap that reads the pixel itself, or None where no tap does."""
        zero = (0,) * self.dims
        return self.offsets.index(zero) if zero in self.offsets else None

    def dilate(self, factor: int) -> Taps:
        """The same neighbours, this many times as far away."""
        if factor < 1:
            raise ValueError(f"dilate: the factor must be 1 or more, got {factor}")
        return Taps(tuple(tuple(factor * i for i in offset) for offset in self.offsets))

    def shift(self, *by: int) -> Taps:
        """The neighbours, this much further along each axis: shift(-1, 0) reads one row higher."""
        if len(by) != self.dims:
            raise ValueError(f"shift: expected {self.dims} numbers, one an axis, got {len(by)}: {by}")
        return Taps(tuple(tuple(i + s for i, s in zip(offset, by, strict=True)) for offset in self.offsets))

    def draw(self) -> str:
        """The picture that `taps(picture, dims)` reads."""
        *outer, columns = [range(min(0, *axis), max(0, *axis) + 1) for axis in zip(*self.offsets, strict=True)]
        lines = [" ".join(self._sign((*at, i)) for i in columns) for at in itertools.product(*outer)]
        if self.dims < 3:
            return "\n".join(lines)
        rows = len(outer[1])
        return "\n\n".join("\n".join(lines[i : i + rows]) for i in range(0, len(lines), rows))

    def _sign(self, offset: Offset) -> str:
        return (".o", "#@")[offset in self.offsets][not any(offset)]


def taps(picture: str, dims: int = 2) -> Taps:
    """Taps as drawn: # is read, . is not, @ is the centre and is read, o is the centre and is not.

    Each line is a row; spaces mean nothing. dims=1 takes one row, dims=3 planes with an empty line between them.
    ValueError shows the place where a drawing is wrong.
    """
    if dims not in (1, 2, 3):
        raise ValueError(f"taps: dims must be 1, 2 or 3, got {dims}")
    lines = [text.rstrip() for text in picture.splitlines()]
    signs = [(i, j, sign) for i, text in enumerate(lines) for j, sign in enumerate(text) if not sign.isspace()]
    for i, j, sign in signs:
        if sign not in "#.@o":
            raise _wrong(lines, f"{sign!r} is not a sign: {_SIGNS}", i, j)
    centres = [(i, j) for i, j, sign in signs if sign in "@o"]
    if not centres:
        raise _wrong(lines, "no centre is drawn: @ is a centre that is read, o is one that is not read")
    if len(centres) > 1:
        raise _wrong(lines, "a second centre is drawn; there is one", *centres[1])

    numbered = [(i, "".join(text.split())) for i, text in enumerate(lines)]
    planes = [list(rows) for drawn, rows in itertools.groupby(numbered, lambda row: bool(row[1])) if drawn]
    if dims < 3 and len(planes) > 1:
        raise _wrong(lines, f"a second plane is drawn; with dims={dims} there is one", planes[1][0][0])
    if dims == 1 and len(planes[0]) > 1:
        raise _wrong(lines, "a second row is drawn; with dims=1 there is one", planes[0][1][0])
    width, height = len(planes[0][0][1]), len(planes[0])
    for plane in planes:
        for i, row in plane:
            if len(row) != width:
                raise _wrong(lines, f"this row has {len(row)} signs, the first has {width}", i)
        if len(plane) != height:
            raise _wrong(lines, f"the plane that ends here has {len(plane)} rows, the first has {height}", plane[-1][0])

    rows = [(z, y, row) for z, plane in enumerate(planes) for y, (_, row) in enumerate(plane)]
    places = [((z, y, x), sign) for z, y, row in rows for x, sign in enumerate(row)]
    centre = next(at for at, sign in places if sign in "@o")
    read = [at for at, sign in places if sign in "#@"]
    if not read:
        raise _wrong(lines, "nothing is read: no # and no @ is drawn")
    return Taps(tuple(tuple(a - c for a, c in zip(at, centre, strict=True))[3 - dims :] for at in read))


def box(*sizes: int) -> Taps:
    """All neighbours in a box of these sizes: box(3) of a series, box(1, 3) of an image, box(3, 3, 3) of a volume.

    The centre of an odd size k is in the middle; an even one reaches one further forwards: -1, 0, 1, 2 for k = 4. With
    stride 2 that reads each pixel equally often; other frameworks call it kernel 4, stride 2, padding 1.
    """
    _sizes("box", sizes)
    return _ranges(*(range(-((k - 1) // 2), k // 2 + 1) for k in sizes))


def line(k: int) -> Taps:
    """k neighbours in a series: `box(k)`."""
    return box(k)


def square(k: int) -> Taps:
    """k x k neighbours in an image: `box(k, k)`."""
    return box(k, k)


def past(k: int) -> Taps:
    """In a series, the k places that end at the present one."""
    _sizes("past", (k,))
    return _ranges(range(1 - k, 1))


def causal(k: int, mask: str) -> Taps:
    """Of k x k (odd), what comes before the centre row by row, and with mask "B" the centre: PixelCNN's masks."""
    _half("causal", k, mask)
    return Taps(tuple(offset for offset in square(k).offsets if offset < (0, mask == "B")))


def vertical(k: int, mask: str) -> Taps:
    """Of k x k (odd), the rows above the centre, and with mask "B" the centre's row: Gated PixelCNN's first stack.

    Mask "B" is for features that lag by a row already.
    """
    half = _half("vertical", k, mask)
    return _ranges(range(-half, mask == "B"), range(-half, half + 1))


def horizontal(k: int, mask: str) -> Taps:
    """Of 1 x k (odd), what is left of the centre, and with mask "B" the centre: Gated PixelCNN's second stack."""
    half = _half("horizontal", k, mask)
    return _ranges(range(1), range(-half, mask == "B"))


def down_shifted(rows: int, columns: int) -> Taps:
    """The rows that end at the pixel's own, the columns centred on it; PixelSNAIL, Chen et al. 2018."""
    _sizes("down_shifted", (rows, columns))
    return _ranges(range(1 - rows, 1), range(-((columns - 1) // 2), columns // 2 + 1))


def down_right_shifted(rows: int, columns: int) -> Taps:
    """The rows and columns that end at the pixel's own; PixelSNAIL, Chen et al. 2018."""
    _sizes("down_right_shifted", (rows, columns))
    return _ranges(range(1 - rows, 1), range(1 - columns, 1))


def _ranges(*axes: range) -> Taps:
    return Taps(tuple(itertools.product(*axes)))


def _sizes(name: str, sizes: tuple[int, ...]) -> None:
    if len(sizes) not in (1, 2, 3) or min(sizes) < 1:
        raise ValueError(f"{name}: expected 1, 2 or 3 sizes of 1 or more, got {sizes}")


def _half(name: str, k: int, mask: str) -> int:
    if mask not in ("A", "B"):
        raise ValueError(f'{name}: mask must be "A", which hides the centre, or "B", which shows it; got {mask!r}')
    if k < 1 or k % 2 == 0 or (k == 1 and mask == "A"):
        raise ValueError(f'{name}: k must be odd, and with mask "A" 3 or more, so that something is read; got {k}')
    return k // 2


def _listed(offsets: list[Offset]) -> str:
    return ", ".join(map(str, offsets))


def _wrong(lines: list[str], rule: str, row: int | None = None, column: int | None = None) -> ValueError:
    """The drawing, with a mark under the place where it breaks the rule."""
    drawn = list(lines)
    where = ""
    if row is not None:
        where = f" line {row + 1}" + ("" if column is None else f", character {column + 1}") + ":"
        first = len(lines[row]) - len(lines[row].lstrip())
        mark = "^" * (len(lines[row]) - first) if column is None else "^"
        drawn.insert(row + 1, " " * (first if column is None else column) + mark)
    return ValueError(f"taps:{where} {rule}. The drawing:\n" + "\n".join(drawn))
