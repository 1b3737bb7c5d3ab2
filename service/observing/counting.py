"""The counting: what happens to requests, rows and flushes, added to a worker's `Numbers`. The hot path increments.

Owns which number an event belongs to. Must not know what the numbers are called outside (`observing/metrics.py`), nor
what is merely looked at (`Snapshots`).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import cast

from batching import Batch, Flush
from service.observing.numbers import (
    BYTES,
    OUTCOMES,
    QUARANTINED,
    ROWS,
    SECONDS,
    SLOW_MAX,
    Histogram,
    Numbers,
    Outcome,
    SlowFlush,
    TableNumbers,
)
from sql import Target

_TABLES_MAX = 10_000
"""Tables with numbers of their own; what comes beyond, as tables are made and dropped for years, shares those of
`OTHERS`."""

_CODES_MAX = 500
"""The same of codes of refusals: a trigger may raise whatever it likes."""

NOWHERE = ""
OTHERS = "others"

_NAMED_MAX = 5
"""So many tables of a slow flush are named."""


class Counts:
    """What one worker counts. `slow_flush_seconds` is from when on a flush is remembered as a slow one, `clock` is the
    batcher's.
    """

    def __init__(self, slow_flush_seconds: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.numbers = Numbers()
        self.nowhere = self.numbers.tables[NOWHERE] = TableNumbers()
        """Those of requests whose table is not known."""
        self.lag_seconds = 0.0
        """The worst since somebody has set it back."""
        self._slow_seconds = slow_flush_seconds
        # Without a look-up by name for each request.
        self._queue = self.numbers.queue_seconds
        self._requests = [self.numbers.request_seconds[outcome] for outcome in OUTCOMES]

    def table(self, schema: str, name: str) -> TableNumbers:
        """The numbers of a table; the same ones each time, so that they outlive a change of the table."""
        tables = self.numbers.tables
        key = f"{schema}.{name}"
        found = tables.get(key)
        if found is None:
            if len(tables) >= _TABLES_MAX:
                key = OTHERS
            found = tables.setdefault(key, TableNumbers())
        return found

    # ---------------------------------------------------------------- requests

    def stored(self, table: TableNumbers, outcome: int, rows: int, began: float, queued: float) -> float:
        """A request has succeeded with the outcome at this place in `OUTCOMES`. It began at `began` on the clock and
        was in the queue for `queued` seconds; returns how many it took in all.
        """
        seconds = self._clock() - began
        table.requests[outcome] += 1
        table.rows[outcome] += rows
        histogram = self._queue
        histogram.counts[bisect_left(SECONDS, queued)] += 1
        histogram.sum += queued
        histogram = self._requests[outcome]
        histogram.counts[bisect_left(SECONDS, seconds)] += 1
        histogram.sum += seconds
        return seconds

    def set_aside(self, table: TableNumbers, outcome: int, rows: int) -> None:
        """So many of the rows that were counted as stored with this outcome are in quarantine instead."""
        table.rows[outcome] -= rows
        table.rows[QUARANTINED] += rows

    def answered(self, table: TableNumbers, outcome: Outcome, rows: int, seconds: float) -> None:
        """A request has an outcome, without or after a flush; `rows` is what it held, as far as that was found out."""
        place = OUTCOMES.index(outcome)
        table.requests[place] += 1
        table.rows[place] += rows
        _observe(self._requests[place], SECONDS, seconds)

    def refused(self, status: int, code: str) -> None:
        """An answer is no success."""
        refusals = self.numbers.refusals
        key = f"{status} {code}"
        if key not in refusals and len(refusals) >= _CODES_MAX:
            key = f"{status} {OTHERS}"
        refusals[key] = refusals.get(key, 0) + 1

    # ---------------------------------------------------------------- flushes

    def flushed(self, flush: Flush, batches: Sequence[Batch], failure: Exception | None) -> None:
        """A flush has ended."""
        numbers = self.numbers
        seconds = flush.seconds
        _observe(numbers.batch_rows, ROWS, flush.rows)
        _observe(numbers.batch_bytes, BYTES, flush.size)
        _observe(numbers.flush_seconds["ended" if failure is None else "failed"], SECONDS, seconds)
        share = seconds / len(batches)
        for batch in batches:
            table = cast("Target", batch.lane).table
            found = self.table(table.schema, table.name)
            found.batches += 1
            found.write_seconds += share
        if seconds >= self._slow_seconds:
            self._remember(flush, batches, failure)

    def _remember(self, flush: Flush, batches: Sequence[Batch], failure: Exception | None) -> None:
        slow = self.numbers.slow
        names = tables_of(batches)
        reason = None if failure is None else type(failure).__name__  # its words may be about somebody's rows
        slow.append(
            SlowFlush(time.time(), flush.seconds, names[:_NAMED_MAX], flush.submissions, flush.rows, flush.size, reason)
        )
        del slow[:-SLOW_MAX]

    def resolved(self, result: str) -> None:
        """It was found out what became of a write whose end was not seen."""
        self.numbers.doubts[result] += 1

    # ---------------------------------------------------------------- the process

    def late(self, seconds: float) -> None:
        """The event loop was late by so much."""
        self.lag_seconds = max(self.lag_seconds, seconds)
        _observe(self.numbers.lag_seconds, SECONDS, seconds)


def tables_of(batches: Sequence[Batch]) -> list[str]:
    """The tables that batches are for, each once."""
    tables = [cast("Target", batch.lane).table for batch in batches]
    return list(dict.fromkeys(f"{table.schema}.{table.name}" for table in tables))


def _observe(histogram: Histogram, bounds: Sequence[float], value: float) -> None:
    histogram.counts[bisect_left(bounds, value)] += 1
    histogram.sum += value
