"""The table of papers against the files it names, and against itself."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from micrognm.__main__ import main
from micrognm.papers import CHAPTERS, HEADER, PAPERS, markdown, table

ROOT = Path(__file__).parents[1]


def test_there_are_31_papers_in_the_order_of_the_chapters():
    assert len(PAPERS) == len({paper.name for paper in PAPERS}) == len({paper.title for paper in PAPERS}) == 31
    chapters = [paper.chapter for paper in PAPERS]
    assert chapters == sorted(chapters, key=CHAPTERS.index)
    assert Counter(chapters) == dict(zip(CHAPTERS, (4, 2, 4, 8, 9, 4), strict=True))


def test_an_arxiv_id_begins_with_the_papers_year():
    ids = [paper.arxiv for paper in PAPERS if paper.arxiv]
    assert len(set(ids)) == len(ids) == 29
    for paper in PAPERS:
        if paper.arxiv and paper.year:
            assert re.fullmatch(r"\d{4}\.\d{5}" if paper.year >= 2015 else r"\d{4}\.\d{4}", paper.arxiv), paper
            assert 2000 + int(paper.arxiv[:2]) == paper.year, paper
        else:
            assert not paper.arxiv, paper


# What models of a chapter share is no paper's.
SHARED = {
    f"micrognm/models/{path}.py"
    for path in ("autoregressive/raster", "autoregressive/upsample", "flow/flow", "latent/gaussian", "latent/prior")
}


@pytest.mark.parametrize("field", ["models", "examples"])
def test_the_files_of_done_papers_are_the_files_in_the_tree(field):
    folder = ROOT / {"models": "micrognm/models", "examples": "examples"}[field]
    named = [path for paper in PAPERS for path in getattr(paper, field)]
    found = {path.relative_to(ROOT).as_posix() for path in folder.glob("*/*.py") if not path.name.startswith("_")}
    assert set(named) == found - SHARED and len(set(named)) == len(named)
    for paper in PAPERS:
        assert {Path(path).parent.name for path in getattr(paper, field)} <= {paper.chapter}


def test_a_planned_paper_claims_nothing():
    assert {paper.status for paper in PAPERS} <= {"done", "begun", "planned"}
    for paper in PAPERS:
        assert (paper.status == "done") == bool(paper.examples)
        assert (paper.status == "planned") == (not paper.models)
        assert paper.status == "done" or paper.result is None


def test_the_terminal_table_is_aligned():
    header, *rows = table().splitlines()
    starts = [header.index(name) for name in HEADER]
    assert len(rows) == 31
    for paper, row in zip(PAPERS, rows, strict=True):
        cells = [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        assert cells[:2] == [paper.chapter, paper.name]
        assert cells[5] == paper.status
        assert all(row[start - 1] == " " for start in starts[1:])


def test_the_markdown_table_has_31_rows_and_links_that_lead_somewhere():
    header, rule, *rows = markdown().splitlines()
    assert header == f"| {' | '.join(HEADER)} |"
    assert re.fullmatch(r"\|( --- \|)+", rule)
    assert len(rows) == 31
    for paper, row in zip(PAPERS, rows, strict=True):
        assert row.count("|") == rule.count("|") == len(HEADER) + 1
        assert paper.title in row
        links = re.findall(r"\]\(([^)]+)\)", row)
        assert [link for link in links if "//" in link] == [f"https://arxiv.org/abs/{paper.arxiv}"] * bool(paper.arxiv)
        assert [link for link in links if "//" not in link] == [*paper.models, *paper.examples]


def test_the_readmes_table_is_the_generated_one():
    assert markdown() in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_command_prints_either_table(capsys):
    assert main(["papers"]) == 0
    assert capsys.readouterr().out == table() + "\n"
    assert main(["papers", "--markdown"]) == 0
    assert capsys.readouterr().out == markdown() + "\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "micrognm", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_no_command_prints_the_help():
    result = run()
    assert result.returncode == 0
    assert result.stdout.startswith("usage: python -m micrognm ")
    assert "doctor" in result.stdout and "papers" in result.stdout


def test_a_misspelt_command_is_named_beside_the_known_ones():
    result = run("docter")
    assert result.returncode == 2
    assert "'docter'" in result.stderr and "doctor" in result.stderr and "papers" in result.stderr
    assert result.stdout == ""


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "micrognm", "papers"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
