"""What one connection may send, and how long it may take: nobody can hold memory or connections for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.harness import Connection, Running, Start
from tests.service.in_process import GET, NOWHERE, ROW, Client, InProcess, chunked, in_process, post

pytestmark = pytest.mark.usefixtures("lane")

_CHUNKED_HEAD = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def server(lane: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcess]:
    """A service in the lane of the test, with small limits."""
    monkeypatch.setattr("service.bodies.body.SWALLOWED_BYTES_MAX", 64 * 1024)
    monkeypatch.setattr("service.http.protocol.SWALLOWED_BYTES_MAX", 64 * 1024)
    async with in_process(
        fast_lane=lane == "fast", head_bytes_max=1000, url_bytes_max=200, headers_max=10, body_bytes_max=1000
    ) as server:
        yield server


async def refused(client: Client) -> tuple[int, str]:
    """Status and code of the only answer, after which the connection is over."""
    (reply,) = await client.quiet()
    assert reply.closes
    assert client.is_over()
    return reply.status, reply.code


TOO_MUCH = {
    "one long header": (post(b"{}", b"X: " + b"y" * 1000), (431, "HR431")),
    "a header that never ends": (b"POST /rest/v1/t HTTP/1.1\r\nX: " + b"y" * 1000, (431, "HR431")),
    "a name that never ends": (b"POST /rest/v1/t HTTP/1.1\r\n" + b"y" * 1000, (431, "HR431")),
    "many headers": (post(b"{}", *[b"X: y"] * 9), (431, "HR431")),
    "empty lines without end": (b"\r\n" * 501, (431, "HR431")),
    "a long URL": (post(b"{}", line=b"POST /rest/v1/%b HTTP/1.1" % (b"t" * 200)), (414, "HR414")),
    "a URL that never ends": (b"POST /rest/v1/" + b"t" * 200, (414, "HR414")),
    "a long query": (b"GET /livez?%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"q" * 200), (414, "HR414")),
    "a chunk far too long": (_CHUNKED_HEAD + b"ffffff\r\n" + b" " * 70_000, (413, "HR413")),
    "chunks without end": (chunked(*[b" " * 100] * 700)[:-5], (413, "HR413")),
    "extensions": (_CHUNKED_HEAD + b"1;%b\r\n \r\n" % (b"x" * 100) * 20, (431, "HR431")),
    "a size with many zeros": (_CHUNKED_HEAD + b"0" * 1001, (431, "HR431")),
    "trailers": (chunked(b'{"a":"x"}', trailers=b"".join(b"X%d: y\r\n" % n for n in range(20))), (431, "HR431")),
    "a long trailer": (chunked(b'{"a":"x"}', trailers=b"X: %b\r\n" % (b"y" * 1000)), (431, "HR431")),
    "a trailer that never ends": (_CHUNKED_HEAD + b"0\r\nX: " + b"y" * 1000, (431, "HR431")),
}


@pytest.mark.parametrize("case", TOO_MUCH)
@pytest.mark.parametrize("size", [5, 100, 100_000])
async def test_too_much_of_anything_is_refused(case: str, size: int, server: InProcess) -> None:
    """However it arrives. What nobody counts is what an attacker sends."""
    data, expected = TOO_MUCH[case]
    client = server.connect()
    await client.send(*(data[at : at + size] for at in range(0, len(data), size)))
    assert await refused(client) == expected
    assert server.sink.rows == []


@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
@pytest.mark.parametrize("known", [True, False], ids=["seen before", "new"])
async def test_a_body_over_the_limit_however_it_arrives(together: bool, known: bool, server: InProcess) -> None:  # noqa: FBT001
    """413, whether the head is known or not, and whether the body comes along with it or not."""
    request = post(b'{"a":"%b"}' % (b"x" * 1000))
    head, _, body = request.partition(b"\r\n\r\n")
    for _ in range(1 + known):
        client = server.connect()
        await client.send(*([request] if together else [head + b"\r\n\r\n", body]))
        assert [(reply.status, reply.code) for reply in await client.answered(1)] == [(413, "HR413")]
        await client.hang_up()
    assert server.sink.rows == []


async def test_many_small_chunks_are_not_too_much(server: InProcess) -> None:
    """What it takes to frame them counts as little as it can; some clients write sizes with eight digits."""
    data = _CHUNKED_HEAD + b"00000001\r\n \r\n" * 900 + b"9\r\n" + b'{"a":"x"}' + b"\r\n0\r\n\r\n"
    for size in (1, 1000, len(data)):
        client = server.connect()
        await client.send(*(data[at : at + size] for at in range(0, len(data), size)))
        assert [reply.status for reply in await client.answered(1)] == [201]
        await client.hang_up()


async def test_a_chunked_body_that_is_a_little_too_large(server: InProcess) -> None:
    """Its end is near, so it is waited for, and the connection can be used again."""
    for size in (1, 100, 10_000):
        data = chunked(b'{"a":"', b"x" * 1000, b'"}') + ROW
        client = server.connect()
        await client.send(*(data[at : at + size] for at in range(0, len(data), size)))
        first, second = await client.answered(2)
        assert (first.status, first.code, first.closes) == (413, "HR413", False)
        assert second.status == 201
        assert server.service.postings._held == 0
        await client.hang_up()


async def test_exactly_the_limit_is_allowed(server: InProcess) -> None:
    """A limit is the largest that passes."""
    body = b'{"a":"%b"}' % (b"x" * 992)
    for request in (
        post(body),
        chunked(*(body[at : at + 100] for at in range(0, 1000, 100))),
        post(b"{}", *[b"X: y"] * 8),
        post(b"{}", line=b"POST /rest/v1/t?%b HTTP/1.1" % (b"q" * 188)),
        post(b"{}", b"X: %b" % (b"y" * (1000 - len(post(b"{}", b"X: ")) + 2))),
    ):
        client = server.connect()
        await client.send(request)
        assert [reply.status for reply in await client.answered(1)] == [201], request
        await client.hang_up()


async def test_a_silent_connection_is_closed_without_a_word(server: InProcess) -> None:
    """Browsers open connections in advance; an answer to no question would be taken for that to the next."""
    limits = server.service.connections.limits
    client = server.connect()
    client.protocol.tick(limits.head_seconds_max * 0.9)
    assert not client.is_over()
    client.protocol.tick(limits.head_seconds_max * 0.2)
    assert client.is_over()
    assert await client.quiet() == []


async def test_a_head_that_takes_too_long(server: InProcess) -> None:
    """408: a byte now and then must not keep a connection, not even after requests that came in time."""
    limits = server.service.connections.limits
    for before in (b"", ROW, GET):
        client = server.connect()
        if before:
            await client.send(before)
            await client.answered(1)
        for byte in ROW[:20]:
            await client.send(bytes([byte]))
            client.protocol.tick(limits.head_seconds_max / 10)
        replies = await client.quiet()
        assert (replies[-1].status, replies[-1].code) == (408, "HR408")
        assert replies[-1].closes
        assert client.is_over()


async def test_the_time_of_a_head_counts_from_its_first_byte(server: InProcess) -> None:
    """A connection may have been idle for longer than a head may take; that is not the next head's fault."""
    limits = server.service.connections.limits
    client = server.connect()
    await client.send(ROW)
    await client.answered(1)
    client.protocol.tick(limits.head_seconds_max * 2)
    await client.send(ROW[:30])
    client.protocol.tick(limits.head_seconds_max * 0.5)
    await client.send(ROW[30:])
    assert [reply.status for reply in await client.answered(2)] == [201, 201]


async def test_idle_connections_are_closed_and_busy_ones_are_not(server: InProcess) -> None:
    """The keep-alive time-out counts from the answer, and does not run while a request is at work."""
    client = server.connect()
    seconds = float(client.protocol.timeout_keep_alive)
    server.sink.gate.clear()
    await client.send(ROW)
    await client.quiet()
    client.protocol.tick(seconds * 100)
    assert not client.is_over()
    server.sink.gate.set()
    await client.answered(1)
    for number in range(2, 5):
        client.protocol.tick(seconds * 0.9)
        assert not client.is_over(), "it was used again in time"
        await client.send(GET if number % 2 else ROW)
        await client.answered(number)
    client.protocol.tick(seconds * 1.1)
    assert client.is_over()
    assert len(await client.quiet()) == 4


@pytest.mark.parametrize("size", [2000, 100_000])
async def test_a_body_that_is_refused_and_never_comes(size: int, server: InProcess) -> None:
    """To be refused is no way to keep a connection for ever."""
    client = server.connect()
    await client.send(post(bytes(size))[:-size] + b"{")
    await client.quiet()
    settings = server.service.settings
    postings = server.service.postings
    for posting in [posting for posting in postings._arriving if posting.is_late(float("inf"))]:
        posting.refuse(TimeoutError(), at_once=True)  # as `Postings.run` does when it is late
    await client.quiet()
    client.protocol.tick(settings.body_seconds_max + 1)
    await client.quiet()
    assert client.is_over()
    await client.hang_up()
    await client.quiet()


async def test_a_body_that_nobody_reads_and_that_never_ends(server: InProcess) -> None:
    """What is answered early is swallowed for a while, in bytes and in seconds, then the connection ends."""
    head = post(bytes(10_000_000), line=b"POST /nowhere HTTP/1.1")[:-10_000_000]
    client = server.connect()
    await client.send(head)
    assert [reply.status for reply in await client.answered(1)] == [404]
    await client.send(*[bytes(10_000)] * 10)
    assert client.is_over()
    client = server.connect()
    await client.send(head)
    await client.answered(1)
    client.protocol.tick(server.service.settings.body_seconds_max + 1)
    assert client.is_over()


async def test_who_lingers_is_cut_off(server: InProcess) -> None:
    """After the last answer a client may read, but not stay."""
    client = server.connect()
    await client.send(b"nonsense\r\n\r\n")
    assert client.transport.ended
    assert not client.transport.closed
    client.protocol.tick(10)
    assert client.transport.aborted
    await client.quiet()


async def test_who_does_not_read_is_asked_no_more(server: InProcess) -> None:
    """While answers wait to be sent, requests wait too, and after a while the connection is cut off."""
    client = server.connect()
    await client.send(ROW)
    await client.answered(1)
    client.protocol.pause_writing()
    await client.send(ROW)
    assert len(await client.quiet()) == 1
    client.protocol.resume_writing()
    await client.answered(2)
    client.protocol.pause_writing()
    await client.send(ROW + GET + NOWHERE)
    assert len(await client.quiet()) == 2
    assert client.transport.paused
    client.protocol.resume_writing()
    assert [reply.status for reply in await client.answered(5)] == [201, 201, 201, 200, 404]
    client.protocol.pause_writing()
    client.protocol.tick(server.service.connections.limits.send_seconds_max + 1)
    assert client.transport.aborted


# ---------------------------------------------------------------- over sockets


async def test_answers_that_nobody_reads_stay_within_bounds(db: Connection, dsn: str, start: Start) -> None:
    """Large answers to a client that only sends: the kernel's buffers and one answer, then nothing, then the end."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, send_seconds_max=0.3, batch_rows_max=1) as headrace, headrace.connect(4096) as client:
        request = post(b'{"a":"%b"}' % (b"x" * 500_000), b"Prefer: return=representation")
        sending = asyncio.create_task(client.send(*[request] * 100))
        await headrace.eventually(lambda: not headrace.server.server_state.connections)
        with pytest.raises(ConnectionError):
            await sending
        assert headrace.server.server_state.total_requests < 30, "most were never taken up"
        await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)


async def test_a_large_body_is_refused_before_it_is_read(
    headrace: Running, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """And the client can read why, although it has sent megabytes meanwhile."""
    await db.execute("create table t (a text)")
    caplog.set_level(logging.WARNING)
    async with headrace.connect() as client:
        await client.send(post(b"")[:-5] + b"99999999\r\n\r\n")
        reply = await client.next()
        assert (reply.status, reply.code, reply.closes) == (413, "HR413", True)
        await client.send(*[bytes(100_000)] * 100)
        await client.closed()
    assert not caplog.records


async def test_a_slow_body_is_told_so(db: Connection, dsn: str, start: Start) -> None:
    """408, not a cut connection, by whatever clock ends it."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, body_seconds_max=0.3, head_seconds_max=0.04) as headrace:
        for head in (ROW[:-9], _CHUNKED_HEAD, ROW[:-4]):
            (reply,) = await headrace.exchange(head)
            assert (reply.status, reply.code, reply.closes) == (408, "HR408", True)


async def test_a_large_body_is_not_read_while_the_queue_is_full(lane: str) -> None:
    """Reading it takes longer than writing a refusal, and under overload that time is what is missing."""
    large = post(b"no JSON" + bytes(20_000))
    async with in_process(fast_lane=lane == "fast", pending_rows_max=10) as server:
        server.sink.gate.clear()
        clients = [server.connect() for _ in range(4)]
        await clients[0].send(post(b'[{"a":"x"},{"a":"x"},{"a":"x"},{"a":"x"},{"a":"x"},{"a":"x"}]'))
        await clients[1].send(large)
        assert [reply.status for reply in await clients[1].answered(1)] == [400], "there is room"
        await clients[2].send(post(b'[{"a":"x"},{"a":"x"},{"a":"x"},{"a":"x"},{"a":"x"}]'))
        assert [reply.status for reply in await clients[2].answered(1)] == [429]
        await clients[1].send(large[:300])
        await clients[1].quiet()
        await clients[1].send(large[300:])
        replies = await clients[1].answered(2)
        assert (replies[1].status, replies[1].code, replies[1].closes) == (429, "HR429", False)
        await clients[3].send(ROW)
        assert await clients[3].quiet() == [], "one row still finds room"
        server.sink.gate.set()
        await clients[3].answered(1)
        await clients[1].send(large)
        assert (await clients[1].answered(3))[2].status == 400, "there is room again"


async def test_nothing_is_read_while_requests_wait_that_were_read_already(server: InProcess) -> None:
    """A client that pipelines and never reads would otherwise fill the memory with its requests."""
    server.sink.gate.clear()
    client = server.connect()
    for request in (ROW, GET, post(b"{}", b"Prefer: return=representation")):
        await client.send(request + ROW * 20)
        await client.quiet()
        paused = [client.transport.paused]
        server.sink.gate.set()
        await client.quiet()
        paused.append(client.transport.paused)
        assert paused == [True, False]
        server.sink.gate.clear()
    server.sink.gate.set()
    await client.quiet()
