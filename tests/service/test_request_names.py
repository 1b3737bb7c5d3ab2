"""The name of a request, and where its time went: what answers say of themselves when they are asked to."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.harness import Connection, Running, requests_by_outcome

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
async def _table(db: Connection) -> None:
    await db.execute("create table t (n int)")


@pytest.mark.parametrize("body", [b'{"n":1}', b'{"n":"x"}', b'{"m":1}', b"no json", b"[]"])
@pytest.mark.parametrize("prefer", ["", "return=representation", "bad-rows=quarantine", "respond-async"])
async def test_every_answer_has_the_name_of_its_request(body: bytes, prefer: str, lane: str, headrace: Running) -> None:
    """So that a line in the producer's log and one in ours are found together; errors need it most."""
    assert lane
    for _ in range(2):
        answer = await headrace.post("t", body, x_request_id="run-1", prefer=prefer)
        assert answer.headers.get_list("x-request-id") == ["run-1"]
        answer = await headrace.post("t", body, traceparent=TRACE, prefer=prefer)
        assert answer.headers.get_list("x-request-id") == [TRACE.split("-")[1]]
        answer = await headrace.post("t", body, prefer=prefer)
        assert "x-request-id" not in answer.headers


async def test_unknown_tables_and_large_bodies_are_named_too(headrace: Running, lane: str) -> None:
    """They take other ways to their answer."""
    assert lane
    answer = await headrace.post("nope", b"{}", x_request_id="run-1")
    assert (answer.status_code, answer.headers["x-request-id"]) == (404, "run-1")
    large = b"[" + b",".join([b'{"n":1}'] * 50_000) + b"]"
    answer = await headrace.post("t", large, x_request_id="run-2", prefer="server-timing")
    assert (answer.status_code, answer.headers["x-request-id"]) == (201, "run-2")
    assert "write;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/rest/v1/t", 405), ("GET", "/nowhere", 404), ("DELETE", "/metrics", 405), ("POST", "/rest/v1/a/b", 404)],
)
async def test_errors_of_other_paths_are_named(method: str, path: str, status: int, headrace: Running) -> None:
    """Whoever looks for his request in the log has a line for those as well."""
    answer = await headrace.client.request(method, path, headers={"x-request-id": "run-3"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "run-3")


async def test_a_request_that_cannot_be_believed_is_named(headrace: Running) -> None:
    """As far as its name has arrived."""
    head = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nX-Request-Id: run-4\r\nTransfer-Encoding: chunked\r\n\r\n"
    (reply,) = await headrace.exchange(head + b"zz\r\n")
    assert reply.status == 400
    assert (b"x-request-id", b"run-4") in reply.headers
    assert headrace.service.counts.numbers.refusals == {"400 HR400": 1}, "it is counted once"


async def test_a_client_that_leaves_is_refused_nothing(headrace: Running) -> None:
    """There is no answer."""
    async with headrace.connect() as client:
        await client.send(b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n" + b"[" * 100)
        await headrace.eventually(lambda: headrace.service.postings.pending()[0] == 1)
    await headrace.eventually(lambda: headrace.service.postings.pending()[0] == 0)
    assert requests_by_outcome(headrace.service)["withdrawn"] == 1
    assert headrace.service.counts.numbers.refusals == {}


async def test_an_answer_that_was_seen_before_keeps_no_name(headrace: Running) -> None:
    """Answers without a body are put together once a second, for all who get the same."""
    answers = await asyncio.gather(
        *[headrace.post("t", {"n": 1}, x_request_id=f"run-{number}") for number in range(50)],
        *[headrace.post("t", {"n": 1}) for _ in range(50)],
    )
    names = [answer.headers.get("x-request-id") for answer in answers]
    assert names == [f"run-{number}" for number in range(50)] + [None] * 50


async def test_where_the_time_went(db: Connection, headrace: Running) -> None:
    """`queue` is before the flush, `write` the flush, `total` everything; in milliseconds."""
    async with headrace.gathering(db, "t", requests=1):
        waiting = asyncio.create_task(headrace.post("t", {"n": 1}, prefer="server-timing"))
    answer = await waiting
    assert answer.headers["preference-applied"] == "server-timing"
    found = re.fullmatch(r"queue;dur=(\S+), write;dur=(\S+), total;dur=(\S+)", answer.headers["server-timing"])
    assert found is not None
    queue, write, total = map(float, found.groups())
    assert min(queue, write) >= 0
    assert queue + write <= total


@pytest.mark.parametrize(
    ("body", "prefer", "names"),
    [
        (b'{"n":1}', "server-timing, return=representation", ["queue", "write", "total"]),
        (b'{"n":1}', "server-timing, bad-rows=quarantine", ["queue", "write", "total"]),
        (b'{"n":1}', "server-timing, respond-async", ["total"]),
        (b'{"n":"x"}', "server-timing", ["queue", "write", "total"]),
        (b"no json", "server-timing", ["total"]),
        (b"[]", "server-timing", ["total"]),
    ],
)
async def test_times_of_other_answers(body: bytes, prefer: str, names: list[str], headrace: Running) -> None:
    """As far as the request came."""
    answer = await headrace.post("t", body, prefer=prefer)
    assert re.findall(r"(\w+);dur=", answer.headers["server-timing"]) == names


async def test_nobody_else_is_told_times(headrace: Running) -> None:
    """It is said only on request."""
    await headrace.post("t", {"n": 1}, prefer="server-timing")
    assert "server-timing" not in (await headrace.post("t", {"n": 1})).headers
