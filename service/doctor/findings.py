"""Findings of `headrace doctor`: what one is, and how they are shown.

Must not know what is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from itertools import groupby
from operator import attrgetter

import typer
from msgspec import Struct, structs
from rich.table import Table as Grid

from service.commands.terminal import has_symbols, json_line, plain_text
from service.commands.terminal import show as show_parts


class Level(Enum):
    """How bad it is. An error keeps rows from being stored, or stored rows from being kept as they should."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Struct, frozen=True):
    """What was found, and what to do about it."""

    group: str
    level: Level
    text: str
    advice: str | None = None


class Group(Struct, frozen=True):
    """Makes the findings of one group."""

    name: str

    def ok(self, text: str, advice: str | None = None) -> Finding:
        """All is well."""
        return Finding(self.name, Level.OK, text, advice)

    def warning(self, text: str, advice: str) -> Finding:
        """It may be meant so, but should be known."""
        return Finding(self.name, Level.WARNING, text, advice)

    def error(self, text: str, advice: str) -> Finding:
        """It does not work, or not as promised."""
        return Finding(self.name, Level.ERROR, text, advice)


# Level → symbol, the same in ASCII, style.
_SIGNS = {
    Level.OK: ("✓", "+", "green"),
    Level.WARNING: ("!", "!", "yellow"),
    Level.ERROR: ("✗", "x", "bold red"),
}

_LEVEL_WIDTH = max(len(level.value) for level in Level)


def show(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print findings by group. One JSON object on each line, if that is wanted."""
    if as_json:
        for finding in findings:
            typer.echo(json_line(structs.asdict(finding)))
        return
    ascii_only = not has_symbols()
    for name, members in groupby(findings, attrgetter("group")):
        grid = Grid.grid(padding=(0, 1, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, min_width=_LEVEL_WIDTH)
        grid.add_column(overflow="fold")
        for finding in members:
            symbol, instead, style = _SIGNS[finding.level]
            signs = plain_text(instead if ascii_only else symbol, style), plain_text(finding.level.value, style)
            grid.add_row(*signs, plain_text(finding.text))
            if finding.advice is not None:
                grid.add_row("", "", plain_text(f"{'->' if ascii_only else '→'} {finding.advice}", "italic"))
        show_parts(plain_text(name, "bold"), grid, "")
    show_parts(summary(findings))


def summary(findings: Sequence[Finding]) -> str:
    """How many of each level, in words."""
    counts = Counter(finding.level for finding in findings)
    return ", ".join(
        f"{counts[level]} {level.value if level is Level.OK or counts[level] == 1 else level.value + 's'}"
        for level in reversed(Level)
    )


def is_bad(findings: Sequence[Finding]) -> bool:
    """Whether there is an error."""
    return any(finding.level is Level.ERROR for finding in findings)
