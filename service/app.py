"""The FastAPI lane: the app for any ASGI server. Requests become `ingest` plans, outcomes become responses.

Owns routes and the framework's errors. What becomes of a request to store rows is decided in `posting.py`.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import msgspec
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Scope

from service.auth.caller import caller_of, is_loopback
from service.dialect.annotation import named
from service.dialect.marks import marks_of
from service.http.admin import OperatorsRoute
from service.http.cors import Cors, cross_origin, has_origin
from service.http.paths import TablePaths
from service.ingest import request_of
from service.lifespan import STATE, Service, running
from service.observing import metrics
from service.observing.access import POSTING, Logged
from service.observing.numbers import decode, encode
from service.observing.unforeseen import name_of
from service.pages.dashboard import Dashboard
from service.pages.docs import Docs
from service.posting import Posting
from service.problems import INTERNAL_ERROR, JSON, Answer, Problem, bad_header, method_unsupported, path_unknown
from service.settings import Settings
from sql import Fault


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app; its settings come from the environment unless they are given."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Service]]:
        async with running(settings) as service:
            yield {STATE: service}

    app = FastAPI(
        title="Headrace",
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # `Docs` has its own
        # So have we: one span a request, whichever lane it takes, and none for what is not about rows.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _http_problem)
    app.add_exception_handler(Exception, _http_problem)
    docs, dashboard = Docs(settings.prefix), Dashboard(settings.prefix)
    app.add_middleware(
        Cors, private=frozenset([livez, readyz, metrics_text, docs.description, *dashboard.private_endpoints])
    )
    for path, endpoint in (("/livez", livez), ("/readyz", readyz)):
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"])  # HEAD: Vector and many load balancers ask so
    operators = APIRoute if settings.admin_port is None else OperatorsRoute
    app.router.add_api_route("/metrics", metrics_text, methods=["GET", "HEAD"], route_class_override=operators)
    if settings.access_log:
        app.add_middleware(Logged, log_of=lambda scope: scope["state"][STATE].access)  # around all others
    docs.add_to(app)
    dashboard.add_to(app, operators)
    app.router.add_api_route(
        f"{settings.prefix}{_TABLE}", post_rows, methods=["POST"], route_class_override=_TableRoute
    )
    return app


def __getattr__(name: str) -> object:
    """`app`, for servers that import it; made when it is asked for, since it reads the environment."""
    if name == "app":
        app = globals()["app"] = create_app()
        return app
    raise AttributeError(name)


# -------------------------------------------------------------------- routes

_TABLE = "/{table}"


class _TableRoute(APIRoute):
    """Goes by the path as it came; others go by what the server has decoded, where a slash may be part of a name."""

    def __init__(self, path: str, *args: Any, **options: Any) -> None:
        super().__init__(path, *args, **options)
        self._paths = TablePaths(path.removesuffix(_TABLE))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for a table, and if so, with this method."""
        table = self._paths.table(_raw_path(scope)) if scope["type"] == "http" else None
        if table is None:
            return Match.NONE, {}
        match = Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL
        return match, {"endpoint": self.endpoint, "path_params": {"table": table}, "route": self}


def _raw_path(scope: Scope) -> bytes:
    """The path as it came, without that of the app. A server that does not tell it has decoded it for good."""
    raw: bytes = scope.get("raw_path") or urllib.parse.quote(scope["path"]).encode()
    root = scope.get("root_path", "")
    for before in (root.encode(), urllib.parse.quote(root).encode()):
        if raw.startswith(before + b"/"):
            return raw[len(before) :]
    return raw


async def livez() -> Response:
    """200 as long as the process serves."""
    return Response(b'{"status":"alive"}', media_type=JSON)


async def readyz(http: HttpRequest) -> Response:
    """200 if rows can be written now; 503 with the reason if not."""
    service = _service(http)
    problem = service.problem
    draining = service.batcher.closed
    pending = service.batcher.statistics()
    body = {
        "status": "draining" if draining else "ready" if problem is None else "unavailable",
        "database": "up" if problem is None else problem,
        "pending_rows": pending.pending_rows,
        "pending_bytes": pending.pending_bytes,
    }
    return Response(msgspec.json.encode(body), 503 if draining or problem else 200, media_type=JSON)


async def metrics_text(http: HttpRequest) -> Response:
    """All metrics in Prometheus' text format."""
    service = _service(http)
    numbers = decode(encode(service.snapshots.all()))  # a copy: it is another thread that reads them
    text = await anyio.to_thread.run_sync(metrics.text, numbers, service.live.vitals)
    return Response(text, headers={"content-type": metrics.CONTENT_TYPE})


async def post_rows(http: HttpRequest) -> Response:
    """Store the rows of the body in a table. The body is a JSON object, a JSON array of objects, or NDJSON."""
    answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
    reading = anyio.CancelScope()

    def respond(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)
        reading.cancel()  # it may come before the end of the body

    headers = http.headers
    length = headers.get("content-length")
    declared = int(length) if length is not None else None
    request = request_of(http.path_params["table"], http.scope["query_string"], headers.raw)
    server = http.scope.get("server")
    caller = caller_of(
        headers.raw, is_local=server is not None and is_loopback(None if server[1] is None else server[0])
    )
    posting = _service(http).postings.open(request, respond, marks_of(headers.raw), caller)
    http.scope[POSTING] = posting
    posting.begin(declared=declared, expects=headers.get("expect", "").lower() == "100-continue")
    if not answered.done():  # else it is refused by its head, and asking for the body would have the client send it
        with reading:
            if not await _feed(posting, http):
                return _TO_NOBODY

    def left(leaving: asyncio.Task[Message]) -> None:
        if not leaving.cancelled() and not answered.done():
            posting.abandon()
            answered.set_result(None)

    # Behind the body, the one message that may come is that the client has left.
    leaving = asyncio.ensure_future(http.receive())
    leaving.add_done_callback(left)
    try:
        answer = await answered
    except asyncio.CancelledError:
        posting.abandon()
        raise
    finally:
        leaving.cancel()
    return _TO_NOBODY if answer is None else _response(answer)


async def _feed(posting: Posting, http: HttpRequest) -> bool:
    """Give a posting its body; whether the client is still there."""
    try:
        async for chunk in http.stream():
            posting.feed(chunk)
    except ClientDisconnect:
        posting.abandon()
        return False
    except asyncio.CancelledError:  # by the answer, which came early, or by the server
        posting.abandon()
        raise
    posting.finish()
    return True


# -------------------------------------------------------------------- answers


_TO_NOBODY = Response(status_code=400)
"""The client has left, so nobody reads it."""


def _service(http: HttpRequest) -> Service:
    service: Service = http.scope["state"][STATE]
    return service


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status, dict(answer.headers))
    if answer.close:
        response.headers["connection"] = "close"
    return response


async def _http_problem(http: HttpRequest, error: Exception) -> Response:
    """The framework's own errors, in our form."""
    problem = _problem_of(http, error)
    if problem is INTERNAL_ERROR:
        name = name_of(http.scope)
        error.add_note(f"request_id={name}")  # the server logs it
        problem = replace(problem, headers=(("x-request-id", name),))
    service: Service | None = http.scope.get("state", {}).get(STATE)
    if service is not None:  # else it has not begun
        service.counts.refused(problem.status, problem.fault.code)
    answer = problem.answer
    if problem.fault.code != INTERNAL_ERROR.fault.code:
        answer = named(answer, marks_of(http.headers.raw).name)
    return _response(cross_origin(answer) if has_origin(http.headers.raw) else answer)


def _problem_of(http: HttpRequest, error: Exception) -> Problem:
    match error:
        case RequestValidationError():
            return bad_header("; ".join([f"{_place(found['loc'])}: {found['msg']}" for found in error.errors()]))
        case HTTPException(status_code=404):
            return path_unknown()
        case HTTPException(status_code=405):
            return method_unsupported(http.method, _allowed(http))
        case HTTPException(status_code=status):
            headers = tuple((name.lower(), value) for name, value in (error.headers or {}).items())
            return Problem(status, Fault(f"HR{status}", str(error.detail)), headers=headers)
        case _:
            return INTERNAL_ERROR


def _place(names: tuple[object, ...]) -> str:
    return ".".join([str(name) for name in names])


def _allowed(http: HttpRequest) -> set[str]:
    """The methods that a path takes, of all routes: a table may be called like something else that we serve."""
    found: set[str] = set()
    for route in http.app.routes:
        if route.matches(http.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found
