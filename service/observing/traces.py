"""Traces: a span of OpenTelemetry for each request to store rows, and one for each flush, linked to those it carried.

Owns what spans say, and that each of them ends. Where they go is decided by OpenTelemetry's own environment variables,
or by the program that Headrace runs in. Imported only where traces are wanted: who does without need not have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from itertools import islice
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import anyio
from opentelemetry import trace
from opentelemetry.context import get_current
from opentelemetry.environment_variables import OTEL_TRACES_EXPORTER
from opentelemetry.sdk.environment_variables import OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.semconv.attributes.db_attributes import DB_COLLECTION_NAME, DB_SYSTEM_NAME
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_PATH
from opentelemetry.trace import Link, ProxyTracerProvider, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.library.errors import HeadraceError
from service.observing.account import code_in, names_of, outcome_of, times_of
from service.observing.counting import tables_of

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from batching import Batch, Flush
    from service.posting import Posting
    from service.problems import Answer

logger = logging.getLogger(__name__)

_LINKS_MAX = 100
"""Requests that a flush is linked to; OpenTelemetry's own limit is 128. How many there were is an attribute."""

_TABLES_MAX = 5

_CLOSE_SECONDS_MAX = 5.0
_CLOSE_SECONDS_MIN = 0.5
"""How long the last spans may take to be delivered when the service stops: what is left of the time for draining, but
no more, since nobody's rows depend on it, and a little even if nothing is left."""


class Span:
    """That of a request, or of an insert."""

    __slots__ = ("context", "otel")

    def __init__(self, otel: trace.Span) -> None:
        self.otel = otel
        self.context = otel.get_span_context()

    @property
    def trace_id(self) -> str:
        """As other tools write it; "" if nothing of it is kept."""
        return trace.format_trace_id(self.context.trace_id) if self.context.trace_flags.sampled else ""


class Traces:
    """Begins spans and ends them. `prefix` is that of the paths of tables, `clock` the batcher's.

    Its methods do not raise, whatever the program has made of OpenTelemetry: no request fails for a span.
    """

    def __init__(self, prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._route = f"{prefix}/{{table}}"
        self._prefix = prefix
        self._clock = clock
        self._stopping_since: float | None = None
        self._own: TracerProvider | None = None
        provider = trace.get_tracer_provider()
        if isinstance(provider, ProxyTracerProvider):  # the program has none
            provider = self._own = _provider()
        self._tracer = provider.get_tracer("headrace")
        self._parents = TraceContextTextMapPropagator()

    # ---------------------------------------------------------------- requests

    def begin(self, posting: Posting, table: str) -> None:
        """The head of a request is here. Its span ends with the answer, or when the client leaves."""
        with _harmless():
            attributes: dict[str, AttributeValue] = {
                HTTP_REQUEST_METHOD: "POST",
                HTTP_ROUTE: self._route,
                URL_PATH: f"{self._prefix}/{quote(table, safe='')}",
            }
            parent = self._parents.extract(posting.marks.trace_context, get_current())
            span = posting.span = Span(
                self._tracer.start_span(f"POST {self._route}", parent, SpanKind.SERVER, attributes)
            )
            if span.otel.is_recording():
                posting.annotate(self._answered)

    def _answered(self, posting: Posting, answer: Answer) -> Answer:
        span = _open(posting)
        if span is not None:
            with _harmless(), span:
                code = code_in(answer.headers)
                outcome = outcome_of(answer, posting.rows)
                span.set_attribute(HTTP_RESPONSE_STATUS_CODE, answer.status)
                span.set_attributes(self._told_of(posting, is_known=answer.status != 202))
                if outcome is not None:
                    span.set_attribute("headrace.outcome", outcome)
                if code:
                    span.set_attribute("headrace.code", code)
                if answer.status >= 500:  # what is the client's fault is no error of a server
                    _fail(span, code)
        return answer

    def left(self, posting: Posting) -> None:
        """Nobody waits any more for the answer to a request, or for the end of an insert."""
        span = _open(posting)
        if span is not None:
            with _harmless(), span:
                span.set_attributes(self._told_of(posting, is_known=False) | {"headrace.abandoned": True})

    def insert(self, posting: Posting, ends: asyncio.Future[bytes]) -> None:
        """A call of the library begins, in the span of whoever calls."""

        def ended(outcome: asyncio.Future[bytes]) -> None:
            span = None if outcome.cancelled() else _open(posting)  # who cancels leaves
            if span is not None:
                with _harmless(), span:
                    error = outcome.exception()
                    span.set_attributes(self._told_of(posting, is_known=True))
                    if error is not None:
                        _fail(span, error.code if isinstance(error, HeadraceError) else type(error).__name__)

        with _harmless():
            posting.span = Span(self._tracer.start_span("insert"))
            ends.add_done_callback(ended)

    def _told_of(self, posting: Posting, *, is_known: bool) -> dict[str, AttributeValue]:
        """What there is to say of a request; its times, if `is_known` what became of it."""
        names = names_of(posting)
        times = times_of(posting, self._clock()) if is_known else {}
        told = {"rows": posting.rows} | times | {"request_id": names.get("request_id")}
        attributes = {f"headrace.{name}": value for name, value in told.items() if value is not None}
        if "table" in names:
            attributes[DB_COLLECTION_NAME] = names["table"]
        return cast("dict[str, AttributeValue]", attributes)

    # ---------------------------------------------------------------- flushes

    def flush(self, flush: Flush, batches: Sequence[Batch], failure: Exception | None) -> None:
        """A flush has ended.

        Its span is linked to those of its requests, and a child of the first of them that is kept: whatever the
        sampler is, it keeps the flushes that belong to what it keeps, and no others.
        """
        with _harmless():
            carried = list(islice(_kept(batches), _LINKS_MAX))
            if not carried:
                return
            names = tables_of(batches)
            attributes: dict[str, AttributeValue] = {
                DB_SYSTEM_NAME: "postgresql",
                "headrace.tables": names[:_TABLES_MAX],
                "headrace.lanes": flush.lanes,
                "headrace.requests": flush.submissions,
                "headrace.rows": flush.rows,
                "headrace.bytes": flush.size,
                "headrace.slots_busy": flush.slots_busy,
                "headrace.slots_idle": flush.slots - flush.slots_busy,
            }
            if len(names) == 1:
                attributes[DB_COLLECTION_NAME] = names[0]
            ended = time.time() - (self._clock() - flush.ended)
            parent = trace.set_span_in_context(trace.NonRecordingSpan(carried[0]))
            links = [Link(context) for context in carried]
            began_ns, ended_ns = _nanoseconds(ended - flush.seconds), _nanoseconds(ended)
            span = self._tracer.start_span("flush", parent, SpanKind.CLIENT, attributes, links, began_ns)
            if failure is not None:
                _fail(span, type(failure).__name__)  # its words may be about somebody's rows
            span.end(ended_ns)

    # ---------------------------------------------------------------- the end

    def stopping(self) -> None:
        """The time for draining begins."""
        self._stopping_since = self._stopping_since or self._clock()

    async def close(self, drain_seconds: float) -> None:
        """Have the last spans delivered, as far as that can be done in what is left of the time for draining."""
        if self._own is None:
            return  # its owner does that
        await asyncio.sleep(0)  # what has just ended ends its span with the next turn
        self.stopping()
        left = drain_seconds - (self._clock() - (self._stopping_since or 0.0))
        loop, delivered = asyncio.get_running_loop(), asyncio.Event()
        shutdown = self._own.shutdown

        def deliver() -> None:
            try:
                shutdown()
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: it took too long
                    loop.call_soon_threadsafe(delivered.set)

        # A daemon: the interpreter does not wait for it at its end, as it does for those of a pool.
        threading.Thread(target=deliver, name="headrace-traces", daemon=True).start()
        with anyio.move_on_after(min(max(left, _CLOSE_SECONDS_MIN), _CLOSE_SECONDS_MAX)) as scope:
            await delivered.wait()
        if scope.cancelled_caught:
            logger.warning("the last spans could not be delivered in time")


def _kept(batches: Sequence[Batch]) -> Iterator[trace.SpanContext]:
    """The spans of the requests in these batches, without those that the sampler drops."""
    for batch in batches:
        for submission in batch.submissions:
            span = cast("Span | None", cast("Posting", submission).span)
            if span is not None and span.context.trace_flags.sampled:
                yield span.context


def _open(posting: Posting) -> trace.Span | None:
    """The span of a posting, if it has not ended and anybody is interested in it."""
    span = cast("Span | None", posting.span)
    return span.otel if span is not None and span.otel.is_recording() else None


@contextmanager
def _harmless() -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("a span could not be written; the request goes on")


def _fail(span: trace.Span, code: str) -> None:
    span.set_attribute(ERROR_TYPE, code)
    span.set_status(Status(StatusCode.ERROR))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


# -------------------------------------------------------------------- where spans go


def _provider() -> TracerProvider:
    """One of our own, as OpenTelemetry's environment variables want it."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "headrace"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `Traces.close` does that, in time
    for exporter in _exporters(os.environ):
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters(environ: Mapping[str, str]) -> Iterator[SpanExporter]:
    """What `OTEL_TRACES_EXPORTER` names: several separated by commas, `otlp` without it."""
    for name in environ.get(OTEL_TRACES_EXPORTER, "otlp").split(","):
        match name.strip():
            case "none" | "":
                pass
            case "otlp":
                protocol = environ.get(OTEL_EXPORTER_OTLP_PROTOCOL, "http/protobuf")
                yield from _exporter(
                    _PROTOCOLS.get(environ.get(OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, protocol), protocol)
                )
            case other:
                yield from _exporter(other)


_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def _exporter(name: str) -> Iterator[SpanExporter]:
    found = entry_points(group="opentelemetry_traces_exporter", name=name)
    if not found:
        logger.error("no exporter %s for spans is installed: they go nowhere", name)
    for entry in found:
        try:
            yield entry.load()()
        except Exception:
            logger.exception("the exporter %s for spans does not work as it is configured: they go nowhere", name)
