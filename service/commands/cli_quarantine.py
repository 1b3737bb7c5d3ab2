"""The command line of `headrace quarantine`: commands and arguments. What they do is in `commands/quarantine.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import anyio
import typer

from service.commands import database, quarantine
from service.commands.arguments import DsnOption, JsonOption, fail, settings_or_end
from service.embedded import EmbeddedError, running_dsn

app = typer.Typer(
    name="quarantine", help="Bad rows that were kept: look at them, try them again, drop them.", no_args_is_help=True
)

_OfTable = Annotated[str | None, typer.Option("--table", help="Only rows for this table: its name, or schema.name.")]
_Ids = Annotated[list[int] | None, typer.Argument(metavar="ID...", show_default=False)]
_All = Annotated[bool, typer.Option("--all", help="All rows of all tables.")]


@app.command("list")
def list_(
    *,
    table: _OfTable = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the oldest first.")] = 100,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """List rows in quarantine."""
    _in_quarantine(dsn, lambda connection: quarantine.list_entries(connection, table, limit, as_json=as_json))


@app.command("show")
def show(
    entry_id: Annotated[int, typer.Argument(metavar="ID")], *, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Show a row as it came, and why it is in quarantine."""
    _in_quarantine(dsn, lambda connection: quarantine.show_entry(connection, entry_id, as_json=as_json))


@app.command("replay")
def replay(
    ids: _Ids = None, *, table: _OfTable = None, all_: _All = False, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Try to store rows again. Ends with status 0 only if every one of them is stored."""
    choice = quarantine.Choice(ids or (), table, all_)
    _in_quarantine(dsn, lambda connection: quarantine.replay(connection, choice, as_json=as_json), choice)


@app.command("drop")
def drop(
    ids: _Ids = None, *, table: _OfTable = None, all_: _All = False, as_json: JsonOption = False, dsn: DsnOption = None
) -> None:
    """Delete rows from the quarantine for good. Asks no questions."""
    choice = quarantine.Choice(ids or (), table, all_)
    _in_quarantine(dsn, lambda connection: quarantine.drop(connection, choice, as_json=as_json), choice)


def _in_quarantine(
    dsn: str | None,
    act: Callable[[database.Connection], Awaitable[bool | None]],
    choice: quarantine.Choice | None = None,
) -> None:
    """Connect and act; ends with status 1 if that says False."""

    async def main() -> bool | None:
        if choice is not None:
            choice.check()
        settings = settings_or_end(dsn=dsn)
        dsn_in_use = settings.dsn or running_dsn(settings.data_dir)
        async with database.connected(dsn_in_use, "headrace quarantine") as connection:
            return await act(connection)

    try:
        done = anyio.run(main)
    except (quarantine.QuarantineError, database.DatabaseError, EmbeddedError) as error:
        fail(str(error))
    if done is False:
        raise typer.Exit(1)
