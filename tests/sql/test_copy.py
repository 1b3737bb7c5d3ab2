"""COPY on a real connection: that asyncpg's private `_copy_in` and PostgreSQL do what `sql/copy.py` relies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import asyncpg
import pytest

from sql import Target, Way
from sql.catalog import load
from sql.copy import copy
from sql.errors import Meaning, meaning_of
from tests.harness import Connection, rows_of


async def target(db: Connection, *columns: str, table: str = "t") -> Target:
    """A target by the catalog as it is now."""
    catalog = await load(db, ["public"])
    return Target(catalog.tables["public", table], columns, Way.COPY, catalog.copy_default)


async def pieces(of: Iterable[bytes]) -> AsyncIterator[bytes]:
    """An asynchronous iterator, as `_copy_in` takes it."""
    for piece in of:
        yield piece


async def copy_in(connection: Connection, statement: str, of: Iterable[bytes]) -> str:
    """The private method itself."""
    status: str = await connection._copy_in(statement, pieces(of), None)  # type: ignore[attr-defined]
    return status


async def test_rows_are_committed_when_copy_returns(db: Connection, dsn: str) -> None:
    """The answer 201 is sent on the strength of this."""
    await db.execute("create table t (a int, b text)")
    await copy(db, await target(db, "a", "b"), [b"1\tx\n2\t\\N\n"])
    other = await asyncpg.connect(dsn)
    assert await rows_of(other, "select * from t order by a") == [(1, "x"), (2, None)]
    await other.close()


async def test_columns_may_be_some_in_any_order(db: Connection) -> None:
    """The statement names them, so that the order of the table does not matter and defaults work."""
    await db.execute("create table t (a int, b text default 'x', c int)")
    await copy(db, await target(db, "c", "a"), [b"1\t2\n"])
    assert await rows_of(db, "select * from t") == [(2, "x", 1)]


async def test_a_bad_row_leaves_nothing_and_the_connection_usable(db: Connection) -> None:
    """The slot writes the other rows again on the same connection, and none of them may be there twice."""
    await db.execute("create table t (a int)")
    aim = await target(db, "a")
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await copy(db, aim, [b"1\nx\n3\n"])
    assert await db.fetchval("select count(*) from t") == 0
    await copy(db, aim, [b"1\n3\n"])
    assert await db.fetchval("select count(*) from t") == 2


@pytest.mark.parametrize(("row", "notes"), [(b"1\n", 1), (b"x\n", 0)])
async def test_a_statement_before_copy_shares_its_transaction(row: bytes, notes: int, db: Connection) -> None:
    """An implicit transaction around several statements of one string saves two round trips per batch."""
    await db.execute("create table t (a int); create table note (a int)")
    statement = f"insert into note values (1); {(await target(db, 'a')).statement}"
    try:
        await copy_in(db, statement, [row])
    except asyncpg.InvalidTextRepresentationError:
        assert not notes
    assert await db.fetchval("select count(*) from note") == notes
    assert await db.fetchval("select count(*) from t") == notes
    assert not db.is_in_transaction()


async def test_a_statement_that_fails_before_copy_is_the_error(db: Connection) -> None:
    """The data is on its way already when it fails; the server must ignore it and the connection stay in step."""
    await db.execute("create table t (a int)")
    statement = f"select 1/0; {(await target(db, 'a')).statement}"
    with pytest.raises(asyncpg.DivisionByZeroError):
        await copy_in(db, statement, [b"1\n" * 100_000])
    assert await db.fetchval("select count(*) from t") == 0


async def test_pieces_may_be_cut_anywhere(db: Connection) -> None:
    """Payloads need not be joined to be sent."""
    await db.execute("create table t (a text)")
    data = "ä\\t1\n\\N\nb\n".encode()
    await copy_in(db, (await target(db, "a")).statement, [data[i : i + 1] for i in range(len(data))])
    assert await rows_of(db, "select * from t") == [("ä\t1",), (None,), ("b",)]


async def test_a_failing_source_leaves_nothing(db: Connection) -> None:
    """A COPY that is broken off by the client is rolled back."""
    await db.execute("create table t (a int)")

    async def failing() -> AsyncIterator[bytes]:
        yield b"1\n"
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - our own, without a text
        await db._copy_in((await target(db, "a")).statement, failing(), None)  # type: ignore[attr-defined]
    assert await db.fetchval("select count(*) from t") == 0


async def test_a_connection_that_is_known_to_be_lost_is_refused(db: Connection, dsn: str) -> None:
    """The slot asks `is_closed()` first, so that nothing is sent and the rows can be tried again without any doubt."""
    await db.execute("create table t (a int)")
    connection = await asyncpg.connect(dsn)
    aim = await target(connection, "a")
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    await db.execute("select pg_terminate_backend($1)", connection.get_server_pid())
    await lost.wait()
    assert connection.is_closed()
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await copy(connection, aim, [b"1\n"])


async def test_a_connection_lost_meanwhile_is_doubt(db: Connection, dsn: str) -> None:
    """The data was sent; that it was not stored is something that only the server knows."""
    await db.execute("create table t (a int)")
    connection = await asyncpg.connect(dsn)
    pid = connection.get_server_pid()
    aim = await target(connection, "a")
    async with db.transaction():
        await db.execute("lock table t")
        copying = asyncio.create_task(copy(connection, aim, [b"1\n"]))
        waiting = "select wait_event_type = 'Lock' from pg_stat_activity where pid = $1"
        while not await db.fetchval(waiting, pid):
            pass
        await db.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(asyncpg.PostgresConnectionError) as info:
            await copying
    assert meaning_of(info.value) is Meaning.AWAY
    assert await db.fetchval("select count(*) from t") == 0


MARKED = """
create domain filled as text default 'd';
create table t (
    a int default 7, b filled, c int generated by default as identity, d serial, e timestamptz default now(),
    f text default '\\N', g int generated always as (a * 2) stored
)
"""


async def test_the_marker_asks_for_the_default_of_that_row(db: Connection) -> None:
    """Rows with different keys share a COPY because of it."""
    await db.execute(MARKED)
    aim = await target(db, "a", "b", "c", "d", "e", "f")
    if not aim.copy_default:
        pytest.skip("COPY knows DEFAULT since PostgreSQL 16")
    await copy(db, aim, [b"\\D\t\\D\t\\D\t\\D\t\\D\t\\D\n1\t\\\\D\t\\D\t9\t\\N\t\\\\N\n\\N\tD\t5\t\\D\t\\D\tN\n"])
    assert await rows_of(db, "select a, b, c, d, e is not null, f, g from t") == [
        (7, "d", 1, 1, True, "\\N", 14),
        (1, "\\D", 2, 9, False, "\\N", 2),
        (None, "D", 5, 2, True, "N", None),
    ]


async def test_the_marker_is_refused_where_there_is_no_default(db: Connection) -> None:
    """So the codec must write NULL for such a column; should this ever change, it need not."""
    await db.execute("create table t (a int)")
    aim = await target(db, "a")
    if not aim.copy_default:
        pytest.skip("COPY knows DEFAULT since PostgreSQL 16")
    with pytest.raises(asyncpg.BadCopyFileFormatError, match="default marker"):
        await copy(db, aim, [b"\\D\n"])


async def test_before_the_marker_there_is_no_option_for_it(db: Connection) -> None:
    """PostgreSQL 15 refuses an option that it does not know."""
    await db.execute("create table t (a int)")
    of = await target(db, "a")
    assert ("default" in of.statement) is of.copy_default


@pytest.mark.filterwarnings("ignore")  # a server may want to say something about the setting
async def test_backslashes_are_backslashes_whatever_the_setting(db: Connection) -> None:
    """A marker that loses its backslash is the letter N, and every text `N` would be stored as NULL."""
    await db.execute("create table t (a text); set standard_conforming_strings = off")
    await copy(db, await target(db, "a"), [b"N\nD\n\\N\n\\\\N\n"])
    assert await rows_of(db, "select a from t") == [("N",), ("D",), (None,), ("\\N",)]


async def test_names_are_quoted(db: Connection) -> None:
    """A name is data, too."""
    await db.execute('create table "a""b\\; drop table t; --" ("x"", y" int, "select" text)')
    aim = await target(db, 'x", y', "select", table='a"b\\; drop table t; --')
    await copy(db, aim, [b"1\ta\n"])
    assert await rows_of(db, f"select * from {aim.table.identifier}") == [(1, "a")]
