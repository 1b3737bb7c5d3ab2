"""The numbers of a worker: what it counts, what it holds at the moment, and how those of several become one.

Owns what is counted, as plain values that can be written to a file and added up. Must not know who counts
(`observing/counting.py`), what a number is called outside (`observing/metrics.py`), nor what it says to people
(`observing/second.py`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field

Outcome = Literal[
    "committed", "replayed", "rolled_back", "quarantined", "rejected", "shed", "withdrawn", "unknown", "failed"
]

OUTCOMES: tuple[Outcome, ...] = (
    "committed",
    "replayed",  # the rows of an idempotency key that was used before: they were committed with the first request
    "rolled_back",  # a dry run
    "quarantined",
    "rejected",  # 4xx
    "shed",  # 429, 503
    "withdrawn",  # the client left while its rows waited
    "unknown",  # HR506
    "failed",  # other 5xx
)
"""What becomes of a request, and of each row; each has one."""

COMMITTED, REPLAYED, ROLLED_BACK, QUARANTINED = range(4)
"""Places in `OUTCOMES`."""

# Neighbours are apart by a third to a half: a percentile read off them is as exact as that.
SECONDS = tuple(
    round(step * unit, 6) for unit in (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0) for step in (1, 1.5, 2, 3, 5, 7)
)[4:-2]
"""Upper bounds of the buckets of a histogram of times: 0.5 ms to 30 s."""

ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
BYTES = tuple(4**power for power in range(3, 14))
"""The same of rows, and of bytes: 64 B to 64 MiB."""

SLOW_MAX = 20
"""So many slow flushes are remembered."""


class Histogram(Struct):
    """How many values were in each bucket, one more than there are bounds, and their sum."""

    counts: list[int]
    sum: float = 0.0

    @property
    def count(self) -> int:
        """How many there were in all."""
        return sum(self.counts)


def _times() -> Histogram:
    return Histogram([0] * (len(SECONDS) + 1))


class TableNumbers(Struct):
    """What was received for one table. Lists are in the order of `OUTCOMES`."""

    requests: list[int] = field(default_factory=lambda: [0] * len(OUTCOMES))
    rows: list[int] = field(default_factory=lambda: [0] * len(OUTCOMES))
    batches: int = 0
    write_seconds: float = 0.0
    """The time of flushes that had rows of it; of one that is shared by several tables, an equal part."""

    @property
    def is_used(self) -> bool:
        """Whether there was a request for it."""
        return any(self.requests)


class SlowFlush(Struct, frozen=True):
    """A flush that took long. `at` is its end, in seconds since 1970; `failure` says why nothing of it was stored."""

    at: float
    seconds: float
    tables: list[str]
    requests: int
    rows: int
    bytes: int
    failure: str | None


class State(Struct):
    """What there is at this moment."""

    workers: int = 1
    draining: int = 0
    """How many of the workers stop."""
    away: int = 0
    """How many of the workers cannot write to the database."""
    queued_requests: int = 0
    queued_rows: int = 0
    queued_bytes: int = 0
    oldest_seconds: float = 0.0
    """How long the oldest of these has waited."""
    pending_requests: int = 0
    """Received, and no outcome yet: what waits, what is being written, and bodies that arrive."""
    pending_rows: int = 0
    pending_bytes: int = 0
    pending_rows_max: int = 0
    pending_bytes_max: int = 0
    body_bytes: int = 0
    """What bodies hold that arrive, are read or are decompressed."""
    slots_busy: int = 0
    slots_idle: int = 0
    slots_away: int = 0
    """Flush slots without a connection."""
    connections: int = 0
    """Open connections of clients."""
    database_connections: int = 0
    resident_bytes: int = 0
    lag_seconds: float = 0.0
    """By how much the event loop was late at worst, in the last second."""


class Numbers(Struct):
    """Everything that is counted since the start, and the state."""

    state: State = field(default_factory=State)
    received_requests: int = 0
    received_rows: int = 0
    tables: dict[str, TableNumbers] = field(default_factory=dict)
    """By schema.name; "" has the requests of which the table is not known."""
    refusals: dict[str, int] = field(default_factory=dict)
    """By status and code, as in "429 HR429": every answer that is no success."""
    request_seconds: dict[str, Histogram] = field(default_factory=lambda: {outcome: _times() for outcome in OUTCOMES})
    """From a request's beginning to its answer, by outcome."""
    queue_seconds: Histogram = field(default_factory=_times)
    """From when the rows were read to the flush that has settled what became of them."""
    flush_seconds: dict[str, Histogram] = field(default_factory=lambda: {"ended": _times(), "failed": _times()})
    batch_rows: Histogram = field(default_factory=lambda: Histogram([0] * (len(ROWS) + 1)))
    """Rows in a flush, of all tables that are written in its transaction."""
    batch_bytes: Histogram = field(default_factory=lambda: Histogram([0] * (len(BYTES) + 1)))
    retries: int = 0
    """Batches, or single requests of them, that were not stored and wait for another try."""
    doubts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stored", "not_stored", "unknown"), 0))
    slot_connects: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "failed"), 0))
    """Attempts of flush slots to connect to the database."""
    lag_seconds: Histogram = field(default_factory=_times)
    """By how much the event loop was late, ten times a second."""
    cpu_seconds: float = 0.0
    """User and system time of the process."""
    slow: list[SlowFlush] = field(default_factory=list)
    """The last ones, oldest first."""

    def totals(self) -> TableNumbers:
        """The numbers of all tables together."""
        tables = list(self.tables.values()) or [TableNumbers()]
        return TableNumbers(
            _columns([table.requests for table in tables]),
            _columns([table.rows for table in tables]),
            sum([table.batches for table in tables]),
            sum([table.write_seconds for table in tables]),
        )

    @property
    def unbalanced_requests(self) -> int:
        """Received, without an outcome, and not pending either: lost, or counted twice."""
        return self.received_requests - sum(self.totals().requests) - self.state.pending_requests

    @property
    def unbalanced_rows(self) -> int:
        """The same of rows."""
        return self.received_rows - sum(self.totals().rows) - self.state.pending_rows


def together(workers: Sequence[Numbers]) -> Numbers:
    """The numbers of several workers as one's. At least one is needed."""
    merged = cast("Numbers", _sum(workers))
    merged.state.oldest_seconds = max(numbers.state.oldest_seconds for numbers in workers)
    merged.state.lag_seconds = max(numbers.state.lag_seconds for numbers in workers)
    merged.slow = sorted(merged.slow, key=lambda flush: flush.at)[-SLOW_MAX:]
    return merged


def _sum(values: Sequence[Any]) -> Any:
    """Structs, dicts and lists of numbers are added part by part; lists of anything else are joined."""
    first = values[0]
    match first:
        case Struct():
            return type(first)(*[_sum([getattr(value, name) for value in values]) for name in first.__struct_fields__])
        case dict():
            return {key: _sum([value[key] for value in values if key in value]) for key in _keys(values)}
        case list() if any(isinstance(item, SlowFlush) for value in values for item in value):
            return [item for value in values for item in value]
        case list():
            return _columns(values)
        case _:
            return sum(values)


def _keys(values: Iterable[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(key for value in values for key in value)


def _columns(lists: Sequence[list[int]]) -> list[int]:
    return [sum(items) for items in zip(*lists, strict=True)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Numbers).decode

_SHAPE = zlib.crc32(repr((OUTCOMES, SECONDS, ROWS, BYTES)).encode()).to_bytes(4, "big")
"""Numbers of another version are not to be mixed with these."""


def encode(numbers: Numbers) -> bytes:
    """As bytes, for a file or for a copy."""
    return _SHAPE + _encode(numbers)


def decode(content: bytes) -> Numbers:
    """What was encoded. Raises `ValueError`, also if another version has done it."""
    if not content.startswith(_SHAPE):
        raise ValueError("it was written by another version")
    return _decode(memoryview(content)[len(_SHAPE) :])
