"""The command line as a whole: what it offers, and what it hands on."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands import top


def test_every_command_is_explained() -> None:
    """`headrace` alone is what a newcomer types."""
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for command in ("serve", "load", "tables", "doctor", "top", "quarantine", "psql"):
        assert f" {command} " in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("http://127.0.0.1:8000", {"once": False, "as_json": False})),
        (["--url", "http://h:1", "--once", "--json"], ("http://h:1", {"once": True, "as_json": True})),
    ],
)
def test_top_is_given_its_options(
    arguments: list[str], expected: tuple[str, dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its exit status is the command's."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def run(url: str, **options: Any) -> int:
        asked.append((url, options))
        return 3

    monkeypatch.setattr(top, "run", run)
    assert CliRunner().invoke(app, ["top", *arguments]).exit_code == 3
    assert asked == [expected]
