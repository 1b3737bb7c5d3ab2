"""The command line: `headrace serve`, `headrace load`, `headrace quarantine`, `headrace psql`.

Owns arguments and what people read in the terminal. Must not know how anything is done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import anyio
import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import quarantine
from service.embedded import EmbeddedError, running_dsn
from service.embedded import psql as run_psql
from service.lifespan import Service
from service.load import DEFAULT_URL, Destination, Job, Limits
from service.load import run as run_load
from service.rowfile import File, Format, LoadError
from service.server import Server, spare_the_collector
from service.settings import Settings, unknown_variables

app = typer.Typer(
    name="headrace",
    help="Headrace brings rows to PostgreSQL: HTTP in, shared COPY batches, answered after the commit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_quarantine = typer.Typer(
    name="quarantine", help="Bad rows that were kept: look at them, try them again, drop them.", no_args_is_help=True
)
app.add_typer(_quarantine)

_LIMITS = Limits()


def main() -> None:
    """The console script."""
    app()


@app.command()
def serve(
    dsn: Annotated[
        str | None, typer.Option(help="The database (HEADRACE_DSN). Without: a PostgreSQL of its own.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on (HEADRACE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on (HEADRACE_PORT).")] = None,
) -> None:
    """Start the service. All other settings are environment variables; the README has their table."""
    settings = _settings(dsn=dsn, host=host, port=port)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    if settings.log_level != "debug":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    for name in unknown_variables(os.environ):
        logging.getLogger("service").warning("%s is not a setting and has no effect", name)

    def started(service: Service, url: str) -> None:
        spare_the_collector()
        _banner(service, url)

    server = Server(settings, started)
    try:
        server.run()
    except EmbeddedError as error:
        _fail(str(error))
    if not server.started:
        raise typer.Exit(1)


@app.command()
def load(  # noqa: PLR0913 - each option is a parameter
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV or NDJSON, also as .gz or .zip; - is stdin.", show_default=False)
    ],
    *,
    table: Annotated[str, typer.Option(help="The table or view to load into.")],
    url: Annotated[str, typer.Option(envvar="HEADRACE_URL", help="The service, with its prefix.")] = DEFAULT_URL,
    schema: Annotated[str | None, typer.Option(help="The table's schema, if not the service's first.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header to send, 'Name: value'; repeatable.")] = None,
    format: Annotated[  # noqa: A002 - the option's name
        Format | None, typer.Option(help="What the file is, where its name does not tell.", show_default=False)
    ] = None,
    member: Annotated[str | None, typer.Option(help="Which file of a .zip that has several.")] = None,
    null: Annotated[str, typer.Option(help="How the CSV writes NULL; the default is an empty field.")] = "",
    json: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column of a CSV that holds JSON; repeatable.")
    ] = None,
    request_rows: Annotated[
        int, typer.Option(min=1, help="Rows in one request, which also ends at about 1 MiB.")
    ] = _LIMITS.request_rows_max,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at once.")] = _LIMITS.in_flight,
    errors_max: Annotated[int, typer.Option(min=1, help="Stop after so many refused rows.")] = _LIMITS.errors_max,
    retry_seconds_max: Annotated[
        float, typer.Option(min=0, help="How long a request is tried again while the service is away or full.")
    ] = _LIMITS.retry_seconds_max,
    answer_seconds_max: Annotated[
        float, typer.Option(min=1, help="How long to wait for an answer; then the rows count as unknown.")
    ] = _LIMITS.answer_seconds_max,
) -> None:
    """Send the rows of a file to a running service. Ends with status 0 only if every row is stored.

    The first line of a CSV names the columns. Bad rows are left out and listed with their lines.
    """
    limits = Limits(
        request_rows_max=request_rows,
        in_flight=in_flight,
        errors_max=errors_max,
        retry_seconds_max=retry_seconds_max,
        answer_seconds_max=answer_seconds_max,
    )
    destination = Destination(table, url, schema, tuple(map(_header, header or ())))
    try:
        report = run_load(Job(File(file, format, member, null, tuple(json or ())), destination, limits))
    except LoadError as error:
        _fail(str(error))
    for complaint in report.complaints():
        typer.echo(complaint, err=True)
    typer.echo(report.summary())
    if not report.complete:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the service's own PostgreSQL; arguments are psql's, for example -c 'select …'."""
    try:
        raise typer.Exit(run_psql(_settings().data_dir, context.args))
    except EmbeddedError as error:
        _fail(str(error))


# -------------------------------------------------------------------- quarantine

_Dsn = Annotated[str | None, typer.Option(help="The database (HEADRACE_DSN). Without: the service's own.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]
_OfTable = Annotated[str | None, typer.Option("--table", help="Only rows for this table: its name, or schema.name.")]
_Ids = Annotated[list[int] | None, typer.Argument(metavar="ID...", show_default=False)]
_All = Annotated[bool, typer.Option("--all", help="All rows of all tables.")]


@_quarantine.command("list")
def quarantine_list(
    *,
    table: _OfTable = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the oldest first.")] = 100,
    as_json: _Json = False,
    dsn: _Dsn = None,
) -> None:
    """List rows in quarantine."""
    _in_quarantine(dsn, lambda connection: quarantine.list_entries(connection, table, limit, as_json=as_json))


@_quarantine.command("show")
def quarantine_show(
    entry_id: Annotated[int, typer.Argument(metavar="ID")], *, as_json: _Json = False, dsn: _Dsn = None
) -> None:
    """Show a row as it came, and why it is in quarantine."""
    _in_quarantine(dsn, lambda connection: quarantine.show_entry(connection, entry_id, as_json=as_json))


@_quarantine.command("replay")
def quarantine_replay(
    ids: _Ids = None, *, table: _OfTable = None, all_: _All = False, as_json: _Json = False, dsn: _Dsn = None
) -> None:
    """Try to store rows again. Ends with status 0 only if every one of them is stored."""
    choice = quarantine.Choice(ids or (), table, all_)
    _in_quarantine(dsn, lambda connection: quarantine.replay(connection, choice, as_json=as_json), choice)


@_quarantine.command("drop")
def quarantine_drop(
    ids: _Ids = None, *, table: _OfTable = None, all_: _All = False, as_json: _Json = False, dsn: _Dsn = None
) -> None:
    """Delete rows from the quarantine for good. Asks no questions."""
    choice = quarantine.Choice(ids or (), table, all_)
    _in_quarantine(dsn, lambda connection: quarantine.drop(connection, choice, as_json=as_json), choice)


def _in_quarantine(
    dsn: str | None,
    act: Callable[[quarantine.Connection], Awaitable[bool | None]],
    choice: quarantine.Choice | None = None,
) -> None:
    """Connect and act; ends with status 1 if that says False."""

    async def main() -> bool | None:
        if choice is not None:
            choice.check()
        settings = _settings(dsn=dsn)
        async with quarantine.connected(settings.dsn or running_dsn(settings.data_dir)) as connection:
            return await act(connection)

    try:
        done = anyio.run(main)
    except (quarantine.QuarantineError, EmbeddedError) as error:
        _fail(str(error))
    if done is False:
        raise typer.Exit(1)


# -------------------------------------------------------------------- what all of them need


def _settings(**given: Any) -> Settings:
    """Settings from the environment and what the command line gave; ends with one line per mistake."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"HEADRACE_{'_'.join(map(str, problem['loc'][:1])).upper()}: {problem['msg']}"
            + ("" if "dsn" in problem["loc"] else f", got {problem['input']!r}")  # the DSN may hold a password
            for problem in error.errors()
        ]
        _fail("\n".join(lines))
    except SettingsError as error:
        _fail(str(error))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"'{text}' is not like 'Name: value'", param_hint="--header")
    return name.strip(), value.strip()


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def _banner(service: Service, url: str) -> None:
    """What a person wants to know first."""
    settings = service.settings
    lines = [f"Headrace listens on {url}", f"  docs     {url}/docs"]
    if settings.dsn is None:
        row = '{"device_id": "pump-7", "ts": "2026-11-21T10:00:00Z", "temperature": 21.5}'
        psql_command = "headrace psql" if _on_path("headrace") else ".venv/bin/headrace psql"
        lines += [
            f"  database PostgreSQL of its own, data in {settings.data_dir}",
            f"  try      curl -i {url}{settings.prefix}/events -H 'Content-Type: application/json' -d '{row}'",
            f"  look     {psql_command} -c 'select * from events'",
        ]
    typer.echo("\n".join(lines))


def _on_path(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in os.get_exec_path())
