"""Schema headrace, looked at from outside: against what the service itself makes, needs and leaves there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql import QUARANTINE_COUNTED_MAX, Contents, OwnSchema, Slot, Timeouts, Way, own_schema
from sql.catalog import load
from sql.ledger import SCHEMA_SQL
from sql.own_schema import contents_of, own_schema_of
from tests.harness import Connection
from tests.roles import Role, role_in
from tests.sql.batches import Batch, requests, target_of


@pytest.fixture
async def role(db: Connection, dsn: str) -> AsyncIterator[Role]:
    """A role without rights."""
    async with role_in(db, dsn) as found:
        yield found


async def test_what_the_service_makes_is_complete(db: Connection) -> None:
    """A column that `schema.sql` gets and this does not know would be missed by nobody."""
    await db.execute(SCHEMA_SQL)
    assert await own_schema_of(db) == OwnSchema(exists=True, may_create=True, lacking=[], denied=[])
    for name, (columns, _) in own_schema._TABLES.items():
        made = await db.fetch(
            "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0", f"headrace.{name}"
        )
        assert {row["attname"] for row in made} == set(columns)
    tables = await db.fetch(
        "select relname from pg_class where relnamespace = 'headrace'::regnamespace and relkind = 'r'"
    )
    assert {row["relname"] for row in tables} == own_schema._TABLES.keys()


async def test_nothing_is_there(db: Connection, role: Role) -> None:
    """Who may make it is another question for each role."""
    found = await own_schema_of(db)
    assert (found.exists, found.may_create, found.denied, found.is_usable) == (False, True, [], False)
    its = await asyncpg.connect(role.dsn)
    assert not (await own_schema_of(its)).may_create
    await db.execute(f"grant create on database {await db.fetchval('select current_database()')} to {role.name}")
    assert (await own_schema_of(its)).may_create
    await its.close()


async def test_parts_that_are_missing(db: Connection) -> None:
    """As an earlier version has left it, or somebody who tidied up."""
    await db.execute(SCHEMA_SQL)
    await db.execute(
        """
        drop index headrace.idempotency_at;
        drop table headrace.ledger;
        alter table headrace.quarantine drop column intent, drop column row_number
        """
    )
    found = await own_schema_of(db)
    assert found.lacking == ["ledger", "quarantine.row_number", "quarantine.intent", "idempotency_at"]
    assert not found.is_usable


async def test_the_rights_that_are_named_are_those_that_the_service_needs(db: Connection, role: Role) -> None:
    """With them a slot opens and writes."""
    await db.execute(SCHEMA_SQL)
    await db.execute(f"create table t (n int); grant insert on t to {role.name}")
    its = await asyncpg.connect(role.dsn)
    denied = (await own_schema_of(its)).denied
    assert denied == [
        "USAGE on schema headrace",
        "SELECT, INSERT, UPDATE, DELETE on headrace.ledger",
        "SELECT, INSERT, UPDATE, DELETE on headrace.idempotency",
        "SELECT, INSERT on headrace.quarantine",
        "SELECT on headrace.api_keys",
    ]
    for right in denied:
        await db.execute(f"grant {right} to {role.name}")
    found = await own_schema_of(its)
    assert (found.denied, found.is_usable, found.may_create) == ([], True, False)
    await its.close()
    slot = Slot(role.dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    assert await slot.write([Batch(await target_of(db), requests(Way.COPY, 1))]) == [[None]]
    await slot.close()


async def test_contents(db: Connection, slot: Slot) -> None:
    """Slots that are connected are told from those that were."""
    del slot  # it is open, and so its row is there
    await db.execute(
        """
        insert into headrace.ledger values (gen_random_uuid(), 7, 1, now() - interval '9 days');
        insert into headrace.idempotency values ('k', '', null, now() - interval '2 days');
        insert into headrace.quarantine (schema_name, table_name, row, code, message, request_id, row_number)
            select 'public', 't', '{}', '23505', 'm', 'r', n from generate_series(1, 3) as n
        """
    )
    found = await contents_of(db)
    assert (found.slots, found.slots_connected, found.quarantined) == (2, 1, 3)
    assert found.keys_bytes > 0
    assert found.oldest_slot_seconds == pytest.approx(9 * 86_400, abs=60)
    assert found.oldest_key_seconds == pytest.approx(2 * 86_400, abs=60)


async def test_contents_of_nothing(db: Connection) -> None:
    """No ages then."""
    await db.execute(SCHEMA_SQL)
    found = await contents_of(db)
    assert found == Contents(0, 0, None, 0, 0, found.keys_bytes, None, 0, 0)


async def test_a_large_quarantine_is_not_counted_to_the_end(db: Connection) -> None:
    """Counting millions of rows takes seconds."""
    await db.execute(SCHEMA_SQL)
    await db.execute(
        f"""
        insert into headrace.quarantine (schema_name, table_name, row, code, message, request_id, row_number)
            select '', 't', '{{}}', '23505', 'm', 'r', n from generate_series(1, {QUARANTINE_COUNTED_MAX + 5}) as n
        """
    )
    assert (await contents_of(db)).quarantined == QUARANTINE_COUNTED_MAX + 1
