"""A glance: what the dashboard and `headrace top` show of a second, as values.

Must not know where the numbers come from (`observing/second.py`), nor how they are shown.
"""

from __future__ import annotations

from msgspec import Struct

from service.observing.numbers import SlowFlush


class Problem(Struct, frozen=True):
    """Something that is wrong, and what to do about it. `level` is "error" (rows are refused) or "warning"."""

    level: str
    text: str
    advice: str


class Percentiles(Struct, frozen=True):
    """Of the last seconds, in milliseconds; None if there was nothing to measure."""

    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None


class Point(Struct, frozen=True):
    """A second, as charts show it. `at` is its end, in seconds since 1970; rates are per second."""

    at: float
    requests: float
    """Requests that were answered with a success."""
    rows: float
    """Rows that were committed."""
    refused: float
    """Answers 4xx and 429, 503."""
    failed: float
    """Other answers 5xx, and those of unknown outcome."""
    p50_ms: float | None
    p99_ms: float | None
    batch_rows: float | None
    """Rows in a flush, on average."""
    queued_rows: int
    queued_bytes: int
    oldest_ms: float
    lag_ms: float
    """By how much the event loop was late, at worst."""


class Queue(Struct, frozen=True):
    """What waits or is being written, against its limits."""

    queued_rows: int
    queued_bytes: int
    pending_requests: int
    pending_rows: int
    pending_rows_max: int
    pending_bytes: int
    pending_bytes_max: int
    oldest_ms: float


class Slots(Struct, frozen=True):
    """Flush slots."""

    busy: int
    idle: int
    away: int


class Database(Struct, frozen=True):
    """PostgreSQL, as last seen. What could not be found out is None."""

    up: bool
    reason: str | None
    """Why not."""
    version: str | None
    connections: int | None
    """All that the server has, not only ours."""
    connections_max: int | None
    read_only: bool | None
    skew_seconds: float | None
    """By how much its clock is ahead of ours."""


class TableRates(Struct, frozen=True):
    """One table: rates per second, and totals since the start."""

    table: str
    requests: float
    rows: float
    refused: float
    """Requests that were not stored."""
    requests_total: int
    rows_total: int
    refused_total: int
    batch_rows: float | None
    """Rows in one of its batches, on average, of the last seconds."""
    write_ms: float | None
    """How long one of its batches took, on average, of the last seconds."""


class Refusal(Struct, frozen=True):
    """Answers of one kind that were no success."""

    status: int
    code: str
    per_second: float
    total: int


class Reason(Struct, frozen=True):
    """Why a row is in quarantine, in words without its values."""

    id: int
    at: float
    table: str
    column: str | None
    code: str
    condition: str
    """What PostgreSQL calls the code, e.g. "not null violation"."""


class Quarantine(Struct, frozen=True):
    """Rows in quarantine: how many (at most `counted_max` are counted), and the newest."""

    rows: int
    counted_max: int
    newest: list[Reason]


class Glance(Struct, frozen=True):
    """Everything, for the last second. `totals` are requests and rows by outcome since the start."""

    version: str
    workers: int
    uptime_seconds: float
    status: str
    """"ok", or what is worst: "draining", "away", "full", "busy"."""
    problems: list[Problem]
    point: Point
    received_requests: int
    received_rows: int
    totals: dict[str, tuple[int, int]]
    latency: Percentiles
    queue_time: Percentiles
    write_time: Percentiles
    queue: Queue
    slots: Slots
    connections: int
    database: Database
    tables: list[TableRates]
    """The busiest ones."""
    tables_total: int
    """How many have had requests."""
    refusals: list[Refusal]
    retries: int
    doubts: dict[str, int]
    unbalanced_requests: int
    unbalanced_rows: int
    slow: list[SlowFlush]
    """The last ones, newest first."""
    quarantine: Quarantine | None
    """None while it is not known."""
