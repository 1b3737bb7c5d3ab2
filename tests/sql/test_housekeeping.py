"""What workers that have gone leave behind in schema headrace."""

from __future__ import annotations

import asyncio

import asyncpg

from sql import Catalog, Slot, Timeouts, sign_out
from sql.housekeeping import clean
from tests.harness import Connection, rows_of

_AGED = "update headrace.ledger set at = now() - interval '2 hours'"


def _slot(dsn: str) -> Slot:
    async def changed() -> Catalog:
        raise AssertionError

    return Slot(dsn, Timeouts(), changed)


async def _gone(db: Connection, slot: Slot) -> None:
    """Wait until PostgreSQL has noticed that it has closed its connection."""
    name = f"headrace slot {slot.row}"
    query = "select exists (select from pg_stat_activity where application_name = $1)"
    while await db.fetchval(query, name):  # noqa: ASYNC110 - it sends no event
        await asyncio.sleep(0.01)


async def test_slots_that_sign_out_leave_nothing(db: Connection, dsn: str) -> None:
    """Workers come and go with each release; those of others are not touched."""
    leaving, staying = _slot(dsn), _slot(dsn)
    await leaving.open()
    await staying.open()
    await leaving.close()
    assert leaving.row is not None
    await sign_out(dsn, Timeouts(), [leaving.row])
    assert [str(row) for (row,) in await rows_of(db, "select slot from headrace.ledger")] == [staying.row]
    await staying.close()


async def test_signing_out_waits_for_nobody(db: Connection, dsn: str) -> None:
    """A row that is locked belongs to a write that may yet be committed; and a process that ends is waited for."""
    slot = _slot(dsn)
    await slot.open()
    assert slot.row is not None
    async with db.transaction():
        await db.execute("select from headrace.ledger for update")
        await sign_out(dsn, Timeouts(), [slot.row])
    assert await db.fetchval("select count(*) from headrace.ledger") == 1
    await slot.close()
    await sign_out("postgresql://localhost:1/nobody", Timeouts(), [slot.row])


async def test_rows_of_killed_workers_are_deleted_after_a_while(db: Connection, dsn: str) -> None:
    """Nobody signs out for them. A slot that is connected, or was a moment ago, keeps its own."""
    killed, idle, fresh = _slot(dsn), _slot(dsn), _slot(dsn)
    for slot in (killed, idle):
        await slot.open()
    await killed.close()
    await _gone(db, killed)
    await db.execute(_AGED)
    await fresh.open()
    await fresh.close()
    await clean(dsn, Timeouts())
    left = {str(row) for (row,) in await rows_of(db, "select slot from headrace.ledger")}
    assert left == {idle.row, fresh.row}
    await idle.close()


async def test_a_slot_in_doubt_keeps_its_row(db: Connection, dsn: str) -> None:
    """Who gives doubts more time than usual wants them to be settled."""
    slot = _slot(dsn)
    await slot.open()
    await slot.close()
    await _gone(db, slot)
    await db.execute(_AGED)
    await clean(dsn, Timeouts(doubt_seconds=86_400))
    assert await db.fetchval("select count(*) from headrace.ledger") == 1
    await clean(dsn, Timeouts())
    assert await db.fetchval("select count(*) from headrace.ledger") == 0


async def test_a_living_slot_whose_row_was_deleted_writes_on(db: Connection, dsn: str) -> None:
    """Its session may be hidden from whoever cleans."""
    slot = _slot(dsn)
    await slot.open()
    ledger = slot._ledger
    assert ledger is not None
    other = await asyncpg.connect(dsn)
    await other.execute("delete from headrace.ledger")
    await other.execute(ledger.advance)
    assert await db.fetchval("select flush from headrace.ledger") == 1
    await other.close()
    await slot.close()
