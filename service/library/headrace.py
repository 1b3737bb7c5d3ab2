"""The library: `Headrace`, the writer inside somebody else's program.

Owns when it runs, and what a call of `insert` says as a `Request`. The way of its rows is that of the HTTP lanes:
`ingest.py`, `posting.py`, the batcher, the slots.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

import msgspec

from service.dialect.marks import Marks
from service.library.calls import Call, Names, Parameters, names_of
from service.library.errors import NotRunning
from service.library.insertion import Insertion, KeyedInsertion
from service.library.python_rows import Body, Row, TableUnknown, body_of, is_row
from service.lifespan import Service, running
from service.observing import metrics
from service.problems import STOPPING
from service.settings import Settings
from sql import Table

logger = logging.getLogger(__name__)

_GC_THRESHOLD = 10_000
"""Requests that wait for their commit have hundreds of objects each, and are no garbage. Going through them again and
again, after every 700 new ones, took a quarter of the CPU of a FastAPI app (64 connections)."""

_CALLS_MAX = 1_000
"""Sets of parameters that are remembered; a program with ever new ones must not grow its memory."""


class Headrace:
    """Writes rows to PostgreSQL, those of all tasks of an event loop together in batches.

    Make one for a program, at import if you like: it connects when it is started, by `lifespan` or `async with`, and it
    may be started again after it was stopped, also in another event loop or process. While it runs it belongs to one
    event loop; it is not thread-safe.

    `dsn` is the database, by default HEADRACE_DSN. `settings` are those of the README by their names (`flush_slots=4`);
    the others come from the environment. What makes no sense raises ValueError. With `embedded`, it starts a PostgreSQL
    of its own where there is no DSN. `gc_threshold` is for `lifespan`; 0 leaves the garbage collector as it is.
    """

    def __init__(
        self, dsn: str | None = None, *, embedded: bool = False, gc_threshold: int = _GC_THRESHOLD, **settings: Any
    ) -> None:
        chosen = Settings(**settings) if dsn is None else Settings(dsn=dsn, dsn_file=None, **settings)
        # Nobody connects to it: who may call `insert` is the program's business, whatever the environment says.
        self._settings = chosen.model_copy(update={"anonymous_writes": "allow"})
        self._embedded = embedded
        self._gc_threshold = gc_threshold
        self._calls: dict[Parameters, Call] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Event | None = None
        self._service: Service | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---------------------------------------------------------------- when it runs

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """Run it for as long as an app does: `FastAPI(lifespan=headrace.lifespan)`. Raises what `async with` raises.

        Meanwhile the process looks for cyclic garbage only after `gc_threshold` more objects.
        """
        with _collecting_seldom(self._gc_threshold):
            async with self:
                yield

    async def __aenter__(self) -> Self:
        """Start it. A database that cannot be reached is no reason not to: inserts raise `Unavailable` until it can be.

        Raises ValueError if there is no DSN, RuntimeError if it runs already, `StartRefused` if PostgreSQL does not
        allow as many connections as it needs.
        """
        if self._settings.dsn is None and not self._embedded:
            raise ValueError("Headrace needs a database: give it a DSN, or set HEADRACE_DSN")
        if self._task is not None and not self._task.get_loop().is_closed():
            raise RuntimeError("this Headrace runs already")
        loop = asyncio.get_running_loop()
        started: asyncio.Future[Service] = loop.create_future()
        self._stopping = asyncio.Event()
        # A task of its own: `async with` may be left by another task than it was entered by, as test fixtures do.
        task = self._task = loop.create_task(self._run(started, self._stopping))
        try:
            ends: list[asyncio.Future[Any]] = [task, started]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not started.done():
                await task  # raises why
            self._service, self._loop = started.result(), loop
        except BaseException:
            self._task = None
            if task.cancel():
                await asyncio.wait([task])
            raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Stop it: refuse what is new, and give what was accepted `drain_seconds_max` to finish."""
        task, self._service = self._task, None
        if task is None or self._stopping is None:
            return
        self._stopping.set()
        try:
            await task
        finally:
            self._task = None

    async def _run(self, started: asyncio.Future[Service], stopping: asyncio.Event) -> None:
        try:
            async with running(self._settings) as service:
                started.set_result(service)
                await stopping.wait()
                service.stop_accepting()
        except Exception:
            self._service = None
            if started.done():
                logger.exception("the writer has ended in a way that was not foreseen")
            raise

    @property
    def dsn(self) -> str:
        """The database that it writes to. Raises `NotRunning`."""
        return self._running().dsn

    @property
    def problem(self) -> str | None:
        """Why no rows can be written now; None if they can, as far as known. For the app's own readiness check.

        Raises `NotRunning`.
        """
        return self._running().problem

    def metrics(self) -> bytes:
        """All numbers in Prometheus' text format, of media type `text/plain; version=0.0.4; charset=utf-8`.

        Raises `NotRunning`.
        """
        service = self._running()
        return metrics.text(service.snapshots.all(), service.live.vitals)

    def _running(self) -> Service:
        if self._service is None:
            raise NotRunning(STOPPING, "Headrace does not run: use lifespan=headrace.lifespan or `async with`", 503)
        return self._service

    # ---------------------------------------------------------------- inserting

    @overload
    async def insert(
        self,
        table: str,
        rows: Row | Iterable[Row],
        *,
        returning: None = None,
        on_conflict: Names | None = None,
        ignore_duplicates: bool = False,
        columns: Names | None = None,
        schema: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> None: ...

    @overload
    async def insert(
        self,
        table: str,
        rows: Row,
        *,
        returning: Names,
        on_conflict: Names | None = None,
        ignore_duplicates: Literal[False] = False,
        columns: Names | None = None,
        schema: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]: ...

    @overload
    async def insert(
        self,
        table: str,
        rows: Row,
        *,
        returning: Names,
        on_conflict: Names | None = None,
        ignore_duplicates: bool,
        columns: Names | None = None,
        schema: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any] | None: ...

    @overload
    async def insert(
        self,
        table: str,
        rows: Iterable[Row],
        *,
        returning: Names,
        on_conflict: Names | None = None,
        ignore_duplicates: bool = False,
        columns: Names | None = None,
        schema: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> list[dict[str, Any]]: ...

    async def insert(  # noqa: PLR0913 - each is a word of the dialect, and named by the caller
        self,
        table: str,
        rows: Row | Iterable[Row],
        *,
        returning: Names | None = None,
        on_conflict: Names | None = None,
        ignore_duplicates: bool = False,
        columns: Names | None = None,
        schema: str | None = None,
        deadline_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any] | list[dict[str, Any]] | None:
        """Store one row, or several of which all are stored or none; returns when they are committed.

        A row is a mapping, a dataclass instance, a msgspec.Struct or a pydantic model. A column that it does not name
        takes its default; None is NULL. `returning` names columns of the stored rows to return, "*" means all of them:
        a dict for one row (None, if nothing was stored for it), a list of dicts in the order of the rows for several.

        `on_conflict` names the columns of a unique key: where a row's key is there already, the stored row gets its
        values. With `ignore_duplicates` it is left out instead; the key is the primary key, if none is named. With
        `columns`, these are stored and whatever else the rows have is not. `schema` is the table's, if that is not the
        first of the settings. The rows must begin to be written within `deadline_seconds`, and in any case within
        `request_seconds_max` of the settings. A call that is repeated with its `idempotency_key` and the same rows is
        stored once, and returns the same.

        Raises `RowsRefused` (of which `DuplicateKey` is one) and `Unavailable`, when nothing is stored;
        `OutcomeUnknown`, when nobody knows; `NotRunning`; TypeError and ValueError for what cannot be sent. When the
        task is cancelled, rows that still wait are withdrawn; a write that has begun goes on.
        """
        service = self._running()
        if asyncio.get_running_loop() is not self._loop:
            raise NotRunning(STOPPING, "Headrace runs in another event loop", 503)
        expires = None if deadline_seconds is None else service.batcher.clock() + deadline_seconds
        parameters = Parameters(
            table, names_of(returning), names_of(on_conflict), ignore_duplicates, names_of(columns), schema
        )
        call = self._call(parameters)
        if is_row(rows):
            try:
                body = body_of(rows, call.table_in(service))
            except TableUnknown:
                body = body_of(rows, await call.find_table(service, expires))
            found = await _stored(service, call, body, expires, idempotency_key)
            return found[0] if found else None
        many = list(cast("Iterable[Row]", rows))
        try:
            body, names = await _body_of_many(many, call.table_in(service))
        except TableUnknown:
            body, names = await _body_of_many(many, await call.find_table(service, expires))
        if names is not None and columns is None:
            if on_conflict is not None and not ignore_duplicates:
                raise ValueError(
                    "rows that may change stored ones must all have the same columns, or the call must name `columns`: "
                    "what a row lacks would be set to its default"
                )
            call = self._call(msgspec.structs.replace(parameters, columns=names))
        return await _stored(service, call, body, expires, idempotency_key)

    def _call(self, parameters: Parameters) -> Call:
        call = self._calls.get(parameters)
        if call is None:
            if len(self._calls) >= _CALLS_MAX:
                self._calls.clear()
            call = self._calls[parameters] = Call(parameters, parameters.schema or self._settings.schemas[0])
        return call


@contextmanager
def _collecting_seldom(threshold: int) -> Iterator[None]:
    """Raise the garbage collector's first threshold, unless it is higher already or the collector is off."""
    before, *others = gc.get_threshold()
    if not 0 < before < threshold:
        yield
        return
    gc.set_threshold(threshold, *others)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == threshold:
            gc.set_threshold(before, *others)


async def _body_of_many(rows: Sequence[Row], table: Table | None) -> tuple[bytes, tuple[str, ...] | None]:
    """The rows as a JSON array, and all their names if not each row has all of them. Others have their turn."""
    body = Body(rows, table)
    steps = body.encoding()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, tuple(sorted(body.names)) if body.differs else None
        await asyncio.sleep(0)


async def _stored(
    service: Service, call: Call, body: bytes, expires: float | None, idempotency_key: str | None
) -> list[dict[str, Any]] | None:
    """Have the rows written. Returns what was asked for of them. Raises `HeadraceError`."""
    outcome: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    insertion: Insertion | KeyedInsertion
    if idempotency_key is None:
        insertion = Insertion(service.postings, call.request, outcome, expires)
    else:
        marks = Marks((idempotency_key.encode("utf-8", "replace"),))
        insertion = KeyedInsertion(service.postings, call.request, outcome, expires, marks)
    insertion.whole(body)
    try:
        answer = await outcome
        return call.rows(insertion.table, answer)
    except asyncio.CancelledError:
        insertion.abandon()
        raise
    finally:
        # An exception refers to this frame, which would refer to it: the rows would stay until the collector comes.
        del outcome, insertion
