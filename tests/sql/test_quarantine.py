"""The quarantine from the operator's side: look, try again, drop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql import BadRow, Extra, Fault, Salvage, Slot, Timeouts, Unavailable, nothing_target, quarantine
from sql.catalog import load
from sql.options import Intent
from tests.harness import Connection, rows_of
from tests.sql.batches import Batch, Request

ROWS = [b'{"n":1}', b'{"n":200}', b'{"n":3,"s":"it\'s\\\\"}', b'{"x":1}', b"\xff", b"{}"]


@pytest.fixture
async def kept(db: Connection, dsn: str) -> AsyncIterator[list[int]]:
    """A table, and rows in quarantine; the ids of those for table t."""
    await db.execute("create table t (n int default 7 check (n < 100), s text); create view v as select n from t")
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    for table in ("t", "v", "gone"):
        bad = [BadRow(n, raw, Fault("22000", "because", "detail", "hint", column="n")) for n, raw in enumerate(ROWS, 1)]
        extra = Extra(salvage=Salvage("r7", b"\n".join(ROWS), lines=True, bad=bad))
        await slot.write([Batch(nothing_target("public", table), [Request(b"", len(ROWS), extra)])])
    yield [entry.id for entry in await quarantine.entries(db, table="t", limit=100)]
    await slot.close()


async def test_entries_come_in_order_and_in_pages(kept: list[int], db: Connection) -> None:
    """The oldest first, with all that is known."""
    first = await quarantine.entries(db, limit=4)
    rest = await quarantine.entries(db, limit=100, after=first[-1].id)
    assert [entry.row for entry in [*first, *rest]] == ROWS * 3
    assert await quarantine.count(db) == 18
    assert await quarantine.count(db, table="public.v") == 6
    assert len(kept) == 6
    entry = await quarantine.entry(db, kept[2])
    assert entry is not None
    assert (entry.schema, entry.table, entry.row, entry.row_number) == ("public", "t", ROWS[2], 3)
    assert (entry.code, entry.message, entry.details, entry.hint) == ("22000", "because", "detail", "hint")
    assert (entry.column, entry.request_id) == ("n", "r7")
    assert await quarantine.entry(db, 10**9) is None


async def test_a_row_that_is_good_by_now_is_stored(kept: list[int], db: Connection) -> None:
    """It leaves the quarantine in the same transaction; the others stay, with today's reason."""
    faults = [await quarantine.replay(db, entry_id) for entry_id in kept]
    assert [fault and fault.code for fault in faults] == [None, "23514", None, "PGRST204", "PGRST102", None]
    assert await rows_of(db, "select * from t") == [(1, None), (3, "it's\\"), (7, None)]
    left = await quarantine.entries(db, table="t", limit=100)
    assert [(entry.row, entry.code) for entry in left] == [
        (ROWS[1], "23514"),
        (ROWS[3], "PGRST204"),
        (ROWS[4], "PGRST102"),
    ]
    await db.execute("alter table t drop constraint t_n_check, add x int")
    assert [await quarantine.replay(db, entry.id) is None for entry in left] == [True, True, False]
    assert await db.fetchval("select count(*) from t") == 5


async def test_views_and_tables_that_are_gone(kept: list[int], db: Connection) -> None:
    """A view takes its rows by the other way."""
    assert kept
    of_view = await quarantine.entries(db, table="v", limit=1)
    assert await quarantine.replay(db, of_view[0].id) is None
    assert await rows_of(db, "select n from t") == [(1,)]
    of_gone = await quarantine.entries(db, table="gone", limit=1)
    fault = await quarantine.replay(db, of_gone[0].id)
    assert fault is not None
    assert fault.code == "PGRST205"


async def test_what_cannot_be_judged_now_stays_as_it_is(kept: list[int], db: Connection, dsn: str) -> None:
    """A lock is no reason to call a row bad."""
    await db.execute("set lock_timeout = '50ms'")
    locker = await asyncpg.connect(dsn)
    async with locker.transaction():
        await locker.execute("lock table t")
        with pytest.raises(Unavailable):
            await quarantine.replay(db, kept[0])
    await locker.close()
    entry = await quarantine.entry(db, kept[0])
    assert entry is not None
    assert entry.code == "22000"
    with pytest.raises(LookupError):
        await quarantine.replay(db, 10**9)


async def test_dropping(kept: list[int], db: Connection) -> None:
    """Those that were named, and says how many there were."""
    assert await quarantine.drop(db, [kept[0], kept[1], 10**9]) == 2
    assert await quarantine.count(db) == 16


async def test_a_database_without_a_quarantine(db: Connection) -> None:
    """It has nothing in it."""
    assert await quarantine.entries(db, limit=10) == []
    assert await quarantine.entry(db, 1) is None
    assert (await quarantine.drop(db, [1]), await quarantine.count(db)) == (0, 0)


async def test_a_row_is_tried_again_as_it_was_meant(db: Connection, dsn: str) -> None:
    """With the columns that its request listed, their defaults or NULL, and what it wanted of rows that are there."""
    await db.execute(
        "create table t (k int primary key, n int default 7, s text default 'x'); insert into t values (1)"
    )
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    rows = [b'{"k":1,"n":9,"extra":1}', b'{"k":2,"extra":1}']
    listed = ("k", "n", "s")
    intents = [Intent(), Intent(listed), Intent(listed, conflict=("k",)), Intent(listed, conflict=("k",), merge=True)]
    for intent in [*intents, Intent(("k", "s"), defaults=True, conflict=("k",), merge=True)]:
        bad = [BadRow(n, raw, Fault("22000", "because")) for n, raw in enumerate(rows, 1)]
        extra = Extra(salvage=Salvage("r", b"", lines=True, bad=bad, intent=intent))
        await slot.write([Batch(nothing_target("public", "t"), [Request(b"", 2, extra)])])
    await slot.close()
    one, two = [(1, 7, "x")], (2, None, None)
    after = [one, [*one, two], [*one, two], [(1, 9, None), two], [(1, 9, "x"), (2, None, "x")]]
    codes = [("PGRST204", "PGRST204"), ("23505", None), (None, None), (None, None), (None, None)]
    entries = await quarantine.entries(db, limit=100)
    for number, (expected, stored) in enumerate(zip(codes, after, strict=True)):
        faults = [await quarantine.replay(db, entry.id) for entry in entries[2 * number : 2 * number + 2]]
        assert tuple(fault and fault.code for fault in faults) == expected
        assert await rows_of(db, "select * from t order by k") == stored


async def test_a_quarantine_of_an_earlier_version_gets_the_new_column(db: Connection, dsn: str) -> None:
    """Or no slot could sign in."""
    for _ in range(2):
        slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
        await slot.open()
        await slot.close()
        assert await quarantine.entries(db, limit=1) == []
        await db.execute("alter table headrace.quarantine drop column intent")
