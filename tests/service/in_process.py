"""Connections without sockets: the real protocol on a transport that a test can look into, and a sink for a database.

What arrives is cut wherever a test wants, and nothing waits for a kernel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from batching import Batch, Batcher, Outcome, Retry
from service.app import create_app
from service.auth.credentials import Credentials
from service.auth.gate import Gate
from service.auth.producers import Producers
from service.dialect.keys import Keys
from service.http.connections import Connections
from service.http.heads import Heads
from service.http.protocol import Protocol
from service.http.wire import Wire
from service.ingest import Ingest
from service.lifespan import STATE, Service
from service.observing.access import AccessLog
from service.observing.counting import Counts
from service.observing.live import Live
from service.observing.slow import SlowLog
from service.observing.snapshots import Snapshots
from service.observing.workers import Workers
from service.posting import Posting
from service.postings import Postings
from service.settings import Settings
from sql import Catalog, CatalogWatch, Extra, Stored, Written
from tests.harness import Reply, replies_in, unbalanced
from tests.service.fake_proof import FakeProof
from tests.sql.tables import column, table


def post(body: bytes, *headers: bytes, line: bytes = b"POST /rest/v1/t HTTP/1.1", host: bytes = b"Host: h") -> bytes:
    """A request with a body of fixed length, by default to the one table there is."""
    return b"\r\n".join([line, host, b"Content-Length: %d" % len(body), *headers, b"", body])


def chunked(*chunks: bytes, line: bytes = b"POST /rest/v1/t HTTP/1.1", trailers: bytes = b"") -> bytes:
    """A request with a chunked body."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"%b\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (line, framed, trailers)


ROW = post(b'{"a":"x"}')
"""A request that stores one row, which `Sink` keeps as "x"."""

GET = b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n"
"""A request for FastAPI."""

NOWHERE = post(b"{}", line=b"POST /nowhere HTTP/1.1")
"""A request with a body that nobody reads."""

_TURNS_MAX = 3000
"""Turns of the event loop after which an answer that is not there never comes; the longest way takes about 60."""


class Sink:
    """Keeps what is written; returns the rows it was given as the stored ones. While `gate` is shut, writes wait."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        """There is nothing to open."""

    def may_share(self, _lane: Hashable, /) -> bool:
        """It makes no difference here."""
        return True

    def serial(self, _lane: Hashable, /) -> None:
        """It stores one batch at a time anyway."""

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome]]:
        await self.gate.wait()
        return [self._store(batch) for batch in batches]

    def _store(self, batch: Batch) -> Sequence[Outcome]:
        texts = [_text_of(submission.payload) for submission in batch.submissions]
        self.rows += [row for text in texts for row in text.splitlines()]
        extras = [cast("Posting", submission).extra for submission in batch.submissions]
        return [_outcome(text, extra) for text, extra in zip(texts, extras, strict=True)]

    async def close(self) -> None:
        """There is nothing to close."""


def _outcome(text: str, extra: Extra | None) -> Outcome:
    written = Written([text], 1, 1)
    if extra is None:
        return written
    return Stored(written, () if extra.salvage is None else extra.salvage.bad)


def _text_of(payload: object) -> str:
    return payload.decode() if isinstance(payload, bytes) else b"".join(cast("Sequence[bytes]", payload)).decode()


class _Watch:
    """A catalog that never changes by itself. `misses` counts how often a newer one was asked for."""

    problem = None
    is_connected = True

    def __init__(self) -> None:
        self.misses = 0

    async def after_miss(self) -> None:
        """There is no newer one."""
        self.misses += 1


class FakeTransport(asyncio.Transport):
    """Keeps what is written. As with uvloop, writing after the end is an error, and `close` is noticed a turn later."""

    def __init__(self, protocol: Protocol, address: str, peer: str) -> None:
        super().__init__({"peername": (peer, 40000), "sockname": (address, 8000)})
        self.protocol = protocol
        self.written = bytearray()
        self.ended = False
        self.closed = False
        self.aborted = False
        self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.ended:
            raise RuntimeError("write after the end")
        if not self.closed:
            self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Client:
    """The other end of one connection."""

    def __init__(self, server: InProcess, address: str, peer: str) -> None:
        self.protocol = Protocol(server.config, server.state, {STATE: server.service})
        self.transport = FakeTransport(self.protocol, address, peer)
        self.protocol.connection_made(self.transport)

    @property
    def was_told_to_continue(self) -> bool:
        """Whether there was an interim response."""
        return bytes(self.transport.written).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")

    def is_over(self) -> bool:
        """Whether no more answers can come."""
        return self.transport.closed or self.transport.ended

    @property
    def replies(self) -> list[Reply]:
        """What was answered so far, without interim responses."""
        found, rest = replies_in(bytes(self.transport.written))
        assert not rest, rest
        return [reply for reply in found if not reply.is_interim]

    async def send(self, *pieces: bytes) -> None:
        """Deliver the pieces one by one, each when the server reads; nothing more after its end."""
        for piece in pieces:
            for _ in range(_TURNS_MAX):
                if not self.transport.paused or self.transport.closed:
                    break
                await asyncio.sleep(0)
            else:
                raise AssertionError(f"the server never reads again; it has sent {bytes(self.transport.written)!r}")
            if self.transport.closed:
                return
            self.protocol.data_received(piece)

    async def answered(self, number: int) -> list[Reply]:
        """The first `number` answers, or fewer if the connection ends before."""
        size = -1
        for _ in range(_TURNS_MAX):
            if self.is_over():
                return self.replies
            if size != len(self.transport.written):
                size = len(self.transport.written)
                if len(self.replies) >= number:
                    return self.replies
            await asyncio.sleep(0)
        raise AssertionError(f"{number} answers were awaited, these have come: {bytes(self.transport.written)!r}")

    async def hang_up(self) -> None:
        """Close from this end, as a client does that has read everything."""
        self.transport.close()
        await asyncio.sleep(0)

    async def quiet(self) -> list[Reply]:
        """All that is answered until nothing happens any more."""
        size = -1
        while size != len(self.transport.written):
            size = len(self.transport.written)
            for _ in range(100):
                await asyncio.sleep(0)
        return self.replies


class InProcess:
    """A service with the table `t` of text columns `a` and `b`, in which all is real but database and sockets."""

    def __init__(self, service: Service, sink: Sink, watch: _Watch, **config: Any) -> None:
        self.service = service
        self.sink = sink
        self.watch = watch
        app = _app(service.settings)
        config = {"timeout_keep_alive": service.settings.keep_alive_seconds, "server_header": False} | config
        self.config = uvicorn.Config(app, http=Protocol, ws="none", lifespan="off", log_config=None, **config)
        self.config.load()
        self.state = ServerState()

    def connect(self, address: str = "127.0.0.1", peer: str = "127.0.0.1") -> Client:
        """A new connection to this address of ours, from that of a peer."""
        return Client(self, address, peer)


def catalog(*columns: str) -> Catalog:
    """A catalog with the table `t` of these text columns."""
    return Catalog(("public",), {("public", "t"): table(*map(column, columns))})


@cache
def _app(settings: Settings) -> FastAPI:
    """Making an app takes longer than most tests."""
    return create_app(settings)


@asynccontextmanager
async def in_process(
    *, config: dict[str, Any] | None = None, proof: FakeProof | None = None, **settings: Any
) -> AsyncIterator[InProcess]:
    """Such a service with these settings; `config` is uvicorn's, `proof` knows who may write. What is logged as an
    error fails the test.
    """
    chosen = Settings(dsn="postgresql://nowhere/", **settings)
    sink, counts, proof = Sink(), Counts(), proof or FakeProof()
    ingest = Ingest(
        chosen.schemas,
        seconds_max=chosen.request_seconds_max,
        bytes_max=chosen.pending_bytes_max,
        quarantines=not chosen.at_least_once,
        counts=counts,
    )
    ingest.publish(catalog("a", "b"))
    batcher = Batcher([sink], chosen.limits, Retry(on=OSError), observe=counts.flushed)
    fake_watch = _Watch()
    watch = cast("CatalogWatch", fake_watch)
    keys = None if chosen.at_least_once else Keys()
    slow = SlowLog(chosen.slow_request_seconds, chosen.slow_flush_seconds)
    gate = Gate(proof, Producers(chosen.limits), chosen.anonymous_writes, chosen.schemas[0])
    postings = Postings(ingest, batcher, watch, counts, chosen.body_limits, gate=gate, keys=keys, slow=slow)
    connections = Connections(chosen.connection_limits)
    snapshots = Snapshots(chosen, counts, batcher, postings, connections, watch, Workers(None))
    service = Service(
        chosen,
        chosen.dsn or "",
        ingest,
        batcher,
        watch,
        cast("Credentials", proof),
        counts,
        snapshots,
        Live(snapshots),
        postings,
        connections,
        Heads(chosen.prefix, chosen.connection_limits),
        Wire(),
        AccessLog(chosen.access_log_share) if chosen.access_log else None,
    )
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        async with batcher.running(drain_seconds=1):
            server = InProcess(service, sink, fake_watch, **(config or {}))
            yield server
            assert postings._held == 0, "memory of bodies that nobody gives back"
            assert unbalanced(service) == (0, 0), "a request that has no outcome, or two"
    finally:
        logging.getLogger().removeHandler(errors)
    assert not errors.lines, errors.lines


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
