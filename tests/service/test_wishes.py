"""What requests ask for beside storing rows, where several wishes meet."""

from __future__ import annotations

import asyncio
import itertools
from uuid import uuid4

import pytest

from sql import CatalogWatch, quarantine
from tests.harness import Connection, Running, Start, metrics_text, rows_of

OBJECT = "application/vnd.pgrst.object+json"
MERGE = "resolution=merge-duplicates"


async def table(db: Connection) -> None:
    """A key, a value."""
    await db.execute("create table t (id int primary key, v text default 'none')")


@pytest.mark.parametrize(
    "headers",
    [{"idempotency_key": "k"}, {"prefer": "respond-async"}, {"prefer": "bad-rows=quarantine"}],
    ids=["key", "async", "quarantine"],
)
async def test_one_row_or_none_whatever_else_is_asked(
    headers: dict[str, str], db: Connection, headrace: Running
) -> None:
    """The refusal is an answer like any other, and leaves nothing behind."""
    await table(db)
    for body in ([{"id": 1}, {"id": 2}], []):
        for _ in range(2):
            response = await headrace.post("t", body, accept=OBJECT, **headers)
            expected = 202 if not body and "async" in str(headers) else 406
            assert response.status_code == expected, response.text
    assert await rows_of(db, "select * from t") == []
    service = headrace.service
    assert service.postings.pending() == (0, 0)
    text = metrics_text(service)
    assert "headrace_unbalanced_requests 0.0" in text
    assert "headrace_unbalanced_rows 0.0" in text


@pytest.mark.parametrize(
    ("query", "prefer", "accept"),
    [
        ("", "return=representation", "application/json"),
        ("?select=id", "return=representation", OBJECT),
        ("", "return=headers-only, count=exact", "*/*"),
        ("", "resolution=ignore-duplicates, return=representation", OBJECT),
        ("", MERGE, "*/*"),
        ("?columns=id", "return=representation, bad-rows=quarantine", "text/csv"),
    ],
)
async def test_a_repeat_gets_the_first_answer_whatever_was_asked(
    query: str, prefer: str, accept: str, db: Connection, headrace: Running
) -> None:
    """Also where its rows could not be stored a second time, or not in the same way."""
    await table(db)
    first, second = [
        await headrace.post(f"t{query}", {"id": 1}, prefer=prefer, accept=accept, idempotency_key="k") for _ in "12"
    ]
    assert (first.status_code, "idempotency-replayed" in first.headers) == (201, False)
    assert second.headers["idempotency-replayed"] == "true"
    same = ("location", "content-range", "content-type", "preference-applied")
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert [second.headers.get(name) for name in same] == [first.headers.get(name) for name in same]
    assert await rows_of(db, "select * from t") == [(1, "none")]


async def test_a_dry_run_keeps_nothing(db: Connection, dsn: str, start: Start) -> None:
    """Not even what is bad, and nobody is promised anything."""
    await table(db)
    await db.execute("insert into t values (1)")
    async with start(dsn=dsn, tx_override=True) as headrace:
        for more in ("bad-rows=quarantine", "respond-async", "return=representation"):
            refused = await headrace.post("t", {"id": 1}, prefer=f"tx=rollback, {more}")
            assert (refused.status_code, refused.json()["code"]) == (409, "23505")
            good = await headrace.post("t", {"id": 2}, prefer=f"tx=rollback, {more}")
            assert good.status_code == 201
            assert "headrace-quarantined" not in good.headers
            assert "quarantine" not in good.headers["preference-applied"]
    assert await rows_of(db, "select id from t") == [(1,)]
    assert await db.fetchval("select count(*) from headrace.quarantine") == 0


async def test_an_update_that_a_trigger_drops_is_no_row(db: Connection, headrace: Running) -> None:
    """Who wants one object must not get an empty body."""
    await table(db)
    await db.execute(
        """
        create function drop() returns trigger language plpgsql as $$ begin return null; end $$;
        create trigger d before update on t for each row execute function drop();
        insert into t values (1);
        """
    )
    response = await headrace.post("t", {"id": 1}, prefer=f"{MERGE}, return=representation", accept=OBJECT)
    assert (response.status_code, response.json()["code"]) == (406, "PGRST116")
    assert (await headrace.post("t", {"id": 2}, prefer=MERGE, accept=OBJECT)).status_code == 201


async def test_a_resolution_without_a_key_is_not_acknowledged(db: Connection, headrace: Running) -> None:
    """It has no effect: the rows are inserted."""
    await db.execute("create table keyless (n int)")
    for resolution in ("merge-duplicates", "ignore-duplicates"):
        response = await headrace.post("keyless", {"n": 1}, prefer=f"resolution={resolution}")
        assert (response.status_code, response.headers.get("preference-applied")) == (201, None)


async def test_upserts_of_one_table_do_not_wait_for_each_other(db: Connection, headrace: Running) -> None:
    """Whatever they ask for: in two transactions they would end in deadlocks, a second each."""
    await table(db)
    numbers = itertools.count()

    async def client(prefer: str) -> None:
        for _ in range(10):
            keys = [(next(numbers) * 7 + n * n) % 20 for n in range(4)]
            rows = [{"id": key, "v": prefer} for key in dict.fromkeys(keys)]
            assert (await headrace.post("t", rows, prefer=prefer)).status_code in (200, 201)

    async with asyncio.TaskGroup() as tasks:
        for prefer in (MERGE, f"{MERGE}, return=representation", f"{MERGE}, count=exact") * 6:
            tasks.create_task(client(prefer))
    await db.execute("select pg_stat_force_next_flush()")
    assert await db.fetchval("select deadlocks from pg_stat_database where datname = current_database()") == 0


async def test_who_asks_for_the_impossible_does_not_have_the_catalog_read_each_time(
    db: Connection, headrace: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading that of a thousand tables takes most of a second, in which the slot writes nothing."""
    await table(db)
    await headrace.service.watch.reload()
    reads = 0
    read = CatalogWatch._read

    async def counted(watch: CatalogWatch) -> None:
        nonlocal reads
        reads += 1
        await read(watch)

    monkeypatch.setattr(CatalogWatch, "_read", counted)
    for number in range(10):
        response = await headrace.post("t?select=id::nosuch", {"id": number}, prefer="return=representation")
        assert (response.status_code, response.json()["code"]) == (400, "42704")
        assert (await headrace.post("t?on_conflict=v", {"id": number}, prefer=MERGE)).json()["code"] == "42P10"
    assert reads <= 4  # one for each target and slot


async def test_what_is_no_fault_of_a_row_is_not_kept_as_one(db: Connection, dsn: str, start: Start) -> None:
    """A right that is missing, a cast of what is returned: the request fails, as it would without the preference."""
    await table(db)
    role = f"bare_{uuid4().hex}"
    await db.execute(f"create role {role} login; create table closed (id int)")
    await db.execute(f"grant create on database {await db.fetchval('select current_database()')} to {role}")
    await db.execute(f"grant insert, select on t to {role}")
    keep = "bad-rows=quarantine, return=representation"
    try:
        async with start(dsn=dsn.replace("postgres@", f"{role}@")) as headrace:
            for body in ({"id": 1}, [{"id": 1}, {"id": 2}]):
                closed = await headrace.post("closed", body, prefer=keep)
                assert (closed.status_code, closed.json()["code"]) == (401, "42501")
                cast = await headrace.post("t?select=v::int", body, prefer=keep)
                assert (cast.status_code, cast.json()["code"]) == (400, "22P02")
            bad = await headrace.post("t?select=id,w:id::text", [{"id": 1}, {"id": None}], prefer=keep)
            assert (bad.status_code, bad.json()) == (201, [{"id": 1, "w": "1"}])
        assert await db.fetchval("select count(*) from headrace.quarantine") == 1
    finally:
        await db.execute(f"drop owned by {role} cascade; drop role {role}")


async def test_what_is_stored_is_counted_as_such(db: Connection, headrace: Running) -> None:
    """A duplicate that was left out is not."""
    await table(db)
    await db.execute("insert into t values (1)")
    prefer = "resolution=ignore-duplicates, bad-rows=quarantine, count=exact"
    response = await headrace.post("t", [{"id": 1}, {"id": None}, {"id": 3}], prefer=prefer)
    assert response.headers["content-range"] == "*/1"
    assert (response.json()["stored"], len(response.json()["quarantined"])) == (1, 1)


async def test_a_row_is_tried_again_in_its_time_zone(db: Connection, headrace: Running) -> None:
    """Nine hours off would be worse than refused."""
    await db.execute("create table z (at timestamptz, d int check (d > 0))")
    row = {"at": "2020-01-01 00:00", "d": 0}
    await headrace.post("z", row, prefer="timezone=Asia/Tokyo, bad-rows=quarantine")
    await db.execute("alter table z drop constraint z_d_check")
    (entry,) = await quarantine.entries(db, limit=2)
    assert await quarantine.replay(db, entry.id) is None
    assert await db.fetchval("select at = '2019-12-31 15:00Z' from z")


async def test_a_cast_that_does_not_exist_is_nobodys_row(db: Connection, headrace: Running) -> None:
    """It is the statement that fails; naming a row would have its sender look at that."""
    await table(db)
    response = await headrace.post("t?select=id::int4range", {"id": 1}, prefer="return=representation")
    assert (response.status_code, response.json()["code"]) == (400, "42846")
    assert "headrace-row" not in response.headers
