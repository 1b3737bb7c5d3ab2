"""The judge itself: each broken promise in a history made by hand is found, and a good history passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.checker import Expected, Recovery, Stored, check, stored_in
from tests.faults.history import ROWS_MAX, Entry, History, Outcome, outcome_of, read
from tests.harness import Connection

_STATUSES: dict[Outcome, tuple[int, str]] = {
    "ok": (201, ""),
    "refused": (503, "HR503"),
    "unknown": (503, "HR506"),
    "none": (0, ""),
    "failed": (500, "HR500"),
    "pending": (0, ""),
}


def entry(outcome: Outcome = "ok", **changes: object) -> Entry:
    """A request of two rows, sent at 0 and answered at 1; its deadline is 10."""
    status, code = _STATUSES[outcome]
    fields = {"number": 1, "table": "t0", "rows": 2, "sent": 0.0, "deadline": 10.0, "ended": 1.0}
    return Entry(**{**fields, "status": status, "code": code, "outcome": outcome, **changes})  # type: ignore[arg-type]


WHOLE, NONE, HALF, TWICE = Stored(2, 2), Stored(0, 0), Stored(1, 1), Stored(4, 2)


@pytest.mark.parametrize(
    ("outcome", "stored"),
    [("ok", WHOLE), ("refused", NONE), ("unknown", WHOLE), ("unknown", NONE), ("none", WHOLE), ("none", NONE)],
)
def test_what_may_be(outcome: Outcome, stored: Stored) -> None:
    """A judge that complains about everything is as useless as one that sleeps."""
    expected = Expected(answers_may_be_lost=True, acknowledged_rows_min=0)
    report = check([entry(outcome)], {1: stored} if stored.rows else {}, expected)
    assert report.ok, report


@pytest.mark.parametrize(
    ("outcome", "stored", "words"),
    [
        ("ok", NONE, "acknowledged, but not all"),
        ("ok", HALF, "acknowledged, but not all"),
        ("ok", TWICE, "stored twice"),
        ("ok", Stored(3, 2), "stored twice"),
        ("ok", Stored(2, 2, 1), "otherwise than they were sent"),
        ("refused", WHOLE, "refused, but have rows stored"),
        ("refused", HALF, "refused, but have rows stored"),
        ("unknown", HALF, "stored in part"),
        ("unknown", TWICE, "stored twice"),
        ("none", HALF, "stored in part"),
        ("none", TWICE, "stored twice"),
        ("failed", NONE, "says nothing about their rows"),
        ("pending", NONE, "never answered"),
        ("pending", WHOLE, "never answered"),
    ],
)
def test_what_must_not_be(outcome: Outcome, stored: Stored, words: str) -> None:
    """Each of these is a promise of the README."""
    expected = Expected(answers_may_be_lost=True, acknowledged_rows_min=0)
    report = check([entry(outcome)], {1: stored}, expected)
    assert any(words in violation and violation.endswith(": 1") for violation in report.violations), report
    assert f"VIOLATION: {report.violations[0]}" in str(report)


@pytest.mark.parametrize(
    ("history", "expected", "words"),
    [
        ([entry(), entry()], Expected(), "more than one outcome"),
        ([entry(ended=21.0)], Expected(flush_seconds=10), "answered too late"),
        ([entry(), entry("none", number=2)], Expected(), "lost their connection"),
        ([entry(spoilt=True)], Expected(), "had a bad row, but were acknowledged"),
        ([entry(), entry("refused", number=2, status=400, code="22P02")], Expected(), "no bad row, but were rejected"),
        ([entry()], Expected(acknowledged_rows_min=3), "only 2 rows acknowledged"),
        ([entry()], Expected(ambiguous_min=4), "only 3 ambiguous commits"),
        ([entry(), entry("unknown", number=2)], Expected(unknown_max=0), "1 outcomes unknown"),
        ([entry()], Expected(rss_bytes_max=99), "100 bytes of memory"),
    ],
)
def test_what_a_run_must_show(history: list[Entry], expected: Expected, words: str) -> None:
    """A run in which nothing happened proves nothing, and one with excuses less."""
    report = check(history, {1: WHOLE}, expected, ambiguous=3, rss_bytes=[50, 100, 60])
    assert [violation for violation in report.violations if words in violation], report
    assert len(report.violations) == 1


def test_excuses_are_named() -> None:
    """What a fault explains is no violation: lost answers of a killed service, a column that is being renamed."""
    history = [
        entry(),
        entry("none", number=2),
        entry("refused", number=3, status=400, code="PGRST204"),
        entry("refused", number=4, status=429, code="HR429"),
        entry("refused", number=5, status=400, code="22P02", spoilt=True),
    ]
    expected = Expected(answers_may_be_lost=True, rejections=frozenset({"PGRST204"}))
    report = check(history, {1: WHOLE}, expected)
    assert report.ok, report
    assert (report.requests, report.acknowledged_rows, report.unanswered_requests) == (5, 2, 1)
    assert report.answers["400 PGRST204"] == 1


def test_rows_that_nobody_sent() -> None:
    """They would be somebody else's, or ours from an attempt that nobody knows of."""
    assert "never sent" in str(check([entry()], {1: WHOLE, 2: WHOLE}, Expected()))


def test_losses_and_duplicates_are_counted_in_rows() -> None:
    """The summary of a long run gives numbers, not the word "some"."""
    history = [entry(), entry(number=2), entry(number=3)]
    report = check(history, {1: HALF, 2: TWICE}, Expected())
    assert (report.lost_rows, report.rows_twice) == (3, 2)


@pytest.mark.parametrize(("rows", "ok"), [(100, True), (81, True), (79, False)])
def test_throughput_must_come_back(rows: int, ok: bool) -> None:  # noqa: FBT001 - a column of the table
    """Ten requests a second of ten rows each, faults from 10 to 20, and then so many rows in a second."""
    before = [entry(number=n, rows=10, ended=n / 10) for n in range(100)]
    after = [entry(number=1000 + n, rows=rows, ended=20.5 + n, deadline=30.0) for n in range(5)]
    history = [*before, *after]
    stored = {e.number: Stored(e.rows, e.rows) for e in history}
    report = check(history, stored, Expected(recovery=Recovery(0, 10, 20)))
    assert report.ok is ok, report
    assert (report.recovered_seconds == 0.5) is ok


def test_throughput_that_comes_back_too_late() -> None:
    """Six seconds are more than five."""
    history = [entry(number=n, rows=10, ended=n / 10) for n in range(100)]
    history.append(entry(number=1000, rows=100, ended=26.0, deadline=30.0))
    stored = {e.number: Stored(e.rows, e.rows) for e in history}
    report = check(history, stored, Expected(recovery=Recovery(0, 10, 20)))
    assert [v for v in report.violations if "at most in the 5 s after the faults" in v], report


@pytest.mark.parametrize(
    ("status", "code", "outcome"),
    [
        (201, "", "ok"),
        (202, "", "failed"),
        (400, "22P02", "refused"),
        (409, "23505", "refused"),
        (429, "HR429", "refused"),
        (500, "HR500", "failed"),
        (503, "HR503", "refused"),
        (503, "PGRST000", "refused"),
        (503, "HR506", "unknown"),
        (503, "XX000", "failed"),
    ],
)
def test_what_an_answer_says(status: int, code: str, outcome: Outcome) -> None:
    """Only what promises something about the rows counts as a promise."""
    assert outcome_of(status, code) == outcome


def test_a_history_can_be_judged_later(tmp_path: Path) -> None:
    """What did not end is kept too, and everything is read back as it was."""
    with History(tmp_path / "history.jsonl") as history:
        first, _ = history.begin("t0", 3, 10), history.begin("t1", 1, 10, spoilt=True)
        history.end(first, 201)
    entries = read(tmp_path / "history.jsonl")
    assert entries == history.entries
    assert [(e.number, e.table, e.rows, e.outcome, e.spoilt) for e in entries] == [
        (1, "t0", 3, "ok", False),
        (2, "t1", 1, "pending", True),
    ]
    assert history.acknowledged_rows == 3


async def test_the_tables_are_counted(db: Connection) -> None:
    """By request, over all tables, with what is there twice and what is not as it was sent."""
    await db.execute("create table a (key bigint, value text); create table b (value text, key numeric)")
    one, two, three = ROWS_MAX, 2 * ROWS_MAX, 3 * ROWS_MAX
    await db.execute(f"insert into a values ({one}, 'v{one}'), ({one + 1}, 'v{one + 1}'), ({two}, 'other')")
    await db.execute(f"insert into b values ('v{one}', {one}), (null, {three + 999})")
    assert await stored_in(db, ["a", "b"]) == {1: Stored(3, 2, 0), 2: Stored(1, 1, 1), 3: Stored(1, 1, 1)}
