"""The catalog follows the database: on a miss, on NOTIFY, and when a write says that the table changed."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from tests.harness import Connection, Running, Start, rows_of


@pytest.fixture
def miss_pause() -> None:
    """As long as operators have it."""


async def test_a_new_table_and_a_new_column_are_found_when_they_are_used(db: Connection, headrace: Running) -> None:
    """CREATE TABLE, then POST: nobody should have to tell the service."""
    for number in range(3):
        await db.execute(f"create table t{number} (a int)")
        assert (await headrace.post(f"t{number}", {"a": 1})).status_code == 201
        await db.execute(f"alter table t{number} add b text")
        assert (await headrace.post(f"t{number}", {"a": 1, "b": "x"})).status_code == 201
        assert (await headrace.lines(f"t{number}", b'{"a":1}\n{"a":1,"b":"y"}\n')).status_code == 201


async def test_notify_reload(db: Connection, headrace: Running) -> None:
    """Changes that no miss reveals (a default, a type, a policy) are read on NOTIFY headrace, 'reload'."""
    await db.execute("create table t (a int)")
    assert (await headrace.post("t", {"a": 1})).status_code == 201
    before = headrace.service.watch.catalog
    await db.execute("alter table t alter a set default 5; notify headrace, 'reload'")
    await headrace.eventually(lambda: headrace.service.watch.catalog is not before)
    catalog = headrace.service.watch.catalog
    assert catalog is not None
    assert catalog.tables["public", "t"].columns["a"].default == "5"


async def test_changes_that_nobody_tells_of_are_noticed(db: Connection, headrace: Running) -> None:
    """No write would fail for these: the rows would be stored otherwise than they were meant."""
    await db.execute("create table t (a jsonb, b int)")
    assert (await headrace.post("t", {"a": "x"})).status_code == 201
    for change in (
        "alter table t alter a type text using a #>> '{}'",
        "alter table t alter b set default 5",
        "alter table t alter b drop default, alter b set not null, alter b add generated always as identity",
    ):
        await db.execute("update t set b = 1 where b is null")
        before = headrace.service.watch.catalog
        await db.execute(change)
        await headrace.eventually(lambda: headrace.service.watch.catalog is not before)  # noqa: B023 - awaited here
        assert (await headrace.lines("t", b'{"a":"y","b":7}\n{"a":"y"}')).status_code == (
            400 if "always" in change else 201
        )
    assert await rows_of(db, "select distinct a, b from t order by a, b") == [("x", 1), ("y", 1), ("y", 5), ("y", 7)]


async def test_reading_the_catalog_is_no_change_of_it(db: Connection, headrace: Running) -> None:
    """Neither are rows and statistics."""
    await db.execute("create table t (a int)")
    assert (await headrace.post("t", {"a": 1})).status_code == 201
    for statement in ("vacuum analyze t", "analyze"):
        await db.execute(statement)
    before = headrace.service.watch.catalog
    await asyncio.sleep(2.5)
    assert headrace.service.watch.catalog is before


async def test_other_notifications_are_ignored(db: Connection, headrace: Running) -> None:
    """The channel may carry other words one day."""
    await db.execute("notify headrace, 'something'; notify headrace, 'reload'")
    before = headrace.service.watch.catalog
    await headrace.eventually(lambda: headrace.service.watch.catalog is not before)


async def test_a_dropped_table_and_a_dropped_column(db: Connection, headrace: Running) -> None:
    """The write finds out, the catalog is read, and the answer is the one of the new catalog."""
    await db.execute("create table t (a int, b int); create table u (a int)")
    assert (await headrace.post("t", {"a": 1, "b": 2})).status_code == 201
    assert (await headrace.post("u", {"a": 1})).status_code == 201
    await db.execute("alter table t drop b; drop table u")
    response = await headrace.post("t", {"a": 1, "b": 2})
    assert (response.status_code, response.json()["code"]) == (400, "PGRST204")
    response = await headrace.post("u", {"a": 1})
    assert (response.status_code, response.json()["code"]) == (404, "PGRST205")
    assert (await headrace.post("t", {"a": 3})).status_code == 201
    assert await rows_of(db, "select * from t order by a") == [(1,), (3,)]


async def test_a_table_that_becomes_a_view(db: Connection, headrace: Running) -> None:
    """COPY cannot write it any more, but the service can, and the producer notices nothing."""
    await db.execute("create table t (a int)")
    assert (await headrace.post("t", {"a": 1})).status_code == 201
    await db.execute("alter table t rename to base; create view t as select * from base")
    assert (await headrace.post("t", {"a": 2})).status_code == 201
    assert await rows_of(db, "select a from base order by a") == [(1,), (2,)]


async def test_row_security_that_is_switched_on(db: Connection, dsn: str, start: Start) -> None:
    """COPY refuses to apply policies; the other way of writing applies them, from the first request on."""
    role = f"writer_{os.getpid()}"
    await db.execute(f"create role {role} login; create table t (a int); grant insert on t to {role}")
    await db.execute(f"grant create on database {await db.fetchval('select current_database()')} to {role}")
    try:
        async with start(dsn=dsn.replace("postgres@", f"{role}@")) as headrace:
            assert (await headrace.post("t", {"a": 1})).status_code == 201
            await db.execute("alter table t enable row level security; create policy p on t with check (a < 10)")
            assert (await headrace.post("t", {"a": 2})).status_code == 201
            refused = await headrace.post("t", {"a": 20})
            assert (refused.status_code, refused.json()["code"]) == (401, "42501")
        assert await rows_of(db, "select a from t order by a") == [(1,), (2,)]
    finally:
        await db.execute(f"drop table t; drop owned by {role}; drop role {role}")


async def test_defaults_that_come_and_go(db: Connection, headrace: Running) -> None:
    """Rows with different keys ask for defaults; what the database says of a lost one is a reason to look again."""
    await db.execute("create table t (a int, b int default 5)")
    assert (await headrace.lines("t", b'{"a":1}\n{"a":2,"b":7}\n')).status_code == 201
    await db.execute("alter table t alter b drop default")
    assert (await headrace.lines("t", b'{"a":3}\n{"a":4,"b":7}\n')).status_code == 201
    assert await rows_of(db, "select a, b from t order by a") == [(1, 5), (2, 7), (3, None), (4, 7)]


async def test_a_column_whose_type_changes_under_load(db: Connection, headrace: Running) -> None:
    """Text COPY leaves the reading of values to the server, so nothing is stored wrongly whatever the moment."""
    await db.execute("create table t (n bigint)")

    async def producer() -> list[int]:
        return [n for n in range(300) if (await headrace.post("t", {"n": n})).status_code == 201]

    producing = asyncio.create_task(producer())
    for kind in ("numeric", "float8", "text", "bigint"):
        await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions > 0)
        await db.execute(f"alter table t alter n type {kind} using n::{kind}")
    acknowledged = await producing
    assert len(acknowledged) == 300
    assert await rows_of(db, "select n from t order by n") == [(n,) for n in acknowledged]


async def test_a_trigger_with_a_bug_does_not_reload_for_ever(
    db: Connection, headrace: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Its undefined column looks like a changed table; the service looks once and then passes the words on."""
    await db.execute("create table t (n int)")
    await db.execute(
        "create function broken() returns trigger language plpgsql as $$ begin perform nope from t; return new; end $$"
    )
    await db.execute("create trigger broken before insert on t for each row execute function broken()")
    with caplog.at_level(logging.INFO, "sql"):
        response = await headrace.post("t", {"n": 1})
    assert (response.status_code, response.json()["code"]) == (400, "42703")
    assert response.json()["message"] == 'column "nope" does not exist'
    assert caplog.text.count("reading the catalog") == 1


async def test_many_misses_read_the_catalog_seldom(headrace: Running, caplog: pytest.LogCaptureFixture) -> None:
    """A producer of unknown names must not keep the database busy."""
    catalogs = set()
    published = headrace.service.watch._published

    def count(catalog: object) -> None:
        catalogs.add(id(catalog))
        published(catalog)  # type: ignore[arg-type]

    headrace.service.watch._published = count
    responses = await asyncio.gather(*(headrace.post(f"nope{n}", {"n": 1}) for n in range(200)))
    assert {response.status_code for response in responses} == {404}
    assert len(catalogs) <= 20
    assert not caplog.records
