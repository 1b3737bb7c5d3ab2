"""Connections that mean harm, over real sockets: far too large, far too slow, far too many, gone at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import struct
from pathlib import Path

import pytest

from tests.harness import Connection, RawConnection, Running, Start
from tests.service.in_process import GET, ROW, chunked, in_process, post

pytestmark = pytest.mark.usefixtures("lane")

_IDLE_SOCKETS = 2000
_HEAD = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\n"


def resident_bytes() -> int:
    """What this process takes in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def is_served(headrace: Running) -> bool:
    """Whether a good request is stored."""
    return (await headrace.post("t", {"a": "good"})).status_code == 201


ENDLESS: dict[str, tuple[bytes, bytes, int]] = {
    "a header of a megabyte": (_HEAD + b"X: ", b"y" * 1_000_000, 431),
    "a name of a megabyte": (_HEAD, b"y" * 1_000_000, 431),
    "a hundred thousand headers": (_HEAD, b"a:\r\n" * 100_000, 431),
    "a hundred thousand cookies": (_HEAD, b"Cookie: a=b\r\n" * 100_000, 431),
    "a URL of ten megabytes": (b"POST /rest/v1/", b"t" * 10_000_000, 414),
    "a query of ten megabytes": (b"POST /rest/v1/t?", b"%20" * 3_000_000, 414),
    "empty lines for ever": (b"", b"\r\n" * 1_000_000, 431),
    "a method for ever": (b"", b"P" * 1_000_000, 400),
    "zeros before a length": (_HEAD + b"Content-Length: " + b"0" * 5000 + b"9\r\n\r\n", b'{"a":"x"}' * 9, 400),
    "a chunk size for ever": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 1_000_000, 431),
    "an extension for ever": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 1_000_000, 431),
    "trailers for ever": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 200_000, 431),
    "a body that is far too large": (_HEAD + b"Content-Length: 10000000000\r\n\r\n", b"x" * 5_000_000, 413),
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_what_has_no_end_is_refused(
    case: str, headrace: Running, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """With the settings as they come: the answer can be read, whatever was sent behind it, and memory stays."""
    await db.execute("create table t (a text)")
    caplog.set_level(logging.WARNING)
    start, rest, status = ENDLESS[case]
    pieces = [start, *(rest[at : at + 50_000] for at in range(0, len(rest), 50_000))]
    assert await is_served(headrace)
    before = resident_bytes()
    for _ in range(3):
        async with headrace.connect() as client:
            sending = asyncio.create_task(client.send(*pieces))
            reply = await client.next()
            assert (reply.status, reply.closes) == (status, True)
            sending.cancel()
            await asyncio.wait([sending])
    assert await is_served(headrace)
    assert resident_bytes() - before < 30_000_000
    assert [record for record in caplog.records if record.name != "service.observing.slow"] == []


async def test_thousands_of_idle_sockets(db: Connection, dsn: str, start: Start) -> None:
    """They cost little, they hold up nobody, and they are closed in time: silent ones, half heads and half bodies."""
    await db.execute("create table t (a text)")
    number = min(_IDLE_SOCKETS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2)
    async with start(dsn=dsn, head_seconds_max=3, keep_alive_seconds=3, body_seconds_max=3) as headrace:
        assert await is_served(headrace)
        host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
        before = resident_bytes()
        loop = asyncio.get_running_loop()
        sockets = [socket.socket() for _ in range(number)]
        beginnings = [b"", ROW[:20], ROW[:-3], chunked(b"{}")[:-5], ROW]
        for index, end in enumerate(sockets):
            end.setblocking(False)
            await loop.sock_connect(end, (host, port))
            await loop.sock_sendall(end, beginnings[index % len(beginnings)])
        connections = headrace.server.server_state.connections
        await headrace.eventually(lambda: len(connections) > number * 0.9)
        assert resident_bytes() - before < number * 40_000
        began = loop.time()
        assert await is_served(headrace)
        assert loop.time() - began < 2
        await headrace.eventually(lambda: len(connections) < 10)
        assert headrace.service.postings._held == 0
        assert headrace.service.postings._arriving == set()
        for end in sockets:
            end.close()
        assert await is_served(headrace)


async def test_bodies_that_trickle(db: Connection, dsn: str, start: Start) -> None:
    """A byte now and then is not progress: 408 when the time is over, which counts from the head."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, body_seconds_max=0.4) as headrace:
        for head, piece in (
            (post(bytes(1000))[:-1000], b" "),
            (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (post(bytes(1000), b"Content-Type: application/x-ndjson")[:-1000], b"\n"),
        ):
            async with headrace.connect() as client:
                await client.send(head)
                began = asyncio.get_running_loop().time()

                async def trickle(client: RawConnection = client, piece: bytes = piece) -> None:
                    while True:
                        await client.send(piece)
                        await asyncio.sleep(0.01)

                trickling = asyncio.create_task(trickle())
                reply = await client.next()
                assert (reply.status, reply.code, reply.closes) == (408, "HR408", True)
                assert asyncio.get_running_loop().time() - began < 2
                trickling.cancel()
                await asyncio.wait([trickling])
        assert await is_served(headrace)


async def test_resets_at_every_stage(headrace: Running, db: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """A client that is gone from one moment to the next leaves nothing behind, and no traceback in the log."""
    await db.execute("create table t (a text)")
    caplog.set_level(logging.WARNING)
    returning = post(b'{"a":"%b"}' % (b"x" * 300_000), b"Prefer: return=representation")
    for request in (ROW, chunked(b'{"a":', b'"x"}'), returning, GET, ROW + ROW, post(b"{}", b"Expect: 100-continue")):
        for at in sorted({*range(0, min(len(request), 200), 17), len(request) - 1, len(request)}):
            async with headrace.connect() as client:
                end = client.writer.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await client.send(request[:at])
                if at % 2:
                    await asyncio.sleep(0.001)
                client.reset()
    await headrace.eventually(lambda: len(headrace.server.server_state.connections) <= 1)  # the client's own
    await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)
    assert headrace.service.postings._held == 0
    assert headrace.service.postings._arriving == set()
    assert headrace.server.server_state.tasks == set()
    assert await is_served(headrace)
    assert not caplog.records, caplog.text


@pytest.mark.parametrize("header", [b"Connection: close", b"X: y"])
async def test_a_last_answer_that_is_read_slowly_is_whole(header: bytes, lane: str) -> None:
    """Reading it may take longer than a connection is left open for nothing; cut off in the middle it is worthless."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        request = post(b'{"a":"%b"}' % (b"x" * 1000), header, b"Prefer: return=representation")
        await client.send(request)
        await client.answered(1)
        client.protocol.pause_writing()  # the kernel takes no more
        client.protocol.shutdown()
        for _ in range(20):
            client.protocol.tick(1)
        assert not client.transport.aborted
        client.protocol.resume_writing()
        client.protocol.tick(0.25)
        assert not client.transport.aborted, "some of it may still be on its way"
        client.protocol.tick(10)
        await client.hang_up()


async def test_many_that_never_read(db: Connection, dsn: str, start: Start) -> None:
    """Large answers to clients that do not read them: each holds one, for as long as the setting says, then none."""
    await db.execute("create table t (a text)")
    request = post(b'{"a":"%b"}' % (b"x" * 400_000), b"Prefer: return=representation")
    flood = request * 40
    async with start(dsn=dsn, send_seconds_max=1, batch_rows_max=10) as headrace:
        assert await is_served(headrace)
        before = resident_bytes()
        clients = []
        for _ in range(20):
            end = socket.socket()
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
            await asyncio.get_running_loop().sock_connect(end, (host, port))
            clients.append((end, asyncio.create_task(_send(end, flood))))
        await headrace.eventually(lambda: headrace.server.server_state.total_requests >= 20)
        assert await is_served(headrace)
        assert resident_bytes() - before < 20 * 5_000_000
        await headrace.eventually(lambda: len(headrace.server.server_state.connections) <= 1)
        for end, sending in clients:
            await asyncio.wait([sending])
            end.close()
        assert await is_served(headrace)


async def _send(end: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the server has had enough
        await asyncio.get_running_loop().sock_sendall(end, data)
