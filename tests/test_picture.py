import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from micrognm import Tensor, picture
from micrognm.data import digits


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_stands_where_it_should(channels, rng, tmp_path):
    images = rng.integers(256, size=(5, 4, 6, channels), dtype=np.uint8)
    picture.grid(images, tmp_path / "a.png", columns=3, scale=7)
    canvas = pixels(tmp_path / "a.png").reshape(2 * (4 * 7 + 2) + 2, 3 * (6 * 7 + 2) + 2, channels)
    seen = np.zeros(canvas.shape, bool)
    for i in range(5):
        for y in range(4 * 7):
            for x in range(6 * 7):
                place = i // 3 * 30 + 2 + y, i % 3 * 44 + 2 + x
                np.testing.assert_array_equal(canvas[place], images[i, y // 7, x // 7])
                seen[place] = True
    assert (canvas[~seen] == picture.GREY).all()


def test_sizes_by_default(tmp_path):
    for n, side, columns, scale in ((100, 8, 10, 8), (7, 28, 3, 2), (1, 100, 1, 1), (5, 1, 3, 64)):
        picture.grid(np.zeros((n, side, side, 1), np.uint8), tmp_path / "a.png")
        rows = -(-n // columns)
        assert pixels(tmp_path / "a.png").shape == tuple(k * (side * scale + 2) + 2 for k in (rows, columns))


def test_floats_are_rounded_to_the_nearest_level(tmp_path):
    levels = np.arange(256)
    for dtype in (np.float16, np.float32, np.float64):
        picture.grid((levels / 255).astype(dtype).reshape(1, 16, 16, 1), tmp_path / "a.png", scale=1)
        np.testing.assert_array_equal(pixels(tmp_path / "a.png")[2:-2, 2:-2].ravel(), levels)
    picture.grid(Tensor(np.full((1, 1, 1, 1), 0.5)), tmp_path / "a.png")  # what a model's sample returns
    assert pixels(tmp_path / "a.png")[3, 3] == 128


def test_usual_grids_are_small_files(rng, tmp_path):
    images = digits().train.images[:100]
    picture.grid((images / 16).astype(np.float32), tmp_path / "digits.png")
    picture.grid(rng.random((100, 28, 28, 1)), tmp_path / "noise.png")  # nothing compresses worse
    for name in ("digits.png", "noise.png"):
        assert (tmp_path / name).stat().st_size < 200_000


@pytest.mark.parametrize(
    "images, error, named",
    [
        (np.zeros((2, 8, 8)), ValueError, r"\[N, H, W, 1\] or \[N, H, W, 3\].* not \[2, 8, 8\]"),
        (np.zeros((2, 8, 8, 2)), ValueError, r"not \[2, 8, 8, 2\]"),
        (np.zeros((0, 8, 8, 1)), ValueError, r"not \[0, 8, 8, 1\]"),
        (np.zeros((2, 0, 8, 1)), ValueError, r"not \[2, 0, 8, 1\]"),
        (np.zeros((2, 8, 8, 1), int), TypeError, "not int64"),
        (np.zeros((2, 8, 8, 1), bool), TypeError, "not bool"),
        (np.full((2, 8, 8, 1), 1.01), ValueError, r"in \[0, 1\], these go from 1.01 to 1.01"),
        (np.full((2, 8, 8, 1), -0.5), ValueError, r"in \[0, 1\], these go from -0.5 to -0.5"),
        (np.full((2, 8, 8, 1), np.nan), ValueError, r"in \[0, 1\], these go from nan to nan"),
    ],
)
def test_other_images_are_refused(images, error, named, tmp_path):
    with pytest.raises(error, match=named):
        picture.grid(images, tmp_path / "a.png")
    with pytest.raises(ValueError, match="columns must be 1 or more, not 0"):
        picture.grid(np.zeros((2, 8, 8, 1)), tmp_path / "a.png", columns=0)
    with pytest.raises(ValueError, match="scale must be 1 or more, not 0"):
        picture.grid(np.zeros((2, 8, 8, 1)), tmp_path / "a.png", scale=0)
    assert list(tmp_path.iterdir()) == []


ROWS = [
    {
        "step": 10 * i,
        "epoch": i,
        "seconds": 1.0,
        "lr": 0.1,
        "train_nats": 20 / i,
        "valid_nats": 30 / i,
        "valid_bits_per_dim": 4 / i,
    }
    for i in range(1, 6)
]


@pytest.fixture
def panels(monkeypatch):
    """The panels of every figure that is saved."""
    panels = []
    real = Figure.savefig

    def savefig(figure, *args, **options):
        panels.extend(figure.axes)
        real(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return panels


def described(panel):
    return panel.get_xlabel(), panel.get_ylabel(), {x.get_label(): x.get_xydata().tolist() for x in panel.get_lines()}


def test_curves_show_every_point(tmp_path, panels):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    expected = [
        (
            "",
            "nats",
            {
                s: [[r["step"], r[k]] for r in ROWS]
                for s, k in (("training", "train_nats"), ("validation", "valid_nats"))
            },
        ),
        (
            "training step (one batch each)",
            "bits per dim",
            {"validation": [[r["step"], r["valid_bits_per_dim"]] for r in ROWS]},
        ),
    ]
    for name, rows in (("a.png", log), ("b.png", ROWS), ("c.png", iter(ROWS))):
        panels.clear()
        picture.curves(rows, tmp_path / name)
        assert [described(panel) for panel in panels] == expected
    canvas = pixels(tmp_path / "a.png")
    assert canvas.shape[:2] == (600, 600) and len(np.unique(canvas.reshape(-1, canvas.shape[2]), axis=0)) > 10
    assert (tmp_path / "a.png").stat().st_size < 200_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "log.jsonl"]


def test_a_single_line_is_a_visible_point(tmp_path, panels):
    picture.curves(ROWS[:1], tmp_path / "a.png")
    assert [line.get_marker() for panel in panels for line in panel.get_lines()] == ["."] * 3


def test_a_log_without_lines_is_refused(tmp_path):
    for rows in ([], [{"step": 1, "lr": 0.1}]):
        with pytest.raises(ValueError, match="no line with a train_"):
            picture.curves(rows, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_no_window_is_opened(tmp_path):
    program = (
        "import sys; from micrognm import picture; assert 'matplotlib' not in sys.modules and 'PIL' not in sys.modules;"
    )
    program += (
        f"picture.curves([{ROWS[0]}], {str(tmp_path / 'a.png')!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
