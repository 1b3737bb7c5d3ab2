"""A small HTTP client for what the drivers cannot do: requests with their own bodies, time-outs and answers.

Requests are finished bytes, so that the client takes little of the machine that it shares with the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httptools

HOST = "127.0.0.1"
_SLACK_SECONDS = 60
"""An open loop that takes longer than this beyond its time is stuck."""


@dataclass(slots=True)
class Answer:
    """A response; header names are in lower case."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def post(path: str, body: bytes, content_type: str) -> bytes:
    """The bytes of a request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    """The bytes of a request."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


class _Connection(asyncio.Protocol):
    """One request at a time. The methods after `send` are called by the transport and the parser."""

    def __init__(self) -> None:
        self.usable = False
        self._answer = Answer()
        self._waiter: asyncio.Future[Answer] | None = None

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        self._answer = Answer()
        self._waiter = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return self._waiter

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.usable = True

    def connection_lost(self, _error: Exception | None) -> None:
        self.usable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("the connection was closed before the answer"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self.usable = self._parser.should_keep_alive()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._answer)


class Client:
    """Up to so many connections to one port; opened when they are needed, kept, and dropped when a request fails."""

    def __init__(self, port: int, connections_max: int) -> None:
        self._port = port
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[_Connection] = []

    async def send(self, request: bytes, timeout_seconds: float) -> tuple[Answer, float]:
        """The answer, and the seconds since the request was written. Raises TimeoutError and OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_seconds), self._free:
            connection = await self._connection()
            try:
                started = loop.time()
                answer = await connection.send(request)
                seconds = loop.time() - started
            except BaseException:
                connection.close()
                raise
        if connection.usable:
            self._idle.append(connection)
        return answer, seconds

    def close(self) -> None:
        """Drop all connections that are idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        return (await asyncio.get_running_loop().create_connection(_Connection, HOST, self._port))[1]


async def open_loop(per_second: float, seconds: float, send: Callable[[int, float], Awaitable[None]]) -> None:
    """Start `send(number, due)` for each request when it is due, whether the ones before have ended or not.

    `due` is a time of the loop's clock. Returns when all have ended.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()

    async def one(number: int, due: float) -> None:
        await send(number, due)

    async with asyncio.timeout(seconds + _SLACK_SECONDS), asyncio.TaskGroup() as requests:
        for number in range(round(per_second * seconds)):
            due = start + number / per_second
            await asyncio.sleep(max(0.0, due - loop.time()))
            requests.create_task(one(number, due))


async def closed_loop(connections: int, seconds: float, send: Callable[[], Awaitable[None]]) -> None:
    """Keep so many requests in flight for that time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def one() -> None:
        while loop.time() < end:
            await send()

    async with asyncio.timeout(seconds + _SLACK_SECONDS), asyncio.TaskGroup() as requests:
        for _ in range(connections):
            requests.create_task(one())
