"""`headrace keys`: API keys, made, listed and revoked.

Owns what an operator asks for and reads. Must not know how keys are kept (`sql.api_keys`) or made (`auth.keys`).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from service.auth.keys import PREFIX, id_in, new_key
from service.auth.principal import ROWS_PER_SECOND_MIN, GrantMalformed, Grants, Right
from service.commands.terminal import json_line, plain, plain_text
from service.settings import Settings
from sql import api_keys

if TYPE_CHECKING:
    from service.commands.database import Connection

_NAME_LENGTH_MAX = 64
_DAYS_MAX = 36_525.0


class KeysError(Exception):
    """Why nothing can be done, as one line."""


@dataclass(frozen=True, slots=True)
class Order:
    """The key that is wanted."""

    name: str
    grants: Sequence[str]
    rows_per_second: float | None
    queue_share: float
    expires_days: float | None

    def check(self) -> Grants:
        """Its grants. Raises `KeysError` if there can be no such key."""
        name = self.name
        if not (name.isprintable() and name == name.strip() and 0 < len(name) <= _NAME_LENGTH_MAX):
            raise KeysError(f"A name is text of at most {_NAME_LENGTH_MAX} characters, without blanks around it")
        if name.startswith(PREFIX):
            raise KeysError(f"A name does not begin with {PREFIX}: this is how keys do")
        if self.rows_per_second is not None and not ROWS_PER_SECOND_MIN <= self.rows_per_second < math.inf:
            raise KeysError("--rows-per-second must be more than 0")
        if not 0 < self.queue_share <= 1:
            raise KeysError("--queue-share must be more than 0, and 1 at most")
        if self.expires_days is not None and not 0 < self.expires_days <= _DAYS_MAX:
            raise KeysError(f"--expires-days must be more than 0, and {_DAYS_MAX:g} at most")
        try:
            return Grants.parse(self.grants)
        except GrantMalformed as error:
            raise KeysError(f"--table: {plain(str(error))}") from None


# -------------------------------------------------------------------- what can be done


async def create(connection: Connection, order: Order, settings: Settings, *, as_json: bool) -> None:
    """Make a key, and print it alone on stdout; what else there is to say goes to stderr."""
    if settings.at_least_once:
        raise KeysError("There are no API keys with HEADRACE_AT_LEAST_ONCE: the service would not look at them")
    grants = order.check()
    had_any = bool(await api_keys.keys(connection))
    await _warn(connection, grants, settings)
    key = new_key()
    wanted = api_keys.Wanted(
        key.id,
        order.name,
        [str(grant) for grant in grants.all],
        order.rows_per_second,
        order.queue_share,
        order.expires_days,
    )
    try:
        kept = await api_keys.create(connection, wanted, key.digest)
    except api_keys.KeysRefused as error:
        raise KeysError(plain(str(error))) from None
    typer.echo(json_line(_as_dict(kept) | {"key": key.text}) if as_json else key.text)
    _say(f"Key {kept.name} (id {kept.id}) may {'; '.join(map(str, kept.grants))}.")
    _say("It is not shown again. Send it as `Authorization: Bearer …` or `apikey: …`.")
    if not had_any:
        _say("It is the first one: within about two seconds nobody writes to this database's tables without a key or a"
             " token, through any service, and not after it is revoked either.")  # fmt: skip


async def list_keys(connection: Connection, *, as_json: bool) -> None:
    """Print all keys, the oldest first."""
    found = await api_keys.keys(connection)
    if as_json:
        for key in found:
            typer.echo(json_line(_as_dict(key)))
    elif sys.stdout.isatty():
        table = Table(*_TITLES)
        for key in found:
            table.add_row(*map(plain_text, _cells(key)))
        Console().print(table)
    else:
        for key in found:
            typer.echo("\t".join(_cells(key)))


async def revoke(connection: Connection, name_or_id: str, *, as_json: bool) -> None:
    """Revoke a key that is named, by its id, or by itself."""
    try:
        key = await api_keys.revoke(connection, id_in(name_or_id))
    except api_keys.KeysRefused as error:
        raise KeysError(str(error)) from None
    if as_json:
        typer.echo(json_line(_as_dict(key)))
    else:
        typer.echo(f"revoked {plain(key.name)} (id {key.id})")


# -------------------------------------------------------------------- what is said of it


_TABLES = """
    select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p', 'v', 'f')
       and (n.nspname, c.relname) in (select * from unnest($1::text[], $2::text[]))
"""


async def _warn(connection: Connection, grants: Grants, settings: Settings) -> None:
    """Of grants that do nothing. The tables may come later."""
    named = [
        (grant.schema, grant.table) for grant in grants.all if grant.schema is not None and grant.table is not None
    ]
    records = await connection.fetch(_TABLES, [schema for schema, _ in named], [table for _, table in named])
    there = {tuple(record) for record in records}
    for schema, table in named:
        if (schema, table) not in there:
            _say(f"warning: there is no table {schema}.{table} yet")
    for schema in sorted({grant.schema for grant in grants.all if grant.schema is not None} - {*settings.schemas}):
        _say(f"warning: schema {schema} is not in HEADRACE_SCHEMAS here, which has {','.join(settings.schemas)}")
    inserts = Right.INSERT
    for grant in grants.all:
        if inserts not in grant.rights and not _is_covered(grants, grant.schema, grant.table):
            _say(f"warning: {grant} is of no use without insert")


def _is_covered(grants: Grants, schema: str | None, table: str | None) -> bool:
    """Whether another grant lets rows be inserted there."""
    return any(
        Right.INSERT in grant.rights and grant.schema in {None, schema} and grant.table in {None, table}
        for grant in grants.all
    )


def _say(text: str) -> None:
    typer.echo(plain(text), err=True)


# -------------------------------------------------------------------- how it looks

_TITLES = ("id", "name", "state", "may", "rows/s", "queue share", "created", "expires")


def _state(key: api_keys.ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at.timestamp() <= time.time() else "good"


def _cells(key: api_keys.ApiKey) -> list[str]:
    words = (
        key.id,
        key.name,
        _state(key),
        " ".join(key.grants),
        "" if key.rows_per_second is None else f"{key.rows_per_second:g}",
        f"{key.queue_share:g}",
        _moment(key.created_at),
        _moment(key.expires_at),
    )
    return [plain(word) for word in words]


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%SZ}"


def _as_dict(key: api_keys.ApiKey) -> dict[str, object]:
    return msgspec.structs.asdict(key) | {"state": _state(key)}
