"""The fast lane: uvicorn's HTTP protocol, which hands requests to store rows straight to their postings.

Owns one connection: where a request ends, whose turn it is, when it closes. Everything that is not `POST
{prefix}/{table}` goes to uvicorn's own class and so to FastAPI. Must not know what is in a body or an answer.
"""

from __future__ import annotations

import asyncio
import select
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.auth.caller import is_loopback
from service.bodies.body import SWALLOWED_BYTES_MAX
from service.dialect.annotation import named
from service.dialect.marks import marks_of
from service.http.connections import Room
from service.http.cors import cross_origin, has_origin
from service.http.cycle import CycleFlow, CycleTransport
from service.http.framing import BLANK_LINE, PIECE_BYTES_MAX, Framing
from service.http.heads import Known
from service.http.wire import CONTINUE
from service.lifespan import STATE, Service
from service.observing.access import LEFT, REFUSED, ConnectionLog
from service.posting import Posting
from service.problems import Answer, Problem, Refused, crowded, head_late

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.protocols.http.flow_control import FlowControl
    from uvicorn.server import ServerState

    from service.http.heads import Head

_LINGER_SECONDS = 2.0
"""After an answer that came early: closing while the client still sends would make its kernel drop the answer."""


_LINGER_SECONDS_AT_THE_END = 0.5
"""The same while the server stops, which should not take long."""

_APART_REQUESTS = 100
"""After a bad row, so many requests of a connection are written apart from everybody else's: who sends one bad row
often sends more, and each costs two writes. Beside 16 connections that send nothing else, 64 good ones keep 56 to 79 %
of their throughput that way, and 12 to 40 % without."""

_GRACE_SECONDS = 1.0
"""What knows more about a request has so much longer to end it in a better way."""

_QUIET_SECONDS = 0.5
"""When the service stops, a connection that has been idle for so long is closed. Who asks again and again does so
sooner, and is told with the answer that it was the last; all others are no more likely to ask just then than at any
other time."""

_TAKES_MAX = 256
"""Pieces of what has been received that are looked at in one turn of the event loop: requests in a packet that can be
refused at once, blank lines in a chunked body. More would take up to 0.2 s, in which nobody else is answered."""

_ALIVE = "/livez"
"""Is answered however many connections there are: who is told by it to start the service anew would make it worse."""

_NONE: dict[bytes, Known] = {}


class _At(Enum):
    """Where in a request the connection is."""

    HEAD = auto()  # before or in a head
    BODY = auto()  # in a body
    ANSWER = auto()  # the request is complete; its answer is awaited
    END = auto()  # answered for the last time; what still arrives is ignored


# An attribute of an Enum costs 0.1 µs in Python 3.11, several times a request.
_HEAD, _BODY, _ANSWER, _END = _At.HEAD, _At.BODY, _At.ANSWER, _At.END


class Protocol(HttpToolsProtocol):
    """One connection. One request at a time: what a client sends before it has its answer waits."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        service: Service = app_state[STATE]
        self._postings = service.postings
        self._ingest = service.ingest
        self._connections = service.connections
        self._counts = service.counts
        self._heads = service.heads
        self._framing = Framing(service.heads)
        self._known = _NONE
        self._wire = service.wire
        self._access = service.access
        self._lines: ConnectionLog | None = None
        self.access_log = False  # uvicorn's
        self._is_surplus = False  # whether there are too many connections already
        self._is_fast = service.settings.fast_lane
        self._body_seconds_max = service.settings.body_seconds_max
        self._at = _HEAD
        self._seconds = 0.0  # since it is there
        self._blocked_seconds = 0.0  # since the client has stopped reading
        self._served = False  # whether a request was answered already
        self._last = False  # whether the connection ends with the next answer
        self._heard_all = False  # whether the client has closed its side
        self._rest = b""  # what has been received but not looked at
        self._consuming = False
        self._yields = False  # whether others have their turn before it goes on with `_rest`
        # The request that is being received or answered.
        self._head: Head | None = None
        self._posting: Posting | None = None
        self._handed_over = False  # whether it is uvicorn's
        self._answered_early = False
        self._swallowed = 0
        self._spoilt = 0  # how many more requests are kept apart, because of a bad row

    # ---------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)  # type: ignore[arg-type] # uvicorn narrows it
        if self._access is not None:
            self._lines = ConnectionLog(self._access, self._postings.clock, self.app, self.root_path, self.client)
        host, port = self.server or (None, None)
        self._framing.is_local = is_local = is_loopback(None if port is None else host)
        match self._connections.add(self, port):
            case Room.FREE if not self.limit_concurrency:
                self._known = self._heads.known(is_local=is_local)
            case Room.FULL:
                self._is_surplus = self._last = True
            case Room.NONE:
                self.transport.abort()
        if self._connections.is_stopping:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._connections.discard(self)
        self._at = _END
        self._abandon()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's returns nothing, which means False
        """The client sends nothing more. If it waits for an answer it shall have it, where the transport can."""
        if self.scheme == "https" or not (self._at is _ANSWER or self._rest):
            return False
        self._heard_all = True
        return True

    def data_received(self, data: bytes) -> None:
        """Bytes, cut anywhere."""
        if self._at is _HEAD and not self._framing.source and not self.flow.write_paused:
            # The usual case: a whole request, with a head that has been seen before. Without a task, an ASGI scope and
            # a parser a request costs a tenth of what it does in FastAPI's lane (scenario "one row").
            end = data.find(BLANK_LINE) + 4
            known = self._known.get(data[:end])
            if known is not None and known.body_size == len(data) - end and known.version == self._ingest.version:
                self._at = _ANSWER
                self._head = known.head
                if known.is_plain:
                    posting = Posting(self._postings, known.request, self.respond, known.plan)
                    posting.account = known.account
                else:
                    posting = self._postings.open_again(known.request, self.respond, known.plan, known.account)
                self._posting = posting
                posting.apart = self._spoilt > 0
                posting.whole(data[end:])
                return
        if self._at is not _END:
            self._rest = self._rest + data if self._rest else data
            self._consume()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._consume()

    # ---------------------------------------------------------------- called by the server

    def shutdown(self) -> None:
        """Finish what was begun, and take one request more where one may be on its way. `tick` ends the others."""
        self._last = True
        if self._answered_early:
            self._close(linger=True)
        elif self._handed_over:
            self.cycle.keep_alive = False

    @property
    def is_waiting(self) -> bool:
        """Whether a request may come, or the rest of one that has just begun."""
        return self._at is _HEAD or (self._at is _BODY and self._seconds < _QUIET_SECONDS)

    def tick(self, seconds: float) -> None:
        """So many seconds have passed since the last tick: end what takes too long."""
        limits = self._connections.limits
        self._seconds += seconds
        if self.flow.write_paused:
            self._blocked_seconds += seconds
            self._seconds = 0.0  # an answer that is read slowly is cut off by no other limit
            if self._blocked_seconds >= limits.send_seconds_max:
                self.transport.abort()
            return
        self._blocked_seconds = 0.0
        match self._at:
            case _At.HEAD if self._last and self._seconds >= _QUIET_SECONDS:
                self._hang_up()
            case _At.HEAD if self._framing.has_begun:  # before it there may be empty lines (RFC 9112 section 2.2)
                if self._seconds >= limits.head_seconds_max:
                    self._refuse(head_late(limits.head_seconds_max))
            case _At.HEAD:
                if self._seconds >= (self.timeout_keep_alive if self._served else limits.head_seconds_max):
                    self._hang_up()
            case _At.BODY if self._posting is None and self._seconds >= self._body_seconds_max + _GRACE_SECONDS:
                self.transport.abort()  # a body that nobody waits for; a posting in FastAPI's lane has answered by now
            case _At.END if self._seconds >= (_LINGER_SECONDS_AT_THE_END if self._last else _LINGER_SECONDS):
                self.transport.abort()

    # ---------------------------------------------------------------- from bytes to requests

    def _consume(self) -> None:
        """Take requests from what has been received: the first, and the next whenever one is answered."""
        if self._consuming or self._yields:
            return
        self._consuming = True
        data, self._rest = self._rest, b""
        at, size, takes = 0, len(data), 0
        while at < size and self._at in (_HEAD, _BODY) and not self.flow.write_paused:
            if takes == _TAKES_MAX or at >= PIECE_BYTES_MAX:
                self._yields = True
                self.loop.call_soon(self._go_on)
                break
            takes += 1
            at = self._take(data, at)
        self._consuming = False
        if self._at is _BODY:
            self._take_pieces()
        if at < size and self._at is not _END:
            self._rest = data[at:]
            self.flow.pause_reading()
        elif self._heard_all and self._at in (_HEAD, _BODY):
            self._close()  # what is missing of this request will never come
        elif not self._handed_over:
            self.flow.resume_reading()

    def _take(self, data: bytes, at: int) -> int:
        """Take what begins at `at`, and act on it; where it ends."""
        framing = self._framing
        had_begun = framing.has_begun
        try:
            end = framing.take(data, at)
        except Refused as error:
            self._refuse(error.problem)
            return at
        if framing.has_begun and not had_begun:
            self._seconds = 0.0
        self._found(end - at)
        return end

    def _go_on(self) -> None:
        """Others have had their turn."""
        self._yields = False
        if self._rest and self._at is not _END:
            self._consume()

    def _found(self, size: int) -> None:
        """Act on what so many more bytes have brought."""
        framing = self._framing
        if self._at is _HEAD and framing.head is not None:
            self._begin(framing.head)
        if self._at is not _BODY:
            return
        if framing.is_complete:
            self._complete()
        elif self._answered_early:
            self._swallowed += size
            if self._swallowed > SWALLOWED_BYTES_MAX:
                self._close(linger=True)

    def _begin(self, head: Head) -> None:
        """The head is complete."""
        self._head = head
        self._move_to(_BODY)
        if self._is_crowded(head):
            problem = crowded()  # uvicorn would say so in plain text
            self._counts.refused(problem.status, problem.fault.code)
            self.respond(replace(self._as_asked(problem.answer), close=True))
            return
        self._handed_over = head.request is None or not self._is_fast
        self._framing.splits = self._handed_over  # a posting reads a large body in turns by itself
        if self._handed_over:
            self._hand_over(head)

    def _complete(self) -> None:
        """The request is complete."""
        self._move_to(_ANSWER)
        source = self._framing.source
        self._framing.next()
        head, posting = self._head, self._posting
        if self._handed_over:
            self._take_pieces()
            self.on_message_complete()
            if self._answered_early:
                self._next()
        elif posting is not None or (head is not None and head.expects):
            self._take_pieces()
            if self._posting is not None:
                self._posting.finish()
        elif head is not None and head.request is not None:
            self._posting = posting = self._postings.open(head.request, self.respond, head.marks, head.caller)
            posting.apart = self._spoilt > 0
            posting.whole(b"".join(self._framing.pieces()), chunked=head.body_size is None)
            self._heads.remember(source, head, posting.plan, posting.account)

    def _take_pieces(self) -> None:
        """Pass on what is here of a body that is not here as a whole."""
        pieces = self._framing.pieces()
        head, posting = self._head, self._posting
        if self._handed_over:
            for piece in pieces:
                self.on_body(piece)
            return
        if posting is None and head is not None and head.request is not None:
            self._posting = posting = self._postings.open(head.request, self.respond, head.marks, head.caller)
            posting.apart = self._spoilt > 0
            posting.begin(declared=head.body_size, expects=head.expects)
            if head.expects and not posting.answered:
                self.transport.write(CONTINUE)
        if posting is not None and pieces:
            posting.feed(b"".join(pieces))  # a hostile client's chunks have a byte each

    # ---------------------------------------------------------------- uvicorn's requests

    def _is_crowded(self, head: Head) -> bool:
        """Whether to refuse the request, by our limit on connections, or by uvicorn's on connections and tasks."""
        if self._is_surplus:
            return head.path != _ALIVE
        limit = self.limit_concurrency
        if limit is None or (len(self.connections) < limit and len(self.tasks) < limit):
            return False
        self.logger.warning("too many connections or requests at once: refused one from %s", self.client)
        return True

    def _hand_over(self, head: Head) -> None:
        """Let uvicorn, and so FastAPI, deal with the request."""
        self.parser = self._framing.parser
        self.on_message_begin()
        self.on_url(self._framing.url)
        for name, value in self._framing.headers:
            self.on_header(name, value)
        self.expect_100_continue = head.expects
        self.on_headers_complete()
        # Who is not told to go on may send the body or not; then nobody knows where the next request begins.
        self.cycle.keep_alive = head.keep_alive and not self._last and not head.expects
        transport = CycleTransport(
            self.transport, is_over=lambda: self._at is _END, told_to_go_on=partial(self._goes_on, head), end=self._end
        )
        self.cycle.transport = cast("asyncio.Transport", transport)
        # It would read on while requests wait that were read already.
        self.cycle.flow = cast("FlowControl", CycleFlow(self.flow, lambda: self._at is _BODY and not self._rest))

    def _goes_on(self, head: Head) -> None:
        """The client was told to send the body. With that, the connection may go on after it."""
        self.cycle.keep_alive = head.keep_alive

    def on_response_complete(self) -> None:
        """Uvicorn has answered; its own version would go on with its own pipeline and timers."""
        self.server_state.total_requests += 1
        if self._at is _ANSWER:
            self._next()
        elif self._at is _BODY:
            self._answered_early = True
            self.flow.resume_reading()

    # ---------------------------------------------------------------- answers

    def respond(self, answer: Answer) -> None:
        """Send the answer to the request at hand."""
        head = self._head
        if self._at is _END or head is None:
            return
        posting = self._posting
        if posting is not None and posting.spoilt:
            self._spoilt = _APART_REQUESTS
        elif self._spoilt:
            self._spoilt -= 1
        close = answer.close or self._last or not head.keep_alive
        state = self.server_state
        self.transport.write(self._wire.bytes_of(answer, state.default_headers, close))
        state.total_requests += 1
        if self._lines is not None:
            self._lines.answered(head, posting, answer.status, answer.headers)
        if close:
            self._end()
        else:
            self._next()

    def _log_refusal(self, problem: Problem) -> None:
        """Write a line about a request that ends the connection."""
        if self._lines is None or self._answered_early:
            return
        if self._handed_over:
            cast("dict[str, Any]", self.scope)[REFUSED] = problem
        elif self._framing.head is None or self._head is None:
            self._lines.refused(problem, self._framing)
        else:
            self._lines.answered(self._head, self._posting, problem.status, problem.answer.headers)
            self._head = None  # one line is enough

    def _next(self) -> None:
        """The request at hand is answered: wait for the next, or take it if it is here."""
        self._at = _HEAD
        self._seconds = 0.0
        self._posting = None
        self._served = True
        if self._handed_over:
            self._handed_over = self._answered_early = False
            self._swallowed = 0
            self.flow.resume_reading()
        if self._rest or self._heard_all:
            self._consume()

    def _refuse(self, problem: Problem) -> None:
        """Refuse a request that cannot be believed, or that nobody knows the end of."""
        names = {"request_id": marks_of(self._framing.headers).name} if self._framing.has_begun else None
        self.logger.info("refused a request from %s: %s", self.client, problem.fault.message, extra=names)
        self._counts.refused(problem.status, problem.fault.code)
        self._log_refusal(problem)
        if not self._answered_early:
            answer = self._as_asked(problem.answer)
            self.transport.write(self._wire.bytes_of(answer, self.server_state.default_headers, True))
        self._close(linger=True)

    def _as_asked(self, answer: Answer) -> Answer:
        """The answer to the request that is being read, as far as it has said by now how it wants it."""
        if not self._framing.has_begun:
            return answer
        headers = self._framing.headers
        answer = named(answer, marks_of(headers).name)
        return cross_origin(answer) if has_origin(headers) else answer

    def _end(self) -> None:
        """The last answer is given. It shall be read by who still sends, and who did not ask for it to be the last."""
        asked = self._head is None or not self._head.keep_alive
        self._close(linger=self._at is _BODY or not asked)

    def _hang_up(self) -> None:
        """End an idle connection, unless something has just arrived, which closing would answer with a reset."""
        socket = self.transport.get_extra_info("socket")
        if socket is not None:
            poll = select.poll()
            poll.register(socket.fileno(), select.POLLIN)
            if poll.poll(0):
                return
        self._close()

    def _close(self, *, linger: bool = False) -> None:
        """End the connection; with `linger`, let the client read the answer before it finds that nobody listens."""
        self._move_to(_END)
        self._rest = b""
        self._abandon()
        if self._handed_over and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if linger and self.transport.can_write_eof() and not self.transport.is_closing():
            self.flow.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()  # over TLS, uvloop lingers by itself

    def _abandon(self) -> None:
        """Nobody waits for an answer to the request at hand any more."""
        posting = self._posting
        if posting is None:
            return
        if self._lines is not None and self._head is not None and not posting.answered:
            self._lines.answered(self._head, posting, LEFT)
        self._posting = None
        posting.abandon()

    def _move_to(self, at: _At) -> None:
        self._at = at
        self._seconds = 0.0
