"""API keys as they are kept: in `headrace.api_keys`, made and revoked by commands, read by every service.

Owns that table. Must not know what a key looks like, nor what its grants mean: of its secret it has the digest alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
from msgspec import Struct

from sql.errors import Meaning, Unavailable, meaning_of, one_line
from sql.ledger import prepare

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

LIVING_MAX = 10_000
"""Keys that are not revoked. Every service keeps them in memory and looks each second whether they have changed."""


class ApiKey(Struct, frozen=True):
    """A key without what would prove it. Revoked keys are kept: they say that nobody writes without one."""

    id: str
    name: str
    grants: Sequence[str]
    rows_per_second: float | None
    queue_share: float
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Wanted(Struct, frozen=True):
    """A key to be made. It expires after so many days, or never."""

    id: str
    name: str
    grants: Sequence[str]
    rows_per_second: float | None = None
    queue_share: float = 0.5
    expires_days: float | None = None


class Kept(Struct, frozen=True):
    """All living keys, each with the SHA-256 of its secret. `fingerprint` changes with any row of the table."""

    fingerprint: str
    any: bool
    """Whether there is a row at all, be it a revoked key's."""
    living: Sequence[tuple[ApiKey, bytes]]

    def __repr__(self) -> str:  # digests belong in no log
        return f"Kept({len(self.living)} living)"


class KeysRefused(Exception):
    """Why a key is not made or revoked, as one line."""


class KeysDenied(Unavailable):
    """The role may not do that with the table, or the table is another one. The message says what to do."""


_ABSENT = "absent"

# The catalogs may be read without rights to schema headrace.
_IS_THERE = """
    select exists (
        select from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'headrace' and c.relname = 'api_keys'
    )
"""

# Each change makes a new version of a row: xmin is its transaction, ctid its place.
_FINGERPRINT = """
    select concat_ws(
        '/', 'headrace.api_keys'::regclass::oid, count(*), coalesce(sum(hashtext(xmin::text || ctid::text)), 0)
    ) from headrace.api_keys
"""

_COLUMNS = "id, name, grants, rows_per_second, queue_share, created_at, expires_at, revoked_at"

_LIVING = f"""
    select {_COLUMNS}, secret_sha256 from headrace.api_keys where revoked_at is null
     order by created_at, id limit {LIVING_MAX}
"""

_INSERT = f"""
    insert into headrace.api_keys (id, name, secret_sha256, grants, rows_per_second, queue_share, expires_at)
    select $1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7::float8 * 86400)
     where (select count(*) from headrace.api_keys where revoked_at is null) < {LIVING_MAX}
    returning {_COLUMNS}
"""


async def look(connection: Connection, fingerprint: str = "") -> Kept | None:
    """The keys, or None if they are those of this fingerprint. Where there is no table, there are none.

    Raises `Unavailable`, and `KeysDenied`, which is one.
    """
    try:
        return await _look(connection, fingerprint)
    except Unavailable:
        raise
    except Exception as error:
        if meaning_of(error) is Meaning.BUG:
            raise
        raise Unavailable(one_line(error)) from error


async def _look(connection: Connection, fingerprint: str) -> Kept | None:
    if fingerprint in {"", _ABSENT} and not await connection.fetchval(_IS_THERE):
        return None if fingerprint else Kept(_ABSENT, any=False, living=())
    try:
        # First the fingerprint: what changes between the two is read again then.
        found: str = await connection.fetchval(_FINGERPRINT)
        if found == fingerprint:
            return None
        living = await connection.fetch(_LIVING)
        exist: bool = await connection.fetchval("select exists (select from headrace.api_keys)")
    except asyncpg.UndefinedTableError:
        return Kept(_ABSENT, any=False, living=())
    except asyncpg.InsufficientPrivilegeError as error:
        raise await _denied(connection, error, "select") from error
    except asyncpg.UndefinedColumnError as error:
        raise KeysDenied(f"headrace.api_keys is not as this version made it: {one_line(error)}") from error
    return Kept(found, exist, [(_key(record), record["secret_sha256"]) for record in living])


async def create(connection: Connection, wanted: Wanted, secret_sha256: bytes) -> ApiKey:
    """Keep a new key; makes the table where there is none.

    Raises `KeysRefused` if there is a living key of this name, `KeysDenied`, and what asyncpg raises.
    """
    try:
        await prepare(connection)
        record = await connection.fetchrow(
            _INSERT,
            wanted.id,
            wanted.name,
            secret_sha256,
            list(wanted.grants),
            wanted.rows_per_second,
            wanted.queue_share,
            wanted.expires_days,
        )
    except asyncpg.UniqueViolationError:
        raise KeysRefused(f"There is a key {wanted.name} already: revoke it first, or choose another name") from None
    except asyncpg.UndefinedTableError as error:
        raise KeysDenied(
            "there is no table headrace.api_keys, and the role may not make it: connect as the owner of schema headrace"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise await _denied(connection, error, "select, insert") from error
    if record is None:
        raise KeysRefused(f"There are {LIVING_MAX} keys already: revoke some")
    return _key(record)


async def keys(connection: Connection) -> list[ApiKey]:
    """All keys, the oldest first, revoked ones too. Raises `KeysDenied`, and what asyncpg raises."""
    if not await connection.fetchval(_IS_THERE):
        return []
    try:
        records = await connection.fetch(f"select {_COLUMNS} from headrace.api_keys order by created_at, id")
    except asyncpg.InsufficientPrivilegeError as error:
        raise await _denied(connection, error, "select") from error
    return list(map(_key, records))


async def revoke(connection: Connection, name_or_id: str) -> ApiKey:
    """Revoke a living key. Raises `KeysRefused` unless it is exactly one, `KeysDenied`, and what asyncpg raises."""
    if not await connection.fetchval(_IS_THERE):
        raise KeysRefused("There are no keys")
    try:
        async with connection.transaction():
            records = await connection.fetch(
                "update headrace.api_keys set revoked_at = now()"
                f" where (name = $1 or id = $1) and revoked_at is null returning {_COLUMNS}",
                name_or_id,
            )
            if len(records) > 1:
                raise KeysRefused("One key has this name, and another one has it as its id: say the other of the two")
    except asyncpg.InsufficientPrivilegeError as error:
        raise await _denied(connection, error, "select, update") from error
    if not records:
        raise KeysRefused("There is no living key of this name or id")
    return _key(records[0])


def _key(record: asyncpg.Record) -> ApiKey:
    return ApiKey(**{name: record[name] for name in ApiKey.__struct_fields__})


async def _denied(connection: Connection, error: Exception, rights: str) -> KeysDenied:
    role, database = await connection.fetchrow("select quote_ident(current_user), quote_ident(current_database())") or (
        "the role",
        "the database",
    )
    if await connection.fetchval(_IS_THERE):
        grant = f"grant usage on schema headrace to {role}; grant {rights} on headrace.api_keys to {role}"
        return KeysDenied(f"{one_line(error)}: run `{grant}` as the owner of schema headrace")
    advice = f"run `grant create on database {database} to {role}` once, or connect as a role that has it"
    return KeysDenied(f"{one_line(error)}: keys are kept in schema headrace; {advice}")
