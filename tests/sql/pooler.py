"""A small pooler, as PgBouncer is one: it speaks to clients in PostgreSQL's place, and lends them backends.

Knows just as much of the protocol as that takes. Loopback, no TLS, no passwords.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_SSL = 80877103
_HOST = "127.0.0.1"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


class Backend:
    """A connection to the server, and what the server has said when it began."""

    def __init__(self, reader: Reader, writer: Writer, greeting: bytes) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = greeting
        self.lent = asyncio.Lock()


class Pooler:
    """Clients have numbers of its own. There are so many `backends`, lent in turn, each for a transaction. None: each
    client has one to itself. After so many transactions it stops answering.
    """

    def __init__(self, socket_path: str, *, backends: int | None, transactions_max: float = math.inf) -> None:
        self._socket_path = socket_path
        self._backends_max = backends
        self._transactions_left = transactions_max
        self._backends: list[Backend] = []
        self._writers: list[Writer] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen on a free port, whose number this is."""
        tasks: set[asyncio.Task[None]] = set()

        def serve(reader: Reader, writer: Writer) -> None:
            self._writers.append(writer)
            tasks.add(asyncio.ensure_future(self._serve(reader, writer)))

        server = await asyncio.start_server(serve, _HOST, 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        await self._thaw()  # whoever wants to cancel a query is not heard either
        startup = await _startup(reader)
        if int.from_bytes(startup[4:8], "big") == _SSL:
            writer.write(b"N")
            startup = await _startup(reader)
        backend = await self._backend(startup)
        writer.write(backend.greeting)
        try:
            while True:
                first = await _message(reader)
                self._transactions_left -= 1
                await self._thaw()
                if self._backends_max is not None:
                    backend = await self._backend(startup)
                async with backend.lent:
                    await self._transaction(first, reader, writer, backend)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _thaw(self) -> None:
        if self._transactions_left < 0:
            await asyncio.Event().wait()

    async def _backend(self, startup: bytes) -> Backend:
        """The one whose turn it is, or a new one while there may be more."""
        if len(self._backends) == self._backends_max:
            self._backends.append(self._backends.pop(0))
            return self._backends[-1]
        reader, writer = await asyncio.open_unix_connection(self._socket_path)
        self._writers.append(writer)
        writer.write(startup)
        greeting = b""
        while not greeting.endswith(b"Z\0\0\0\5I"):
            message = await _message(reader)
            # BackendKeyData: the number of the backend and its secret, for cancelling. Poolers make up their own.
            greeting += message if message[:1] != b"K" else b"K\0\0\0\x0c" + b"\x11\x22\x33\x44" + b"\0\0\0\0"
        self._backends.append(Backend(reader, writer, greeting))
        return self._backends[-1]

    async def _transaction(self, first: bytes, reader: Reader, writer: Writer, backend: Backend) -> None:
        """From the first message of a client to the end of its transaction."""
        if first[:1] == b"X":
            raise ConnectionError
        backend.writer.write(first)
        onward = asyncio.ensure_future(_forward(reader, backend.writer.write))
        try:
            while (message := await _message(backend.reader))[:1] != b"Z" or message[5:] != b"I":
                writer.write(message)
        finally:
            onward.cancel()
            await asyncio.gather(onward, return_exceptions=True)
        writer.write(message)


async def _forward(reader: Reader, send: Callable[[bytes], object]) -> None:
    while True:
        send(await _message(reader))


async def _startup(reader: Reader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(int.from_bytes(size, "big") - 4)


async def _message(reader: Reader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
