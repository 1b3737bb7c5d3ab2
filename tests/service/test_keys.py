"""Idempotency keys: a request that is sent again is stored once, and answered as the first time."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from service.dialect.keys import Fingerprint
from service.ingest import Request
from tests.harness import Connection, Running, Start, rows_of
from tests.service.in_process import ROW, chunked, in_process, post

ITEMS = "create table items (id int generated always as identity primary key, name varchar(5) not null)"


@pytest.fixture
async def items(db: Connection) -> Connection:
    """A database with the table `items`."""
    await db.execute(ITEMS)
    return db


# ---------------------------------------------------------------- with a database


@pytest.mark.usefixtures("lane")
async def test_a_request_that_is_sent_again_is_stored_once(items: Connection, headrace: Running) -> None:
    """The reason for it all: a producer that did not get its answer may send the rows again."""
    answers = [await headrace.post("items", {"name": "a"}, idempotency_key="one") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    assert [answer.content for answer in answers] == [b""] * 3
    assert await rows_of(items, "select name from items") == [("a",)]


@pytest.mark.usefixtures("lane")
async def test_the_first_answer_comes_again_with_its_rows(items: Connection, headrace: Running) -> None:
    """A producer that lost its answer wants the identities that it had."""
    rows = [{"name": "a"}, {"name": "b"}]
    first, second = [
        await headrace.post("items", rows, idempotency_key="k", prefer="return=representation") for _ in range(2)
    ]
    assert [row["id"] for row in first.json()] == [1, 2]
    assert second.content == first.content
    assert second.headers["preference-applied"] == "return=representation"
    assert second.headers["idempotency-replayed"] == "true"
    assert await items.fetchval("select count(*) from items") == 2


@pytest.mark.usefixtures("lane")
async def test_a_key_stands_for_one_request(items: Connection, headrace: Running) -> None:
    """With another body, preference or media type it is a mistake of the producer's, and nothing is stored."""
    await items.execute("create table others (name text)")
    assert (await headrace.post("items", {"name": "a"}, idempotency_key="k")).status_code == 201
    for answer in (
        await headrace.post("items", {"name": "b"}, idempotency_key="k"),
        await headrace.post("others", {"name": "a"}, idempotency_key="k"),
        await headrace.post("items", {"name": "a"}, idempotency_key="k", prefer="return=representation"),
        await headrace.lines("items", b'{"name":"a"}', idempotency_key="k"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "HR422")
    assert await rows_of(items, "select name from items union all select name from others") == [("a",)]


@pytest.mark.usefixtures("lane")
async def test_rows_that_were_promised_under_a_used_key_are_kept(items: Connection, headrace: Running) -> None:
    """The 202 is given before the key is looked up, so nobody can be told; a repeat of the same is no second one."""
    asked = {"prefer": "respond-async", "idempotency_key": "k"}
    for name, codes in {"a": [], "b": ["HR422"]}.items():
        assert (await headrace.post("items", {"name": name}, **asked)).status_code == 202
        await headrace.eventually(lambda: not headrace.service.postings.pending()[0])
        assert await rows_of(items, "select code from headrace.quarantine") == [(code,) for code in codes]
    assert (await headrace.post("items", {"name": "a"}, **asked)).status_code == 202
    await headrace.eventually(lambda: not headrace.service.postings.pending()[0])
    assert await rows_of(items, "select name from items") == [("a",)]
    assert await items.fetchval("select row from headrace.quarantine") == '{"name":"b"}'


@pytest.mark.usefixtures("lane")
async def test_a_request_that_was_refused_may_be_mended(items: Connection, headrace: Running) -> None:
    """Only what is committed is remembered."""
    refused = await headrace.post("items", {"name": "too long"}, idempotency_key="k")
    assert (refused.status_code, refused.json()["code"]) == (400, "22001")
    assert (await headrace.post("items", {"name": "short"}, idempotency_key="k")).status_code == 201
    assert await rows_of(items, "select name from items") == [("short",)]


@pytest.mark.usefixtures("lane")
async def test_requests_with_keys_share_batches(items: Connection, headrace: Running) -> None:
    """And those that are sent again harm nobody who shares the batch with them."""
    await items.execute("alter table items add x xid8 default pg_current_xact_id()")
    for n in range(5):
        assert (await headrace.post("items", {"name": f"{n}"}, idempotency_key=f"{n}")).status_code == 201
    async with headrace.gathering(items, "items", requests=95):  # the others have their answer
        sent = [
            asyncio.create_task(headrace.post("items", {"name": f"{n}"}, idempotency_key=f"{n}")) for n in range(100)
        ]
    answers = [await each for each in sent]
    assert {answer.status_code for answer in answers} == {201}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 5
    assert await items.fetchval("select count(distinct name) from items") == 100
    assert await items.fetchval("select count(*) from items") == 100
    assert await items.fetchval("select count(distinct x) from items where name::int >= 5") < 20


async def test_a_key_counts_in_all_services_of_a_database(items: Connection, dsn: str, start: Start) -> None:
    """Behind a balancer the second attempt comes to another process."""
    async with start(dsn=dsn) as one, start(dsn=dsn, fast_lane=False) as other:
        answers = [await service.post("items", {"name": "a"}, idempotency_key="k") for service in (one, other)]
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true"]
        both = await asyncio.gather(
            *(service.post("items", {"name": "b"}, idempotency_key="l") for service in (one, other))
        )
        assert sorted(answer.headers.get("idempotency-replayed", "") for answer in both) == ["", "true"]
    assert await rows_of(items, "select name from items order by name") == [("a",), ("b",)]


@pytest.mark.usefixtures("lane")
async def test_without_tables_of_its_own_a_service_has_no_keys(items: Connection, dsn: str, start: Start) -> None:
    """It says so, instead of storing rows twice for somebody who relies on it."""
    async with start(dsn=dsn, at_least_once=True) as headrace:
        answer = await headrace.post("items", {"name": "a"}, idempotency_key="k")
        assert (answer.status_code, answer.json()["code"]) == (501, "HR501")
        assert (await headrace.post("items", {"name": "a"})).status_code == 201
    assert await items.fetchval("select to_regnamespace('headrace') is null")


async def test_a_key_is_forgotten_in_time(items: Connection, dsn: str, start: Start) -> None:
    """A table that only grows would be the end of the database."""
    async with start(dsn=dsn) as headrace:
        assert (await headrace.post("items", {"name": "a"}, idempotency_key="k")).status_code == 201
        await items.execute("update headrace.idempotency set at = now() - interval '2 days'")
        again = await headrace.post("items", {"name": "a"}, idempotency_key="k")
        assert (again.status_code, again.headers.get("idempotency-replayed")) == (201, None)
    assert await items.fetchval("select count(*) from items") == 2


# ---------------------------------------------------------------- without


async def test_while_one_is_under_way_the_other_waits_for_nothing(lane: str) -> None:
    """409 for the same request, which should come again later; 422 for another one. Then the key is free again."""
    key = b"Idempotency-Key: k"
    async with in_process(fast_lane=lane == "fast") as server:
        server.sink.gate.clear()
        first = server.connect()
        await first.send(post(b'{"a":"x"}', key))
        await first.quiet()
        second = server.connect()
        await second.send(post(b'{"a":"x"}', key), post(b'{"a":"y"}', key), chunked(b'{"a"', b':"x"}'))
        replies = await second.answered(2)
        assert [(reply.status, reply.code) for reply in replies] == [(409, "HR409"), (422, "HR422")]
        server.sink.gate.set()
        assert [reply.status for reply in await first.answered(1)] == [201]
        await second.answered(3)
        assert server.service.postings.keys is not None
        assert not server.service.postings.keys._under_way
        await second.send(post(b'{"a":"y"}', key))
        assert [reply.status for reply in await second.answered(4)][2:] == [201, 201]
    assert server.sink.rows == ["x", "x", "y"]


async def test_a_key_is_given_back_however_the_request_ends(lane: str) -> None:
    """Refused by the queue, left by its client, cut off: a key that stays taken could never be used again."""
    key = b"Idempotency-Key: k"
    async with in_process(fast_lane=lane == "fast", pending_rows_max=3) as server:
        keys = server.service.postings.keys
        assert keys is not None
        server.sink.gate.clear()
        busy, client = server.connect(), server.connect()
        await busy.send(ROW)
        await busy.quiet()
        await client.send(post(b'[{"a":"1"},{"a":"2"},{"a":"3"}]', key))
        assert [reply.code for reply in await client.answered(1)] == ["HR429"]
        assert not keys._under_way
        await client.send(post(b'{"a":"x"}', key))
        await client.quiet()
        assert list(keys._under_way) == ["k"]
        await client.hang_up()
        await client.quiet()
        assert not keys._under_way
        half = server.connect()
        await half.send(post(b'{"a":"x"}', key)[:-3])
        await half.hang_up()
        await half.quiet()
        assert not keys._under_way
        server.sink.gate.set()
        await busy.answered(1)
    assert server.sink.rows == ["x"]


@pytest.mark.parametrize(
    "headers",
    [
        [b"Idempotency-Key:"],
        [b"Idempotency-Key: " + b"k" * 256],
        [b"Idempotency-Key: \xfc"],
        [b"Idempotency-Key: a\tb"],
        [b"Idempotency-Key: a", b"Idempotency-Key: a"],
        [b"idempotency-key: a", b"IDEMPOTENCY-KEY: b"],
    ],
)
async def test_what_is_no_key(headers: list[bytes], lane: str) -> None:
    """A key that is cut short or mixed up somewhere on its way would be somebody else's."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(post(b'{"a":"x"}', *headers))
        (reply,) = await client.answered(1)
        assert (reply.status, reply.code, reply.closes) == (400, "HR400", False)
        assert b"Idempotency-Key" in reply.body
        await client.send(post(b'{"a":"y"}', b'Idempotency-Key: "' + b"k ~" * 84 + b'"'))
        assert [reply.status for reply in await client.answered(2)][1:] == [201]
    assert server.sink.rows == ["y"]


def test_a_fingerprint_is_that_of_the_whole_request() -> None:
    """Whatever pieces the body comes in; and a field must not run into the next."""

    def digest(request: Request, *pieces: bytes) -> bytes:
        fingerprint = Fingerprint(request)
        for piece in pieces:
            fingerprint.update(piece)
        return fingerprint.digest()

    whole = digest(Request("t", "a", "b", "c"), b"body")
    assert len(whole) == 16
    assert digest(Request("t", "a", "b", "c"), b"bo", b"", b"dy") == whole
    others = [Request("ta", "", "b", "c"), Request("t", "ab", "", "c"), Request("t", "a", "b", ""), Request("", "a")]
    assert len({whole, *(digest(other, b"body") for other in others), digest(Request("t", "a", "b", "c"))}) == 6


async def test_heads_that_never_come_again_are_not_remembered() -> None:
    """Each would take the place of one that does."""
    async with in_process() as server:
        client = server.connect()
        await client.send(ROW, post(b'{"a":"x"}', b"Prefer: respond-async"))
        await client.answered(2)
        for number in range(3, 9):
            name = b"X-Request-Id" if number % 2 else b"Idempotency-Key"
            await client.send(post(b'{"a":"x"}', b"%b: %b" % (name, uuid.uuid4().bytes.hex().encode())))
            assert (await client.answered(number))[-1].status == 201
        assert len(server.service.heads.known(is_local=True)) == 2
