"""The life of connections: clients that leave, half or whole; a service that stops; who may come at all."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Self

import pytest
import uvicorn

from service.app import create_app
from service.extras import ExtraPosting
from service.posting import Posting
from service.settings import Settings
from tests.harness import Connection, RawConnection, Running, Start, requests_by_outcome, rows_of
from tests.service.in_process import GET, NOWHERE, ROW, InProcess, chunked, in_process, post

pytestmark = pytest.mark.usefixtures("lane")

_TABLE = "create table t (a text, b text)"


@pytest.fixture
async def server(lane: str) -> AsyncIterator[InProcess]:
    """A service in the lane of the test."""
    async with in_process(fast_lane=lane == "fast") as server:
        yield server


# ---------------------------------------------------------------- clients that leave


async def test_rows_of_a_client_that_has_left_are_withdrawn(server: InProcess) -> None:
    """While they wait: a client that times out sends them again, and they would be there twice."""
    server.sink.gate.clear()
    first, second = server.connect(), server.connect()
    await first.send(ROW)
    await first.quiet()
    for request in (post(b'{"a":"left"}'), chunked(b'{"a":"left"}')):
        second = server.connect()
        await second.send(request)
        await second.quiet()
        assert server.service.batcher.statistics().pending_submissions == 2
        await second.hang_up()
        await second.quiet()
        assert server.service.batcher.statistics().pending_submissions == 1
    server.sink.gate.set()
    await first.answered(1)
    assert server.sink.rows == ["x"]
    assert requests_by_outcome(server.service)["withdrawn"] == 2


async def test_rows_that_are_being_written_are_stored_whoever_leaves(server: InProcess) -> None:
    """Nobody can call a COPY back; the other rows of the batch have done nothing."""
    server.sink.gate.clear()
    client = server.connect()
    await client.send(ROW)
    await client.quiet()
    await client.hang_up()
    server.sink.gate.set()
    await client.quiet()
    assert server.sink.rows == ["x"]
    assert server.service.batcher.statistics().pending_submissions == 0
    assert client.replies == []


@pytest.mark.parametrize("request_bytes", [ROW, chunked(b'{"a":', b'"x"}'), NOWHERE, post(b'{"nope":1}')])
async def test_leaving_at_any_moment_leaves_nothing_behind(request_bytes: bytes, server: InProcess) -> None:
    """Neither bodies nor tasks nor connections, and no error in the log."""
    for at in range(len(request_bytes) + 1):
        for wait in (False, True):
            client = server.connect()
            await client.send(request_bytes[:at])
            if wait:
                await client.quiet()
            await client.hang_up()
            await client.quiet()
            assert server.service.postings._arriving == set()
            assert server.service.postings._held == 0
            assert server.service.connections._open == set()
            assert server.state.connections == set()
            assert server.state.tasks == set()
            assert server.service.batcher.statistics().pending_submissions == 0


async def test_half_a_close_still_gets_its_answers(headrace: Running, db: Connection) -> None:
    """`nc -N` and some libraries close their side when they have sent all."""
    await db.execute(_TABLE)
    for requests, number in ((ROW, 1), (chunked(b'{"a":"x"}'), 1), (GET, 1), (ROW + GET + ROW, 3)):
        async with headrace.connect() as client:
            await client.send(requests)
            client.half_close()
            replies = await client.all()
        assert len(replies) == number, requests
        assert {reply.status for reply in replies} <= {200, 201}


async def test_half_a_close_of_a_client_that_reads_slowly(server: InProcess) -> None:
    """Requests that wait because answers do are answered all the same, and then the connection ends."""
    client = server.connect()
    client.protocol.pause_writing()
    await client.send(ROW + GET + ROW)
    assert client.protocol.eof_received()
    assert await client.quiet() == []
    client.protocol.resume_writing()
    assert [reply.status for reply in await client.quiet()] == [201, 200, 201]
    assert client.is_over()


async def test_half_a_request_behind_a_whole_one_ends_with_it(server: InProcess) -> None:
    """Its rest will never come, so the connection is not kept for it."""
    for half in (ROW[:20], ROW[:-3], chunked(b"{}")[:-5]):
        server.sink.gate.clear()
        client = server.connect()
        await client.send(ROW + half)
        assert client.protocol.eof_received()
        server.sink.gate.set()
        assert [reply.status for reply in await client.answered(1)] == [201]
        await client.quiet()
        assert client.is_over()
        await client.hang_up()
        await client.quiet()


async def test_a_handler_that_is_cancelled_says_nothing_untrue() -> None:
    """Servers cancel when their time for stopping is over. Its rows may be stored, so it must not be told 400."""
    statuses: list[int] = []

    async def cancelled() -> None:
        async with in_process(fast_lane=False) as server:
            server.sink.gate.clear()
            client = server.connect()
            await client.send(ROW)
            await client.quiet()
            for task in list(server.state.tasks):
                task.cancel()
            await client.quiet()
            server.sink.gate.set()
            statuses.extend(reply.status for reply in await client.quiet())

    with pytest.raises(AssertionError, match="CancelledError"):  # uvicorn logs it
        await cancelled()
    assert 400 not in statuses


async def test_a_body_counts_for_as_long_as_it_is_kept() -> None:
    """Blanks are no rows, but they take memory until the answer, after a 202 as well."""
    async with in_process() as server:
        server.sink.gate.clear()
        client = server.connect()
        for number in range(1, 4):
            await client.send(post(b'{"a":"x"}' + b" " * 10_000, b"Prefer: respond-async"))
            assert (await client.answered(number))[-1].status == 202
        assert server.service.batcher.statistics().pending_bytes > 30_000
        server.sink.gate.set()


async def test_half_a_request_and_a_close_gets_none(headrace: Running) -> None:
    """Nothing more can come, so nothing is waited for."""
    for piece in (b"", ROW[:10], ROW[:-1], chunked(b"{}")[:-5]):
        async with headrace.connect() as client:
            await client.send(piece)
            client.half_close()
            assert [reply.status for reply in await client.all()] in ([], [400])


async def test_no_request_leaves_garbage() -> None:
    """A body in a cycle is freed when the collector comes, which is seldom: under overload that was 800 MB.

    An exception that a frame of its own traceback has a name for is such a cycle, and holds the callers' names too.
    """
    large = post(bytes(20_000))
    requests = [
        ROW,
        post(b"[]"),
        post(b"{"),
        post(b'{"b":1,"nope":1}'),
        post(b"{}", b"Content-Type: text/xml"),
        post(b'{"a":"x"}', b"Idempotency-Key: k"),
        post(b'{"a":"x"}', b"Idempotency-Key:"),
        post(b'{"a":"x"}', b"X-Request-Id: r"),
        post(b"{", b"X-Request-Id: r"),
        post(b'{"a":"x"}', b"Prefer: server-timing"),
        post(b'{"a":"x"}', b"Prefer: respond-async", b"X-Request-Id: r"),
        post(b'[{"a":"x"},{"nope":1}]', b"Prefer: bad-rows=quarantine"),
        post(b"[", b"Prefer: bad-rows=quarantine"),
        post(b'{"a":"x"}', b"Prefer: respond-async"),
        NOWHERE,
    ]
    async with in_process(pending_rows_max=5, body_bytes_max=100_000) as server:
        batcher = server.service.batcher
        for state in ("usual", "full", "away", "stopping"):
            if state == "full":
                server.sink.gate.clear()
                busy = server.connect()
                await busy.send(post(b"[" + b",".join([b'{"a":"x"}'] * 4) + b"]"))
                rows = b"[" + b",".join([b'{"a":"x"}'] * 4) + b"]"
                requests = [post(rows), post(rows, b"Idempotency-Key: k"), post(rows, b"Prefer: respond-async")]
                requests += [large, large[:300]]
            if state == "away":
                server.sink.gate.set()
                await busy.quiet()
                batcher._slots[0].reason = ConnectionError()
                requests = [ROW, post(b"{}", b"Idempotency-Key: k"), large, large[:300], chunked(bytes(20_000))]
            if state == "stopping":
                batcher._slots[0].reason = None
                batcher.close()
            gc.collect()
            gc.disable()
            try:
                before = sum(type(each) in (Posting, ExtraPosting) for each in gc.get_objects())
                for request in requests:
                    client = server.connect()
                    await client.send(request)
                    await client.quiet()
                    await client.hang_up()
                    await client.quiet()
                assert sum(type(each) in (Posting, ExtraPosting) for each in gc.get_objects()) == before, state
            finally:
                gc.enable()


# ---------------------------------------------------------------- a service that stops


async def test_a_service_that_stops(db: Connection, dsn: str, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """What was accepted is answered, and told that it is the last; the rest ends at once, and nobody holds it up."""
    await db.execute(_TABLE)
    caplog.set_level(logging.WARNING)
    async with start(dsn=dsn, drain_seconds_max=1) as headrace, Nine(headrace) as clients:
        idle, used, half_head, half_body, half_chunks, busy, pipelining, swallowed, last = clients.each
        await used.send(ROW)
        assert (await used.next()).status == 201
        await half_head.send(ROW[:20])
        await half_body.send(ROW[:-3])
        await half_chunks.send(chunked(b"{}")[:-5])
        await swallowed.send(NOWHERE[:-1])
        assert (await swallowed.next()).status == 404
        async with headrace.gathering(db, "t", requests=3):
            await busy.send(ROW)
            await pipelining.send(ROW + ROW)
            await last.send(post(b'{"a":"x"}', b"Connection: close"))
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 3)
            headrace.server.should_exit = True
            for client in (idle, used, half_head):
                await client.closed()
            for client in (half_body, half_chunks):
                (reply,) = await client.all()
                assert (reply.status, reply.code, reply.closes) == (503, "HR505", True)
                client.writer.close()  # else its end is waited for a little
        for client in (busy, pipelining, last):
            (reply,) = await client.all()
            assert (reply.status, reply.closes) == (201, True)
        async with asyncio.timeout(1):
            await swallowed.closed()
            await headrace.eventually(lambda: not headrace.server.server_state.connections)
    assert not caplog.records
    assert await db.fetchval("select count(*) from t") == 4


async def test_who_is_refused_and_sends_no_body_does_not_hold_up_the_end(dsn: str, start: Start) -> None:
    """The rest of its body may never come."""
    async with start(dsn=dsn, body_bytes_max=100, drain_seconds_max=1) as headrace, headrace.connect() as client:
        await client.send(post(bytes(200))[:-200] + b"{")
        await headrace.eventually(lambda: len(headrace.server.server_state.connections) == 1)
        headrace.server.should_exit = True
        async with asyncio.timeout(1):
            await client.all()


class Nine:
    """Nine connections that are closed together."""

    def __init__(self, headrace: Running) -> None:
        self._headrace = headrace
        self.each: list[RawConnection] = []

    async def __aenter__(self) -> Self:
        for _ in range(9):
            host, port = self._headrace.server.servers[0].sockets[0].getsockname()[:2]
            self.each.append(RawConnection(*await asyncio.open_connection(host, port)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.each:
            client.writer.close()


# ---------------------------------------------------------------- uvicorn's own


async def test_the_limit_of_uvicorn_on_concurrency(lane: str) -> None:
    """It counts for heads that were seen before as for new ones."""
    async with in_process(fast_lane=lane == "fast", config={"limit_concurrency": 2}) as server:
        client = server.connect()
        for number in range(1, 4):
            await client.send(ROW)
            assert (await client.answered(number))[-1].status == 201
        another = server.connect()
        await client.send(ROW)
        replies = await client.answered(4)
        assert (replies[-1].status, replies[-1].code) == (503, "HR507")
        assert replies[-1].closes
        await another.hang_up()


async def test_requests_are_counted_in_both_lanes(server: InProcess) -> None:
    """`--limit-max-requests` restarts a worker after so many."""
    client = server.connect()
    await client.send(ROW + ROW + GET + NOWHERE + post(b'{"nope":1}') + chunked(b'{"a":"x"}'))
    await client.answered(6)
    assert server.state.total_requests == 6


async def test_uvicorn_may_be_given_the_app_and_the_protocol(db: Connection, dsn: str, lane: str) -> None:
    """`uvicorn service.app:app --http service.http.protocol:Protocol`, for those who run it themselves."""
    await db.execute(_TABLE)
    app = create_app(Settings(dsn=dsn, fast_lane=lane == "fast"))
    config = uvicorn.Config(
        app,
        port=0,
        http="service.http.protocol:Protocol",
        log_config=None,
        root_path="/api",
        headers=[("X-Ours", "yes")],
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    client = RawConnection(*await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2]))
    await client.send(ROW + GET)
    for status in (201, 200):
        reply = await client.next()
        assert reply.status == status
        assert reply.headers[:2] == ((b"server", b"uvicorn"), (b"x-ours", b"yes"))
    client.writer.close()
    server.should_exit = True
    await serving
    assert await db.fetchval("select count(*) from t") == 1


# ---------------------------------------------------------------- tables that change


async def test_a_head_that_is_known_is_planned_anew_for_a_newer_catalog(headrace: Running, db: Connection) -> None:
    """The short cut must not outlive what it was taken by."""
    await db.execute("create table t (a text)")
    request = post(b'{"a":"1","b":"2"}')
    async with headrace.connect() as client:
        for _ in range(3):
            await client.send(request)
            assert (await client.next()).code == "PGRST204"
        await db.execute("alter table t add b text")
        await client.send(request)
        assert (await client.next()).status == 201
        await db.execute("alter table t drop b; alter table t rename a to b; alter table t add a int")
        for _ in range(2):
            await client.send(request)
            assert (await client.next()).status == 201
        await db.execute("drop table t")
        await client.send(request)
        assert (await client.next()).code in ("PGRST205", "42P01")


async def test_a_large_body_for_a_table_that_is_new(headrace: Running, db: Connection) -> None:
    """More than is kept in case the catalog turns out to be old."""
    await db.execute("create table fresh (a text)")
    body = b'{"a":"%b"}\n' % (b"x" * 1000) * 3000
    lines = b"Content-Type: application/x-ndjson"
    async with headrace.connect() as client:
        for table, request in (
            ("fresh", post(body, lines, line=b"POST /rest/v1/fresh HTTP/1.1")),
            ("fresher", post(body, lines, line=b"POST /rest/v1/fresher HTTP/1.1")),
        ):
            await db.execute(f"create table if not exists {table} (a text)")
            await client.send(request)
            assert (await client.next()).status == 201
            assert await db.fetchval(f"select count(*) from {table}") == 3000
    assert headrace.service.postings._held == 0


async def test_a_stream_of_twenty_megabytes(db: Connection, dsn: str, start: Start) -> None:
    """It is stored row for row, and its memory is given back."""
    await db.execute("create table t (a int, b text)")
    line = b'{"a":%d,"b":"' + b"x" * 180 + b'"}\n'
    chunks = [b"".join(line % number for number in range(at, at + 1000)) for at in range(0, 100_000, 1000)]
    head, _, _ = chunked().partition(b"\r\n\r\n")
    async with start(dsn=dsn) as headrace, headrace.connect() as client:
        await client.send(head + b"\r\nContent-Type: application/x-ndjson\r\n\r\n")
        sending = asyncio.create_task(client.send(*(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)))
        held = 0
        while not sending.done():
            held = max(held, headrace.service.postings._held)
            await asyncio.sleep(0.001)
        assert held > 0
        await client.send(b"0\r\n\r\n" + GET)
        assert [(await client.next()).status for _ in range(2)] == [201, 200]
        assert headrace.service.postings._held == 0
    assert await rows_of(db, "select count(*), sum(a::bigint) from t") == [(100_000, 4_999_950_000)]
