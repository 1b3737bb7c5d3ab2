"""The dashboard: `/dashboard`, a page, and the feeds that it and `headrace top` live on.

Owns who may watch for how long. Must not know what a number means, nor how it is shown: the page is in `static/`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import anyio
import msgspec
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.sse import format_sse_event

from service.lifespan import STATE, Service
from service.pages.files import CSS, JAVASCRIPT, Page
from service.pages.tablelist import table_list
from service.problems import JSON, Problem, problem_of, watched_by_many
from sql import CatalogMissing

if TYPE_CHECKING:
    from service.observing.live import Live

_SCRIPTS = ("dashboard", "dashboard-charts", "dashboard-format", "dashboard-lists", "dashboard-theme", "dashboard-try")
_FILES = {
    **{f"{name}.js": JAVASCRIPT for name in (*_SCRIPTS, "uplot")},
    **{f"{name}.css": CSS for name in ("dashboard", "uplot")},
}

_FEED_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}

_WATCHERS_MAX = 100
"""Streams at once: each is sent some kilobytes a second."""

_STREAM_SECONDS = 20.0
"""A stream ends after so long, and the page asks for the next: a server that is not ours waits for the end of all
answers when it stops, and tells nobody."""

_ID_DIGITS_MAX = 12

_AGAIN_MS = 250
"""When the page asks."""


class Dashboard:
    """The endpoints. `prefix` is the path before the tables."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._page = Page("dashboard.html", _FILES)
        self._watchers = 0

    def add_to(self, app: FastAPI, route: type[APIRoute] = APIRoute) -> None:
        """Serve them with this app, by routes of that kind."""
        for path, endpoint in (
            ("/dashboard", self.page),
            ("/dashboard/events", self.events),
            ("/dashboard/glance", self.glance),
            ("/dashboard/tables", self.tables),
            ("/dashboard/{name}", self.file),
        ):
            app.router.add_api_route(path, endpoint, methods=["GET", "HEAD"], route_class_override=route)

    @property
    def private_endpoints(self) -> tuple[Callable[..., object], ...]:
        """What is not for web pages of other origins."""
        return self.events, self.glance, self.tables

    async def page(self) -> Response:
        """The page."""
        return self._page.response()

    async def file(self, http: HttpRequest) -> Response:
        """A file that the page loads."""
        return await self._page.file(http, http.path_params["name"])

    async def glance(self, http: HttpRequest) -> Response:
        """The numbers of the last second, once."""
        _, glance = _service(http).live.latest()
        return Response(glance, media_type=JSON, headers=_FEED_HEADERS)

    async def events(self, http: HttpRequest) -> Response:
        """The numbers of the last minutes, and then each second (server-sent events)."""
        if self._watchers >= _WATCHERS_MAX:
            return _refused(http, watched_by_many())
        if http.method == "HEAD":
            return Response(media_type="text/event-stream", headers=_FEED_HEADERS)
        last = http.headers.get("last-event-id", "")
        seen = int(last) if last.isdecimal() and len(last) <= _ID_DIGITS_MAX else 0
        stream = self._stream(_service(http).live, seen)
        return StreamingResponse(stream, media_type="text/event-stream", headers=_FEED_HEADERS)

    async def tables(self, http: HttpRequest) -> Response:
        """The tables that rows can be sent to, with an example for each."""
        service = _service(http)
        catalog = service.ingest.catalog
        if catalog is None:
            return _refused(http, problem_of(CatalogMissing()))
        listed = await anyio.to_thread.run_sync(table_list, catalog, self._prefix, service.settings.schemas[0])
        return Response(msgspec.json.encode(listed), media_type=JSON, headers=_FEED_HEADERS)

    async def _stream(self, live: Live, seen: int) -> AsyncIterator[bytes]:
        """The history since `seen` (seconds since 1970), and glances. Who has all that is sent no history."""
        self._watchers += 1
        try:
            missed = [point for point in live.history if point.at >= seen + 1]
            if not seen or len(missed) > 1:
                yield _event("history", msgspec.json.encode(list(live.history)), seen)
            yield _event("glance", live.latest()[1], seen)
            ends = anyio.current_time() + _STREAM_SECONDS
            while anyio.current_time() < ends and (latest := await live.next()) is not None:
                at, glance = latest
                yield _event("glance", glance, int(at))
        finally:
            self._watchers -= 1


def _event(name: str, data: bytes, at: int) -> bytes:
    return format_sse_event(data_str=data.decode(), event=name, id=str(at), retry=_AGAIN_MS)


def _refused(http: HttpRequest, problem: Problem) -> Response:
    _service(http).counts.refused(problem.status, problem.fault.code)
    answer = problem.answer
    return Response(answer.body, answer.status, dict(answer.headers))


def _service(http: HttpRequest) -> Service:
    service: Service = http.scope["state"][STATE]
    return service
