"""CORS: what web pages of other origins are told, so that their browsers let them see the answers.

Every origin is allowed: it is credentials that say who may write, whatever page he is on (SECURITY.md). Owns the
headers for that, on answers of ours and of the framework, and the answer to what browsers ask before a request. The
protocol: https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import Answer

_EXPOSED = (
    "Allow",
    "Content-Profile",
    "Content-Range",
    "Headrace-Column",
    "Headrace-Quarantined",
    "Headrace-Quarantined-Rows",
    "Headrace-Row",
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "Proxy-Status",
    "Retry-After",
    "Server-Timing",
    "Vary",
    "WWW-Authenticate",
    "X-Request-Id",
)
"""What a page may read of an answer, beside the few headers that it always may, like Content-Type."""

CORS_HEADERS: tuple[tuple[str, str], ...] = (
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", ", ".join(_EXPOSED)),
)
"""The headers of every answer to a request with an `Origin`."""

_ENCODED = [(name.encode(), value.encode()) for name, value in CORS_HEADERS]

_PREFLIGHT = [
    _ENCODED[0],
    # More than any path takes, as PostgREST has it: a page should see the 405 and its reason.
    (b"access-control-allow-methods", b"GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD"),
    (b"access-control-max-age", b"86400"),
    (b"content-length", b"0"),
]


def cross_origin(answer: Answer) -> Answer:
    """The answer as a request with an `Origin` gets it."""
    return replace(answer, headers=(*answer.headers, *CORS_HEADERS))


class Cors:
    """The same around an ASGI app. Endpoints in `private` are not for other origins.

    Starlette's own middleware would not do: it adds `Vary: Origin` to every answer, where the fast lane has none, and
    refuses in plain text.
    """

    def __init__(self, app: ASGIApp, private: Collection[Callable[..., object]] = ()) -> None:
        self._app = app
        self._private = private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight; let the app answer everything else."""
        if scope["type"] != "http" or not has_origin(scope["headers"]):
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            preflight = _preflight(scope["headers"])
            if preflight is not None:
                await send({"type": "http.response.start", "status": 200, "headers": preflight})
                await send({"type": "http.response.body", "body": b""})
                return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("endpoint") not in self._private:
                headers = message.get("headers", [])
                if _ENCODED[0] not in headers:  # an answer to a request with rows has them already
                    message = {**message, "headers": [*headers, *_ENCODED]}
            await send(message)

        await self._app(scope, receive, send_on)


def has_origin(headers: Collection[tuple[bytes, bytes]]) -> bool:
    """Whether these headers, their names in lower case, are those of a request from a web page, maybe another's."""
    return any(name == b"origin" for name, _ in headers)


def _preflight(headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]] | None:
    """The headers of the answer to a preflight; None if it is none. What is asked for is allowed."""
    asked = [value for name, value in headers if name == b"access-control-request-headers"]
    if not any(name == b"access-control-request-method" for name, _ in headers):
        return None
    return [*_PREFLIGHT, (b"access-control-allow-headers", b", ".join(asked))] if asked else _PREFLIGHT
