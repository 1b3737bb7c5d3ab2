"""From numbers to a `Glance`: the rates, percentiles and averages of a second. Pure.

Must not know when it is looked, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from service.observing.glance import (
    Database,
    Glance,
    Percentiles,
    Point,
    Quarantine,
    Queue,
    Reason,
    Refusal,
    Slots,
    TableRates,
)
from service.observing.numbers import COMMITTED, OUTCOMES, QUARANTINED, SECONDS, Histogram, Numbers, TableNumbers
from service.observing.trouble import Background, status_of, troubles
from sql import QUARANTINE_ROWS_MAX, Vitals

_TABLES_MAX = 50
_REFUSALS_MAX = 20

_SUCCESSES = (COMMITTED, *[OUTCOMES.index(outcome) for outcome in ("replayed", "rolled_back", "quarantined")])
_REFUSED = tuple([OUTCOMES.index(outcome) for outcome in ("rejected", "shed")])
_FAILED = tuple([OUTCOMES.index(outcome) for outcome in ("unknown", "failed")])
_SHED = OUTCOMES.index("shed")


class Moment(NamedTuple):
    """Numbers that do not change any more, and when they were taken: in seconds of a steady clock, and since 1970."""

    clock: float
    at: float
    numbers: Numbers


def point_of(before: Moment, earlier: Moment, now: Moment) -> Point:
    """The second from `before` to `now`. Times are of all that was since `earlier`, since a second may have few."""
    seconds = max(1e-3, now.clock - before.clock)
    old, new = before.numbers.totals(), now.numbers.totals()
    state = now.numbers.state
    latency = _since(earlier, now, lambda numbers: numbers.request_seconds["committed"])
    batches = _since(before, now, lambda numbers: numbers.batch_rows)
    return Point(
        at=now.at,
        requests=_rate(old.requests, new.requests, _SUCCESSES, seconds),
        rows=_rate(old.rows, new.rows, (COMMITTED,), seconds),
        refused=_rate(old.requests, new.requests, _REFUSED, seconds),
        failed=_rate(old.requests, new.requests, _FAILED, seconds),
        p50_ms=_percentile_ms(latency, 0.5),
        p99_ms=_percentile_ms(latency, 0.99),
        batch_rows=batches.sum / batches.count if batches.count else None,
        queued_rows=state.queued_rows,
        queued_bytes=state.queued_bytes,
        oldest_ms=state.oldest_seconds * 1e3,
        lag_ms=state.lag_seconds * 1e3,
    )


def glance_of(before: Moment, earlier: Moment, now: Moment, background: Background) -> Glance:
    """Everything, for the second from `before` to `now`; percentiles and averages of all that was since `earlier`."""
    numbers = now.numbers
    state = numbers.state
    point = point_of(before, earlier, now)
    totals = numbers.totals()
    queue = Queue(
        state.queued_rows,
        state.queued_bytes,
        state.pending_requests,
        state.pending_rows,
        state.pending_rows_max,
        state.pending_bytes,
        state.pending_bytes_max,
        state.oldest_seconds * 1e3,
    )
    past = before.numbers.totals()
    shed = max(0, totals.requests[_SHED] - past.requests[_SHED])
    quarantined = max(0, totals.rows[QUARANTINED] - past.rows[QUARANTINED])
    found = list(troubles(numbers, point, background, shed=shed, quarantined=quarantined))
    return Glance(
        version=metadata.version("headrace"),
        workers=state.workers,
        uptime_seconds=now.at - background.since,
        status=status_of(found),
        problems=[trouble.problem for trouble in found],
        point=point,
        received_requests=numbers.received_requests,
        received_rows=numbers.received_rows,
        totals={
            outcome: (requests, rows)
            for outcome, requests, rows in zip(OUTCOMES, totals.requests, totals.rows, strict=True)
        },
        latency=_percentiles(_since(earlier, now, lambda numbers: numbers.request_seconds["committed"])),
        queue_time=_percentiles(_since(earlier, now, lambda numbers: numbers.queue_seconds)),
        write_time=_percentiles(_since(earlier, now, lambda numbers: numbers.flush_seconds["ended"])),
        queue=queue,
        slots=Slots(state.slots_busy, state.slots_idle, state.slots_away),
        connections=state.connections,
        database=_database(numbers, background),
        tables=_tables(before, earlier, now),
        tables_total=sum(table.is_used for name, table in numbers.tables.items() if name),
        refusals=_refusals(before, now),
        retries=numbers.retries,
        doubts=numbers.doubts,
        unbalanced_requests=numbers.unbalanced_requests,
        unbalanced_rows=numbers.unbalanced_rows,
        slow=numbers.slow[::-1],
        quarantine=_quarantine(background.vitals),
    )


def _rate(old: Sequence[int], new: Sequence[int], places: Sequence[int], seconds: float) -> float:
    """How many of these outcomes there were in a second. A worker that has died may have taken some with it."""
    return max(0.0, sum([new[place] - old[place] for place in places]) / seconds)


def _since(before: Moment, now: Moment, of: Callable[[Numbers], Histogram]) -> Histogram:
    """What has come to a histogram since."""
    old, new = of(before.numbers), of(now.numbers)
    counts = [max(0, after - first) for first, after in zip(old.counts, new.counts, strict=True)]
    return Histogram(counts, max(0.0, new.sum - old.sum))


def _percentiles(histogram: Histogram) -> Percentiles:
    return Percentiles(*[_percentile_ms(histogram, part) for part in (0.5, 0.9, 0.99)])


def _percentile_ms(histogram: Histogram, part: float) -> float | None:
    """The time that so great a part took at most, in milliseconds; evenly spread within its bucket, as far as anybody
    knows.
    """
    rank = part * histogram.count
    if not rank:
        return None
    total = 0
    for place, count in enumerate(histogram.counts):
        if count and total + count >= rank:
            lower = SECONDS[place - 1] if place else 0.0
            upper = SECONDS[min(place, len(SECONDS) - 1)]
            return (lower + (upper - lower) * (rank - total) / count) * 1e3
        total += count
    return None


def _database(numbers: Numbers, background: Background) -> Database:
    vitals = background.vitals
    up = numbers.state.away == 0
    return Database(
        up=up,
        reason=None if up else background.reason,
        version=None if vitals is None else vitals.version,
        connections=None if vitals is None else vitals.connections,
        connections_max=None if vitals is None else vitals.connections_max,
        read_only=None if vitals is None else vitals.read_only,
        skew_seconds=None if vitals is None else vitals.skew_seconds,
    )


def _quarantine(vitals: Vitals | None) -> Quarantine | None:
    if vitals is None or vitals.quarantine_rows is None:
        return None
    newest = [
        Reason(kept.id, kept.at.timestamp(), kept.table, kept.column, kept.code, kept.condition)
        for kept in vitals.newest
    ]
    return Quarantine(vitals.quarantine_rows, QUARANTINE_ROWS_MAX, newest)


_NO_TABLE = TableNumbers()


def _tables(before: Moment, earlier: Moment, now: Moment) -> list[TableRates]:
    """The tables with the most rows in this second; among quiet ones, those with the most requests so far."""
    seconds = max(1e-3, now.clock - before.clock)
    rates = []
    for name, new in now.numbers.tables.items():
        old = before.numbers.tables.get(name, _NO_TABLE)
        past = earlier.numbers.tables.get(name, _NO_TABLE)
        batches = new.batches - past.batches
        rows = sum(new.rows[:QUARANTINED]) - sum(past.rows[:QUARANTINED])
        not_stored = (*_REFUSED, *_FAILED)
        rates.append(
            TableRates(
                table=name,
                requests=_rate(old.requests, new.requests, range(len(OUTCOMES)), seconds),
                rows=_rate(old.rows, new.rows, (COMMITTED,), seconds),
                refused=_rate(old.requests, new.requests, not_stored, seconds),
                requests_total=sum(new.requests),
                rows_total=new.rows[COMMITTED],
                refused_total=sum([new.requests[place] for place in not_stored]),
                batch_rows=rows / batches if batches > 0 else None,
                write_ms=(new.write_seconds - past.write_seconds) / batches * 1e3 if batches > 0 else None,
            )
        )
    rates.sort(key=lambda table: (-table.rows, -table.requests, -table.requests_total, table.table))
    return rates[:_TABLES_MAX]


def _refusals(before: Moment, now: Moment) -> list[Refusal]:
    seconds = max(1e-3, now.clock - before.clock)
    found = []
    for key, total in now.numbers.refusals.items():
        status, code = key.split(" ", 1)
        rate = max(0.0, (total - before.numbers.refusals.get(key, 0)) / seconds)
        found.append(Refusal(int(status), code, rate, total))
    found.sort(key=lambda refusal: (-refusal.per_second, -refusal.total))
    return found[:_REFUSALS_MAX]
