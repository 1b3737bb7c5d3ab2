"""The command line: `headrace serve`, `headrace load`, `headrace psql`.

Owns arguments and what people read in the terminal. Must not know how anything is done.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.embedded import EmbeddedError
from service.embedded import psql as run_psql
from service.lifespan import Service
from service.server import Server
from service.settings import Settings

app = typer.Typer(
    name="headrace",
    help="Headrace brings rows to PostgreSQL: HTTP in, shared COPY batches, answered after the commit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    server = Server(settings, _banner)
    try:
        server.run()
    except EmbeddedError as error:
        _fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Open psql on the service's own PostgreSQL; arguments are psql's, for example -c 'select …'."""
    try:
        raise typer.Exit(run_psql(_settings().data_dir, context.args))
    except EmbeddedError as error:
        _fail(str(error))


def _settings(**given: Any) -> Settings:
    """Settings from the environment and what the command line gave; ends with one line per mistake."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        lines = [
            f"HEADRACE_{'_'.join(map(str, problem['loc'][:1])).upper()}: {problem['msg']}, got {problem['input']!r}"
            for problem in error.errors()
        ]
        _fail("\n".join(lines))
    except SettingsError as error:
        _fail(str(error))


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
