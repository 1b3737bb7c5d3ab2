"""A checkup of a real database: what it finds out, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from sql import Checkup, NotReached, Pooler, Slot, checkup, examine
from sql.checkup import ahead_at_least
from sql.ledger import SCHEMA_SQL
from tests.harness import Connection
from tests.roles import PASSWORD, Role, role_in
from tests.sql import pooler


@pytest.fixture
async def role(db: Connection, dsn: str) -> AsyncIterator[Role]:
    """A role without rights."""
    async with role_in(db, dsn) as found:
        yield found


async def look(dsn: str, *schemas: str) -> Checkup:
    """A checkup that misses nothing."""
    found = await examine(dsn, schemas or ("public",), 5.0)
    assert found.missed == []
    return found


async def test_a_server(db: Connection, dsn: str) -> None:
    """What is asked is answered, and it is not the session of the checkup that is described."""
    server = (await look(dsn)).server
    assert server.version == int(await db.fetchval("show server_version_num"))
    assert server.version_name == f"{server.version // 10_000}.{server.version % 10_000}"
    assert (server.database, server.role) == (await db.fetchval("select current_database()"), "postgres")
    assert (server.superuser, server.in_recovery, server.encrypted) == (True, False, False)
    assert (server.address, server.standbys, server.pooler) == (None, 0, Pooler.NONE)
    assert abs(server.seconds_ahead) < 1
    assert 0 < server.round_trip_seconds < 1
    expected = {"fsync": "off", "synchronous_commit": "off", "max_connections": "200", "statement_timeout": "0"}
    assert {**server.settings, **expected} == server.settings
    assert server.settings["default_transaction_read_only"] == "off"


async def test_settings_of_a_role_are_seen(db: Connection, dsn: str, role: Role) -> None:
    """They are what a slot of the service will start with."""
    await db.execute(f"alter role {role.name} set statement_timeout = '7s'")
    await db.execute(f"alter role {role.name} set default_transaction_read_only = on")
    settings = (await look(role.dsn)).server.settings
    assert (settings["statement_timeout"], settings["default_transaction_read_only"]) == ("7000", "on")
    assert (await look(dsn)).server.settings["default_transaction_read_only"] == "off"


async def test_exposed_schemas(db: Connection, dsn: str) -> None:
    """Those that are missing are named."""
    await db.execute('create table t (a int); create schema "Odd one"')
    found = await look(dsn, "public", "Odd one", "nowhere")
    assert found.schemas_missing == ["nowhere"]
    assert found.rights is not None
    assert [each.name for each in found.rights] == ["t"]


async def test_connections_of_a_role(db: Connection, dsn: str, role: Role) -> None:
    """Its own limits count, and what is reserved for others does; superusers have no limits of their own."""
    database = await db.fetchval("select current_database()")
    await db.execute(f"alter role {role.name} connection limit 9")
    await db.execute(f"alter database {database} connection limit 8")
    room = (await look(role.dsn)).room
    assert room is not None
    assert (room.connections_max, room.role_max, room.database_max) == (197, 9, 8)
    assert (room.role, room.database, room.ours) == (0, 1, 0), (
        "this test has one, and the checkup does not count itself"
    )
    room = (await look(dsn)).room
    assert room is not None
    assert (room.connections_max, room.role_max, room.database_max) == (197, None, None)


async def test_connections_of_ours(dsn: str, slot: Slot) -> None:
    """A service that runs already has its connections, so they need not be free."""
    del slot  # it is open
    room = (await look(dsn)).room
    assert room is not None
    assert room.ours == 1
    assert room.connections >= room.database >= 2


async def test_schema_headrace_and_what_is_in_it(db: Connection, dsn: str, role: Role) -> None:
    """The contents are read only where that can succeed."""
    found = await look(dsn)
    assert found.own is not None
    assert (found.own.exists, found.contents) == (False, None)
    await db.execute(SCHEMA_SQL)
    found = await look(dsn)
    assert found.contents is not None
    assert found.contents.slots == 0
    found = await look(role.dsn)
    assert found.own is not None
    assert found.own.denied
    assert found.contents is None


async def test_what_takes_too_long_is_left_out(db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who changes a table must not keep an operator from learning the rest."""
    monkeypatch.setattr(checkup, "_QUERY_SECONDS", 0.1)
    await db.execute(SCHEMA_SQL)
    async with db.transaction():
        await db.execute("lock table headrace.quarantine in access exclusive mode")
        found = await examine(dsn, ["public"], 5.0)
    assert found.contents is None
    assert found.missed == ["what is in schema headrace: canceling statement due to statement timeout"]
    assert found.rights is not None


@pytest.mark.parametrize(
    ("backends", "expected"), [(1, Pooler.TRANSACTION), (8, Pooler.TRANSACTION), (None, Pooler.SESSION)]
)
async def test_poolers(dsn: str, backends: int | None, expected: Pooler) -> None:
    """One that lends backends for transactions, always the same or in turn, has another pool to size than one that does
    not.
    """
    parts = urlsplit(dsn)
    path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    async with pooler.Pooler(path, backends=backends).listening() as port:
        found = await look(f"postgresql://postgres@127.0.0.1:{port}{parts.path}")
    assert found.server.pooler is expected


@asynccontextmanager
async def freezing(dsn: str, after_transactions: int) -> AsyncIterator[str]:
    """How to connect to the database in a way that stops answering after so many transactions."""
    parts = urlsplit(dsn)
    path = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
    async with pooler.Pooler(path, backends=1, transactions_max=after_transactions).listening() as port:
        yield f"postgresql://postgres@127.0.0.1:{port}{parts.path}"


@pytest.mark.parametrize("transactions", [0, 3])
async def test_a_server_that_freezes_at_once(transactions: int, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls the doctor does not want to wait for that, too."""
    monkeypatch.setattr(checkup, "_ANSWER_SECONDS", 0.5)
    started = time.monotonic()
    async with freezing(dsn, transactions) as frozen:
        assert (await not_reached(frozen)).code == "silent"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("transactions", [9, 11])
async def test_a_server_that_freezes_later(transactions: int, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out before is told."""
    monkeypatch.setattr(checkup, "_ANSWER_SECONDS", 0.5)
    started = time.monotonic()
    async with freezing(dsn, transactions) as frozen:
        found = await examine(frozen, ["public"], 5.0)
    assert "no answer in time" in found.missed[0]
    assert found.missed[-1].startswith("schemas: ")
    assert found.server.role == "postgres"
    assert time.monotonic() - started < 10


# -------------------------------------------------------------------- what cannot be reached


async def not_reached(dsn: str, seconds: float = 5.0) -> NotReached:
    """Why not."""
    with pytest.raises(NotReached) as refused:
        await examine(dsn, ["public"], seconds)
    assert "\n" not in str(refused.value)
    assert PASSWORD not in repr(refused.value)
    assert refused.value.__cause__ is None or PASSWORD not in repr(refused.value.__cause__)
    return refused.value


async def test_why_a_database_is_not_reached(dsn: str) -> None:
    """Each reason calls for something else, so they are told apart."""
    codes = {
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/x": "refused",
        "postgresql://u@/x?host=/nowhere": "refused",
        f"postgresql://u:{PASSWORD}@-.invalid/x": "name",
        f"postgresql://u:x/{PASSWORD}@127.0.0.1:1/x": "dsn",
        f"postgresql://u:{PASSWORD}@127.0.0.1:port/x": "dsn",
        dsn.replace("/test_", "/no_"): "3D000",
        dsn.replace("postgres@", f"nobody:{PASSWORD}@"): "28000",
    }
    assert {each: (await not_reached(each)).code for each in codes} == codes


async def test_a_server_that_says_nothing() -> None:
    """A firewall that drops packets looks like that."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        error = await not_reached(f"postgresql://u:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/x", 0.1)
    assert error.code == "silent"
    assert time.monotonic() - started < 3


async def test_a_server_without_tls() -> None:
    """Where the DSN wants it, it is no use to look for the server."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await not_reached(f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x?sslmode=require")).code == "tls"


@pytest.mark.parametrize(("there", "ahead"), [(100.0, 0.0), (100.5, 0.0), (101.0, 0.0), (103.0, 2.0), (98.0, -2.0)])
def test_a_clock_is_ahead_by_as_much_as_is_certain(there: float, ahead: float) -> None:
    """It was read at some time between asking and the answer: here, from 100 to 101."""
    assert ahead_at_least(there, 100.0, 101.0) == pytest.approx(ahead)
