"""The one judge of all these tests: what clients were told, against what the tables hold. Pure, but for `stored_in`.

Owns what counts as a broken promise. Must not know which fault it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tests.faults.history import ROWS_MAX, Entry

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

_EXAMPLES = 5
"""Requests that are named for each kind of violation."""


class Stored(NamedTuple):
    """What the tables hold of one request: rows, different ones among them, and rows that are not as they were sent."""

    rows: int
    distinct: int
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Recovery:
    """When nothing was wrong yet, and when nothing was any more. Times of the history's clock."""

    begun: float
    faults_from: float
    faults_until: float
    share: float = 0.8
    within_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What is demanded beyond the promises that always hold, and what the fault excuses."""

    flush_seconds: float = 10.0
    """How much later than at its deadline a request may be answered, since its flush has begun before."""
    answers_may_be_lost: bool = False
    """The service was killed, so connections end without an answer."""
    rejections: frozenset[str] = frozenset()
    """Codes of 4xx that requests without a bad row may get."""
    unknown_max: int | None = None
    """How many answers may say that the outcome is unknown."""
    ambiguous_min: int = 0
    """A run in which fewer commits were left in doubt means nothing."""
    acknowledged_rows_min: int = 1
    """Nor does one in which nothing was stored."""
    recovery: Recovery | None = None
    rss_bytes_max: int | None = None


@dataclass(slots=True)
class Report:
    """The numbers of a run, and what was wrong with it."""

    requests: int = 0
    acknowledged_rows: int = 0
    unknown_requests: int = 0
    unanswered_requests: int = 0
    lost_rows: int = 0
    rows_twice: int = 0
    ambiguous: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    recovered_seconds: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    def __str__(self) -> str:
        answers = ", ".join(f"{count:,} of {answer}" for answer, count in sorted(self.answers.items()))
        lines = [
            f"{self.requests:,} requests: {answers}",
            f"{self.acknowledged_rows:,} rows acknowledged, {self.lost_rows:,} of them lost, {self.rows_twice:,} twice",
            f"{self.ambiguous:,} ambiguous commits; {self.unknown_requests:,} answers that the outcome is unknown",
        ]
        if self.recovered_seconds is not None:
            lines.append(f"back at full throughput {self.recovered_seconds:.1f} s after the last fault")
        return "\n".join([*lines, *(f"VIOLATION: {text}" for text in self.violations)])


def check(
    history: Sequence[Entry],
    stored: Mapping[int, Stored],
    expected: Expected,
    *,
    ambiguous: int = 0,
    rss_bytes: Iterable[int] = (),
) -> Report:
    """Judge a run. `stored` is by request number; `ambiguous` counts commits whose confirmation was kept from us."""
    report = Report(requests=len(history), ambiguous=ambiguous)
    found: dict[str, list[int]] = {}
    for entry in history:
        _count(report, entry, stored.get(entry.number))
        for violation in _violations(entry, stored.get(entry.number, Stored(0, 0)), expected):
            found.setdefault(violation, []).append(entry.number)
    numbers = Counter(entry.number for entry in history)
    found["have more than one outcome"] = [number for number, count in numbers.items() if count > 1]
    found["were never sent, but have rows stored"] = [number for number in stored if number not in numbers]
    report.violations += [
        f"{len(those):,} requests {text}: {_named(those)}" for text, those in sorted(found.items()) if those
    ]
    report.violations += _of_the_run(report, history, expected, max(rss_bytes, default=0))
    return report


def _count(report: Report, entry: Entry, stored: Stored | None) -> None:
    answer = " ".join(str(part) for part in (entry.status or "no answer", entry.code) if part)
    report.answers["pending" if entry.outcome == "pending" else answer] += 1
    if stored is not None:
        report.rows_twice += stored.rows - stored.distinct
    match entry.outcome:
        case "ok":
            report.acknowledged_rows += entry.rows
            report.lost_rows += entry.rows - (stored.distinct if stored is not None else 0)
        case "unknown":
            report.unknown_requests += 1
        case "none":
            report.unanswered_requests += 1


def _violations(entry: Entry, stored: Stored, expected: Expected) -> Iterable[str]:  # noqa: C901 - a list of promises
    """What is wrong with one request, in words that follow "requests"."""
    if stored.rows > stored.distinct:
        yield "have rows that are stored twice"
    if stored.wrong:
        yield "have rows that are stored otherwise than they were sent"
    if entry.outcome == "ok" and stored.distinct < entry.rows:
        yield "were acknowledged, but not all of their rows are stored"
    elif 0 < stored.distinct < entry.rows:
        yield "are stored in part"
    if entry.outcome == "refused" and stored.rows:
        yield "were refused, but have rows stored"
    if entry.spoilt and (entry.outcome == "ok" or stored.rows):
        yield "had a bad row, but were acknowledged or stored"
    if entry.outcome == "pending":
        yield "were never answered"
        return
    if entry.outcome == "none" and not expected.answers_may_be_lost:
        yield "lost their connection instead of being answered"
    if entry.outcome == "failed":
        yield "got an answer that says nothing about their rows"
    if entry.ended > entry.deadline + expected.flush_seconds:
        yield "were answered too late"
    is_rejected = 400 <= entry.status < 500 and entry.status != 429
    if is_rejected and not entry.spoilt and entry.code not in expected.rejections:
        yield "had no bad row, but were rejected"


def _of_the_run(report: Report, history: Sequence[Entry], expected: Expected, rss_bytes: int) -> Iterable[str]:
    """What is wrong with the run as a whole."""
    if report.acknowledged_rows < expected.acknowledged_rows_min:
        yield f"only {report.acknowledged_rows:,} rows acknowledged, not {expected.acknowledged_rows_min:,}"
    if report.ambiguous < expected.ambiguous_min:
        yield f"only {report.ambiguous:,} ambiguous commits, not {expected.ambiguous_min:,}: the run proves nothing"
    if expected.unknown_max is not None and report.unknown_requests > expected.unknown_max:
        yield f"{report.unknown_requests:,} outcomes unknown, more than {expected.unknown_max:,}"
    if expected.rss_bytes_max is not None and rss_bytes > expected.rss_bytes_max:
        yield f"{rss_bytes:,} bytes of memory, more than {expected.rss_bytes_max:,}"
    if expected.recovery is not None:
        yield from _recovers(report, history, expected.recovery)


def _recovers(report: Report, history: Sequence[Entry], recovery: Recovery) -> Iterable[str]:
    """Whether throughput comes back: a whole second of it, which has ended in time."""
    acknowledged = sorted((entry.ended, entry.rows) for entry in history if entry.outcome == "ok")
    seconds = recovery.faults_from - recovery.begun
    before = sum(rows for ended, rows in acknowledged if recovery.begun <= ended < recovery.faults_from) / seconds
    window: list[tuple[float, int]] = []
    rows_in_window = 0
    best = 0
    for ended, rows in acknowledged:
        if not recovery.faults_until <= ended <= recovery.faults_until + recovery.within_seconds:
            continue
        window.append((ended, rows))
        rows_in_window += rows
        while window[0][0] <= ended - 1:
            rows_in_window -= window.pop(0)[1]
        best = max(best, rows_in_window)
        if rows_in_window >= recovery.share * before:
            report.recovered_seconds = ended - recovery.faults_until
            return
    yield (
        f"{best:,} rows/s at most in the {recovery.within_seconds:g} s after the faults, "
        f"less than {recovery.share:.0%} of the {before:,.0f} rows/s before them"
    )


def _named(numbers: Sequence[int]) -> str:
    names = ", ".join(map(str, sorted(numbers)[:_EXAMPLES]))
    return f"{names}, …" if len(numbers) > _EXAMPLES else names


async def stored_in(connection: Connection, tables: Iterable[str]) -> dict[int, Stored]:
    """What these tables hold, by request. The database counts: there may be millions of rows."""
    every = " union all ".join(f"select key, value from {table}" for table in tables)
    records = await connection.fetch(
        f"select key::bigint / {ROWS_MAX}, count(*), count(distinct key),"
        f" count(*) filter (where value is distinct from 'v' || key) from ({every}) group by 1"
    )
    return {number: Stored(rows, distinct, wrong) for number, rows, distinct, wrong in records}
