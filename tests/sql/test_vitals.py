"""What is seen of the database's state, and by whom."""

from __future__ import annotations

import asyncpg
import pytest

from sql.vitals import QUARANTINE_ROWS_MAX, vitals
from tests.harness import Connection, Running

_BAD = b'[{"n": 1}, {"n": "x"}]'


async def test_a_database_without_our_schema(db: Connection) -> None:
    """Before the first slot has connected, or with HEADRACE_AT_LEAST_ONCE."""
    found = await vitals(db)
    assert found.version.startswith("18")
    assert 1 <= found.connections <= found.connections_max == 200
    assert not found.read_only
    assert abs(found.skew_seconds) < 1
    assert (found.quarantine_rows, found.newest) == (None, ())


async def test_quarantine_is_counted_and_its_newest_rows_are_named(db: Connection, headrace: Running) -> None:
    """Without their values, which are nobody's business but the operator's."""
    await db.execute("create table t (n int not null, check (n < 5))")
    for number in range(7):
        answer = await headrace.post("t", _BAD, prefer="bad-rows=quarantine", x_request_id=f"r{number}")
        assert answer.status_code == 201
    await headrace.post("t", b'[{"n": 1}, {"n": 9}]', prefer="bad-rows=quarantine")
    found = await vitals(db)
    assert found.quarantine_rows == 8
    assert [kept.id for kept in found.newest] == [8, 7, 6, 5, 4]
    newest, before, *_ = found.newest
    assert (newest.table, newest.code, newest.condition) == ("public.t", "23514", "check violation")
    assert (before.column, before.code, before.condition) == ("n", "22P02", "invalid text representation")


async def test_an_empty_quarantine(db: Connection, headrace: Running) -> None:
    """It is there, and nothing is in it."""
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2)
    assert (await vitals(db)).quarantine_rows == 0


async def test_a_large_quarantine_is_not_counted_to_its_end(db: Connection, headrace: Running) -> None:
    """It is looked every few seconds."""
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2)
    await db.execute(
        "insert into headrace.quarantine (schema_name, table_name, row, code, message, request_id, row_number) "
        "select 's', 't', '{}', '22P02', 'bad', 'r', n from generate_series(1, $1) as n",
        QUARANTINE_ROWS_MAX + 10,
    )
    assert (await vitals(db)).quarantine_rows == QUARANTINE_ROWS_MAX


async def test_a_quarantine_that_is_locked_holds_up_nothing(dsn: str, db: Connection, headrace: Running) -> None:
    """VACUUM FULL takes long, and requests may wait for this connection to read the catalog."""
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2)
    other = await asyncpg.connect(dsn)
    try:
        async with db.transaction():
            await db.execute("lock table headrace.quarantine in access exclusive mode")
            found = await vitals(other)
        assert found.quarantine_rows is None
        assert found.connections >= 1
        assert (await vitals(other)).quarantine_rows == 0
    finally:
        await other.close()


@pytest.mark.parametrize("schema", [True, False])
async def test_a_role_without_rights_sees_what_it_may(db: Connection, headrace: Running, *, schema: bool) -> None:
    """The rest is not known, and that is no error."""
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2)
    role = f"blind_{schema}".lower()
    await db.execute(f"create role {role}")
    try:
        if schema:
            await db.execute(f"grant usage on schema headrace to {role}")
        async with db.transaction():
            await db.execute(f"set local role {role}")
            found = await vitals(db)
        assert found.connections >= 1
        assert found.quarantine_rows is None
    finally:
        await db.execute(f"drop owned by {role}; drop role {role}")


async def test_a_database_that_is_read_only(dsn: str) -> None:
    """Be it as a standby or by a setting."""
    connection = await asyncpg.connect(dsn, server_settings={"default_transaction_read_only": "on"})
    try:
        assert (await vitals(connection)).read_only
    finally:
        await connection.close()
