"""The access log: one line for each request, of any kind and whichever way it takes.

Owns what is in a line, which requests have one, and that nothing that a client sends breaks it, fills the disk or puts
a secret there. Must not know how lines are written; that is the business of who configures `logging`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.utils import get_client_addr

from service.dialect.marks import marks_of
from service.observing.account import code_in, names_of, rounded, times_of
from service.observing.unforeseen import name_in, name_of
from service.problems import INTERNAL_ERROR, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn._types import HTTPScope

    from service.http.framing import Framing
    from service.http.heads import Head
    from service.posting import Posting

logger = logging.getLogger("headrace.access")

LEFT = 499
"""The status of a request whose client has left before the answer: that of nginx, since HTTP has none."""

POSTING = "headrace.posting"
REFUSED = "headrace.refused"
"""Keys of ASGI's scope: the posting of a request to store rows; the problem by which a connection was ended."""

_CHARACTERS_MAX = 500
"""Of a path, and of a query; a URL may have 8 KiB, and a log of such lines is of use to nobody."""

_QUERY = "%!$&'()*+,;=:@/?"
"""What stands for itself in a query (RFC 3986 section 3.4), beside letters, digits and the like."""

_OPEN = frozenset({"columns", "on_conflict", "order", "select"})
"""What is shown of a query: names of columns. Others, as PostgREST's filters, hold values of rows, or an `apikey`."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks for what. `path` is decoded, `client` an address with its port, `name` the id of the request. What is
    not known is "" or None.
    """

    method: str = ""
    path: str = ""
    query: str = ""
    version: str = ""
    client: str = ""
    name: str = ""
    body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """What came of it: the answer's status and headers, and after how many seconds, if anybody has counted."""

    status: int
    headers: Iterable[tuple[str, str]] = ()
    seconds: float | None = None


class AccessLog:
    """Writes the lines. `share` is the part of the requests that have one; which, is left to `chance`."""

    def __init__(self, share: float, chance: Callable[[], float] = random.random) -> None:
        self._share = share
        self._chance = chance

    def wants(self, status: int) -> bool:
        """Whether a request that ends with this status has a line."""
        return self._share >= 1 or (status >= 500 and status != 503) or self._chance() < self._share

    def write(self, visit: Visit, end: End, posting: Posting | None = None) -> None:
        """Write a line. `posting` is what the service knows of the request, if it is one to store rows."""
        path = _cut(quote(visit.path))
        headers = dict(end.headers)
        told: dict[str, object] = {
            "client": _cut(visit.client),
            "method": visit.method,
            "path": path,
            "query": _cut(_shown(visit.query)),
            "http_version": visit.version,
            "status": end.status,
            "code": code_in(headers.items()),
            "seconds": None if end.seconds is None else rounded(end.seconds),
            "body_bytes": visit.body_bytes or None,
            "request_id": visit.name or headers.get("x-request-id"),
        }
        if posting is not None:
            told |= names_of(posting) | {"rows": posting.rows}
            if end.status not in {202, LEFT}:  # of those it is not known yet what becomes of them
                told |= times_of(posting, posting.began + (end.seconds or 0.0))
        told = {name: value for name, value in told.items() if value not in {None, ""}}
        logger.info("%s %s %d", visit.method or "-", path or "-", end.status, extra=told)


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS_MAX else f"{text[:_CHARACTERS_MAX]}…"


def _shown(query: str) -> str:
    """A query without the values that are nobody's business."""
    parts = []
    for part in query.split("&"):
        name, is_pair, _ = part.partition("=")
        parts.append(quote(part, _QUERY) if name in _OPEN else f"{quote(name, _QUERY)}=…" if is_pair else "…")
    return "&".join(parts) if query else ""


# -------------------------------------------------------------------- requests of the fast lane


class ConnectionLog:
    """The lines of one connection from `peer`. `app` is uvicorn's, `clock` what the postings' times are measured on."""

    def __init__(
        self, log: AccessLog, clock: Callable[[], float], app: object, root_path: str, peer: tuple[str, int] | None
    ) -> None:
        self._log = log
        self._clock = clock
        self._app = app
        self._root_path = root_path
        self._peer = peer

    def answered(
        self, head: Head, posting: Posting | None, status: int, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """A request has its answer; or, with `LEFT`, its client has gone."""
        if self._log.wants(status):
            began = 0.0 if posting is None else posting.began
            end = End(status, headers, self._clock() - began if began else 0.0)
            client = client_of(self._app, self._peer, head.forwarded_for)
            self._log.write(visit_of(head, client, self._root_path), end, posting)

    def refused(self, problem: Problem, framing: Framing) -> None:
        """The connection is ended because of a request whose head is not complete, or not believed."""
        if self._log.wants(problem.status):
            visit = visit_in(framing, client_of(self._app, self._peer, b""), self._root_path)
            self._log.write(visit, End(problem.status, problem.answer.headers))


def visit_of(head: Head, client: str, root_path: str) -> Visit:
    """A request whose head was read."""
    return Visit(
        head.method,
        root_path + head.path,
        head.query.decode("latin-1"),
        head.version,
        client,
        head.marks.name,
        head.body_size,
    )


def visit_in(framing: Framing, client: str, root_path: str) -> Visit:
    """A request whose head was not read to its end, or not believed: what is known of it by now."""
    if not framing.url:
        return Visit(client=client)  # the parser knows no method either, but would name one
    path, _, query = framing.url.decode("latin-1").partition("?")
    return Visit(
        framing.parser.get_method().decode("latin-1"),
        root_path + unquote(path),
        query,
        framing.parser.get_http_version() if framing.headers else "",  # else it is that of the request before
        client,
        marks_of(framing.headers).name,
    )


def client_of(app: object, peer: tuple[str, int] | None, forwarded_for: bytes) -> str:
    """Who is behind a connection: whom uvicorn's `app` believes, if a proxy that it trusts has named somebody."""
    host, port = peer or ("", 0)
    if forwarded_for and isinstance(app, ProxyHeadersMiddleware) and host in app.trusted_hosts:
        named = app.trusted_hosts.get_trusted_client_address(forwarded_for.decode("latin-1"))
        host, port = named if named[0] else (host, port)
    return f"{host}:{port}" if host else ""


# -------------------------------------------------------------------- all others


class Logged:
    """An ASGI app whose requests are logged, by what `log_of` finds in their scope."""

    def __init__(self, app: ASGIApp, log_of: Callable[[Scope], AccessLog | None]) -> None:
        self._app = app
        self._log_of = log_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the app answer; then write a line."""
        log = self._log_of(scope) if scope["type"] == "http" else None
        if log is None:
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        end: End | None = None
        has_left = False

        async def receive_on() -> Message:
            nonlocal has_left
            message = await receive()
            has_left |= message["type"] == "http.disconnect"
            return message

        async def send_on(message: Message) -> None:
            nonlocal end
            if message["type"] == "http.response.start" and not has_left:
                end = End(message["status"], _decoded(message.get("headers", ())))
            await send(message)

        try:
            await self._app(scope, receive_on, send_on)
        except Exception:
            if end is None:
                name_of(scope)
                end = End(500, INTERNAL_ERROR.answer.headers)
            raise
        finally:
            refused: Problem | None = scope.get(REFUSED)
            if refused is not None:
                end = End(refused.status, refused.answer.headers)
            end = end or End(LEFT)
            if log.wants(end.status):
                end = replace(end, seconds=time.monotonic() - began)
                log.write(_visit_in(scope), end, scope.get(POSTING))


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers]


def _visit_in(scope: Scope) -> Visit:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return Visit(
        scope["method"],
        scope["path"],
        scope["query_string"].decode("latin-1"),
        scope["http_version"],
        get_client_addr(cast("HTTPScope", scope)),
        name_in(scope),
        int(length) if length.isdigit() else None,
    )
