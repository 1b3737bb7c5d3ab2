"""The dashboard's page on a feed that is made up, for states that a real service is seldom in.

Owns the endpoints that the page asks, and what they say. `python -m tests.service.fake_feed` shows it in a browser.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from service.observing.glance import Glance, Point
from tests.service.fake_glances import Lively, table

_STATIC = resources.files("service") / "static"
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Posted:
    """What the form has sent."""

    path: str
    headers: dict[str, str]
    body: bytes


class FakeFeed:
    """Serves the page. What it is told to show, it shows to every page that is open; `feed` is closed by `hang_up`."""

    def __init__(self) -> None:
        self.url = ""
        self.history: list[Point] = []
        self.tables: list[dict[str, Any]] = [table("public", "events")]
        self.posted: list[Posted] = []
        self.answer = Response(b'[{"id":1}]', 201, {"content-type": "application/json"})
        self.refuses_feeds = False
        self.opened = 0
        self._last: Glance | None = None
        self._pages: set[asyncio.Queue[Glance | None]] = set()
        self._port = 0

    @property
    def page(self) -> str:
        """Where the page is."""
        return f"{self.url}/dashboard"

    def show(self, glance: Glance) -> None:
        """Send this to all pages, and to those that will come."""
        self._last = glance
        for page in self._pages:
            page.put_nowait(glance)

    def hang_up(self) -> None:
        """End all feeds."""
        for page in self._pages:
            page.put_nowait(None)

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[FakeFeed]:
        """Serve at this port, or a free one; the second time at that of the first."""
        routes = [
            Route("/dashboard", self._page),
            Route("/dashboard/events", self._events),
            Route("/dashboard/tables", self._tables),
            Route("/dashboard/{name}", self._file),
            Route("/rest/v1/{table:path}", self._post, methods=["POST"]),
        ]
        app = Starlette(routes=[*routes, Mount("/behind/it", routes=routes)])  # as a proxy may have it
        config = uvicorn.Config(app, port=port or self._port, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        self._port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        try:
            yield self
        finally:
            self.hang_up()
            server.should_exit = True
            await serving

    async def _page(self, _http: Request) -> Response:
        return _static("dashboard.html")

    async def _file(self, http: Request) -> Response:
        return _static(http.path_params["name"])

    async def _tables(self, _http: Request) -> Response:
        return Response(msgspec.json.encode(self.tables), media_type="application/json")

    async def _post(self, http: Request) -> Response:
        self.posted.append(Posted(http.url.path, dict(http.headers), await http.body()))
        return self.answer

    async def _events(self, _http: Request) -> Response:
        if self.refuses_feeds:
            return Response("not now", 503)
        return StreamingResponse(self._feed(), media_type="text/event-stream")

    async def _feed(self) -> AsyncIterator[bytes]:
        page: asyncio.Queue[Glance | None] = asyncio.Queue()
        self._pages.add(page)
        self.opened += 1
        try:
            yield _event("history", self.history)
            if self._last is not None:
                yield _event("glance", self._last)
            while (glance := await page.get()) is not None:
                yield _event("glance", glance)
        finally:
            self._pages.discard(page)


def _event(name: str, data: object) -> bytes:
    return b"event: %s\nretry: 50\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def _static(name: str) -> Response:
    file = _STATIC / name
    content = file.read_bytes() if file.is_file() else gzip.decompress((_STATIC / f"{name}.gz").read_bytes())
    return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)


async def _main() -> None:
    lively = Lively()
    feed = FakeFeed()
    feed.history = lively.history(time.time())
    feed.tables = [table("public", name) for name in ("audit_log", "devices", "events", "measurements", "orders")]
    async with feed.serving(8900):
        print(f"{feed.url}/dashboard")  # noqa: T201 - whoever has started it wants to know
        while True:
            feed.show(lively.glance(time.time()))
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(_main())
