"""HTTP/2 for clients that choose it: FastAPI's lane, with the limits of the other. Others keep the fast lane."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import h2.config
import h2.connection
import h2.events
import httpx2
import pytest
from pydantic import ValidationError

from service.http.http2 import Http2
from service.http.protocol import Protocol
from service.settings import Settings
from tests.harness import Connection, RawConnection, Running, Start, rows_of
from tests.service.certificates import Authority, Pair
from tests.service.in_process import ROW, post

Headers = Sequence[tuple[str, str]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom the clients of the test believe."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """What the service of the test shows."""
    return authority.sign("service")


@pytest.fixture
async def headrace(dsn: str, db: Connection, start: Start, pair: Pair) -> AsyncIterator[Running]:
    """A service that speaks HTTP/2, with a table `t`."""
    await db.execute("create table t (a text, b text)")
    async with start(dsn=dsn, **pair.settings, http2=True) as running:
        yield running


class Client:
    """A client that does as it is told, and keeps what happens."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.reader = reader
        self.writer = writer
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.ended: set[int] = set()
        self.goaway: int | None = None
        self.grants = True
        self.is_closed = False

    async def flush(self) -> None:
        """Send what is to be sent."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(self.h2.data_to_send())
            await self.writer.drain()

    async def ask(self, method: str, path: str, headers: Headers = (), *, end: bool = False) -> int:
        """Send a head; the stream."""
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "h")]
        self.h2.send_headers(stream, [*pseudo, *headers], end_stream=end)
        await self.flush()
        return stream

    async def post(self, body: bytes, headers: Headers = ()) -> int:
        """Send rows; the stream."""
        stream = await self.ask("POST", "/rest/v1/t", [("content-type", "application/json"), *headers])
        await self.send(stream, body, end=True)
        return stream

    async def send(self, stream: int, body: bytes, *, end: bool = False) -> None:
        """Send a piece of a body, as far and as fast as the server lets us."""
        while body and stream not in self.resets and not self.is_closed:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room == 0:
                await self.read()
                continue
            self.h2.send_data(stream, body[:room])
            body = body[room:]
            await self.flush()
        if end and stream not in self.resets:
            self.h2.end_stream(stream)
            await self.flush()

    async def read(self) -> None:
        """Take what the server sends next."""
        data = await self.reader.read(65536)
        if not data:
            self.is_closed = True
            return
        for event in self.h2.receive_data(data):
            self._note(event)
        await self.flush()

    def _note(self, event: Any) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.heads[event.stream_id] = {str(name): str(value) for name, value in event.headers}
            case h2.events.DataReceived():
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                if self.grants and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = int(event.error_code)
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.ConnectionTerminated():
                self.goaway = event.last_stream_id

    async def status(self, stream: int) -> int | None:
        """That of the answer, once it is complete; None if there is none."""
        while stream not in self.ended and stream not in self.resets and not self.is_closed:
            await self.read()
        return int(self.heads[stream][":status"]) if stream in self.heads else None

    async def closed(self) -> None:
        """Wait until the server closes the connection."""
        while not self.is_closed:
            await self.read()


@contextlib.asynccontextmanager
async def connect(
    headrace: Running, authority: Authority, settings: dict[int, int] | None = None
) -> AsyncIterator[Client]:
    """A connection with HTTP/2."""
    host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port, ssl=authority.client(protocols=["h2"]))
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    client = Client(reader, writer)
    if settings:
        client.h2.local_settings.update(settings)
    client.h2.initiate_connection()
    await client.flush()
    try:
        yield client
    finally:
        writer.transport.abort()


# -------------------------------------------------------------------- who gets it


async def test_clients_choose(headrace: Running, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ALPN. Who chooses HTTP/1.1, or nothing, has the fast lane as ever."""
    async with httpx2.AsyncClient(http2=True, verify=authority.client(), base_url=headrace.server.url) as client:
        answers = await asyncio.gather(*(client.post("/rest/v1/t", json={"a": "x"}) for _ in range(50)))
        assert {(answer.http_version, answer.status_code) for answer in answers} == {("HTTP/2", 201)}
        answer = await client.post("/rest/v1/t", json={"nope": "x"})
        assert (answer.http_version, answer.status_code, answer.json()["code"]) == ("HTTP/2", 400, "PGRST204")
        assert (await client.get("/livez")).status_code == 200
    monkeypatch.delattr(Protocol, "_hand_over")  # who uses the other lane fails
    for protocols in (["http/1.1"], ["http/1.1", "h2"], None):
        host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
        context = authority.client(protocols=protocols)
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        if protocols != ["http/1.1", "h2"]:  # the server's taste decides, and this one can both
            other = RawConnection(reader, writer)
            for request in (ROW, post(b'{"a":"%b"}' % (b"x" * 1_000_000)), ROW):
                await other.send(request)
                assert (await other.next()).status == 201
        writer.transport.abort()


def test_it_needs_tls_and_its_parser(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    """Said at start, not when the first client comes."""
    with pytest.raises(ValidationError, match="needs HEADRACE_TLS_CERTIFICATE_FILE"):
        Settings(http2=True)
    monkeypatch.setitem(sys.modules, "zttp", None)
    with pytest.raises(ValidationError, match=r"pip install headrace\[http2\]"):
        Settings(http2=True, **pair.settings)


async def test_it_is_not_offered_unless_it_is_wanted(dsn: str, start: Start, pair: Pair, authority: Authority) -> None:
    """Clients that can both would leave the fast lane without noticing."""
    async with (
        start(dsn=dsn, **pair.settings) as headrace,
        httpx2.AsyncClient(http2=True, verify=authority.client(), base_url=headrace.server.url) as client,
    ):
        assert (await client.get("/livez")).http_version == "HTTP/1.1"


# -------------------------------------------------------------------- requests


async def test_a_large_body_is_stored_and_returned(headrace: Running, authority: Authority, db: Connection) -> None:
    """In many frames both ways."""
    async with connect(headrace, authority) as client:
        stream = await client.post(b'{"a":"%b"}' % (b"x" * 1_000_000), [("prefer", "return=representation")])
        assert await client.status(stream) == 201
        assert client.bodies[stream].count(b"x") == 1_000_000
    assert await rows_of(db, "select length(a) from t") == [(1_000_000,)]


async def test_a_request_without_a_body_is_answered(headrace: Running, authority: Authority) -> None:
    """Its head is its end."""
    async with connect(headrace, authority) as client:
        assert await client.status(await client.ask("GET", "/\u00e4", end=True)) is None
        assert await client.status(await client.ask("POST", "/rest/v1/t", end=True)) == 400
        assert await client.status(await client.ask("GET", "/readyz", end=True)) == 200


async def test_a_body_of_another_length_than_announced_stores_nothing(
    headrace: Running, authority: Authority, db: Connection
) -> None:
    """RFC 9113 section 8.1.1: one that was cut off at the end of a line looks like a whole one."""
    async with connect(headrace, authority) as client:
        for length in ("9", "11", "0", "-10", "ten"):
            stream = await client.post(b'{"a": "x"}', [("content-length", length)])
            assert await client.status(stream) is None, length
            assert client.resets[stream] == 1, length
        assert await client.status(await client.post(b'{"a": "x"}', [("content-length", "10")])) == 201
    assert await rows_of(db, "select count(*) from t") == [(1,)]
    await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)


# -------------------------------------------------------------------- limits


async def test_heads_have_limits(headrace: Running, authority: Authority) -> None:
    """Those of HTTP/1.1, told in the same words; the connection goes on."""
    async with connect(headrace, authority) as client:
        for path, headers, status in (
            ("/" + "x" * 9000, [], 414),
            ("/livez", [("x", "y" * 20_000)], 431),
            ("/livez", [(f"x-{number}", "y") for number in range(101)], 431),
            ("/livez", [("x", "y" * 10_000)], 200),
        ):
            stream = await client.ask("GET", path, headers, end=True)
            assert await client.status(stream) == status
        assert b'"HR431"' in b"".join(client.bodies.values())


async def test_a_body_that_is_too_large_is_refused_before_its_end(
    dsn: str, start: Start, db: Connection, pair: Pair, authority: Authority
) -> None:
    """The client is told to stop; who does not is cut off, while others of the connection go on until then."""
    await db.execute("create table t (a text)")
    async with (
        start(dsn=dsn, **pair.settings, http2=True, body_bytes_max=10_000) as headrace,
        connect(headrace, authority) as client,
    ):
        stream = await client.post(b"x" * 50_000)
        assert await client.status(stream) == 413
        announced = await client.ask("POST", "/rest/v1/t", [("content-length", "10000000")])
        assert await client.status(announced) == 413
        while announced not in client.resets:
            await client.read()
        assert client.resets[announced] == 0
        assert await client.status(await client.post(b'{"a": "x"}')) == 201
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):  # frames of a request that was answered, by hand, since h2 would not send them
                client.writer.write(b"\x00\x40\x00\x00\x00" + announced.to_bytes(4, "big") + b"x" * 16384)
                await client.writer.drain()
        with contextlib.suppress(ConnectionError):
            await client.closed()


async def test_a_body_that_never_ends_is_refused(
    dsn: str, start: Start, db: Connection, pair: Pair, authority: Authority
) -> None:
    """After HEADRACE_BODY_SECONDS_MAX."""
    await db.execute("create table t (a text)")
    async with (
        start(dsn=dsn, **pair.settings, http2=True, body_seconds_max=0.3) as headrace,
        connect(headrace, authority) as client,
    ):
        stream = await client.ask("POST", "/rest/v1/t")
        await client.send(stream, b'{"a":')
        assert await client.status(stream) == 408


async def test_a_connection_without_requests_ends(dsn: str, start: Start, pair: Pair, authority: Authority) -> None:
    """However often it says PING, and if its first head never ends."""
    async with start(dsn=dsn, **pair.settings, http2=True, keep_alive_seconds=0.4, head_seconds_max=0.4) as headrace:
        async with connect(headrace, authority) as client:
            assert await client.status(await client.ask("GET", "/livez", end=True)) == 200

            async def knock() -> None:
                while not client.is_closed:
                    client.h2.ping(b"12345678")
                    await client.flush()
                    await asyncio.sleep(0.05)

            knocking = asyncio.ensure_future(knock())
            await client.closed()
            knocking.cancel()
            assert client.goaway is not None
        async with connect(headrace, authority) as client:
            client.writer.write(b"\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")  # HEADERS, but not END_HEADERS
            await client.closed()


async def test_who_does_not_read_answers_is_cut_off(
    dsn: str, start: Start, db: Connection, pair: Pair, authority: Authority
) -> None:
    """By not granting room for them; meanwhile no more of them are made."""
    await db.execute("create table t (a text)")
    body = b'{"a":"%b"}' % (b"x" * 1_500_000)
    async with (
        start(dsn=dsn, **pair.settings, http2=True, send_seconds_max=2) as headrace,
        connect(headrace, authority) as client,
    ):
        client.grants = False
        wish = [("prefer", "return=representation")]
        for _ in range(4):
            stream = await client.post(body, wish)
            while stream not in client.heads and stream not in client.resets:
                await client.read()
        assert client.resets == {stream: 7}
        with contextlib.suppress(ConnectionError):
            await client.closed()
        await headrace.eventually(lambda: len(headrace.service.connections) == 0)
    assert (await rows_of(db, "select count(*) from t")) == [(3,)]


async def test_pings_are_not_answered_for_ever(dsn: str, start: Start, pair: Pair, authority: Authority) -> None:
    """To a client that reads none of the answers: it is no longer listened to, and then cut off."""
    async with (
        start(dsn=dsn, **pair.settings, http2=True, send_seconds_max=1) as headrace,
        connect(headrace, authority) as client,
    ):
        await client.ask("POST", "/rest/v1/t")  # without one under way, 256 KiB are the end
        cast("asyncio.ReadTransport", client.writer.transport).pause_reading()
        await headrace.eventually(lambda: len(headrace.service.connections) == 1)
        [protocol] = cast("set[Http2]", headrace.service.connections._open)
        waiting = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(4000):
                client.writer.write(b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678" * 1000)
                await client.writer.drain()
                waiting = max(waiting, protocol.transport.get_write_buffer_size())
        assert 0 < waiting < 1_000_000
        await headrace.eventually(lambda: len(headrace.service.connections) == 0)


async def test_requests_that_are_taken_back_are_withdrawn_and_limited(
    headrace: Running, authority: Authority, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2023-44487: opening a request and taking it back costs the client nearly nothing."""
    caplog.set_level(logging.ERROR)
    async with connect(headrace, authority) as client:
        async with db.transaction():
            await db.execute("lock table t in exclusive mode")
            first = await client.post(b'{"a": "first"}')
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
            second = await client.post(b'{"a": "second"}')
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 2)
            client.h2.reset_stream(second)
            await client.flush()
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
        assert await client.status(first) == 201
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.h2.reset_stream(await client.ask("POST", "/rest/v1/t"))
            await client.closed()
    assert await rows_of(db, "select a from t") == [("first",)]
    assert caplog.records == []


async def test_connections_are_counted(dsn: str, start: Start, pair: Pair, authority: Authority) -> None:
    """Together with those of HTTP/1.1."""
    async with (
        start(dsn=dsn, **pair.settings, http2=True, connections_max=1) as headrace,
        connect(headrace, authority) as first,
        connect(headrace, authority) as second,
    ):
        await second.closed()
        assert second.goaway == 0
        assert await first.status(await first.ask("GET", "/livez", end=True)) == 200


# -------------------------------------------------------------------- the end


async def test_a_service_that_stops_answers_what_was_begun(
    dsn: str, start: Start, db: Connection, pair: Pair, authority: Authority
) -> None:
    """And tells the client which requests it has not begun."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, **pair.settings, http2=True) as headrace, connect(headrace, authority) as client:
        async with db.transaction():
            await db.execute("lock table t in exclusive mode")
            stream = await client.post(b'{"a": "x"}')
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
            headrace.server.should_exit = True
            while headrace.server.started and not headrace.service.batcher.closed:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            late = await client.post(b'{"a": "y"}')
            assert await client.status(late) is None
            assert client.resets[late] == 7
        assert await client.status(stream) == 201
        await client.closed()
        assert client.goaway is not None
    assert await rows_of(db, "select a from t") == [("x",)]


async def test_it_is_in_the_access_log(
    dsn: str, start: Start, pair: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """With its version."""
    caplog.set_level(logging.INFO, "headrace.access")
    async with (
        start(dsn=dsn, **pair.settings, http2=True, access_log=True) as headrace,
        connect(headrace, authority) as client,
    ):
        assert await client.status(await client.ask("GET", "/livez", end=True)) == 200
        [record] = [record for record in caplog.records if record.name == "headrace.access"]
        assert (record.getMessage(), vars(record)["http_version"]) == ("GET /livez 200", "2")
