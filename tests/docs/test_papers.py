"""docs/papers.md lists the papers that the code cites, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = ("constitution", "hardware", "judge_service", "rlaif", "benchmarks", "deploy", "examples")
CITED = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})", re.IGNORECASE)
ROWS = re.findall(
    r"^\| .+ \[(\d{4}\.\d{4,5})\]\(https://arxiv\.org/abs/(\S+)\) \| .+ \| (.+) \|$",
    (ROOT / "docs" / "papers.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)
PLACES = {number: re.findall(r"`([^`]+)`", places) for number, _, places in ROWS}


def cited(path: Path) -> set[str]:
    return set(CITED.findall(path.read_text(encoding="utf-8")))


def cited_in_code() -> dict[str, str]:
    """Number → a file that cites it."""
    files = (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")))
    return {number: str(path.relative_to(ROOT)) for path in files for number in cited(path)}


def test_citations_are_found_in_both_spellings(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("Eq. 7, arXiv:2305.18290; arXiv 1706.04599, section 4; version 2026.11290\n")
    assert cited(file) == {"2305.18290", "1706.04599"}


def test_every_paper_that_the_code_cites_is_listed_and_no_other() -> None:
    code = cited_in_code()
    missing = {number: code[number] for number in code.keys() - PLACES.keys()}
    assert not missing, f"add a row to docs/papers.md for: {missing}"
    assert not PLACES.keys() - code.keys(), "docs/papers.md lists papers that no code cites"


def test_every_row_links_to_its_own_number_once() -> None:
    assert [number for number, link, _ in ROWS if number != link] == []
    assert len(PLACES) == len(ROWS)
    assert [number for number, _, _ in ROWS] == sorted(PLACES), "rows are in order of the number"


@pytest.mark.parametrize("number", PLACES)
def test_the_files_beside_a_paper_cite_it(number: str) -> None:
    assert PLACES[number], "no file is named"
    assert [place for place in PLACES[number] if number not in cited(ROOT / place)] == []


def test_other_pages_cite_listed_papers_only() -> None:
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert cited(page) <= PLACES.keys(), page
