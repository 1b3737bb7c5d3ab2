"""The FastAPI lane: the app for any ASGI server. Requests become `ingest` plans, outcomes become responses.

Owns routes and the reading of bodies within their limits. Must not know how rows are written.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from batching import Submission
from service import metrics
from service.bodies import Body
from service.ingest import Request, Write, accepted, is_miss, stored
from service.lifespan import Service, running
from service.problems import (
    INTERNAL_ERROR,
    JSON,
    MALFORMED_HTTP,
    Answer,
    Problem,
    is_expected,
    problem_of,
    refusal,
)
from service.settings import Settings
from sql import Fault, Rejected, TableChanged

logger = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app; its settings come from the environment unless they are given."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings) as service:
            app.state.service = service
            yield

    app = FastAPI(title="Headrace", summary="Brings rows to PostgreSQL.", lifespan=lifespan, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _http_problem)
    app.add_exception_handler(Exception, _http_problem)
    app.add_api_route("/livez", livez, methods=["GET"], summary="Whether the process serves at all")
    app.add_api_route("/readyz", readyz, methods=["GET"], summary="Whether rows can be written now, and if not, why")
    app.add_api_route("/metrics", metrics_text, methods=["GET"], summary="Numbers for Prometheus")
    app.add_api_route(
        f"{settings.prefix}/{{table}}",
        post_rows,
        methods=["POST"],
        status_code=201,
        summary="Store rows; answered after the commit that holds them",
        openapi_extra=_POST_ROWS_OPENAPI,
    )
    return app


# -------------------------------------------------------------------- routes


async def livez() -> Response:
    """200 as long as the process serves."""
    return Response(b'{"status":"alive"}', media_type=JSON)


async def readyz(http: HttpRequest) -> Response:
    """200 if rows can be written now; 503 with the reason if not."""
    service = _service(http)
    away = service.batcher.away()
    problem = str(away.reason) if away is not None else service.watch.problem
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
    return Response(_service(http).metrics.text(), headers={"content-type": metrics.CONTENT_TYPE})


async def post_rows(http: HttpRequest) -> Response:
    """Store the rows of the body in a table. The body is a JSON object, a JSON array of objects, or NDJSON."""
    service = _service(http)
    body = service.bodies.open(http)
    posted = _Posted(http, service, body)
    try:
        answer = await posted.answer()
    except ClientDisconnect:
        # Nobody reads this answer; the client's side has closed the connection.
        service.metrics.answered("rejected", 0)
        answer = MALFORMED_HTTP.answer
    except Exception as error:
        problem = problem_of(error)
        if not is_expected(error):
            logger.exception("a request failed in a way that was not foreseen")
        service.metrics.answered(problem.outcome, posted.rows)
        answer = problem.answer
    finally:
        body.close()
    return _response(answer)


# -------------------------------------------------------------------- a request's way


class _Posted:
    """One request to store rows."""

    def __init__(self, http: HttpRequest, service: Service, body: Body) -> None:
        headers = http.headers
        self.rows = 0
        self._service = service
        self._body = body
        self._request = Request(
            table=http.path_params["table"],
            content_type=headers.get("content-type", ""),
            prefer=",".join(headers.getlist("prefer")),
            schema=headers.get("content-profile", ""),
        )

    async def answer(self) -> Answer:
        """Read, store, answer. A table that changed meanwhile gets a second try by the new catalog."""
        try:
            return await self._store(await self._read())
        except TableChanged:
            if not self._body.complete:
                raise
            return await self._store(await self._read())

    async def _read(self) -> Write:
        """Read the body into rows. A name that the catalog does not have is looked up once more in a newer one."""
        try:
            write = await self._encode()
        except Rejected as error:
            if not is_miss(error):
                raise
            await self._service.watch.after_miss()
            write = await self._encode()
        self.rows = write.rows
        self._body.forget_if_large()
        return write

    async def _encode(self) -> Write:
        plan = self._service.ingest.plan(self._request)
        async for chunk in self._body:
            plan.feed(chunk)
        return plan.finish()

    async def _store(self, write: Write) -> Answer:
        """Hand the rows to the batcher and wait for the commit, unless the client asked not to wait."""
        service, preferences = self._service, write.preferences
        if preferences.respond_async:
            if write.rows:
                deadline = service.batcher.clock() + write.wait_seconds
                afterwards = _Afterwards(service, write)
                service.batcher.submit(write.target, Submission(write.payload, write.rows, deadline, afterwards))
            return accepted(write)
        result: object = None
        if write.rows:
            result = await service.batcher.write(
                write.target, write.payload, write.rows, timeout_seconds=write.wait_seconds
            )
        service.metrics.answered("committed", write.rows)
        return stored(write, result)


class _Afterwards:
    """What becomes of rows that were answered with 202: nobody is left to tell but the log and the metrics."""

    __slots__ = ("_rows", "_service", "_table")

    def __init__(self, service: Service, write: Write) -> None:
        self._service = service
        self._table = write.target.table.identifier
        self._rows = write.rows

    def __call__(self, outcome: object) -> None:
        if not isinstance(outcome, Exception):
            self._service.metrics.answered("committed", self._rows)
            return
        problem = problem_of(outcome)
        self._service.metrics.answered(problem.outcome, self._rows)
        logger.error(
            "%d rows for %s that were accepted with 202 could not be stored: %s %s",
            self._rows,
            self._table,
            problem.fault.code,
            problem.fault.message,
        )


# -------------------------------------------------------------------- answers


def _service(http: HttpRequest) -> Service:
    service: Service = http.app.state.service
    return service


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))


async def _http_problem(http: HttpRequest, error: Exception) -> Response:
    """The framework's own errors, in our form."""
    problem = _http_exception_problem(http, error) if isinstance(error, HTTPException) else INTERNAL_ERROR
    return _response(problem.answer)


def _http_exception_problem(http: HttpRequest, error: HTTPException) -> Problem:
    headers = tuple((name.lower(), value) for name, value in (error.headers or {}).items())
    match error.status_code:
        case 404:
            return refusal(404, "PGRST125", "Invalid path specified in request URL")
        case 405:
            fault = Fault("PGRST117", f"Unsupported HTTP method: {http.method}")
            return Problem(405, fault, headers=headers)
        case status:
            return Problem(status, Fault(f"HR{status}", str(error.detail)), headers=headers)


_ROW_EXAMPLE = {"device_id": "pump-7", "ts": "2026-11-21T10:00:00Z", "temperature": 21.5}

_POST_ROWS_OPENAPI = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
                },
                "example": _ROW_EXAMPLE,
            },
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": msgspec.json.encode(_ROW_EXAMPLE).decode() + "\n",
            },
        },
    },
    "parameters": [
        {
            "name": "table",
            "in": "path",
            "required": True,
            "schema": {"type": "string"},
            "description": "A table or view of an exposed schema.",
        },
        {
            "name": "Prefer",
            "in": "header",
            "schema": {"type": "string"},
            "description": "`return=representation`: answer the stored rows. `respond-async`: answer 202 at once. "
            "`wait=SECONDS`: the deadline.",
        },
        {
            "name": "Content-Profile",
            "in": "header",
            "schema": {"type": "string"},
            "description": "The schema, where it is not the first exposed one.",
        },
    ],
}
