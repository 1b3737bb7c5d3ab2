"""A service in the test's event loop, and what a test needs to talk to it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import msgspec

from service.lifespan import Service
from service.observing import metrics
from service.observing.numbers import OUTCOMES
from service.server import Server
from service.settings import Settings

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = object


class Running:
    """A service that listens, and a client for it."""

    def __init__(self, service: Service, server: Server, client: httpx2.AsyncClient) -> None:
        self.service = service
        self.server = server
        self.client = client

    async def post(self, table: str, body: object, **headers: str) -> httpx2.Response:
        """POST rows: bytes as they are (JSON unless the headers say otherwise), anything else as JSON.

        `prefer="…"` and the like become headers.
        """
        names = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        if isinstance(body, bytes):
            return await self.client.post(f"/rest/v1/{table}", content=body, headers=names)
        return await self.client.post(f"/rest/v1/{table}", json=body, headers=names)

    async def lines(self, table: str, body: bytes, **headers: str) -> httpx2.Response:
        """POST NDJSON."""
        return await self.post(table, body, content_type="application/x-ndjson", **headers)

    @asynccontextmanager
    async def connect(self, receive_bytes: int | None = None) -> AsyncIterator[RawConnection]:
        """A connection for bytes as they are; with a small receive buffer if a size is given."""
        host, port = self.server.servers[0].sockets[0].getsockname()[:2]
        end = socket.socket()
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(end, (host, port))
        reader, writer = await asyncio.open_connection(sock=end)
        try:
            yield RawConnection(reader, writer)
        finally:
            writer.close()

    async def exchange(self, *pieces: bytes) -> list[Reply]:
        """What a connection of its own answers to these bytes, until it is closed from there."""
        async with self.connect() as connection:
            await connection.send(*pieces)
            return await connection.all()

    @asynccontextmanager
    async def gathering(self, db: Connection, table: str, requests: int) -> AsyncIterator[None]:
        """Requests that are sent inside share batches: the table is locked until so many of them are pending."""
        async with db.transaction():
            await db.execute(f"lock table {table} in exclusive mode")
            yield
            await self.eventually(lambda: self.service.batcher.statistics().pending_submissions >= requests)

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; the test's time limit ends the wait."""
        while not condition():  # noqa: ASYNC110 - a condition of any kind has no event to wait for
            await asyncio.sleep(0.005)


def unbalanced(service: Service) -> tuple[int, int]:
    """Requests and rows that were received, have no outcome, and are not pending: somebody has lost them."""
    numbers = service.snapshots.own()
    return numbers.unbalanced_requests, numbers.unbalanced_rows


def requests_by_outcome(service: Service) -> dict[str, int]:
    """What became of the requests so far."""
    return dict(zip(OUTCOMES, service.counts.numbers.totals().requests, strict=True))


def rows_by_outcome(service: Service) -> dict[str, int]:
    """The same of their rows."""
    return dict(zip(OUTCOMES, service.counts.numbers.totals().rows, strict=True))


def metrics_text(service: Service) -> str:
    """What a scrape would get."""
    return metrics.text(service.snapshots.all(), service.live.vitals).decode()


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came, its date left out, which is the clock's."""

    status_line: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def status(self) -> int:
        """The number."""
        return int(self.status_line.split()[1])

    @property
    def is_interim(self) -> bool:
        """Whether the real answer is still to come."""
        return self.status < 200

    @property
    def closes(self) -> bool:
        """Whether it says that it is the last of its connection."""
        return (b"connection", b"close") in self.headers

    @property
    def code(self) -> str:
        """The code of the problem; everything that is no success must have one."""
        problem = msgspec.json.decode(self.body)
        assert list(problem) == ["code", "message", "details", "hint"], self
        code: str = problem["code"]
        return code


def replies_in(data: bytes) -> tuple[list[Reply], bytes]:
    """The complete answers at the beginning of `data`, and what is left."""
    replies = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status_line, *lines = head.split(b"\r\n")
        assert status_line.startswith(b"HTTP/1.1 "), data
        headers = tuple((name, value) for name, _, value in (line.partition(b": ") for line in lines))
        sizes = [int(value) for name, value in headers if name == b"content-length"]
        assert len(sizes) == (status_line[9:10] != b"1"), data
        size = sum(sizes)
        if len(rest) < size:
            break
        without_date = tuple(header for header in headers if header[0] != b"date")
        replies.append(Reply(status_line, without_date, rest[:size]))
        data = rest[size:]
    return replies, data


class RawConnection:
    """Sends bytes as they are, and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._received = b""

    async def send(self, *pieces: bytes) -> None:
        """Send the pieces, each in a packet of its own where the kernels like it."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    def half_close(self) -> None:
        """Send nothing more, but read on."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Be gone from one moment to the next."""
        self.writer.transport.abort()

    async def next(self) -> Reply:
        """The next answer, interim or not."""
        while True:
            replies, _ = replies_in(self._received)
            if replies:
                reply = replies[0]
                _, _, rest = self._received.partition(b"\r\n\r\n")
                self._received = rest[len(reply.body) :]
                return reply
            data = await self.reader.read(1 << 20)
            assert data, f"closed after {self._received!r}"
            self._received += data

    async def all(self) -> list[Reply]:
        """Everything that is answered until the server closes the connection in good order."""
        self._received += await self.reader.read()
        replies, rest = replies_in(self._received)
        assert not rest, rest
        return replies

    async def closed(self) -> None:
        """Wait until the server closes the connection, with nothing more to say."""
        assert await self.all() == []


_MEMORY = Path("/dev/shm")
_MEMORY_BYTES_MIN = 2 << 30

_numbers = itertools.count(1)


@contextmanager
def database_folder() -> Iterator[Path]:
    """A folder for a PostgreSQL that is gone with the test: in memory if there is room, or else on the disk.

    A new database is 300 files, which is 0.01 s of work in memory and up to 0.3 s in a file system that writes them.
    It is not one of pytest's own: pytest closes the folders above to other users when it starts, and PostgreSQL is one
    if we are root.
    """
    in_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES_MIN
    with tempfile.TemporaryDirectory(prefix="headrace-tests-", dir=_MEMORY if in_memory else None) as folder:
        yield Path(folder)


@asynccontextmanager
async def empty_database(postgres_dsn: str) -> AsyncIterator[str]:
    """A database of its own in that PostgreSQL, as long as it is needed."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(postgres_dsn)
    await admin.execute(f'create database "{name}" strategy file_copy')  # half the work of `wal_log`
    yield postgres_dsn.replace("/postgres?", f"/{name}?", 1)
    await admin.execute(f'drop database "{name}" with (force)')
    await admin.close()


@asynccontextmanager
async def run_service(**settings: Any) -> AsyncIterator[Running]:
    """A service with these settings on a free port, stopped as SIGTERM stops it.

    Unless a test says so, nothing is slow: how long things take is a matter of what else the machine does.
    """
    settings = {"slow_request_seconds": 60, "slow_flush_seconds": 60} | settings
    listening: asyncio.Future[tuple[Service, str]] = asyncio.get_running_loop().create_future()
    server = Server(Settings(port=0, **settings), lambda service, url: listening.set_result((service, url)))
    serving = asyncio.create_task(server.serve())
    ends: list[asyncio.Future[Any]] = [serving, listening]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    service, url = await listening
    limits = httpx2.Limits(max_connections=None)
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits, verify=False) as client:
            yield Running(service, server, client)
    finally:
        server.should_exit = True
        await serving


async def rows_of(db: Connection, query: str) -> list[tuple[Any, ...]]:
    """What a query gives, as plain tuples."""
    return [tuple(record) for record in await db.fetch(query)]


Start = Callable[..., AbstractAsyncContextManager[Running]]
"""`run_service`, as a fixture that tests take."""
