"""How findings are shown: in words, on any terminal, and for scripts."""

from __future__ import annotations

import io
import sys

import msgspec
import pytest

from service.doctor import findings
from service.doctor.findings import Finding, Group, Level
from tests.service.command import unstyled

GROUP = Group("Things")
OTHER = Group("Others")
FINDINGS = [
    GROUP.ok("fine"),
    GROUP.warning("odd [red]\x1b[31m", "do this"),
    OTHER.error("bad " * 30, "do that " * 10),
]


def test_people_read_words_and_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    """Colour alone says nothing to many, and in a pipe nothing to anybody; there each finding is one line."""
    findings.show(FINDINGS, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Things",
        "✓ ok      fine",
        r"! warning odd [red]\x1b[31m",
        "          → do this",
        "",
    ]
    assert lines[5] == "Others"
    assert lines[6].startswith("✗ error   bad bad")
    assert lines[-1] == "1 error, 1 warning, 1 ok"
    assert len(lines) == 10


def test_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit goes on below, beside its own column."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    findings.show(FINDINGS, as_json=False)
    said = unstyled(capsys.readouterr().out)
    assert max(map(len, said.splitlines())) <= 40
    assert said.count("bad") == 30
    assert "\n          bad" in said


def test_a_terminal_without_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old one must not end the command."""
    paper = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", paper)
    findings.show(FINDINGS, as_json=False)
    paper.seek(0)
    said = paper.read()
    assert "x error   bad" in said
    assert "          -> do this" in said


def test_scripts_read_json(capsys: pytest.CaptureFixture[str]) -> None:
    """One object on each line."""
    findings.show(FINDINGS, as_json=True)
    decoded = [msgspec.json.decode(line, type=Finding) for line in capsys.readouterr().out.splitlines()]
    assert decoded == FINDINGS


def test_only_an_error_is_bad() -> None:
    """Warnings may be meant so, and a deployment that stops for them would have the check removed."""
    assert findings.is_bad(FINDINGS)
    assert not findings.is_bad(FINDINGS[:2])
    assert findings.summary([]) == "0 errors, 0 warnings, 0 ok"
    assert findings.summary([GROUP.error("", "")] * 2) == "2 errors, 0 warnings, 0 ok"
    assert {level.value for level in Level} == {"ok", "warning", "error"}
