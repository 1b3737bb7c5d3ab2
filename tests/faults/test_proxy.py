"""The proxy: it finds the message that commits in each way of writing, and what it does there is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from tests.faults.proxy import Fault, FaultProxy, Follower, Step
from tests.faults.server import Postgres
from tests.harness import Connection


def steps(*messages: tuple[bytes, bytes]) -> list[Step]:
    """What each message does; kind Z is the server's, ready again, in this state."""
    follower = Follower()
    seen = []
    for kind, body in messages:
        if kind == b"Z":
            follower.ready(body)
        else:
            seen.append(follower.sees(kind, body))
    return seen


def query(text: str) -> tuple[bytes, bytes]:
    """A simple query."""
    return b"Q", text.encode() + b"\0"


def prepared(text: str) -> list[tuple[bytes, bytes]]:
    """A statement, prepared and then executed, as asyncpg does it."""
    parse = (b"P", b"s1\0" + text.encode() + b"\0\0\0")
    bind = (b"B", b"\0s1\0" + b"\0\0\0\0\0\0")
    return [parse, (b"D", b"Ss1\0"), (b"H", b""), bind, (b"E", b"\0\0\0\0\0"), (b"S", b"")]


OTHER, DATA, COMMIT = Step.OTHER, Step.DATA, Step.COMMIT
COPY = 'copy "public"."t" ("a") from stdin (format text)'
LEDGER = "insert into headrace.ledger as l (slot) values ('x') on conflict (slot) do update set at = now();"


@pytest.mark.parametrize("before", ["", LEDGER], ids=["alone", "with the ledger"])
def test_where_a_commit_is(before: str) -> None:
    """In the end of the copied data, in a string of statements, in a Sync, or in a COMMIT."""
    data, end = (b"d", b"1\n"), (b"c", b"")
    assert steps(query(before + COPY), data, data, end) == [OTHER, DATA, DATA, COMMIT]
    assert steps(query(before + "insert into t values ('1');insert into u values ('1')")) == [COMMIT]
    assert steps(query(f"begin;{before}insert into t values (1);commit")) == [COMMIT]
    insert = prepared("with stored as (insert into t select 1 returning *) select 1")
    assert steps(*insert) == [OTHER] * 5 + [COMMIT]
    opened, again = query(f"begin;{before}"), (b"Z", b"T")
    assert steps(opened, again, *insert, again, query("commit")) == [OTHER] * 7 + [COMMIT]
    assert steps(opened, again, query(COPY), data, end, again, query("COMMIT;")) == [OTHER, OTHER, DATA, OTHER, COMMIT]


@pytest.mark.parametrize(
    "messages",
    [
        [query("select 1")],
        [query("set statement_timeout = 1")],
        [query(LEDGER)],
        [query("begin"), query("commit")],
        [query("begin;insert into t values (1)"), query("rollback")],
        [query(COPY), (b"f", b"no\0"), (b"c", b"")],
        [query(COPY), (b"Z", b"I"), (b"c", b"")],
        prepared("select 1"),
        prepared("insert into headrace.ledger values (1)"),
    ],
)
def test_where_none_is(messages: list[tuple[bytes, bytes]]) -> None:
    """Reads, the service's own notes, and what is rolled back."""
    assert COMMIT not in steps(*messages)


@pytest.fixture
async def admin(own: Postgres, database: str) -> AsyncIterator[Connection]:
    """A connection past the proxy."""
    connection = await asyncpg.connect(own.dsn_of(database))
    yield connection
    await connection.close()


@pytest.fixture
async def through(proxy: FaultProxy, database: str) -> AsyncIterator[Connection]:
    """A connection through it, of the name that faults are for."""
    settings = {"application_name": proxy.application}
    connection = await asyncpg.connect(proxy.dsn_of(database), server_settings=settings)
    yield connection
    connection.terminate()


async def _copies(connection: Connection) -> None:
    await connection.copy_records_to_table("t0", records=[(1, "v1")], timeout=0.5)


async def _inserts(connection: Connection) -> None:
    await connection.execute("insert into t0 values (1, 'v1')", timeout=0.5)


async def _inserts_prepared(connection: Connection) -> None:
    await connection.fetch("insert into t0 values ($1, $2) returning key", 1, "v1", timeout=0.5)


async def _commits(connection: Connection) -> None:
    async with connection.transaction():
        await _inserts(connection)


Write = Callable[[Connection], Awaitable[None]]


@pytest.mark.parametrize("write", [_copies, _inserts, _inserts_prepared, _commits])
@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (Fault.CUT_MID_COPY, 0),
        (Fault.CUT_BEFORE_COMMIT, 0),
        (Fault.CUT_AT_COMMIT, None),
        (Fault.CUT_AFTER_COMMIT, 1),
        (Fault.HOLE_BEFORE_COMMIT, 0),
        (Fault.HOLE_AFTER_COMMIT, 1),
    ],
)
async def test_each_fault(  # noqa: PLR0913, PLR0917 - three fixtures, and the three columns of the table
    proxy: FaultProxy, admin: Connection, through: Connection, write: Write, fault: Fault, stored: int | None
) -> None:
    """Whether the row is stored is what tells them apart; the client cannot see it."""
    if fault is Fault.CUT_MID_COPY and write is not _copies:
        return  # there is no COPY in it
    proxy.arm(fault)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError)):
        async with asyncio.timeout(1):
            await write(through)
    assert (proxy.fired[fault], proxy.armed) == (1, 0)
    if stored is not None:
        assert await admin.fetchval("select count(*) from t0") == stored


async def test_what_fails_is_no_commit(proxy: FaultProxy, through: Connection) -> None:
    """The server's refusal gets through, and the fault waits for a real commit."""
    proxy.arm(Fault.CUT_AFTER_COMMIT)
    with pytest.raises(asyncpg.NotNullViolationError):
        await through.execute("insert into t0 values (null)")
    assert (proxy.ambiguous, proxy.armed) == (0, 1)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await _inserts(through)
    assert (proxy.ambiguous, proxy.armed) == (1, 0)


async def test_others_are_left_alone(proxy: FaultProxy, database: str) -> None:
    """The catalog is read by a connection of another name."""
    proxy.arm(Fault.CUT_BEFORE_COMMIT)
    connection = await asyncpg.connect(proxy.dsn_of(database))
    await _inserts(connection)
    await connection.close()
    assert proxy.armed == 1


async def test_refusing_and_holding(proxy: FaultProxy, database: str) -> None:
    """Connections can be refused, and answers delayed."""
    proxy.refusing = True
    with pytest.raises((OSError, asyncpg.PostgresConnectionError)):
        await asyncpg.connect(proxy.dsn_of(database))
    proxy.refusing = False
    connection = await asyncpg.connect(proxy.dsn_of(database))
    proxy.hold_seconds = 0.1
    started = asyncio.get_running_loop().time()
    await connection.execute("select 1")
    assert asyncio.get_running_loop().time() - started >= 0.09
    await connection.close()
