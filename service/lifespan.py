"""The wiring: the only place that constructs the parts of a running service and connects them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.to_thread

from batching import Batch, Batcher, Flush, Retry
from service.auth.credentials import Credentials
from service.auth.gate import Gate, no_way_in
from service.auth.producers import Producers
from service.dialect.keys import Keys
from service.embedded import EmbeddedPostgres
from service.http.connections import Connections
from service.http.heads import Heads
from service.http.wire import Wire
from service.ingest import Ingest
from service.observing.access import AccessLog
from service.observing.counting import Counts
from service.observing.live import Live
from service.observing.slow import SlowLog
from service.observing.snapshots import Snapshots
from service.observing.workers import Workers
from service.postings import Postings
from sql import (
    BudgetExceeded,
    CatalogWatch,
    Crowded,
    InDoubt,
    Slot,
    Unavailable,
    is_abandoned,
    keep_clean,
    sign_out,
)

if TYPE_CHECKING:
    from service.auth.tokens import Verifier
    from service.observing.traces import Traces
    from service.settings import Settings

logger = logging.getLogger(__name__)

STATE = "headrace"
"""The key of the `Service` in the state that ASGI's lifespan hands to requests, and uvicorn to connections."""


_SLOT_SECONDS = 1.0
"""For so long the start waits for the first slot. One that has to wait for a lock or a standby does not hold it up."""


class StartRefused(Exception):
    """The service will not start like this; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service. `access` and `traces` are None where there is no such log, and no traces."""

    settings: Settings
    dsn: str
    ingest: Ingest
    batcher: Batcher
    watch: CatalogWatch
    credentials: Credentials
    counts: Counts
    snapshots: Snapshots
    live: Live
    postings: Postings
    connections: Connections
    heads: Heads
    wire: Wire
    access: AccessLog | None = None
    traces: Traces | None = None

    @property
    def problem(self) -> str | None:
        """Why no rows can be written now; None if they can."""
        away = self.batcher.away()
        if away is not None:
            return str(away.reason)
        return "the database is read-only" if self.live.read_only else self.watch.problem

    def request_reload(self) -> None:
        """Read the catalog and the keys again, soon. May be called by a signal's handler."""
        self.watch.request_reload()
        self.credentials.request_reload()

    def stop_accepting(self) -> None:
        """Begin to stop: refuse what is new, finish what was accepted. `/readyz` says so."""
        self.batcher.close()
        self.postings.stop()
        if self.traces is not None:
            self.traces.stopping()
        self.live.end()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """Run a service. Without a DSN it comes with a PostgreSQL of its own, which stops with it.

    A database that cannot be reached does not keep the service from starting; it says so and tries again. One that can
    does if there may not be as many connections as all workers of all pods need: raises `StartRefused`.
    """
    with _no_noise():
        async with _database(settings) as dsn, _parts(settings, dsn) as service:
            yield service


@contextmanager
def _no_noise() -> Iterator[None]:
    """Keep the event loop from logging tracebacks for cut connections, which the slots have dealt with."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if is_abandoned(context):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


class _Built(NamedTuple):
    """A service, and those of its parts that are nobody's business."""

    service: Service
    slots: Sequence[Slot]
    slow: SlowLog
    workers: Workers


def _build(settings: Settings, dsn: str) -> _Built:
    """Construct the parts and connect them with each other."""
    counts = Counts(settings.slow_flush_seconds)
    slow = SlowLog(settings.slow_request_seconds, settings.slow_flush_seconds)
    access = AccessLog(settings.access_log_share) if settings.access_log else None
    traces = _traces(settings)
    retry = Retry(on=Unavailable, doubt=InDoubt, crowded=Crowded, max_seconds=settings.retry_seconds_max)
    ingest = Ingest(
        settings.schemas,
        seconds_max=settings.request_seconds_max,
        bytes_max=settings.pending_bytes_max,
        quarantines=not settings.at_least_once,
        tx_override=settings.tx_override,
        counts=counts,
    )
    watch = CatalogWatch(dsn, settings.schemas, settings.timeouts, ingest.publish, retry.delay)
    slots = [
        Slot(
            dsn,
            settings.timeouts,
            watch.reload,
            at_least_once=settings.at_least_once,
            resolved=counts.resolved,
        )
        for _ in range(settings.flush_slots)
    ]

    def observe(flush: Flush, batches: Sequence[Batch], failure: Exception | None) -> None:
        counts.flushed(flush, batches, failure)
        slow.flush(flush, batches, failure)
        if traces is not None:
            traces.flush(flush, batches, failure)

    batcher = Batcher(slots, settings.limits, retry, doubt_seconds=settings.doubt_seconds_max, observe=observe)
    keys = None if settings.at_least_once else Keys()
    heads = Heads(settings.prefix, settings.connection_limits, traces=settings.traces)
    credentials = Credentials(None if settings.at_least_once else watch, _verifier(settings), heads.forget)
    gate = Gate(credentials, Producers(settings.limits), settings.anonymous_writes, settings.schemas[0])
    postings = Postings(
        ingest, batcher, watch, counts, settings.body_limits, gate=gate, keys=keys, slow=slow, traces=traces
    )
    connections = Connections(settings.connection_limits, settings.admin_port)
    workers = Workers(settings.workers_dir)
    snapshots = Snapshots(settings, counts, batcher, postings, connections, watch, workers)
    live = Live(snapshots)
    service = Service(
        settings,
        dsn,
        ingest,
        batcher,
        watch,
        credentials,
        counts,
        snapshots,
        live,
        postings,
        connections,
        heads,
        Wire(),
        access,
        traces,
    )
    return _Built(service, slots, slow, workers)


@asynccontextmanager
async def _parts(settings: Settings, dsn: str) -> AsyncIterator[Service]:
    """Run the parts. Raises `StartRefused`."""
    built = _build(settings, dsn)
    service = built.service
    watch, credentials, batcher = service.watch, service.credentials, service.batcher
    try:
        await watch.begin(settings.connection_demand)
    except BudgetExceeded as error:
        raise StartRefused(str(error)) from error
    runs = (watch, credentials, service.postings, service.connections, service.live, built.slow)
    async with anyio.create_task_group() as tasks:
        for part in runs:
            tasks.start_soon(part.run)
        if not settings.at_least_once:
            tasks.start_soon(keep_clean, dsn, settings.timeouts)
        try:
            async with batcher.running(drain_seconds=settings.drain_seconds_max):
                # Who is served at once should not be told that the tables are not known yet, nor have to wait.
                await watch.tried()
                await credentials.tried()
                with anyio.move_on_after(_SLOT_SECONDS):
                    await batcher.tried()
                refusal = no_way_in(settings.anonymous_writes, settings.host, credentials)
                if refusal is None:
                    yield service
        finally:
            with anyio.CancelScope(shield=True):
                await _leave(built)
            tasks.cancel_scope.cancel()
    if refusal is not None:
        raise StartRefused(refusal)


async def _leave(built: _Built) -> None:
    """Say goodbye, when everything is answered."""
    service = built.service
    service.live.end()
    built.workers.leave(service.snapshots.own())
    rows = [slot.row for slot in built.slots if slot.row is not None]
    if rows and service.problem is None:
        await sign_out(service.dsn, service.settings.timeouts, rows)
    if service.traces is not None:
        await service.traces.close(service.settings.drain_seconds_max)


def _verifier(settings: Settings) -> Verifier | None:
    if settings.jwt is None:
        return None
    from service.auth.tokens import Verifier  # noqa: PLC0415 - who does without need not wait for a library

    return Verifier(settings.jwt)


def _traces(settings: Settings) -> Traces | None:
    if not settings.traces:
        return None
    from service.observing.traces import Traces  # noqa: PLC0415 - who does without need not have OpenTelemetry

    return Traces(settings.prefix)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[str]:
    if settings.dsn is not None:
        yield settings.dsn
        return
    embedded = await anyio.to_thread.run_sync(partial(EmbeddedPostgres.start, settings.data_dir))
    try:
        await embedded.create_demo_table()
        yield embedded.dsn
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(embedded.stop)
