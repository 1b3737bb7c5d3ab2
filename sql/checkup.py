"""A checkup: what a database and the service's role in it are like. Facts for `headrace doctor`, which judges them.

Owns what is asked, each within a time limit and nothing that writes. Must not know what is good or bad about an answer.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import msgspec
from msgspec import Struct

from sql.budget import Room, room_of
from sql.connect import open_session
from sql.dsn import BadDsn, BadFile
from sql.errors import SqlError, Unavailable, one_line
from sql.own_schema import Contents, OwnSchema, contents_of, own_schema_of
from sql.rights import Rights, rights_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_NAME = "headrace doctor"

_QUERY_SECONDS = 2.0
"""A query that takes longer is left out: whoever asks for a checkup may do so because the database is slow."""

_ANSWER_SECONDS = 3.0
"""When the server should have given up by itself; one that has frozen does not, and is asked nothing more."""

_SETTINGS = (
    "default_transaction_isolation",
    "default_transaction_read_only",
    "fsync",
    "full_page_writes",
    "idle_session_timeout",
    "lock_timeout",
    "log_statement",
    "max_connections",
    "reserved_connections",
    "server_encoding",
    "statement_timeout",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "transaction_timeout",
)

_Found = TypeVar("_Found")

_decode_settings = msgspec.json.Decoder(dict[str, str]).decode


class NotReached(SqlError):
    """The database cannot be asked anything. `code` is the SQLSTATE with which it refused, or one of "dsn" (not
    readable), "file" (one that it names cannot be used), "name" (no such host), "refused" (nobody listens), "silent"
    (no answer in time), "tls", "other".
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Pooler(Enum):
    """What stands between us and PostgreSQL."""

    NONE = auto()  # nothing, as far as can be seen
    SESSION = auto()  # something that knows us by another number than the server does
    TRANSACTION = auto()  # the same, and two connections of ours were given one backend


class Server(Struct, frozen=True):
    """The server, and the role as which we are connected."""

    version: int
    """As 160004 for 16.4."""
    version_name: str
    database: str
    role: str
    superuser: bool
    in_recovery: bool
    encrypted: bool
    address: str | None
    """Its own; None if we are connected by a socket of the file system."""
    standbys: int
    settings: Mapping[str, str]
    """What a new session of the role starts with; times in milliseconds. What a version does not know is left out."""
    seconds_ahead: float
    """By how much its clock is ahead of ours, at least."""
    round_trip_seconds: float
    pooler: Pooler


class Checkup(Struct, frozen=True):
    """All that was found out. What is None could not be, for the reason in `missed`."""

    server: Server
    room: Room | None
    own: OwnSchema | None
    contents: Contents | None
    rights: Sequence[Rights] | None
    """What the role may do with the tables of the exposed schemas."""
    schemas_missing: Sequence[str]
    missed: Sequence[str]


async def examine(dsn: str, schemas: Sequence[str], connect_seconds: float) -> Checkup:
    """Look at a database. Takes some dozen round trips. Raises `NotReached`."""
    try:
        async with _connected(dsn, connect_seconds) as connection:
            server = await _server(connection, await _pooler(connection, dsn, connect_seconds))
            return await _examine(connection, server, schemas)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise _not_reached(error) from error


async def _examine(connection: Connection, server: Server, schemas: Sequence[str]) -> Checkup:
    missed: list[str] = []

    async def tried(what: str, look: Callable[[Connection], Awaitable[_Found]]) -> _Found | None:
        """One part; if it fails, the others may still be found out."""
        try:
            async with _transaction(connection):
                return await look(connection)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            missed.append(f"{what}: {_reason(error)}")
            return None

    room = await tried("connections", room_of)
    own = await tried("schema headrace", own_schema_of)
    contents = None
    if own is not None and own.is_usable:
        contents = await tried("what is in schema headrace", contents_of)
    rights = await tried("rights", lambda connection: rights_of(connection, schemas))
    missing = await tried("schemas", lambda connection: _schemas_missing(connection, schemas))
    return Checkup(server, room, own, contents, rights, missing or (), missed)


@asynccontextmanager
async def _connected(dsn: str, seconds: float) -> AsyncIterator[Connection]:
    try:
        # Behind a pooler, prepared statements and the transactions that use them may meet different backends.
        connection = await open_session(dsn, seconds, _NAME, command_timeout=_ANSWER_SECONDS, statement_cache_size=0)
    except Unavailable as error:
        raise _not_reached(error) from error
    try:
        yield connection
    finally:
        connection.terminate()


def _not_reached(error: Exception) -> NotReached:
    """Why, by what asyncpg or the socket below it has raised."""
    match error.__cause__ if isinstance(error, Unavailable) and error.__cause__ is not None else error:
        case BadDsn():
            code = "dsn"
        case BadFile():
            code = "file"
        case asyncpg.PostgresError(sqlstate=str(sqlstate)) if sqlstate:
            code = sqlstate
        case TimeoutError():
            code = "silent"
        case socket.gaierror():
            code = "name"
        case ssl.SSLError():
            code = "tls"
        case OSError():
            code = "tls" if "SSL" in str(error) else "refused"
        case _:
            code = "other"
    return NotReached(code, _reason(error))


def _reason(error: Exception) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else one_line(error)


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """Nothing is written in it, each query ends soon, and a pooler gives all of it to one backend."""
    async with connection.transaction(readonly=True):
        await connection.execute(f"set local statement_timeout = {round(_QUERY_SECONDS * 1000)}")
        yield


# -------------------------------------------------------------------- server

_TURNS = 3
"""Tries by which it shows what one alone may hide: that a pooler takes its backends in turn, how far the server is."""

_CLOCK = "select extract(epoch from clock_timestamp())::float8"

_SERVER = """
    select
        current_setting('server_version_num')::int as version,
        split_part(current_setting('server_version'), ' ', 1) as version_name,
        current_database()::text as database,
        current_user::text as role,
        (select rolsuper from pg_roles where rolname = current_user) as superuser,
        pg_is_in_recovery() as in_recovery,
        coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) as encrypted,
        host(inet_server_addr()) as address,
        (select count(*) from pg_stat_replication) as standbys,
        (select json_object_agg(name, reset_val) from pg_settings where name = any ($1))::text as settings
"""


async def _pooler(connection: Connection, dsn: str, connect_seconds: float) -> Pooler:
    """A pooler gives its clients numbers of its own. One that pools transactions lends a backend to whoever has one to
    run: the one that was used last, or each in turn. Otherwise a connection has its backend to itself.
    """
    mine = {await _backend(connection)}
    if mine == {connection.get_server_pid()}:
        return Pooler.NONE
    for _ in range(_TURNS):
        mine.add(await _backend(connection))
    if len(mine) > 1:
        return Pooler.TRANSACTION
    try:
        async with _connected(dsn, connect_seconds) as another:
            theirs = await _backend(another)
    except (NotReached, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        return Pooler.SESSION  # there is no second connection to be had, so nobody knows better
    return Pooler.TRANSACTION if theirs in mine else Pooler.SESSION


async def _backend(connection: Connection) -> int:
    """The backend that a transaction of the connection runs in."""
    async with _transaction(connection):
        number: int = await connection.fetchval("select pg_backend_pid()")
        return number


async def _server(connection: Connection, pooler: Pooler) -> Server:
    async with _transaction(connection):
        row = await connection.fetchrow(_SERVER, _SETTINGS)
        round_trip = await _round_trip(connection)
        ahead = await _seconds_ahead(connection)
    assert row is not None  # noqa: S101 - a SELECT without FROM
    found = dict(row)
    return Server(
        **found | {"settings": _decode_settings(found["settings"])},
        seconds_ahead=ahead,
        round_trip_seconds=round_trip,
        pooler=pooler,
    )


async def _round_trip(connection: Connection) -> float:
    """How long it takes to be answered at best: one of several may meet a pause."""
    best = float("inf")
    for _ in range(_TURNS):
        started = time.monotonic()
        await connection.execute("select")
        best = min(best, time.monotonic() - started)
    return best


async def _seconds_ahead(connection: Connection) -> float:
    sent = time.time()
    there: float = await connection.fetchval(_CLOCK)
    return ahead_at_least(there, sent, time.time())


def ahead_at_least(there: float, sent: float, answered: float) -> float:
    """By how much a clock that was read between these two times of ours is ahead of it; 0 if it need not be."""
    return there - max(sent, min(there, answered))


# -------------------------------------------------------------------- exposed schemas

_MISSING = "select name from unnest($1::text[]) as name where name not in (select nspname from pg_namespace)"


async def _schemas_missing(connection: Connection, schemas: Sequence[str]) -> list[str]:
    return [row["name"] for row in await connection.fetch(_MISSING, list(schemas))]
