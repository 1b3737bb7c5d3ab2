"""The numbers as Prometheus takes them: their names, and what to do about bad ones.

Owns metric names and help texts. Must not know how a number comes about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from service.observing.numbers import BYTES, OUTCOMES, ROWS, SECONDS, Histogram, Numbers
from sql import Vitals

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def text(numbers: Numbers, vitals: Vitals | None) -> bytes:
    """All metrics in Prometheus' text format. `vitals` are those of the database, if they are known."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(numbers, vitals))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, numbers: Numbers, vitals: Vitals | None) -> None:
        self._numbers = numbers
        self._vitals = vitals

    def collect(self) -> Iterable[Metric]:
        return families(self._numbers, self._vitals)

    def describe(self) -> Iterable[Metric]:
        return ()


def families(numbers: Numbers, vitals: Vitals | None) -> Iterator[Metric]:
    """The metrics, one by one."""
    yield from _requests(numbers)
    yield from _flushes(numbers)
    yield from _queue(numbers)
    yield from _database(numbers, vitals)
    yield from _process(numbers)


def _requests(numbers: Numbers) -> Iterator[Metric]:
    yield _counter("received_requests", "Requests to store rows that have arrived.", numbers.received_requests)
    yield _counter("received_rows", "Rows that could be read in them.", numbers.received_rows)
    used = {name: table for name, table in sorted(numbers.tables.items()) if table.is_used}
    yield _by_outcome(
        "requests",
        "Requests, by table (schema.name; empty if it is not known) and what became of them. rejected: the client's "
        "mistake (4xx). shed: too much at once, or the database is away (429, 503). withdrawn: the client left while "
        "its rows waited. unknown (HR506): look whether the rows are there. failed (other 5xx): see the log.",
        {name: table.requests for name, table in used.items()},
    )
    yield _by_outcome(
        "rows",
        "Rows, by table and what became of them. committed rows are in their tables; quarantined ones in "
        "headrace.quarantine, where `headrace quarantine list` shows them.",
        {name: table.rows for name, table in used.items()},
    )
    refusals = CounterMetricFamily(
        "headrace_refusals",
        "Answers that are no success, by status and code. README.md says what each code means.",
        labels=["status", "code"],
    )
    for key, count in numbers.refusals.items():
        status, code = key.split(" ", 1)
        refusals.add_metric([status, code], count)
    yield refusals
    yield _histogram(
        "request_seconds",
        "From the beginning of a request to its answer. If it is long, see which part is: the queue or the flush.",
        SECONDS,
        {outcome: numbers.request_seconds[outcome] for outcome in OUTCOMES},
        "outcome",
    )


def _flushes(numbers: Numbers) -> Iterator[Metric]:
    yield _histogram(
        "queue_seconds",
        "From when the rows of a request were read to the flush that stored them. Long while flushes are short: more "
        "flush slots may help; long with long flushes: the database is the limit.",
        SECONDS,
        {"": numbers.queue_seconds},
    )
    yield _histogram(
        "flush_seconds",
        "From giving a batch to the database to its commit (ended) or failure (failed). Long: look for locks, slow "
        "triggers, many indexes, slow disks; the slow ones are in the log and on the dashboard.",
        SECONDS,
        numbers.flush_seconds,
        "result",
    )
    yield _histogram(
        "batch_rows",
        "Rows in a flush, of all tables that are written in its transaction. It grows with the load by itself.",
        ROWS,
        {"": numbers.batch_rows},
    )
    yield _histogram("batch_bytes", "Bytes of rows in a flush.", BYTES, {"": numbers.batch_bytes})
    batches = CounterMetricFamily("headrace_table_batches", "Batches that had rows of this table.", labels=["table"])
    seconds = CounterMetricFamily(
        "headrace_table_write_seconds",
        "Time that flushes took for this table. Its rate is how many flush slots the table keeps busy.",
        labels=["table"],
    )
    for name, table in sorted(numbers.tables.items()):
        if table.batches:
            batches.add_metric([name], table.batches)
            seconds.add_metric([name], table.write_seconds)
    yield batches
    yield seconds
    yield _counter(
        "retries",
        "Batches, or single requests of them, that were not stored and waited for another try. Many: locks, or a "
        "database that comes and goes.",
        numbers.retries,
    )
    yield _by(
        CounterMetricFamily(
            "headrace_doubts",
            "Writes whose end was not seen, by what was found out. stored and not_stored are resolved; unknown was "
            "answered HR506: look whether the rows are there.",
            labels=["result"],
        ),
        numbers.doubts,
    )
    slots = GaugeMetricFamily(
        "headrace_flush_slots",
        "Flush slots by what they do. away: no connection. All busy all the time: the database is the limit, or more "
        "slots are needed.",
        labels=["state"],
    )
    state = numbers.state
    yield _by(slots, {"busy": state.slots_busy, "idle": state.slots_idle, "away": state.slots_away})
    yield _by(
        CounterMetricFamily(
            "headrace_slot_connects",
            "Attempts of flush slots to connect. More than there are slots: connections are lost; see the log.",
            labels=["result"],
        ),
        numbers.slot_connects,
    )


def _queue(numbers: Numbers) -> Iterator[Metric]:
    state = numbers.state
    yield _gauge("queued_requests", "Requests that wait for a flush.", state.queued_requests)
    yield _gauge("queued_rows", "Rows that wait for a flush.", state.queued_rows)
    yield _gauge("queued_bytes", "Bytes of rows that wait for a flush.", state.queued_bytes)
    yield _gauge(
        "oldest_queued_seconds",
        "How long the oldest row has waited for a flush. Seconds: its table is locked, or the database cannot keep up.",
        state.oldest_seconds,
    )
    yield _gauge("pending_requests", "Requests without an outcome: arriving, waiting, written.", state.pending_requests)
    yield _gauge("pending_rows", "Rows without an outcome.", state.pending_rows)
    yield _gauge("pending_bytes", "Bytes of rows that wait or are being written.", state.pending_bytes)
    yield _gauge(
        "pending_rows_limit",
        "HEADRACE_PENDING_ROWS_MAX. Near it, requests are refused with 429: slow down the producers, or the database.",
        state.pending_rows_max,
    )
    yield _gauge("pending_bytes_limit", "HEADRACE_PENDING_BYTES_MAX, in the same way.", state.pending_bytes_max)
    yield _gauge("body_bytes", "Bytes of bodies that arrive, are read or are decompressed.", state.body_bytes)
    balance = "Received, without an outcome, and not pending. Anything but 0 is a bug in Headrace: report it."
    yield _gauge("unbalanced_requests", balance, numbers.unbalanced_requests)
    yield _gauge("unbalanced_rows", balance, numbers.unbalanced_rows)


def _database(numbers: Numbers, vitals: Vitals | None) -> Iterator[Metric]:
    state = numbers.state
    up = state.away == 0
    yield _gauge("database_up", "1 if the database takes batches of all workers. 0: /readyz says why.", float(up))
    yield _gauge("database_connections", "Connections of ours to the database.", state.database_connections)
    if vitals is None:
        return
    yield _gauge("server_connections", "All connections that PostgreSQL has.", vitals.connections)
    yield _gauge(
        "server_connections_limit",
        "max_connections of PostgreSQL. Near it nobody can connect: fewer slots or workers, or a higher limit.",
        vitals.connections_max,
    )
    yield _gauge(
        "database_read_only", "1 if nothing can be written: a standby, or so configured.", float(vitals.read_only)
    )
    yield _gauge(
        "database_clock_skew_seconds",
        "By how much the database's clock is ahead. More than a second: mend the time service of one of them.",
        vitals.skew_seconds,
    )
    if vitals.quarantine_rows is not None:
        yield _gauge(
            "quarantine_rows",
            "Rows in quarantine, counted up to 10000. `headrace quarantine` shows, replays and drops them.",
            vitals.quarantine_rows,
        )


def _process(numbers: Numbers) -> Iterator[Metric]:
    state = numbers.state
    yield _histogram(
        "event_loop_lag_seconds",
        "By how much the event loop was late, ten times a second. Above 0.1: the worker is out of CPU, or bodies are "
        "very large.",
        SECONDS,
        {"": numbers.lag_seconds},
    )
    yield _gauge("connections", "Open connections of clients, in the fast lane's protocol.", state.connections)
    yield _gauge("workers", "Workers whose numbers these are.", state.workers)
    yield _gauge("draining", "How many of the workers are stopping.", state.draining)
    yield _counter("cpu_seconds", "CPU time of the workers, user and system.", numbers.cpu_seconds)
    yield _gauge("resident_bytes", "Memory of the workers.", state.resident_bytes)
    info = GaugeMetricFamily("headrace_info", "The version, as a label.", labels=["version"])
    info.add_metric([metadata.version("headrace")], 1)
    yield info


# -------------------------------------------------------------------- families


def _counter(name: str, help_text: str, value: float) -> Metric:
    return CounterMetricFamily(f"headrace_{name}", help_text, value)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"headrace_{name}", help_text, value)


def _by(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


_ALWAYS = ("committed", "quarantined")


def _by_outcome(name: str, help_text: str, tables: Mapping[str, Sequence[int]]) -> Metric:
    """Of each table what there was, and some even if that is nothing: a rate needs a first value."""
    family = CounterMetricFamily(f"headrace_{name}", help_text, labels=["table", "outcome"])
    for table, counts in tables.items():
        for outcome, count in zip(OUTCOMES, counts, strict=True):
            if count or outcome in _ALWAYS:
                family.add_metric([table, outcome], count)
    return family


def _histogram(
    name: str, help_text: str, bounds: Sequence[float], values: Mapping[str, Histogram], label: str = ""
) -> Metric:
    family = HistogramMetricFamily(f"headrace_{name}", help_text, labels=[label] if label else [])
    for value, histogram in values.items():
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*bounds, float("inf")), histogram.counts, strict=True):
            total += count
            buckets.append((str(float(bound)) if bound < float("inf") else "+Inf", total))
        family.add_metric([value] if label else [], buckets, histogram.sum)
    return family
