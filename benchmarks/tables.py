"""Write what `python -m micrognm bench --json FILE` measured into the kernels' pages and the README.

    python -m micrognm bench --json benchmarks/results/cpu-amd-epyc-2-cores.json
    python benchmarks/tables.py benchmarks/results/cpu-amd-epyc-2-cores.json

A table stands between the lines `<!-- bench -->` and `<!-- end -->`; what is around it is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro

from micrognm import storage

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]
# The README's lines: what they say, the kernel, and which of its shapes.
GROUPS = (
    ("conv, masked 3x3, 5x5, 7x7", "conv", r"mask [AB]"),
    ("conv, dense and transposed", "conv", r"dense|transposed|bias"),
    ("conv, 1 or 3 channels, depthwise, dilated causal", "conv", r"1 channel|3 channels|depthwise|dilated"),
    ("attention", "attention", ""),
    ("formulas of two or more functions, 4M elements", "formula", r".*\[4096"),
    ("the same, 64k elements", "formula", r".*\[64,"),
    ("invertible 1x1 with actnorm and log-determinant", "invertible", "step"),
    ("affine coupling with log-determinant", "invertible", "coupling"),
    ("batch norm with activation", "normalise", r"batch.* (relu|leaky_relu|swish)$"),
    ("layer, instance and group norm, and batch norm alone", "normalise", r"layer|instance|group|.* none$"),
    ("Row LSTM", "recurrent", "Row"),
    ("Diagonal BiLSTM", "recurrent", "Diagonal"),
    ("logistic mixture", "losses", "logistic"),
    ("cross-entropy", "losses", "cross"),
    ("nearest codebook entry", "nearest", ""),
    ("rows added into slots", "scatter_add", ""),
    ("optimisers with moving average", "arena", ""),
    ("dropout, uniform and normal numbers", "rng", ""),
)


def main(report: Path, /) -> None:
    found = json.loads(report.read_text())
    rows = found["rows"]
    if any(row["ratio"] is None for row in rows):
        raise SystemExit(f"{report}: measured without its peer. Run the bench with PyTorch installed")

    def about(folder: str, kernels: Iterable[str]) -> str:
        flops, bytes = (span([found["peaks"][kernel][of] / 1e9 for kernel in kernels]) for of in ("flops", "bytes"))
        return (
            "`python -m micrognm bench`, forward and backward, in the run that "
            f"[`{report.name}`]({folder}/{report.name}) keeps:\n{found['cores']} cores, {found['versions']}; "
            f"a product of matrices ran at {flops} GFLOP/s at best, a copy at {bytes} GB/s."
        )

    for kernel in found["peaks"]:
        page = ROOT / "kernels" / kernel / "README.md"
        fill(page, about("../../benchmarks/results", [kernel]), page_table(kernel, rows))
    fill(ROOT / "README.md", about("benchmarks/results", found["peaks"]), summary(rows))


def span(numbers: list[float], digits: int = 0) -> str:
    """The least and the largest."""
    least, largest = (f"{end(numbers):.{digits}f}" for end in (min, max))
    return least if least == largest else f"{least} to {largest}"


def page_table(kernel: str, rows: list[Row]) -> list[str]:
    """A line for each shape."""
    lines = ["| shape | micrognm | PyTorch | ratio | of the machine's limit |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        if row["kernel"] == kernel:
            ours, theirs = (f"{row[side]:.3g} ms" for side in ("micrognm_ms", "peer_ms"))
            lines.append(
                f"| {row['shape']} | {ours} | {theirs} | {row['ratio']:.2f} | {100 * row['share_of_peak']:.0f} % |"
            )
    return lines


def summary(rows: list[Row]) -> list[str]:
    """A line for each of GROUPS. Every row is in one of them."""
    lines = ["| kernel | shapes | ratio to PyTorch |", "| --- | --- | --- |"]
    left = list(rows)
    for name, kernel, shape in GROUPS:
        mine = [row for row in left if row["kernel"] == kernel and re.match(shape, row["shape"])]
        left = [row for row in left if row not in mine]
        lines.append(f"| {name} | {len(mine)} | {span([row['ratio'] for row in mine], 2)} |")
    if left:
        raise SystemExit(f"in no group of benchmarks/tables.py: {[row['shape'] for row in left]}")
    return lines


def fill(page: Path, about: str, table: list[str]) -> None:
    text = page.read_text()
    if text.count("<!-- bench -->\n") != 1 or "<!-- end -->" not in text:
        raise SystemExit(f"{page}: expected one pair of the lines <!-- bench --> and <!-- end -->")
    before, rest = text.split("<!-- bench -->\n")
    _, after = rest.split("<!-- end -->", 1)
    body = "\n".join([about, "", *table])
    storage.write(page, f"{before}<!-- bench -->\n{body}\n<!-- end -->{after}".encode())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
