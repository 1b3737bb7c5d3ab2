"""Rows in over HTTP: what a producer sees, and what is in the table afterwards."""

from __future__ import annotations

import asyncio

import pytest

from tests.harness import Connection, Running, Start, rows_of

pytestmark = pytest.mark.usefixtures("lane")

EVENTS = """
create table events (
    id bigint generated always as identity primary key, device_id text not null, ts timestamptz,
    temperature double precision, attributes jsonb, status text default 'new'
)
"""


async def test_an_object_is_one_row(db: Connection, headrace: Running) -> None:
    """201 means that the row is there, with defaults where the producer was silent."""
    await db.execute(EVENTS)
    response = await headrace.post("events", {"device_id": "pump-7", "ts": "2026-11-21T10:00:00Z", "temperature": 21.5})
    assert (response.status_code, response.content) == (201, b"")
    assert response.headers["content-length"] == "0"
    assert "content-type" not in response.headers
    assert await rows_of(db, "select id, device_id, ts::text, temperature, attributes, status from events") == [
        (1, "pump-7", "2026-11-21 10:00:00+00", 21.5, None, "new")
    ]


async def test_an_array_is_many_rows_in_order(db: Connection, headrace: Running) -> None:
    """Identity values follow the order of the payload."""
    await db.execute(EVENTS)
    response = await headrace.post("events", [{"device_id": f"d{n}"} for n in range(50)])
    assert response.status_code == 201
    assert await rows_of(db, "select id, device_id from events order by id") == [(n + 1, f"d{n}") for n in range(50)]


async def test_ndjson_is_many_rows(db: Connection, headrace: Running) -> None:
    """The streaming form: one object a line, any line ends, blank lines ignored."""
    await db.execute(EVENTS)
    response = await headrace.lines("events", b'{"device_id":"a"}\r\n\n{"device_id":"b"}\n{"device_id":"c"}')
    assert response.status_code == 201
    assert [r[0] for r in await rows_of(db, "select device_id from events order by id")] == ["a", "b", "c"]


async def test_ndjson_rows_may_have_different_keys(db: Connection, headrace: Running) -> None:
    """An absent key takes the default, an explicit null is NULL, side by side and in order."""
    await db.execute(EVENTS)
    body = (
        b'{"device_id":"a"}\n{"device_id":"b","status":null}\n{"status":"\\\\D","device_id":"c"}\n{"device_id":"d"}\n'
    )
    assert (await headrace.lines("events", body)).status_code == 201
    assert await rows_of(db, "select id, device_id, status from events order by id") == [
        (1, "a", "new"),
        (2, "b", None),
        (3, "c", "\\D"),
        (4, "d", "new"),
    ]


async def test_absent_is_not_null(db: Connection, headrace: Running) -> None:
    """Rows with different keys never share a COPY, however close together they arrive."""
    await db.execute(EVENTS)
    bodies = [{"device_id": f"{n}"} | ({"status": None} if n % 2 else {}) for n in range(40)]
    responses = await asyncio.gather(*(headrace.post("events", body) for body in bodies))
    assert {response.status_code for response in responses} == {201}
    rows = await rows_of(db, "select device_id::int % 2 as odd, status, count(*) from events group by 1, 2 order by 1")
    assert rows == [(0, "new", 20), (1, None, 20)]


async def test_nothing_is_a_success(db: Connection, headrace: Running) -> None:
    """An empty array or NDJSON body stores nothing and says so truthfully."""
    await db.execute(EVENTS)
    assert (await headrace.post("events", [])).status_code == 201
    assert (await headrace.lines("events", b"\n")).status_code == 201
    response = await headrace.post("events", [], prefer="return=representation")
    assert (response.status_code, response.json()) == (201, [])
    assert await db.fetchval("select count(*) from events") == 0


async def test_an_empty_object_is_a_row_of_defaults(db: Connection, headrace: Running) -> None:
    """COPY has no word for a row without columns; the service has another way."""
    await db.execute("create table pings (id int generated always as identity, kind text default 'auto')")
    assert (await headrace.post("pings", {})).status_code == 201
    assert (await headrace.post("pings", [{}, {}])).status_code == 201
    response = await headrace.post("pings", {}, prefer="return=representation")
    assert response.json() == [{"id": 4, "kind": "auto"}]
    assert await db.fetchval("select count(*) from pings where kind = 'auto'") == 4


async def test_concurrent_requests_share_batches(db: Connection, headrace: Running) -> None:
    """The point of it all: many requests, few transactions."""
    await db.execute("create table t (n int, x xid8 default pg_current_xact_id())")
    async with headrace.gathering(db, "t", requests=200):
        responses = [asyncio.create_task(headrace.post("t", {"n": n})) for n in range(200)]
    assert {(await response).status_code for response in responses} == {201}
    ((rows, transactions),) = await rows_of(db, "select count(*), count(distinct x) from t")
    assert rows == 200
    assert transactions < 10


async def test_representation_returns_the_stored_rows(db: Connection, headrace: Running) -> None:
    """Generated keys and defaults come back, in the order of the payload, as an array even for one object."""
    await db.execute(EVENTS)
    response = await headrace.post(
        "events", [{"device_id": "a"}, {"device_id": "b"}], prefer="return=representation", accept="*/*"
    )
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers["preference-applied"] == "return=representation"
    assert [(row["id"], row["device_id"], row["status"]) for row in response.json()] == [
        (1, "a", "new"),
        (2, "b", "new"),
    ]


async def test_each_request_gets_its_own_representation(db: Connection, headrace: Running) -> None:
    """Requests that share a statement must not see each other's rows."""
    await db.execute(EVENTS)
    sizes = [1 + n % 3 for n in range(60)]
    responses = await asyncio.gather(
        *(
            headrace.post("events", [{"device_id": f"{n}"}] * size, prefer="return=representation")
            for n, size in enumerate(sizes)
        )
    )
    for n, (size, response) in enumerate(zip(sizes, responses, strict=True)):
        assert [row["device_id"] for row in response.json()] == [f"{n}"] * size
    assert await db.fetchval("select count(*) from events") == sum(sizes)


async def test_representation_survives_triggers_that_drop_rows(db: Connection, headrace: Running) -> None:
    """A trigger that drops rows must not shift one request's rows into another's answer."""
    await db.execute("create table t (n int)")
    await db.execute(
        "create function skip_odd() returns trigger language plpgsql as "
        "$$ begin if new.n % 2 = 1 then return null; end if; return new; end $$"
    )
    await db.execute("create trigger skip before insert on t for each row execute function skip_odd()")
    responses = await asyncio.gather(*(headrace.post("t", {"n": n}, prefer="return=representation") for n in range(40)))
    assert [response.json() for response in responses] == [[] if n % 2 else [{"n": n}] for n in range(40)]


async def test_202_is_given_only_on_request(db: Connection, headrace: Running) -> None:
    """respond-async is answered before the commit; the rows come all the same."""
    await db.execute("create table t (n int)")
    response = await headrace.post("t", {"n": 1}, prefer="respond-async")
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "respond-async"
    await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)
    assert await db.fetchval("select count(*) from t") == 1


async def test_who_asks_for_a_return_waits_for_it(db: Connection, headrace: Running) -> None:
    """PostgREST's clients may send both, and read the 201 as stored."""
    await db.execute("create table t (n int)")
    response = await headrace.post("t", {"n": 1}, prefer="respond-async, return=minimal")
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "return=minimal"


async def test_views_and_row_security_take_the_other_way(db: Connection, headrace: Running) -> None:
    """COPY refuses views and row-level security; producers need not know."""
    await db.execute("create table t (n int, owner text default current_user)")
    await db.execute("create view v as select n from t where n < 10 with check option")
    assert (await headrace.post("v", [{"n": 1}, {"n": 2}])).status_code == 201
    refused = await headrace.post("v", {"n": 10})
    assert (refused.status_code, refused.json()["code"]) == (400, "44000")
    assert await db.fetchval("select array_agg(n order by n) from t") == [1, 2]


async def test_names_are_percent_decoded_and_case_sensitive(db: Connection, headrace: Running) -> None:
    """Any table name PostgreSQL allows can be posted to."""
    await db.execute('create table "Order Items" ("Order ID" int, "näme" text)')
    response = await headrace.post("Order%20Items", {"Order ID": 7, "näme": "ü"})
    assert response.status_code == 201
    assert await rows_of(db, 'select * from "Order Items"') == [(7, "ü")]
    assert (await headrace.post("order%20items", {"Order ID": 7})).status_code == 404


async def test_schemas(db: Connection, dsn: str, start: Start) -> None:
    """Only exposed schemas can be written; Content-Profile names one, the first is the default."""
    await db.execute("create schema audit; create schema secret")
    for schema in ("public", "audit", "secret"):
        await db.execute(f"create table {schema}.t (n int)")
    async with start(dsn=dsn, schemas="public,audit") as headrace:
        assert (await headrace.post("t", {"n": 1})).status_code == 201
        assert (await headrace.post("t", {"n": 2}, content_profile="audit")).status_code == 201
        refused = await headrace.post("t", {"n": 3}, content_profile="secret")
        assert refused.status_code == 406
        assert refused.json() == {
            "code": "PGRST106",
            "message": "Invalid schema: secret",
            "details": None,
            "hint": "Only the following schemas are exposed: public, audit",
        }
    assert await db.fetchval("select n from public.t") == 1
    assert await db.fetchval("select n from audit.t") == 2
    assert await db.fetchval("select count(*) from secret.t") == 0


async def test_the_prefix_may_be_empty(db: Connection, dsn: str, start: Start) -> None:
    """PostgREST itself serves tables at the root; its clients are often set up so."""
    await db.execute("create table metrics (n int)")
    async with start(dsn=dsn, prefix="") as headrace:
        response = await headrace.client.post("/metrics", json={"n": 1})
        assert response.status_code == 201
        assert (await headrace.client.get("/metrics")).status_code == 200
    assert await db.fetchval("select n from metrics") == 1
