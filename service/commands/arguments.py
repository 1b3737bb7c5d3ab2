"""What commands have in common: settings from the environment and the command line, and ending with a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.settings import Settings

DsnOption = Annotated[
    str | None, typer.Option("--dsn", help="The database (HEADRACE_DSN). Without: the service's own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on each line.")]


class Mistakes(Exception):
    """Settings that cannot be read, one line for each mistake."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read_settings(**given: Any) -> Settings:
    """Settings from the environment and what the command line gave; None is: not given. Raises `Mistakes`."""
    given = {name: value for name, value in given.items() if value is not None}
    if "dsn" in given:
        given["dsn_file"] = None  # what the environment says of it is overruled as well
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [
            f"HEADRACE_{'_'.join(map(str, problem['loc'][:1])).upper()}: {problem['msg']}"
            + ("" if "dsn" in problem["loc"] else f", got {problem['input']!r}")  # the DSN may hold a password
            for problem in error.errors()
        ]
        raise Mistakes(lines) from None
    except SettingsError as error:
        raise Mistakes([str(error)]) from None


def settings_or_end(**given: Any) -> Settings:
    """The same, but ends the command with the mistakes."""
    try:
        return read_settings(**given)
    except Mistakes as mistakes:
        fail(str(mistakes))


def fail(message: str) -> NoReturn:
    """End the command with status 1 and this on stderr."""
    typer.echo(message, err=True)
    raise typer.Exit(1)
