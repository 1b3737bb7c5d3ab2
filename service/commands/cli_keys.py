"""The command line of `headrace keys`: commands and arguments. What they do is in `commands/keys.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import anyio
import typer

from service.commands import database, keys
from service.commands.arguments import DsnOption, JsonOption, fail, settings_or_end
from service.embedded import EmbeddedError, running_dsn
from service.settings import Settings

app = typer.Typer(name="keys", help="API keys: who may write, and what.", no_args_is_help=True)


@app.command("create")
def create(  # noqa: PLR0913 - each option is a parameter
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for people.", show_default=False)],
    *,
    table: Annotated[
        list[str],
        typer.Option(
            metavar="GRANT",
            help="schema.table, schema.* or *, with :insert,update,select; insert alone without. Repeatable.",
            show_default=False,
        ),
    ],
    rows_per_second: Annotated[
        float | None, typer.Option(help="What it may write, through each worker.", show_default="no limit")
    ] = None,
    queue_share: Annotated[
        float, typer.Option(help="The part of the queue that its rows may take: more than 0, up to 1.")
    ] = 0.5,
    expires_days: Annotated[
        float | None, typer.Option(help="For how many days it is good.", show_default="until it is revoked")
    ] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Make a key and print it, once. From the first one on, nobody writes without a key or a token."""
    settings = settings_or_end(dsn=dsn)
    order = keys.Order(name, table, rows_per_second, queue_share, expires_days)
    _with_keys(settings, lambda connection: keys.create(connection, order, settings, as_json=as_json), order)


@app.command("list")
def list_(*, as_json: JsonOption = False, dsn: DsnOption = None) -> None:
    """List keys, those that were revoked too. Not what proves them: nobody has that but their owners."""
    _with_keys(settings_or_end(dsn=dsn), lambda connection: keys.list_keys(connection, as_json=as_json))


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME|ID", show_default=False)],
    *,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Revoke a key. Services that run refuse it within about two seconds."""
    _with_keys(settings_or_end(dsn=dsn), lambda connection: keys.revoke(connection, name, as_json=as_json))


def _with_keys(
    settings: Settings,
    act: Callable[[database.Connection], Awaitable[None]],
    order: keys.Order | None = None,
) -> None:
    """Connect and act."""

    async def main() -> None:
        if order is not None:
            order.check()
        dsn_in_use = settings.dsn or running_dsn(settings.data_dir)
        async with database.connected(dsn_in_use, "headrace keys") as connection:
            await act(connection)

    try:
        anyio.run(main)
    except (keys.KeysError, database.DatabaseError, EmbeddedError) as error:
        fail(str(error))
