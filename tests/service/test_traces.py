"""Spans: one for each request to store rows and each flush, and none that is left open."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from typer.testing import CliRunner

from headrace import Headrace, RowsRefused
from service.cli import app
from service.dialect.marks import marks_of
from service.observing.traces import _exporters
from tests.harness import Connection, RawConnection, Running, Start
from tests.service.in_process import post

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PARENT = f"00-{_TRACE}-00f067aa0ba902b7-01"


class Spans:
    """The spans of a test, and how many were begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sampler: Sampler | None = None) -> None:
        self.begun = 0
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(_Counting(self))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.provider = provider
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    def __call__(self, name: str = "") -> list[ReadableSpan]:
        """Those that have ended, in this order."""
        return [span for span in self.exporter.get_finished_spans() if name in {"", span.name}]

    @property
    def requests(self) -> list[ReadableSpan]:
        return self("POST /rest/v1/{table}")


class _Counting(SpanProcessor):
    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def on_start(self, span: object, parent_context: object = None) -> None:  # noqa: ARG002 - OpenTelemetry's signature
        self._spans.begun += 1


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """A tracer of the program around us."""
    return Spans(monkeypatch)


@pytest.fixture
async def traced(dsn: str, start: Start, spans: Spans, notes: None) -> AsyncIterator[Running]:  # noqa: ARG001
    """A service with traces."""
    async with start(dsn=dsn, traces=True) as running:
        yield running


def _told(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


@pytest.mark.usefixtures("lane")
async def test_a_request_and_its_flush_are_told_of(traced: Running, spans: Spans) -> None:
    """Whoever follows a request through his system sees when it waited here, and for what."""
    await traced.post("notes", [{"text": "a"}, {"text": "b"}])
    await traced.eventually(lambda: len(spans()) == 2)
    (request,), (flush,) = spans.requests, spans("flush")
    assert request.kind is SpanKind.SERVER
    assert request.status.status_code is StatusCode.UNSET
    told = _told(request)
    assert {name: told[name] for name in told if not name.endswith("_seconds")} == {
        "http.request.method": "POST",
        "http.route": "/rest/v1/{table}",
        "url.path": "/rest/v1/notes",
        "http.response.status_code": 201,
        "db.collection.name": "public.notes",
        "headrace.rows": 2,
        "headrace.batch_rows": 2,
        "headrace.batch_requests": 1,
        "headrace.outcome": "committed",
    }
    assert cast("float", told["headrace.queue_seconds"]) >= 0 < cast("float", told["headrace.write_seconds"])
    assert flush.kind is SpanKind.CLIENT
    told = _told(flush)
    assert told.pop("headrace.bytes")
    assert told == {
        "db.system.name": "postgresql",
        "db.collection.name": "public.notes",
        "headrace.tables": ("public.notes",),
        "headrace.lanes": 1,
        "headrace.requests": 1,
        "headrace.rows": 2,
        "headrace.slots_busy": 1,
        "headrace.slots_idle": 1,
    }
    assert [link.context for link in flush.links] == [request.context]
    assert flush.parent is not None
    assert request.context is not None
    assert flush.parent.span_id == request.context.span_id
    assert request.start_time is not None
    assert request.end_time is not None
    assert flush.start_time is not None
    assert flush.end_time is not None
    assert request.start_time - 10**6 <= flush.start_time < flush.end_time <= request.end_time + 10**7


@pytest.mark.usefixtures("lane")
async def test_a_trace_goes_on_here(traced: Running, spans: Spans) -> None:
    """Otherwise the client's trace ends where it becomes interesting. What it says of itself is passed on."""
    for _ in range(2):  # the second has a head that is known
        await traced.post("notes", {"text": "a"}, traceparent=_PARENT, tracestate="a=1,b@c=2")
    await traced.eventually(lambda: len(spans()) == 4)
    for request in spans.requests:
        assert request.parent is not None
        assert trace.format_span_id(request.parent.span_id) == "00f067aa0ba902b7"
        assert request.parent.is_remote
        assert request.parent.trace_state == {"a": "1", "b@c": "2"}
        assert _told(request)["headrace.request_id"] == _TRACE
    assert {trace.format_trace_id(span.context.trace_id) for span in spans() if span.context} == {_TRACE}


@pytest.mark.parametrize(
    ("parent", "states", "expected"),
    [
        (_PARENT, [], {"traceparent": _PARENT}),
        (_PARENT, ["a=1", " b@c= d ,"], {"traceparent": _PARENT, "tracestate": "a=1, b@c= d ,"}),
        (_PARENT, [f"a{number}=1" for number in range(33)], {"traceparent": _PARENT}),
        (_PARENT, ["a=" + "x" * 510 + ",b=1"], {"traceparent": _PARENT}),
        (_PARENT, ["nonsense"], {"traceparent": _PARENT}),
        (_PARENT, ["1=2"], {"traceparent": _PARENT}),
        (_PARENT, ["a=\xff"], {"traceparent": _PARENT}),
        (_PARENT + "-" + "x" * 600, ["a=1"], {}),
        (_PARENT.replace("4bf9", "4BF9"), ["a=1"], {}),
        ("", ["a=1"], {}),
    ],
)
def test_only_what_is_a_trace_context_is_passed_on(
    parent: str, states: list[str], expected: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry writes a line about each header that is none, and anybody can send a million of them."""
    headers = [(b"x-request-id", b"r"), (b"traceparent", parent.encode())]
    marks = marks_of([*headers, *[(b"tracestate", state.encode("latin-1")) for state in states]])
    assert marks.trace_context == expected
    TraceContextTextMapPropagator().extract(marks.trace_context)
    assert not caplog.records


async def test_heads_that_are_known_have_spans_too(traced: Running, spans: Spans) -> None:
    """The shortest way of a request goes past everything that it can; not past this."""
    async with traced.connect() as connection:
        for number in range(3):
            await connection.send(post(b'{"text":"a"}', line=b"POST /rest/v1/notes HTTP/1.1"))
            assert (await connection.next()).status == 201
            assert len(spans.requests) == number + 1


@pytest.mark.usefixtures("lane", "notes")
async def test_log_lines_name_the_trace(
    dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From a line to all that the request went through; unless the sampler has not kept it."""
    caplog.set_level("INFO")
    spans = Spans(monkeypatch, ParentBased(ALWAYS_OFF))
    async with start(dsn=dsn, traces=True, access_log=True, slow_request_seconds=0.001) as running:
        await running.post("notes", {"text": "a"}, traceparent=_PARENT)
        await running.post("notes", {"text": "a"})
    assert len(spans.requests) == 1
    for logger in ("headrace.access", "service.observing.slow"):
        lines = [vars(record) for record in caplog.records if record.name == logger and "a flush" not in record.msg]
        assert [line.get("trace_id") for line in lines if line.get("table")][:2] in ([_TRACE, None], [_TRACE])


@pytest.mark.parametrize("limit", [2, 100])
@pytest.mark.usefixtures("notes")
async def test_a_flush_is_linked_to_those_that_it_carried(  # noqa: PLR0913, PLR0917 - fixtures
    limit: int, dsn: str, db: Connection, start: Start, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To so many of them that one flush of thousands does not become a problem of its own."""
    monkeypatch.setattr("service.observing.traces._LINKS_MAX", limit)
    async with start(dsn=dsn, traces=True, flush_slots=1) as running:
        async with asyncio.TaskGroup() as tasks, running.gathering(db, "notes", 9):
            for _ in range(9):
                tasks.create_task(running.post("notes", {"text": "a"}))
        await running.eventually(lambda: spans.begun == len(spans()))
    assert len(spans.requests) == 9
    carried = [cast("int", _told(flush)["headrace.requests"]) for flush in spans("flush")]
    assert sum(carried) == 9
    assert max(carried) > 2
    assert [len(flush.links) for flush in spans("flush")] == [min(limit, number) for number in carried]
    contexts = [request.context for request in spans.requests]
    assert all(link.context in contexts for flush in spans("flush") for link in flush.links)


@pytest.mark.usefixtures("lane")
async def test_refusals_have_their_code(traced: Running, spans: Spans) -> None:
    """A 4xx is no error of ours, whatever the client thinks of it."""
    answers = [
        await traced.post("notes", {"text": "bad"}),
        await traced.post("nowhere", {"text": "a"}),
        await traced.post("notes", b"{", x_request_id="r-1"),
    ]
    assert [answer.status_code for answer in answers] == [400, 404, 400]
    told = [_told(span) for span in spans.requests]
    assert [each["headrace.code"] for each in told] == ["23514", "PGRST205", "PGRST102"]
    assert {each["headrace.outcome"] for each in told} == {"rejected"}
    assert "headrace.write_seconds" in told[0]
    assert "headrace.queue_seconds" not in told[1]
    assert told[2]["headrace.request_id"] == "r-1"
    assert {span.status.status_code for span in spans.requests} == {StatusCode.UNSET}


@pytest.mark.usefixtures("lane", "notes")
async def test_what_is_our_fault_is_an_error(dsn: str, db: Connection, start: Start, spans: Spans) -> None:
    """Tools count spans with this status. One that has waited in vain says how long."""
    async with start(dsn=dsn, traces=True, lock_seconds_max=0.1) as running, db.transaction():
        await db.execute("lock table notes in exclusive mode")
        answer = await running.post("notes", {"text": "a"}, prefer="wait=1")
    assert (answer.status_code, answer.json()["code"]) == (503, "HR503")
    (request,) = spans.requests
    assert request.status.status_code is StatusCode.ERROR
    told = _told(request)
    assert told["error.type"] == told["headrace.code"] == "HR503"
    assert told["headrace.outcome"] == "shed"
    assert cast("float", told["headrace.queue_seconds"]) >= 0.9


@pytest.mark.usefixtures("notes")
async def test_a_flush_that_stored_nothing_is_an_error(dsn: str, db: Connection, start: Start, spans: Spans) -> None:
    """Each attempt is a flush of its own, so a trace shows what a request has waited for."""
    async with start(dsn=dsn, traces=True, lock_seconds_max=0.1) as running:
        async with db.transaction():
            await db.execute("lock table notes in exclusive mode")
            task = asyncio.create_task(running.post("notes", {"text": "a"}))
            await running.eventually(lambda: len(spans("flush")) >= 2)
        assert (await task).status_code == 201
        await running.eventually(lambda: spans("flush")[-1].status.status_code is StatusCode.UNSET)
    *failed, last = spans("flush")
    assert {span.status.status_code for span in failed} == {StatusCode.ERROR}
    assert {_told(span)["error.type"] for span in failed} == {"Unavailable"}
    (request,) = spans.requests
    assert all([link.context for link in span.links] == [request.context] for span in [*failed, last])


_EARLY = b"POST /rest/v1/nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n"
_HALF = b"POST /rest/v1/notes HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{"
_CHUNK = b"POST /rest/v1/notes HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"


async def _received(running: Running, requests: int) -> None:
    await running.eventually(lambda: running.service.postings.received_requests == requests)


async def _pending(running: Running, requests: int) -> None:
    await running.eventually(lambda: running.service.batcher.statistics().pending_submissions == requests)


def _cut(connection: RawConnection) -> None:
    """End it as the kernel of a killed client does; an orderly end could mean that the client still listens."""
    connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.reset()


@pytest.mark.usefixtures("lane")
async def test_every_span_ends(traced: Running, db: Connection, spans: Spans) -> None:
    """One that does not is kept by nobody, and the trace it belongs to has a hole."""
    begun = 0
    for body, headers in (
        (b"[]", {}),
        (b'{"text":"a"}', {"prefer": "respond-async"}),
        (b'{"text":"bad"}', {"prefer": "respond-async"}),
        (b'{"text":"a"}', {"idempotency_key": "k"}),
        (b'{"text":"a"}', {"idempotency_key": "k"}),
        (b'[{"text":"a"},{"text":1,"nope":2}]', {"prefer": "bad-rows=quarantine"}),
        (b'[{"nope":2}]', {"prefer": "bad-rows=quarantine"}),
        (b"[1]", {"content_type": "text/xml"}),
    ):
        begun += 1
        await traced.post("notes", body, **headers)
    for request in (_EARLY, _HALF, _CHUNK):
        async with traced.connect() as connection:
            begun += 1
            await connection.send(request)
            await _received(traced, begun)
            await connection.send(b"nonsense")
            connection.reset()
    async with db.transaction():
        await db.execute("lock table notes in exclusive mode")
        for number in range(4):  # more than there are slots: some are withdrawn, some are being written
            async with traced.connect() as connection:
                await connection.send(post(b'{"text":"a","number":%d}' % number, line=b"POST /rest/v1/notes HTTP/1.1"))
                begun += 1
                await _received(traced, begun)
                _cut(connection)
        await traced.eventually(lambda: len(spans.requests) == begun)
    await traced.eventually(lambda: not traced.service.batcher.statistics().pending_submissions)
    await traced.eventually(lambda: spans.begun == len(spans()))
    outcomes = [_told(span).get("headrace.outcome") for span in spans.requests[:8]]
    assert outcomes == [
        "committed", None, None, "committed", "replayed", "committed", "quarantined", "rejected",
    ]  # fmt: skip
    left = [span for span in spans.requests if "headrace.abandoned" in _told(span)]
    assert len(left) >= 5


@pytest.mark.usefixtures("notes")
async def test_what_is_not_kept_has_no_flush(dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler decides by request; a flush of others only would be a trace that nobody asked for."""
    spans = Spans(monkeypatch, ParentBased(ALWAYS_OFF))
    async with start(dsn=dsn, traces=True) as running:
        await running.post("notes", {"text": "a"})
        await running.post("notes", {"text": "a"}, traceparent=_PARENT[:-1] + "0")
        await running.post("notes", {"text": "a"}, traceparent=_PARENT)
        await running.eventually(lambda: len(spans()) == 2)
        assert [span.name for span in spans()] == ["POST /rest/v1/{table}", "flush"]


@pytest.mark.usefixtures("notes")
async def test_a_flush_belongs_to_a_request_that_is_kept(
    dsn: str, db: Connection, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands that it carried, one may be kept; its trace would be without the write."""
    spans = Spans(monkeypatch, ParentBased(ALWAYS_OFF))
    async with start(dsn=dsn, traces=True, flush_slots=1) as running:
        await running.post("notes", {"text": "a"})  # from now on the slot is connected
        async with asyncio.TaskGroup() as tasks, running.gathering(db, "notes", 3):
            for number, flags in enumerate(("00", "00", "01"), 1):
                parent = _PARENT[:-2] + flags
                tasks.create_task(running.post("notes", {"text": "a"}, traceparent=parent))
                await _pending(running, number)
                await running.eventually(lambda: running.service.batcher.slots().busy == 1)  # with the first, alone
        await running.eventually(lambda: len(spans()) == 2)
    (request,), (flush,) = spans.requests, spans("flush")
    assert flush.parent is not None
    assert request.context is not None
    assert flush.parent.span_id == request.context.span_id
    assert [link.context for link in flush.links] == [request.context]
    assert _told(flush)["headrace.requests"] == 2


async def test_only_requests_to_store_rows_have_spans(traced: Running, spans: Spans) -> None:
    """Scrapes and health checks come every few seconds and would be most of what there is."""
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/rest/v1/notes", "/nowhere"):
        await traced.client.get(path)
    assert spans.begun == 0


@pytest.mark.usefixtures("lane")
async def test_a_broken_processor_breaks_no_request(
    traced: Running, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    """The program around us may bring one of its own; rows are worth more than spans."""

    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002 - OpenTelemetry's signature
            raise ZeroDivisionError

    spans.provider.add_span_processor(Broken())
    assert (await traced.post("notes", {"text": "a"})).status_code == 201
    await traced.eventually(lambda: len(caplog.records) >= 2)
    assert {record.name for record in caplog.records} == {"service.observing.traces"}


# -------------------------------------------------------------------- the library


@pytest.mark.usefixtures("notes")
async def test_an_insert_belongs_to_the_span_around_it(dsn: str, spans: Spans) -> None:
    """The trace of an endpoint shows what its insert took."""
    async with Headrace(dsn, traces=True) as headrace:
        with trace.get_tracer("app").start_as_current_span("endpoint") as around:
            await headrace.insert("notes", {"text": "a"})
            await headrace.insert("notes", {"text": "b", "number": 1}, idempotency_key="k")
            with pytest.raises(RowsRefused):
                await headrace.insert("notes", {"text": "bad"})
    first, second, refused = spans("insert")
    for span in (first, second, refused):
        assert span.parent == around.get_span_context()
        assert _told(span)["db.collection.name"] == "public.notes"
        assert _told(span)["headrace.rows"] == 1
    assert [span.status.status_code for span in (first, second, refused)] == [
        StatusCode.UNSET, StatusCode.UNSET, StatusCode.ERROR,
    ]  # fmt: skip
    assert _told(refused)["error.type"] == "23514"
    linked = [link.context for flush in spans("flush") for link in flush.links]
    assert [span.context in linked for span in (first, second, refused)] == [True] * 3


@pytest.mark.usefixtures("notes")
async def test_an_insert_that_is_cancelled_ends_its_span(dsn: str, db: Connection, spans: Spans) -> None:
    """The rows may go on being written, but nobody waits."""
    async with Headrace(dsn, traces=True, flush_slots=1) as headrace, db.transaction():
        await db.execute("lock table notes in exclusive mode")
        task = asyncio.create_task(headrace.insert("notes", {"text": "a"}))
        while not spans.begun:  # noqa: ASYNC110 - OpenTelemetry has no event for it
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        (span,) = spans("insert")
        assert _told(span)["headrace.abandoned"] is True
    assert spans.begun == len(spans())


# -------------------------------------------------------------------- where spans go


class Collector(ThreadingHTTPServer):
    """Takes what exporters send. While it is `deaf`, it does not answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: list[ExportTraceServiceRequest] = []
        self.deaf = threading.Event()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def names(self) -> list[str]:
        """Of all spans that it has."""
        return [
            span.name
            for request in self.taken
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        """Who has sent them."""
        return {
            attribute.value.string_value
            for request in self.taken
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast("Collector", self.server)
        body = self.rfile.read(int(self.headers["content-length"]))
        if server.deaf.is_set():
            server.over.wait()
            return
        assert self.path == "/v1/traces"
        server.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Where OpenTelemetry's variables send spans to."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["", "mine"])
@pytest.mark.usefixtures("notes")
async def test_spans_reach_a_collector(
    name: str, dsn: str, start: Start, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real exporter, as its variables say; the last ones when the service stops."""
    if name:
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    async with start(dsn=dsn, traces=True) as running:
        await running.post("notes", {"text": "a"})
    assert sorted(collector.names) == ["POST /rest/v1/{table}", "flush"]
    assert collector.services == {name or "headrace"}


@pytest.mark.usefixtures("notes")
async def test_a_collector_that_does_not_answer_holds_up_no_end(
    dsn: str,
    start: Start,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever stops a service has given it so many seconds, and spans are not worth more."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    collector.deaf.set()
    async with start(dsn=dsn, traces=True, drain_seconds_max=0.5) as running:
        await running.post("notes", {"text": "a"})
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert "the last spans could not be delivered in time" in caplog.text
    collector.over.set()
    for thread in threading.enumerate():  # what it has to say must not come in the midst of another test
        if thread.name == "headrace-traces":
            await asyncio.to_thread(thread.join)


def test_the_exporter_is_that_of_the_variables(caplog: pytest.LogCaptureFixture) -> None:
    """They are documented by OpenTelemetry, and other services on the same machine go by them as well."""
    for variables, kinds in (
        ({}, [OTLPSpanExporter]),
        ({"OTEL_TRACES_EXPORTER": "otlp, console"}, [OTLPSpanExporter, ConsoleSpanExporter]),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"},
            [OTLPSpanExporter],
        ),
    ):
        exporters = list(_exporters(variables))
        assert [type(exporter) for exporter in exporters] == kinds
        for exporter in exporters:
            exporter.shutdown()
    assert not caplog.records
    for variables in ({"OTEL_TRACES_EXPORTER": "pigeon"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "pigeon"}):
        caplog.clear()
        assert list(_exporters(variables)) == []
        assert "pigeon" in caplog.text


# -------------------------------------------------------------------- without


_SERVE = """
import atexit, sys
WANTED = {"opentelemetry.sdk", "service.observing.traces"}
atexit.register(lambda: print(sorted(name for name in sys.modules if name in WANTED)))
sys.argv = ["headrace", "serve", "--port", "0", "--dsn", "postgresql://127.0.0.1:1/nowhere"]
from service.cli import main
main()
"""


@pytest.mark.parametrize(
    ("wanted", "found"), [("false", "[]"), ("true", "['opentelemetry.sdk', 'service.observing.traces']")]
)
def test_nothing_of_it_is_there_unless_it_is_wanted(wanted: str, found: str) -> None:
    """It takes memory and time to start, and most will never use it. (FastAPI brings its API in any case.)"""
    environment = {**os.environ, "HEADRACE_TRACES": wanted, "OTEL_TRACES_EXPORTER": "none"}
    with subprocess.Popen([sys.executable, "-c", _SERVE], env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "listens on" in child.stdout.readline()
        child.terminate()
        assert child.stdout.read().splitlines()[-1] == found
    assert child.returncode == 0


def test_who_wants_traces_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, at the start; not a traceback with the first request."""
    monkeypatch.delitem(sys.modules, "service.observing.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("HEADRACE_TRACES", "true")
    result = CliRunner().invoke(app, ["serve", "--dsn", "postgresql://127.0.0.1:1/nowhere"])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("HEADRACE_TRACES: ")
    assert "pip install headrace[traces]" in line
