"""HTTP/2: uvicorn's protocol for it, within our limits, and which connections speak it.

Imported only where it is wanted, since its parser is. All requests go to FastAPI: the fast lane is HTTP/1.1. Owns the
limits that uvicorn and the parser have not. Must not know what a request is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import zttp
from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol

from service.bodies.body import SWALLOWED_BYTES_MAX
from service.http.connections import Room
from service.http.protocol import Protocol
from service.http.tls import HTTP2
from service.lifespan import STATE, Service
from service.problems import Problem, Refused

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

_PROTOCOL_ERROR, _NO_ERROR, _REFUSED_STREAM = 0x1, 0x0, 0x7
"""Codes of RFC 9113 section 7. A request that is taken back with the last one was not begun, and may be sent again."""

_UNSENT_BYTES_MAX = 4 * 1024 * 1024
"""Of answers that the client has not made room for. One that wants to see none of them would have us keep any number;
so no request is begun beyond that."""


class Http2(ZttpH2Protocol):
    """One connection, with up to 128 requests at once, each a task. (The parser sees to that number, that bodies are as
    long as announced, that a head has an end, and that a client does not take back one request after the other.)
    """

    is_waiting = False
    """A stop need not wait for requests that may come: a client is told which of them were not begun."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        service: Service = app_state[STATE]
        self._service = service
        self._connections = service.connections
        self.access_log = False  # uvicorn's
        self._idle_seconds = 0.0  # with no request, whatever else is sent
        self._blocked_seconds = 0.0  # since the client has last read anything
        self._served = False
        self._swallowed = 0  # bytes since the last request, while none is under way
        self._unsent: dict[int, zttp.Stream] = {}  # streams of answers that wait for room
        self._unsent_bytes = 0  # at the last tick

    # ---------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it
        if self._connections.add(self, None if self.server is None else self.server[1]) is not Room.FREE:
            self._close_connection()
        elif self._connections.is_stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Frames, cut anywhere."""
        if self.transport.is_closing():
            return
        was_idle = not self.cycles
        super().data_received(data)
        if was_idle and not self.cycles:
            self._swallowed += len(data)
            if self._swallowed > SWALLOWED_BYTES_MAX:
                self._close_connection()

    def pause_writing(self) -> None:
        """The client does not read. What it sends would have to be answered, be it a PING."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self.resume_reading_if_idle()

    def resume_reading_if_idle(self) -> None:
        """As uvicorn's, unless the client does not read either."""
        if not self.flow.write_paused:
            super().resume_reading_if_idle()

    # ---------------------------------------------------------------- called by the server

    def tick(self, seconds: float) -> None:
        """So many seconds have passed since the last tick: end what takes too long."""
        limits = self._connections.limits
        before, self._unsent_bytes = self._unsent_bytes, self._still_unsent()
        is_stuck = self.flow.write_paused or (0 < before <= self._unsent_bytes)
        self._blocked_seconds = self._blocked_seconds + seconds if is_stuck else 0.0
        # A head that does not end is no request either.
        self._idle_seconds = 0.0 if self.cycles or is_stuck else self._idle_seconds + seconds
        if self.transport.is_closing() or self._blocked_seconds >= limits.send_seconds_max:
            self.transport.abort()
        elif self._idle_seconds >= (limits.keep_alive_seconds if self._served else limits.head_seconds_max):
            self._close_connection()

    # ---------------------------------------------------------------- from frames to requests

    def handle_request(self, event: zttp.Request) -> None:
        """A head is complete."""
        self._served = True
        self._swallowed = 0
        stream_id = event.stream_id
        if self.shutdown_requested or self._still_unsent() > _UNSENT_BYTES_MAX:
            self._take_back(stream_id, _REFUSED_STREAM)
            return
        if not event.target.isascii():  # uvicorn would trip over it
            self._take_back(stream_id, _PROTOCOL_ERROR)
            return
        app = self.app
        problem = self._problem_of(event)
        if problem is not None:
            self._service.counts.refused(problem.status, problem.fault.code)
            self.app = _answering(problem)
        try:
            super().handle_request(event)
        finally:
            self.app = app
        if event.end_stream:
            self.cycles[stream_id].more_body = False
            self.cycles[stream_id].message_event.set()

    def _problem_of(self, event: zttp.Request) -> Problem | None:
        """What is too much about a head."""
        headers = list(event.headers)
        size = len(event.method) + len(event.target) + sum(len(name) + len(value) + 4 for name, value in headers)
        try:
            self._service.heads.check_size(size, event.target, len(headers))
        except Refused as refused:
            return refused.problem
        return None

    # ---------------------------------------------------------------- answers

    def on_response_complete(self, stream_id: int) -> None:
        """A request is answered, if not before its end; the rest of its body is of no use then."""
        cycle = self.cycles.get(stream_id)
        if cycle is not None and not self.transport.is_closing():
            if cycle.stream.pending_bytes:
                self._unsent[stream_id] = cycle.stream
            elif cycle.more_body and not cycle.disconnected:
                cycle.stream.reset(_NO_ERROR)
                self.flush()
        super().on_response_complete(stream_id)

    def _take_back(self, stream_id: int, code: int) -> None:
        """Do not begin a request."""
        self.conn.stream(stream_id).reset(code)

    def _still_unsent(self) -> int:
        """Bytes of answers that wait for room."""
        total = 0
        for stream_id, stream in tuple(self._unsent.items()):
            if stream.pending_bytes:
                total += stream.pending_bytes
            else:
                del self._unsent[stream_id]
        return total


def _answering(problem: Problem) -> ASGI3Application:
    """An app that answers with a problem."""
    answer = problem.answer
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", b"%d" % len(answer.body)))

    async def app(_scope: object, _receive: object, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    return cast("ASGI3Application", app)


class ByChoice(asyncio.Protocol):
    """A connection over TLS, which becomes the protocol that the client has chosen with it (ALPN)."""

    def __init__(self, **parts: Any) -> None:
        self._parts = parts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected, and TLS is agreed on."""
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol: asyncio.Protocol = Http2(**self._parts) if chosen == HTTP2 else Protocol(**self._parts)
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)
