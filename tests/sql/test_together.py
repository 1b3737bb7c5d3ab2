"""Batches for several tables in one round trip: they share a transaction, and none of them pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import httpx2
import msgspec
import pytest

from sql import Catalog, CopyCodec, InDoubt, Rejected, Slot, Target, Timeouts, Unavailable, Way
from sql.catalog import load
from tests.harness import Connection, Running, rows_of
from tests.sql.batches import Batch, Request


async def batch(db: Connection, table: str, *bodies: bytes) -> Batch:
    """A batch of these JSON rows, which all have the same keys."""
    catalog = await load(db, ["public"])
    codec = CopyCodec(catalog.tables["public", table], copy_default=catalog.copy_default, bytes_max=10_000)
    encoded = [codec.one(body) for body in bodies]
    target = Target(catalog.tables["public", table], encoded[0].columns, Way.COPY, catalog.copy_default)
    requests = []
    for each in encoded:
        assert isinstance(each.payload, bytes)
        requests.append(Request(each.payload, each.rows))
    return Batch(target, requests)


@pytest.fixture
async def slot(db: Connection, dsn: str) -> AsyncIterator[Slot]:
    """A slot that is open, and tables a to d."""
    for name in "abcd":
        await db.execute(
            f"create table {name} (n int check (n < 100), s text default 'x', xid xid8 default pg_current_xact_id())"
        )

    async def changed() -> Catalog:
        return await load(db, ["public"])

    slot = Slot(dsn, Timeouts(), changed)
    await slot.open()
    yield slot
    await slot.close()


async def test_one_transaction_holds_them_all(slot: Slot, db: Connection) -> None:
    """That is what makes a thousand tables as cheap as one."""
    batches = [await batch(db, name, b'{"n":1}', b'{"n":2}') for name in "dbca"]
    assert await slot.write(batches) == [[None, None]] * 4
    union = " union all ".join(f"select n, xid from {name}" for name in "abcd")
    assert await rows_of(db, f"select count(*), sum(n), count(distinct xid::text) from ({union}) as r") == [(8, 12, 1)]


HOSTILE = [
    "",
    "'",
    "''",
    "\\",
    "\\'",
    "'\\",
    "\\\\'",
    "\\N",
    "\\D",
    "null",
    "default",
    "a\tb",
    "a\nb",
    "\r",
    "');select 1;--",
]


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_values_are_values_whatever_they_look_like(conforming: str, db: Connection, dsn: str) -> None:
    """They become constants in SQL text. `off` is how old applications set their databases up."""
    name = await db.fetchval("select current_database()")
    await db.execute(f'alter database "{name}" set standard_conforming_strings = {conforming}')
    await db.execute('create table "it\'s" (i int, s text); create table b (i int, s text)')
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    bodies = [msgspec.json.encode({"i": i, "s": s}) for i, s in enumerate([*HOSTILE, None])]
    for shared in ([*bodies], [body for body in bodies if b"\\" not in body and b"null" not in body]):
        await db.execute('truncate "it\'s", b')
        batches = [await batch(db, name, *shared) for name in ("it's", "b")]
        assert await slot.write(batches) == [[None] * len(shared)] * 2
        for table in ('"it\'s"', "b"):
            stored = await rows_of(db, f"select i, s from {table} order by i")
            assert stored == [tuple(msgspec.json.decode(body).values()) for body in shared]
    await slot.close()


async def test_a_row_without_a_column_takes_its_default(slot: Slot, db: Connection) -> None:
    """The marker that COPY knows becomes the keyword."""
    catalog = await load(db, ["public"])
    reader = CopyCodec(catalog.tables["public", "a"], copy_default=True, bytes_max=10_000).lines()
    reader.feed(b'{"n":1,"s":"y"}\n{"n":2}\n{"n":3,"s":null}\n')
    encoded = reader.finish()
    assert isinstance(encoded.payload, bytes)
    mixed = Batch(Target(catalog.tables["public", "a"], encoded.columns, Way.COPY, True), [Request(encoded.payload, 3)])
    assert await slot.write([mixed, await batch(db, "b", b'{"n":1}')]) == [[None], [None]]
    assert await rows_of(db, "select n, s from a order by n") == [(1, "y"), (2, "x"), (3, None)]


async def test_a_bad_row_fails_its_own_request_only(slot: Slot, db: Connection) -> None:
    """Whichever batch it is in; and it is told as much as if its batch had gone alone."""
    for bad in "abcd":
        await db.execute("truncate a, b, c, d")
        bodies = {name: [b'{"n":1}', b'{"n":100}' if name == bad else b'{"n":2}', b'{"n":3}'] for name in "abcd"}
        results = await slot.write([await batch(db, name, *bodies[name]) for name in "abcd"])
        for name, result in zip("abcd", results, strict=True):
            assert not isinstance(result, Exception)
            rejected = [outcome for outcome in result if outcome is not None]
            assert len(rejected) == (name == bad)
            assert await db.fetchval(f"select count(*) from {name}") == 3 - len(rejected)
            for outcome in rejected:
                assert isinstance(outcome, Rejected)
                assert (outcome.fault.code, outcome.fault.row) == ("23514", 1)


async def test_a_locked_table_holds_up_nobody(slot: Slot, db: Connection) -> None:
    """The others are written at once. Its own batch goes back to wait alone; it may be locked for long."""
    batches = [await batch(db, name, b'{"n":1}') for name in "abcd"]
    for locked in "abcd":
        async with db.transaction():
            await db.execute(f"lock table {locked} in exclusive mode")
            async with asyncio.timeout(4):  # a batch that went alone would wait for five seconds
                results = await slot.write(batches)
        for name, result in zip("abcd", results, strict=True):
            if name == locked:
                assert isinstance(result, Unavailable)
            else:
                assert result == [None]
    assert [await db.fetchval(f"select count(*) from {name}") for name in "abcd"] == [3, 3, 3, 3]
    assert await slot.write(batches) == [[None]] * 4, "no time-out is left behind"


async def test_a_slow_table_is_left_to_be_written_alone(slot: Slot, db: Connection) -> None:
    """It may take as long as one statement may; the others it is written with may not have to."""
    await db.execute(
        "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return new; end';"
        "create trigger slow before insert on b for each row execute function slow()"
    )
    batches = [await batch(db, name, b'{"n":1}') for name in "abcd"]
    results = await slot.write(batches)
    assert [type(result) for result in results] == [list, Unavailable, list, list]
    assert await slot.write([batches[1]]) == [[None]]
    assert [await db.fetchval(f"select count(*) from {name}") for name in "abcd"] == [1, 1, 1, 1]


async def test_arrays_of_intervals_go_by_copy_only(db: Connection) -> None:
    """As a constant, {5} is five seconds before it is cut down to years; in a COPY it is five years."""
    await db.execute("create domain years as interval year[]")
    await db.execute("create table t (a interval year[], b years, c interval[], d int[], e interval year)")
    for column, shareable in {"a": False, "b": False, "c": True, "d": True, "e": True}.items():
        lane = (await batch(db, "t", b'{"%b":null}' % column.encode())).lane
        assert lane.is_shareable is shareable, column


async def test_a_table_that_changed_is_found_out(slot: Slot, db: Connection) -> None:
    """The statement as a whole fails for it; the others are written, and the one is judged as ever."""
    batches = [await batch(db, name, b'{"n":1}') for name in "abc"]
    await db.execute("drop table b")
    first, second, third = await slot.write(batches)
    assert first == third == [None]
    assert not isinstance(second, Exception)
    (outcome,) = second
    assert isinstance(outcome, Rejected)
    assert outcome.fault.code == "PGRST205"


async def test_a_lost_connection_leaves_all_of_them_in_doubt(slot: Slot, db: Connection, dsn: str) -> None:
    """Until there is a new one, none may be written again, and none may be called stored."""
    batches = [await batch(db, name, b'{"n":1}') for name in "abc"]
    locker = await asyncpg.connect(dsn)
    async with locker.transaction():
        await locker.execute("lock table b in exclusive mode")
        writing = asyncio.create_task(slot.write(batches))
        waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
        while (pid := await db.fetchval(waiting)) is None:
            assert not writing.done()
        await db.execute("select pg_terminate_backend($1)", pid)
        with pytest.raises(InDoubt):
            await writing
    await locker.close()
    await slot.open()
    assert await slot.write(batches) == [[None]] * 3
    assert [await db.fetchval(f"select count(*) from {name}") for name in "abc"] == [1, 1, 1]


async def test_a_database_that_is_read_only_gives_all_of_them_back(db: Connection, dsn: str) -> None:
    """Trying them one by one would be as many statements for nothing."""
    for name in "ab":
        await db.execute(f"create table {name} (n int)")
    batches = [await batch(db, name, b'{"n":1}') for name in "ab"]
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    assert slot._connection is not None
    await slot._connection.execute("set default_transaction_read_only = on")
    assert [type(result) for result in await slot.write(batches)] == [Unavailable, Unavailable]
    await slot.close()


def is_in_flight(headrace: Running, requests: int) -> bool:
    """Whether so many are being written."""
    now = headrace.service.batcher.statistics()
    return now.pending_submissions - now.waiting_submissions == requests


async def test_requests_for_many_tables_share_flushes(headrace: Running, db: Connection, dsn: str) -> None:
    """Seen from outside: a hundred requests for as many tables while the slots are busy, and a handful of commits."""
    for number in range(100):
        await db.execute(f"create table t{number} (n int, xid xid8 default pg_current_xact_id())")
    await db.execute("create table slow (n int)")
    await headrace.service.watch.reload()
    other = await asyncpg.connect(dsn)
    async with other.transaction():
        await other.execute("lock table slow in exclusive mode")
        busy: list[asyncio.Task[httpx2.Response]] = []
        for slots in range(1, headrace.service.settings.flush_slots + 1):
            busy.append(asyncio.create_task(headrace.post("slow", [{"n": 1}] * 501)))
            await headrace.eventually(partial(is_in_flight, headrace, slots))
        sent = [asyncio.create_task(headrace.post(f"t{number}", {"n": number})) for number in range(100)]
        await headrace.eventually(lambda: headrace.service.batcher.statistics().waiting_submissions == 100)
    await other.close()
    assert {(await response).status_code for response in [*busy, *sent]} == {201}
    union = " union all ".join(f"select xid from t{number}" for number in range(100))
    assert await db.fetchval(f"select count(distinct xid::text) from ({union}) as r") <= 4
