"""`headrace quarantine`: bad rows that were kept, listed, shown, tried again, or dropped.

Owns what an operator reads and asks for. Must not know how the quarantine is kept (`sql.quarantine`).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from service.commands.terminal import json_line, plain, plain_text
from sql import Fault, quarantine

if TYPE_CHECKING:
    from service.commands.database import Connection

_PAGE = 500
"""Entries that are read at once: few enough for the memory, since a row may be large."""


class QuarantineError(Exception):
    """Why nothing can be done, as one line."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries are meant: these ids, or those of one table, or all."""

    ids: Sequence[int] = ()
    table: str | None = None
    all: bool = False

    def check(self) -> None:
        """Raises `QuarantineError` unless it says one thing."""
        if (bool(self.ids), self.table is not None, self.all).count(True) != 1:
            raise QuarantineError("Say which ones: ids, or --table NAME, or --all")


# -------------------------------------------------------------------- what can be done


async def list_entries(connection: Connection, table: str | None, limit: int, *, as_json: bool) -> None:
    """Print the oldest entries."""
    entries = await quarantine.entries(connection, table=table, limit=limit)
    if as_json:
        for entry in entries:
            typer.echo(_json(entry))
    elif sys.stdout.isatty():
        Console().print(_table(entries))
        rest = await quarantine.count(connection, table=table) - len(entries)
        if rest > 0:
            typer.echo(f"{rest} more; --limit shows more of them")
    else:
        for entry in entries:
            typer.echo("\t".join(_cells(entry)))


async def show_entry(connection: Connection, entry_id: int, *, as_json: bool) -> None:
    """Print one entry, with its row."""
    entry = await quarantine.entry(connection, entry_id)
    if entry is None:
        raise QuarantineError(f"There is no entry {entry_id}")
    if as_json:
        typer.echo(_json(entry))
        return
    for name, value in _described(entry):
        typer.echo(f"{name:<9} {plain(value)}")
    typer.echo(plain(entry.row.decode(errors="backslashreplace"), "\n\t"))


async def replay(connection: Connection, choice: Choice, *, as_json: bool) -> bool:
    """Try to store the chosen entries again; whether all of them are."""
    stored = refused = 0

    async def again(entry_id: int) -> None:
        nonlocal stored, refused
        try:
            fault = await quarantine.replay(connection, entry_id)
        except LookupError:
            fault = Fault("", "there is no such entry")
        stored += fault is None
        refused += fault is not None
        if as_json:
            typer.echo(json_line({"id": entry_id, "stored": fault is None, **_reason(fault)}))
        elif fault is not None:
            typer.echo(f"{entry_id}: {plain(f'{fault.code} {fault.message}'.strip())}", err=True)

    await _each(connection, choice, again)
    if not as_json:
        typer.echo(f"stored {stored}, refused {refused}")
    return not refused


async def drop(connection: Connection, choice: Choice, *, as_json: bool) -> bool:
    """Delete the chosen entries; whether all that were named existed."""
    dropped = 0
    if choice.ids:
        dropped = await quarantine.drop(connection, choice.ids)
    else:
        async for ids in _pages(connection, choice.table):
            dropped += await quarantine.drop(connection, ids)
    typer.echo(json_line({"dropped": dropped}) if as_json else f"dropped {dropped}")
    return dropped >= len(set(choice.ids))


async def _each(connection: Connection, choice: Choice, act: Callable[[int], Awaitable[None]]) -> None:
    """Act on each chosen entry, the oldest first."""
    if choice.ids:
        for entry_id in dict.fromkeys(choice.ids):
            await act(entry_id)
        return
    async for ids in _pages(connection, choice.table):
        for entry_id in ids:
            await act(entry_id)


async def _pages(connection: Connection, table: str | None) -> AsyncIterator[list[int]]:
    """The ids of all entries, or those of a table, some at a time; what comes in meanwhile as well."""
    last = 0
    while entries := await quarantine.entries(connection, table=table, limit=_PAGE, after=last):
        last = entries[-1].id
        yield [entry.id for entry in entries]


# -------------------------------------------------------------------- how it looks


def _table(entries: Sequence[quarantine.Entry]) -> Table:
    table = Table()
    for name in ("id", "at", "table", "code"):
        table.add_column(name, no_wrap=True)
    table.add_column("message", ratio=1)
    table.add_column("row", ratio=1, no_wrap=True, overflow="ellipsis")
    for entry in entries:
        table.add_row(*map(plain_text, _cells(entry)))
    return table


def _cells(entry: quarantine.Entry) -> list[str]:
    words = (
        str(entry.id),
        f"{entry.at.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}",
        f"{entry.schema}.{entry.table}",
        entry.code,
        entry.message,
        entry.row.decode(errors="backslashreplace"),
    )
    return [plain(word) for word in words]


def _described(entry: quarantine.Entry) -> list[tuple[str, str]]:
    known = [
        ("id", str(entry.id)),
        ("at", entry.at.isoformat(" ", "milliseconds")),
        ("table", f"{entry.schema}.{entry.table}"),
        ("request", f"{entry.request_id}, row {entry.row_number}"),
        ("code", entry.code),
        ("message", entry.message),
        ("details", entry.details),
        ("hint", entry.hint),
        ("column", entry.column),
    ]
    return [(name, value) for name, value in known if value is not None]


def _json(entry: quarantine.Entry) -> str:
    return json_line(msgspec.structs.asdict(entry) | {"row": entry.row.decode(errors="backslashreplace")})


def _reason(fault: Fault | None) -> dict[str, str | None]:
    if fault is None:
        return {}
    return {"code": fault.code, "message": fault.message, "details": fault.details, "column": fault.column}
