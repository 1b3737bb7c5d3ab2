"""The command line: `headrace serve`, `load`, `tables`, `doctor`, `top`, `quarantine`, `keys`, `psql`.

Owns arguments and what people read in the terminal. Must not know how anything is done.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Annotated

import anyio
import typer

from service.commands import cli_keys, cli_quarantine
from service.commands import tables as listing
from service.commands.arguments import DsnOption, JsonOption, Mistakes, fail, read_settings, settings_or_end
from service.commands.banner import announce
from service.commands.database import DatabaseError, connected
from service.commands.load import DEFAULT_URL, Destination, Job, Limits
from service.commands.load import run as run_load
from service.commands.rowfile import File, Format, LoadError
from service.doctor import examination as checkup
from service.embedded import EmbeddedError, running_dsn
from service.embedded import psql as run_psql
from service.http.listening import TlsError
from service.lifespan import Service, StartRefused
from service.observing import logs
from service.server import Server, spare_the_collector
from service.settings import unknown_variables

app = typer.Typer(
    name="headrace",
    help="Headrace brings rows to PostgreSQL: HTTP in, shared COPY batches, answered after the commit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_quarantine.app)
app.add_typer(cli_keys.app)

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
    workers: Annotated[int | None, typer.Option(help="How many processes serve (HEADRACE_WORKERS).")] = None,
) -> None:
    """Start the service. All other settings are environment variables; the README has their table."""
    given = {"dsn": dsn, "host": host, "port": port, "workers": workers}
    settings = settings_or_end(**given)
    logs.configure(settings.log_format, settings.log_level)
    for name in unknown_variables(os.environ):
        logging.getLogger("service").warning("%s is not a setting and has no effect", name)

    if settings.workers > 1:
        from service.master import Application  # noqa: PLC0415 - one process alone does without

        # The workers read the environment.
        if dsn is not None:
            os.environ.pop("HEADRACE_DSN_FILE", None)
        os.environ.update(
            {f"HEADRACE_{name.upper()}": str(value) for name, value in given.items() if value is not None}
        )
        Application().run()
        return

    def started(_service: Service, url: str) -> None:
        spare_the_collector()
        announce(settings, url, server.operators_url, own_database=settings.dsn is None)

    try:
        server = Server(settings, started)
        server.run()
    except (EmbeddedError, StartRefused, TlsError) as error:
        fail(str(error))
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
    api_key: Annotated[
        str | None,
        typer.Option(envvar="HEADRACE_API_KEY", help="An API key or token. Others can see it unless it is a variable."),
    ] = None,
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
    headers = [_header(text) for text in header or ()]
    if api_key:
        headers.append(("authorization", f"Bearer {_secret(api_key)}"))
    destination = Destination(table, url, schema, tuple(headers))
    try:
        report = run_load(Job(File(file, format, member, null, tuple(json or ())), destination, limits))
    except LoadError as error:
        fail(str(error))
    for complaint in report.complaints():
        typer.echo(complaint, err=True)
    typer.echo(report.summary())
    if not report.complete:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the service's own PostgreSQL; arguments are psql's, for example -c 'select …'."""
    try:
        raise typer.Exit(run_psql(settings_or_end().data_dir, context.args))
    except EmbeddedError as error:
        fail(str(error))


# -------------------------------------------------------------------- looking after it


@app.command()
def tables(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A table, or schema.name: its columns.", show_default=False)
    ] = None,
    *,
    schema: Annotated[str | None, typer.Option(help="Only tables of this schema.", show_default=False)] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """List the tables that are exposed, and which way rows take into them."""
    settings = settings_or_end(dsn=dsn)

    async def main() -> None:
        async with connected(settings.dsn or running_dsn(settings.data_dir), "headrace tables") as connection:
            await listing.show(connection, settings, listing.Choice(name, schema), as_json=as_json)

    try:
        anyio.run(main)
    except (DatabaseError, EmbeddedError) as error:
        fail(str(error))


@app.command()
def doctor(
    *,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many processes serve (HEADRACE_WORKERS).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    dsn: DsnOption = None,
) -> None:
    """Check settings, machine and database, and say what to do. Ends with status 1 if there is an error."""
    try:
        settings = read_settings(dsn=dsn, workers=workers)
    except Mistakes as mistakes:
        healthy = checkup.report_mistakes(mistakes.lines, as_json=as_json)
    else:
        look = partial(checkup.run, as_json=as_json)
        healthy = anyio.run(look, settings, unknown_variables(os.environ))
    if not healthy:
        raise typer.Exit(1)


@app.command()
def top(
    *,
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    once: Annotated[bool, typer.Option("--once", help="Show one second, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a running service."""
    from service.commands import top as screen  # noqa: PLC0415 - what it needs is loaded for it alone

    raise typer.Exit(screen.run(url, once=once, as_json=as_json))


# -------------------------------------------------------------------- what they need


def _secret(text: str) -> str:
    """A key, without the end of line that files leave at it. One that cannot be sent must not be quoted."""
    text = text.strip()
    if not (text.isascii() and text.isprintable()):
        raise typer.BadParameter("it holds characters that no key has", param_hint="--api-key")
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"'{text}' is not like 'Name: value'", param_hint="--header")
    return name.strip(), value.strip()
