"""A bad row harms nobody else, however the database finds it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tests.harness import Connection, Running, Start
from tests.service.in_process import post

CLIENTS = 64

# table, what a good row n looks like, what a bad one looks like, the SQLSTATE
Row = Mapping[str, str | None]

KINDS: dict[str, tuple[str, Row, Row, str]] = {
    "check": ("t (n int check (n >= 0))", {"n": "{n}"}, {"n": "-{n}1"}, "23514"),
    "not null": ("t (n int not null)", {"n": "{n}"}, {"n": None}, "23502"),
    "type": ("t (n int)", {"n": "{n}"}, {"n": "x{n}"}, "22P02"),
    "unique": ("t (n int unique)", {"n": "1{n}"}, {"n": "7"}, "23505"),
    "foreign key": ("t (n int references seven (n))", {"n": "7"}, {"n": "1{n}"}, "23503"),
    "deferred": ("t (n int unique deferrable initially deferred)", {"n": "1{n}"}, {"n": "7"}, "23505"),
    # Raised by a function; from the database itself it would be tried again.
    "deadlock": ("t (n int check (is_seven(n)))", {"n": "7"}, {"n": "1{n}"}, "40P01"),
}


@pytest.mark.parametrize("prefer", ["return=minimal", "return=representation"])
@pytest.mark.parametrize("kind", KINDS)
async def test_exactly_the_bad_requests_fail(kind: str, prefer: str, db: Connection, headrace: Running) -> None:
    """64 clients at once, each with good rows and one bad row, share batches: 64 refusals, and all good rows stored."""
    table, good, bad, code = KINDS[kind]
    await db.execute("create table seven (n int primary key); insert into seven values (7)")
    await db.execute(
        "create function is_seven(int) returns bool language plpgsql as"
        " $$ begin if $1 <> 7 then raise exception 'no' using errcode = '40P01'; end if; return true; end $$"
    )
    await db.execute(f"create table {table}")
    if kind in ("unique", "deferred"):
        await db.execute("insert into t values (7)")
    before = await db.fetchval("select count(*) from t")

    def row(template: Row, n: int) -> Row:
        return {name: value and value.replace("{n}", str(n)) for name, value in template.items()}

    async def client(n: int) -> None:
        sent = [headrace.post("t", row(good, 10 * n + i), prefer=prefer) for i in range(3)]
        sent.insert(n % 4, headrace.post("t", row(bad, n), prefer=prefer))
        sent.append(headrace.post("t", [row(good, 10 * n + 8), row(bad, 10 * n + 9)], prefer=prefer))
        responses = await asyncio.gather(*sent)
        refused = [responses.pop(n % 4), responses.pop()]
        assert {response.status_code for response in responses} == {201}
        assert {response.json()["code"] for response in refused} == {code}

    async with headrace.gathering(db, "t", requests=5 * CLIENTS):
        clients = [asyncio.create_task(client(n)) for n in range(CLIENTS)]
    await asyncio.gather(*clients)
    assert await db.fetchval("select count(*) from t") == before + 3 * CLIENTS


async def test_a_request_is_atomic(db: Connection, headrace: Running) -> None:
    """The good rows of a request with a bad one are not stored, wherever the bad one stands."""
    await db.execute("create table t (n int check (n >= 0))")
    for place in (0, 500, 999):
        rows = [{"n": n} for n in range(1000)]
        rows[place] = {"n": -1}
        response = await headrace.post("t", rows)
        assert response.status_code == 400
        assert response.headers["headrace-row"] == str(place + 1)
    assert await db.fetchval("select count(*) from t") == 0


async def test_nobody_sees_another_requests_values(db: Connection, headrace: Running) -> None:
    """An error's words may quote values: those of the own request, of no other in the batch."""
    await db.execute("create table t (n int check (n >= 0), secret text)")
    async with headrace.gathering(db, "t", requests=40):
        sent = [asyncio.create_task(headrace.post("t", {"n": -1, "secret": f"secret-{n:02}"})) for n in range(40)]
    for n, response in enumerate(sent):
        text = (await response).text
        assert text.count("secret-") == 1
        assert f"secret-{n:02}" in text


async def test_a_value_cannot_pretend_to_be_another_row(db: Connection, headrace: Running) -> None:
    """The error context quotes the value; one that looks like a context must not blame somebody else's line."""
    await db.execute("create table t (n int, note text)")
    forged = 'x"\nCOPY t, line 1, column n: "'
    async with headrace.gathering(db, "t", requests=21):
        good = [asyncio.create_task(headrace.post("t", {"n": n, "note": "good"})) for n in range(20)]
        await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 20)
        bad = asyncio.create_task(headrace.post("t", {"n": forged, "note": "bad"}))
    assert {(await response).status_code for response in good} == {201}
    assert (await bad).status_code == 400
    assert await db.fetchval("select count(*) from t") == 20


async def test_who_sends_bad_rows_is_kept_apart(db: Connection, dsn: str, start: Start) -> None:
    """On a connection of its own, for a while; the same table, but another batch."""
    await db.execute("create table t (n int check (n > 0), xid xid8 default pg_current_xact_id())")
    async with start(dsn=dsn, flush_slots=1) as headrace:
        await headrace.service.watch.reload()
        async with headrace.connect() as bad, headrace.connect() as good:
            for n in (0, 1, 1, 1):
                await bad.send(post(b'{"n":%d}' % n))
                assert (await bad.next()).status == (201 if n else 400)
            async with headrace.gathering(db, "t", requests=3):
                blocker = asyncio.create_task(headrace.post("t", {"n": 1}))
                await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
                for connection in (good, bad):
                    await connection.send(post(b'{"n":2}'))
            assert [(await connection.next()).status for connection in (good, bad)] == [201, 201]
            assert (await blocker).status_code == 201
        assert await db.fetchval("select count(distinct xid::text) from t where n = 2") == 2
