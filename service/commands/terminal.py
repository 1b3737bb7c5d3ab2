"""What commands print: text that cannot control a terminal, JSON by the line, tables that a pipe does not cut.

Must not know what is printed.
"""

from __future__ import annotations

import sys

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.text import Text

_PIPE_COLUMNS = 10_000
"""Nobody looks at a pipe from the side: a line is as long as what is in it."""


def plain(text: str, allowed: str = "") -> str:
    """The text as it may stand in a terminal: what controls one is escaped, since anybody may have written it."""
    return "".join(
        [char if char.isprintable() or char in allowed else char.encode("unicode_escape").decode() for char in text]
    )


def plain_text(text: str, style: str = "") -> Text:
    """The same for rich, to which square brackets in it are no markup."""
    return Text(plain(text), style)


def json_line(value: object) -> str:
    """A value as JSON, on one line."""
    return msgspec.json.encode(value).decode()


def show(*parts: RenderableType) -> None:
    """Print one below the other: as wide as the terminal, or as it takes."""
    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    paper = Console(width=_PIPE_COLUMNS, highlight=False)
    with paper.capture() as printed:
        paper.print(*parts, sep="\n")
    for line in printed.get().splitlines():
        typer.echo(line.rstrip())


def has_symbols() -> bool:
    """Whether what is printed may have characters beyond ASCII."""
    return not Console().options.ascii_only
