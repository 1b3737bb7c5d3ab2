"""The tables, as they stand in the terminal and in results.md."""

from __future__ import annotations

import json
from pathlib import Path

from bench.report import Report, table
from bench.scenarios import SCENARIOS
from tests.bench.runs import run_of

_REPORT = Report(
    SCENARIOS,
    [run_of("story", 1.0, 1000), run_of("headrace", 0.8, 40_000), run_of("floor", 0.01)],
    {"cores": "2"},
    {"Python": "3.11.9"},
    "abc1234",
    ["oha is not installed"],
)


def test_columns_stand_below_each_other() -> None:
    """The same text is read in a terminal."""
    lines = table(["who", "what", "how many"], [["a", "b|c", "1"], ["longer", "d", "1,000"]]).splitlines()
    assert lines == [
        "| who    | what | how many |",
        "| ------ | ---- | -------: |",
        r"| a      | b\|c |        1 |",
        "| longer | d    |    1,000 |",
    ]


def test_a_table_without_rows_is_left_out() -> None:
    """A run of one scenario has few tables."""
    assert table(["who"], []) == ""


def test_a_contender_is_compared_with_the_story() -> None:
    """Which is the question that the benchmark answers."""
    (line,) = (line for line in _REPORT.markdown().splitlines() if "| Headrace " in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "one row, 64 connections", "Headrace", "20,000", "40.0×", "20.0", "50.0×", "0.25", "1.00", "3.00"
    ]  # fmt: skip


def test_the_page_says_on_what_and_how() -> None:
    """Numbers without machine, versions and method are worth nothing."""
    page = _REPORT.markdown()
    for words in ("cores 2", "Python 3.11.9", "commit abc1234", "user and system time", "Note: oha is not installed."):
        assert words in page


def test_the_files_hold_all_runs(tmp_path: Path) -> None:
    """Whoever doubts a median can look at the rounds."""
    _REPORT.write(tmp_path / "results")
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [run["contender"] for run in found["runs"]] == ["story", "headrace", "floor"]
    assert found["medians"]["one-64/headrace/rps"] == 20_000
    assert any(budget["holds"] for budget in found["budgets"])
    assert (tmp_path / "results" / "results.md").read_text() == _REPORT.markdown()
