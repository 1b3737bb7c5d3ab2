"""A slot on a real connection: the verdict on each request of a batch when something beside the rows goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import pytest

from sql import Catalog, InDoubt, Rejected, Slot, SqlError, TableChanged, Target, Timeouts, Unavailable, Way
from sql.catalog import load
from tests.harness import Connection, rows_of
from tests.sql.batches import Batch, Request


async def write(slot: Slot, target: Target, requests: Sequence[Request]) -> Sequence[object]:
    """The outcomes of one batch."""
    (result,) = await slot.write([Batch(target, requests)])
    if isinstance(result, Exception):
        raise result
    return result


async def broken() -> Catalog:
    """A catalog reader with a bug."""
    raise ZeroDivisionError


async def target_of(db: Connection, *columns: str) -> Target:
    """The table t as it is now."""
    catalog = await load(db, ["public"])
    return Target(catalog.tables["public", "t"], columns, Way.COPY, catalog.copy_default)


async def test_a_bug_on_the_way_to_the_verdict_writes_nothing_twice(
    db: Connection, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Part of the batch is committed by then; were the bug taken for "nothing stored", it would be written again."""
    await db.execute("create table u (n int primary key); insert into u values (1)")
    await db.execute("create table t (n int references u)")
    target = await target_of(db, "n")
    slot = Slot(dsn, Timeouts(), broken)
    await slot.open()
    store = slot._store
    calls = 0

    async def store_then_change(target: Target, rows: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first attempt failed for the foreign key, the first half is stored
            await db.execute("alter table t rename to gone")
        return await store(target, rows)  # type: ignore[arg-type]

    slot._store = store_then_change  # type: ignore[method-assign,assignment]
    outcomes = await write(slot, target, [Request(b"1\n"), Request(b"1\n"), Request(b"7\n"), Request(b"1\n")])
    assert outcomes[:2] == [None, None]
    assert [type(outcome) for outcome in outcomes[2:]] == [SqlError, SqlError]
    assert "ZeroDivisionError" in caplog.text
    assert await rows_of(db, "select count(*) from gone") == [(2,)]
    await slot.close()


async def test_the_newest_catalog_judges_a_changed_table(db: Connection, dsn: str) -> None:
    """Gone, without the column, or not for COPY any more: each has its own truth."""
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    cases = {
        "alter table t drop n": ("PGRST204", Rejected),
        "drop table t": ("PGRST205", Rejected),
        "alter table t rename to base; create view t as select * from base": ("", TableChanged),
    }
    for change, (code, kind) in cases.items():
        await db.execute("drop table if exists t cascade")
        await db.execute("create table t (n int, m int)")
        target = await target_of(db, "n")
        await db.execute(change)
        (outcome,) = await write(slot, target, [Request(b"1\n")])
        assert isinstance(outcome, kind)
        assert not isinstance(outcome, Rejected) or outcome.fault.code == code
    await slot.close()


async def test_a_closed_connection_is_no_unknown_outcome(db: Connection, dsn: str) -> None:
    """Nothing was sent, so the batch may go back to the queue."""
    await db.execute("create table t (n int)")
    slot = Slot(dsn, Timeouts(), broken)
    with pytest.raises(Unavailable):
        await write(slot, await target_of(db, "n"), [Request(b"1\n")])


async def test_a_silent_server_is_given_up(db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that neither answers nor times out must not hold a slot for ever; the ledger says what it did."""
    await db.execute("create table t (n int)")
    slot = Slot(dsn, Timeouts(), broken)
    await slot.open()
    async with db.transaction():
        await db.execute("lock table t in exclusive mode")
        batches = [Batch(await target_of(db, "n"), [Request(b"1\n")])]
        with monkeypatch.context() as impatient:
            impatient.setattr(Timeouts, "answer_seconds", 0.2)
            with pytest.raises(InDoubt):
                await slot.write(batches)
        await slot.open()
    assert await slot.write(batches) == [[None]]
    assert await write(slot, await target_of(db, "n"), [Request(b"2\n")]) == [None]
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,)]
    await slot.close()


async def test_time_outs_are_enforced_by_the_server(db: Connection, dsn: str) -> None:
    """Its end of a write is a clean one: the connection stays usable and it is certain that nothing was stored."""
    await db.execute("create table t (n int)")
    slot = Slot(dsn, Timeouts(lock_seconds=0.05), broken)
    await slot.open()
    target = await target_of(db, "n")
    async with db.transaction():
        await db.execute("lock table t in exclusive mode")
        with pytest.raises(Unavailable, match="55P03"):
            await write(slot, target, [Request(b"1\n")])
    assert await write(slot, target, [Request(b"2\n")]) == [None]
    assert await rows_of(db, "select n from t") == [(2,)]
    await slot.close()


async def test_a_connection_that_is_refused_says_so_in_one_line(dsn: str) -> None:
    """The operator reads it; a driver's traceback helps nobody."""
    slot = Slot(dsn.replace("postgres@", "nobody@"), Timeouts(), broken)
    with pytest.raises(Unavailable, match='role "nobody" does not exist') as refused:
        await slot.open()
    assert isinstance(refused.value.__cause__, asyncpg.PostgresError)
