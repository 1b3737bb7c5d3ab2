"""What a second comes to, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from service.observing.glance import Glance
from service.observing.numbers import OUTCOMES, SECONDS, Numbers, Outcome, State, TableNumbers
from service.observing.second import Moment, glance_of
from service.observing.trouble import Background
from sql import Vitals
from sql.vitals import Kept

WELL = Vitals("18.1", 10, 100, read_only=False, skew_seconds=0.01, quarantine_rows=0, newest=())


def _numbers(**state: float) -> Numbers:
    found = {"pending_rows_max": 1000, "pending_bytes_max": 1000, "slots_idle": 2} | state
    return Numbers(msgspec.convert(found, State))


def _count(numbers: Numbers, table: str, requests: int, rows: int = 0, outcome: Outcome = "committed") -> None:
    found = numbers.tables.setdefault(table, TableNumbers())
    found.requests[OUTCOMES.index(outcome)] += requests
    found.rows[OUTCOMES.index(outcome)] += rows
    numbers.received_requests += requests
    numbers.received_rows += rows


def _glance(
    now: Numbers, vitals: Vitals | None = WELL, reason: str | None = None, before: Numbers | None = None
) -> Glance:
    first = Moment(10.0, 1000.0, before or Numbers())
    return glance_of(first, first, Moment(12.0, 1002.0, now), Background(reason, vitals, 900.0))


def test_rates_are_per_second() -> None:
    """Two seconds have passed."""
    before, now = _numbers(), _numbers()
    _count(before, "public.t", 10, 10)
    _count(now, "public.t", 30, 110)
    _count(now, "public.t", 4, 4, "rejected")
    _count(now, "", 2, 0, "shed")
    _count(now, "public.u", 2, 8, "failed")
    glance = _glance(now, before=before)
    point = glance.point
    assert (point.requests, point.rows, point.refused, point.failed) == (10, 50, 3, 1)
    assert glance.totals["committed"] == (30, 110)
    assert (glance.received_requests, glance.received_rows) == (38, 122)
    assert glance.uptime_seconds == 102
    assert (glance.unbalanced_requests, glance.unbalanced_rows) == (0, 0)


def test_counters_that_fall_are_no_negative_rates() -> None:
    """A worker that was killed takes with it what it had counted last."""
    before = _numbers()
    _count(before, "public.t", 10, 10)
    before.refusals["429 HR429"] = 9
    now = _numbers()
    _count(now, "public.t", 5, 5)
    now.refusals["429 HR429"] = 3
    glance = _glance(now, before=before)
    assert (glance.point.requests, glance.point.rows) == (0, 0)
    assert [(refusal.per_second, refusal.total) for refusal in glance.refusals] == [(0, 3)]


def test_percentiles_are_read_between_the_bounds_of_their_bucket() -> None:
    """As exactly as the buckets allow."""
    now = _numbers()
    counts = now.request_seconds["committed"].counts
    counts[SECONDS.index(0.002)] = 90  # 1.5 to 2 ms
    counts[SECONDS.index(0.1)] = 10  # 70 to 100 ms
    latency = _glance(now).latency
    assert latency.p50_ms == pytest.approx(1.5 + 0.5 * 50 / 90)
    assert latency.p90_ms == pytest.approx(2.0)
    assert latency.p99_ms == pytest.approx(70 + 30 * 9 / 10)


def test_what_was_not_measured_is_not_shown_as_zero() -> None:
    """No requests are not fast requests."""
    glance = _glance(_numbers())
    assert glance.latency.p99_ms is None
    assert glance.point.batch_rows is None
    assert glance.point.p50_ms is None


def test_times_beyond_the_last_bound_are_that_bound() -> None:
    """Nobody knows more."""
    now = _numbers()
    now.queue_seconds.counts[-1] = 1
    assert _glance(now).queue_time.p50_ms == SECONDS[-1] * 1e3


def test_the_busiest_tables_come_first_and_not_all_of_them() -> None:
    """There may be a thousand."""
    before, now = _numbers(), _numbers()
    for number in range(60):
        _count(before, f"public.t{number:02}", 100 - number)
        _count(now, f"public.t{number:02}", 100 - number)
    _count(now, "public.t59", 1, 10)
    now.tables["public.t59"].batches = 2
    now.tables["public.t59"].write_seconds = 0.1
    glance = _glance(now, before=before)
    assert [table.table for table in glance.tables[:3]] == ["public.t59", "public.t00", "public.t01"]
    assert (len(glance.tables), glance.tables_total) == (50, 60)
    assert (glance.tables[0].batch_rows, glance.tables[0].write_ms) == (5, 50)
    assert glance.tables[1].write_ms is None


def test_quarantine_is_shown_without_values() -> None:
    """Table, column and what PostgreSQL calls it."""
    kept = Kept(7, datetime(2026, 11, 21, tzinfo=UTC), "public.t", "qty", "22P02", "invalid text representation")
    glance = _glance(_numbers(), msgspec.structs.replace(WELL, quarantine_rows=3, newest=(kept,)))
    assert glance.quarantine is not None
    assert glance.quarantine.rows == 3
    assert glance.quarantine.newest[0].condition == "invalid text representation"


# -------------------------------------------------------------------- in words


def test_all_is_well() -> None:
    """No problem is invented."""
    glance = _glance(_numbers())
    assert (glance.status, glance.problems) == ("ok", [])


@pytest.mark.parametrize(
    ("state", "status", "text"),
    [
        ({"draining": 1}, "draining", "The service is stopping"),
        ({"draining": 1, "workers": 4}, "draining", "1 of 4 workers are stopping"),
        ({"away": 1}, "away", "The database is away: connection refused"),
        ({"pending_rows": 950}, "full", "The queue is full (95%): requests are refused with 429"),
        ({"pending_bytes": 900}, "full", "The queue is full (90%): requests are refused with 429"),
        ({"pending_bytes": 600}, "busy", "The queue is filling (60%)"),
        ({"oldest_seconds": 3.25}, "busy", "The oldest row has waited for 3.2 s"),
        ({"slots_away": 1, "slots_idle": 1}, "ok", "1 of 2 flush slots have no connection"),
    ],
)
def test_what_is_wrong_is_said(state: dict[str, float], status: str, text: str) -> None:
    """Plainly, and what to do about it."""
    now = _numbers(**state)
    now.received_requests, now.received_rows = now.state.pending_requests, now.state.pending_rows
    glance = _glance(now, reason="connection refused")
    assert (glance.status, [problem.text for problem in glance.problems]) == (status, [text])
    assert all(problem.advice for problem in glance.problems)


@pytest.mark.parametrize(
    ("outcome", "status", "text"),
    [
        ("shed", "full", "3 requests were refused just now with 429 or 503"),
        ("failed", "ok", "Requests fail, or end without anybody knowing whether their rows are stored"),
        ("unknown", "ok", "Requests fail, or end without anybody knowing whether their rows are stored"),
    ],
)
def test_requests_that_were_not_served_are_a_problem(outcome: Outcome, status: str, text: str) -> None:
    """Those of this second only."""
    now = _numbers()
    _count(now, "public.t", 3, 0, outcome)
    assert [problem.text for problem in _glance(now).problems] == [text]
    assert _glance(now).status == status
    assert _glance(now, before=now).problems == []


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"read_only": True}, "away", "The database is read-only"),
        ({"connections": 95}, "ok", "PostgreSQL has 95 of at most 100 connections"),
        ({"skew_seconds": -2.5}, "ok", "The clocks of the service and of the database differ by 2.5 s"),
        ({"quarantine_rows": 10_000}, "ok", "10000 rows or more are in quarantine"),
    ],
)
def test_what_is_wrong_with_the_database_is_said(changes: dict[str, object], status: str, text: str) -> None:
    """Before it stops anything, where that is possible."""
    glance = _glance(_numbers(), msgspec.structs.replace(WELL, **changes))
    assert (glance.status, [problem.text for problem in glance.problems]) == (status, [text])


def test_rows_that_go_to_quarantine_are_a_problem_when_they_do() -> None:
    """Those that are there already are no news: somebody may want to keep them."""
    now = _numbers()
    _count(now, "public.t", 1, 12, "quarantined")
    assert [problem.text for problem in _glance(now).problems] == ["12 bad rows went to quarantine just now"]
    kept = msgspec.structs.replace(WELL, quarantine_rows=12)
    assert _glance(now, kept, before=now).problems == []


def test_a_late_event_loop_is_a_problem() -> None:
    """All requests wait for it."""
    now = _numbers(lag_seconds=0.2)
    assert [problem.text for problem in _glance(now).problems] == ["The event loop was 200 ms late"]


def test_numbers_that_do_not_add_up_are_called_a_bug() -> None:
    """Rather than be shown as if nothing were."""
    now = _numbers()
    now.received_requests = 2
    (problem,) = _glance(now).problems
    assert (problem.level, problem.text) == ("error", "The numbers do not add up: 2 requests, 0 rows")


def test_the_worst_is_the_status() -> None:
    """There may be several problems at once."""
    now = _numbers(draining=1, away=1, oldest_seconds=5)
    glance = _glance(now, reason="gone")
    assert glance.status == "draining"
    assert len(glance.problems) == 2, "that rows wait is no news while the database is away"
