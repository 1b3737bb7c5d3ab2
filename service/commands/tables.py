"""`headrace tables`: what is exposed, which way rows take into it, and what a row must bring.

Owns what an operator reads. What a table is like is the catalog's judgement, the same by which the service writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import quote

import typer
from msgspec import Struct, structs
from rich.box import SIMPLE_HEAD
from rich.table import Table as Grid

from service.commands.database import DatabaseError
from service.commands.terminal import json_line, plain, plain_text
from service.commands.terminal import show as show_parts
from service.pages.rowschema import is_required, takes_values
from service.settings import Settings
from sql import PLAIN, Catalog, Column, Kind, Rights, Table, Way, load_catalog, rights_of, way_of

if TYPE_CHECKING:
    from service.commands.database import Connection

_LOCK_SECONDS = 5
"""Who wants to look at tables is not to wait for somebody who changes them."""


class ColumnLine(Struct, frozen=True):
    """A column. `required`: each row must have it. `takes_values`: a row may have it."""

    name: str
    type: str
    required: bool
    takes_values: bool
    default: str | None
    comment: str | None

    @property
    def if_left_out(self) -> str:
        """What becomes of a row without it."""
        return "required" if self.required else self.default or "NULL"


class TableLine(Struct, frozen=True):
    """A table or view. `profile` is what `Content-Profile` must say, "" if nothing. `why` has the reasons why a plain
    insert does not go by COPY, `refusal` the one why nothing can be inserted.
    """

    schema: str
    name: str
    path: str
    profile: str
    kind: str
    way: str
    why: Sequence[str]
    insert: str
    """"yes", "some columns" or "no": what the role may."""
    refusal: str | None
    primary_key: Sequence[str]
    comment: str | None
    columns: Sequence[ColumnLine]

    @property
    def full_name(self) -> str:
        """With its schema."""
        return f"{self.schema}.{self.name}"


class Choice(Struct, frozen=True):
    """Which tables are meant: one by its name or schema.name, those of one schema, or all."""

    name: str | None = None
    schema: str | None = None


async def show(connection: Connection, settings: Settings, choice: Choice, *, as_json: bool) -> None:
    """Print the tables, one line for each, or the chosen one with its columns. Raises `DatabaseError`."""
    if choice.schema is not None and choice.schema not in settings.schemas:
        raise DatabaseError(f"schema {choice.schema} is not exposed: HEADRACE_SCHEMAS={','.join(settings.schemas)}")
    lines = [line for line in await _read(connection, settings) if choice.schema in (None, line.schema)]
    if choice.name is not None:
        lines = _named(choice.name, lines)
    if as_json:
        for line in lines:
            typer.echo(json_line(structs.asdict(line)))
    elif choice.name is not None:
        for line in lines:
            _print_details(line)
    elif lines:
        show_parts(_overview(lines))
    else:
        typer.echo(f"No tables in {choice.schema or ', '.join(settings.schemas)}: HEADRACE_SCHEMAS says where they are")


# -------------------------------------------------------------------- what there is


async def _read(connection: Connection, settings: Settings) -> list[TableLine]:
    async with connection.transaction(readonly=True):
        await connection.execute(f"set local lock_timeout = '{_LOCK_SECONDS}s'")
        catalog = await load_catalog(connection, settings.schemas)
        rights = {(each.schema, each.name): each for each in await rights_of(connection, settings.schemas)}
    return list(lines_of(catalog, rights, settings.prefix))


def lines_of(catalog: Catalog, rights: Mapping[tuple[str, str], Rights], prefix: str) -> Iterator[TableLine]:
    """A line for each table of the catalog, in its order."""
    for key, table in catalog.tables.items():
        may = rights.get(key)  # None if it has come or gone between the two queries
        refusal = _refusal(table, may)
        insert = "yes" if may is None or may.inserts else "some columns"
        way = way_of(table, PLAIN, copy_default=catalog.copy_default)
        yield TableLine(
            schema=table.schema,
            name=table.name,
            path=f"{prefix}/{quote(table.name, safe='')}",
            profile="" if table.schema == catalog.schemas[0] else table.schema,
            kind="view" if table.is_view else "table",
            way="copy" if way is Way.COPY else "recordset",
            why=tuple(why_not_copied(table)),
            insert="no" if refusal is not None else insert,
            refusal=refusal,
            primary_key=table.primary_key,
            comment=table.comment,
            columns=tuple(map(_column_line, table.columns.values())),
        )


def why_not_copied(table: Table) -> Iterator[str]:
    """The reasons why `Table.copyable` is false."""
    if table.is_view:
        yield "a view"
    if table.row_security:
        yield "row-level security applies to the role"
    if table.insert_rules:
        yield "a rule on insert"
    composite = [name for name, column in table.columns.items() if column.kind is Kind.COMPOSITE]
    if composite:
        yield f"composite type: {', '.join(composite)}"


def _refusal(table: Table, rights: Rights | None) -> str | None:
    if not table.insertable:
        return "PostgreSQL cannot insert through this view"
    if rights is not None and not rights.enters:
        return f"the role has no USAGE on schema {table.schema}"
    return "the role has no right to INSERT" if rights is not None and not rights.inserts_some else None


def _column_line(column: Column) -> ColumnLine:
    default = column.default
    if column.generated:
        default = "generated"
    elif column.identity is not None:
        default = "identity" if column.identity == "by default" else "identity, always"
    elif not column.insertable:
        default = "computed"
    return ColumnLine(column.name, column.type, is_required(column), takes_values(column), default, column.comment)


def _named(name: str, lines: Sequence[TableLine]) -> list[TableLine]:
    found = [line for line in lines if name in (line.name, line.full_name)]
    if not found:
        names = {each: line for line in lines for each in (line.name, line.full_name)}
        close = get_close_matches(name, names, n=1)
        meant = f"; did you mean {names[close[0]].full_name}?" if close else ""
        raise DatabaseError(plain(f"There is no table {name}{meant}"))
    return found


# -------------------------------------------------------------------- how it looks


def _overview(lines: Sequence[TableLine]) -> Grid:
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("table", overflow="fold")
    grid.add_column("kind", no_wrap=True)
    grid.add_column("columns", justify="right")
    grid.add_column("written by", overflow="fold")
    grid.add_column("insert", overflow="fold")
    for line in lines:
        cells = (line.full_name, line.kind, str(len(line.columns)), _way(line), _insert(line))
        grid.add_row(*map(plain_text, cells))
    return grid


def _way(line: TableLine) -> str:
    return "COPY" if line.way == "copy" else f"recordset: {'; '.join(line.why)}"


def _insert(line: TableLine) -> str:
    return line.insert if line.refusal is None else f"no: {line.refusal}"


def _print_details(line: TableLine) -> None:
    said = [
        (line.kind, line.full_name),
        ("path", line.path + (f"  with Content-Profile: {line.profile}" if line.profile else "")),
        ("written by", _way(line)),
        ("insert", _insert(line)),
        ("key", ", ".join(line.primary_key) or "none"),
        ("comment", line.comment or ""),
    ]
    facts = Grid.grid(padding=(0, 2, 0, 0))
    for name, value in said:
        if value:
            facts.add_row(name, plain_text(value))
    columns = Grid(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("column", "type", "if left out", "comment"):
        columns.add_column(heading, overflow="fold")
    for column in line.columns:
        cells = (column.name, column.type, column.if_left_out, column.comment or "")
        columns.add_row(*map(plain_text, cells))
    show_parts(facts, "", columns, "")
