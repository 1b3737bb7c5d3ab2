"""Schema headrace: who may create it, what is in it, and what is deleted from it."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from sql import Extra, IdempotencyKey, Slot, Timeouts, Unavailable, Way, housekeeping
from sql.catalog import load
from tests.harness import Connection, rows_of
from tests.sql.batches import Batch, Request, requests, target_of


async def test_a_role_without_rights_is_told_what_to_do(db: Connection, dsn: str) -> None:
    """In one line; and once it is granted the slot opens."""
    name = await db.fetchval("select current_database()")
    role = f"{name}_role"
    await db.execute(f'create role "{role}" login; create table t (n int); grant insert on t to "{role}"')
    slot = Slot(dsn.replace("postgres@", f"{role}@"), Timeouts(), lambda: load(db, ["public"]))
    try:
        with pytest.raises(Unavailable, match=r"grant create on database .* HEADRACE_AT_LEAST_ONCE=true") as refused:
            await slot.open()
        assert "\n" not in str(refused.value)
        await db.execute(f'grant create on database "{name}" to "{role}"')
        await slot.open()
        assert await slot.write([Batch(await target_of(db), requests(Way.COPY, 1))]) == [[None]]
    finally:
        await slot.close()
        await db.execute(f'drop owned by "{role}" cascade; drop role "{role}"')


@pytest.mark.usefixtures("slot")
async def test_a_schema_of_another_role(db: Connection, dsn: str) -> None:
    """Then other rights are missing, and those are named."""
    name = await db.fetchval("select current_database()")
    role = f"{name}_other"
    await db.execute(f'create role "{role}" login; grant insert on t to "{role}"')
    other = Slot(dsn.replace("postgres@", f"{role}@"), Timeouts(), lambda: load(db, ["public"]))
    try:
        with pytest.raises(Unavailable) as refused:
            await other.open()
        await db.execute(str(refused.value).split("`")[1])
        await other.open()
        assert await other.write([Batch(await target_of(db), requests(Way.COPY, 1))]) == [[None]]
    finally:
        await other.close()
        await db.execute(f'drop owned by "{role}" cascade; drop role "{role}"')


async def test_slots_create_the_schema_at_the_same_time(db: Connection, dsn: str) -> None:
    """Workers start together."""
    slots = [Slot(dsn, Timeouts(), lambda: load(db, ["public"])) for _ in range(8)]
    await asyncio.gather(*(slot.open() for slot in slots))
    assert await db.fetchval("select count(*) from headrace.ledger") == 8
    for slot in slots:
        await slot.close()


async def test_the_schema_is_made_again(slot: Slot, db: Connection) -> None:
    """Somebody has dropped it while the service runs."""
    await db.execute("drop schema headrace cascade")
    batches = [Batch(await target_of(db), requests(Way.COPY, 1))]
    with pytest.raises(Unavailable):
        await slot.write(batches)
    await slot.open()
    assert await slot.write(batches) == [[None]]


async def test_housekeeping(slot: Slot, db: Connection, dsn: str) -> None:
    """Dead slots and old keys go; the living and the young stay."""
    key = Extra(IdempotencyKey("young", b"1" * 16))
    assert len(await slot.write([Batch(await target_of(db), [Request(b"1\n", 1, key)])])) == 1
    await db.execute(
        "insert into headrace.ledger values (gen_random_uuid(), 1, 1, now() - interval '8 days');"
        "insert into headrace.idempotency"
        "  select g, '', null, now() - interval '2 days' from generate_series(1, 15000) as g"
    )
    assert await housekeeping.clean(dsn, Timeouts()) == 15_000
    assert await rows_of(db, "select key from headrace.idempotency") == [("young",)]
    assert await db.fetchval("select count(*) from headrace.ledger") == 1


async def test_rights_on_some_of_the_tables_are_not_enough(db: Connection, dsn: str, slot: Slot) -> None:
    """It would show with the first key or bad row only, as an error of that request."""
    name = await db.fetchval("select current_database()")
    role = f"{name}_some"
    await db.execute(
        f'create role "{role}" login; grant usage on schema headrace to "{role}";'
        f'grant all on headrace.ledger to "{role}"; grant select on all tables in schema headrace to "{role}"'
    )
    other = Slot(dsn.replace("postgres@", f"{role}@"), Timeouts(), lambda: load(db, ["public"]))
    try:
        with pytest.raises(Unavailable, match="all tables in schema headrace"):
            await other.open()
    finally:
        await other.close()
        await db.execute(f'drop owned by "{role}" cascade; drop role "{role}"')
    # A column that another version calls otherwise is no fault of anybody's rows either.
    await db.execute("alter table headrace.ledger rename column fence to wall")
    with pytest.raises(Unavailable):
        await slot.write([Batch(await target_of(db), requests(Way.COPY, 1))])
    with pytest.raises(Unavailable, match="fence"):
        await slot.open()


async def test_cleaning_up_survives_whatever_happens(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no reason to stop writing."""
    calls = 0

    async def fail(_dsn: str, _timeouts: Timeouts) -> int:
        nonlocal calls
        calls += 1
        raise asyncpg.InternalClientError("cannot switch to state 12")

    monkeypatch.setattr(housekeeping, "clean", fail)
    monkeypatch.setattr(housekeeping, "_SECONDS", 0.001)
    cleaning = asyncio.create_task(housekeeping.keep_clean(dsn, Timeouts()))
    while calls < 3:
        assert not cleaning.done()
        await asyncio.sleep(0.001)
    cleaning.cancel()
