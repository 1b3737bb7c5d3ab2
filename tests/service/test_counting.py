"""Events and the numbers that they belong to."""

from __future__ import annotations

import pytest

from batching import Batch, Flush
from service.observing import counting, metrics
from service.observing.counting import Counts
from service.observing.numbers import COMMITTED, OUTCOMES, QUARANTINED, SECONDS, Histogram, Outcome
from sql import nothing_target


def _flush(seconds: float, rows: int = 3, lanes: int = 1) -> Flush:
    return Flush(lanes, 2, rows, 100, 10.0, 10.0 + seconds, 1, 2)


def _batches(*names: str) -> list[Batch]:
    return [Batch(nothing_target("public", name), (), 0, 0, 0.0, 0, name, True) for name in names]


def _filled(histogram: Histogram) -> list[int]:
    return [place for place, count in enumerate(histogram.counts) if count]


def test_a_success_is_counted_with_its_times() -> None:
    """Table, outcome, rows, the queue and the whole."""
    counts = Counts(clock=lambda: 7.0)
    table = counts.table("public", "t")
    assert counts.stored(table, COMMITTED, 5, 6.5, 0.001) == 0.5
    assert (table.requests[COMMITTED], table.rows[COMMITTED]) == (1, 5)
    assert _filled(counts.numbers.queue_seconds) == [SECONDS.index(0.001)], "bounds are of what is less or equal"
    assert _filled(counts.numbers.request_seconds["committed"]) == [SECONDS.index(0.5)]
    assert counts.numbers.request_seconds["committed"].sum == 0.5


def test_bad_rows_of_a_success_are_in_quarantine() -> None:
    """The request is committed, and of its rows those that are."""
    counts = Counts()
    table = counts.table("public", "t")
    counts.stored(table, COMMITTED, 5, 0.0, 0.0)
    counts.set_aside(table, COMMITTED, 2)
    assert (table.requests[COMMITTED], table.rows[COMMITTED], table.rows[QUARANTINED]) == (1, 3, 2)
    assert table.requests[QUARANTINED] == 0


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_has_its_place(outcome: Outcome) -> None:
    """And its own times."""
    counts = Counts()
    table = counts.table("public", "t")
    counts.answered(table, outcome, 2, 40.0)
    assert table.requests[OUTCOMES.index(outcome)] == 1
    assert _filled(counts.numbers.request_seconds[outcome]) == [len(SECONDS)], "longer than the longest bound"


def test_a_table_keeps_its_numbers() -> None:
    """They outlive what is made anew when the catalog is read again."""
    counts = Counts()
    assert counts.table("public", "t") is counts.table("public", "t")
    assert counts.table("public", "t") is not counts.table("other", "t")


def test_tables_and_codes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who makes and drops tables for years, or raises ever new codes, must not grow memory or the number of series."""
    monkeypatch.setattr(counting, "_TABLES_MAX", 3)
    monkeypatch.setattr(counting, "_CODES_MAX", 2)
    counts = Counts()
    for number in range(10):
        counts.table("public", f"t{number}").requests[0] += 1
        counts.refused(400, f"X{number:04}")
    assert sorted(counts.numbers.tables) == ["", "others", "public.t0", "public.t1"]
    assert counts.numbers.tables["others"].requests[0] == 8
    assert counts.numbers.refusals == {"400 X0000": 1, "400 X0001": 1, "400 others": 8}


def test_a_flush_is_counted_for_each_of_its_tables() -> None:
    """Tables that share a flush share its time."""
    counts = Counts()
    counts.flushed(_flush(0.5, lanes=2), _batches("a", "b"), None)
    counts.flushed(_flush(0.25), _batches("a"), ConnectionError())
    numbers = counts.numbers
    assert [(numbers.tables[f"public.{name}"].batches) for name in "ab"] == [2, 1]
    assert [(numbers.tables[f"public.{name}"].write_seconds) for name in "ab"] == [0.5, 0.25]
    assert (numbers.batch_rows.count, numbers.batch_rows.sum, numbers.batch_bytes.sum) == (2, 6, 200)
    assert [numbers.flush_seconds[result].count for result in ("ended", "failed")] == [1, 1]
    assert numbers.slow == []


def test_slow_flushes_are_remembered_without_the_words_of_errors() -> None:
    """Those may quote somebody's row, and the dashboard shows them to everybody."""
    counts = Counts(slow_flush_seconds=1.0)
    counts.flushed(_flush(1.0), _batches("a", "b", "a"), ConnectionError("secret"))
    (slow,) = counts.numbers.slow
    assert (slow.seconds, slow.tables, slow.requests, slow.rows, slow.bytes) == (
        1.0,
        ["public.a", "public.b"],
        2,
        3,
        100,
    )
    assert slow.failure == "ConnectionError"
    for _ in range(100):
        counts.flushed(_flush(2.0), _batches(*[f"t{number}" for number in range(9)]), None)
    assert len(counts.numbers.slow) == 20
    assert len(counts.numbers.slow[-1].tables) == 5


def test_the_text_of_tables_that_nobody_has_written_to_is_empty() -> None:
    """A thousand tables that are only there would be sixteen thousand lines."""
    counts = Counts()
    for number in range(3):
        counts.table("public", f"t{number}")
    counts.answered(counts.table("public", "t1"), "shed", 1, 0.0)
    text = metrics.text(counts.numbers, None).decode()
    lines = [line for line in text.splitlines() if "public.t" in line]
    assert lines == [
        'headrace_requests_total{outcome="committed",table="public.t1"} 0.0',
        'headrace_requests_total{outcome="quarantined",table="public.t1"} 0.0',
        'headrace_requests_total{outcome="shed",table="public.t1"} 1.0',
        'headrace_rows_total{outcome="committed",table="public.t1"} 0.0',
        'headrace_rows_total{outcome="quarantined",table="public.t1"} 0.0',
        'headrace_rows_total{outcome="shed",table="public.t1"} 1.0',
    ]


def test_every_metric_says_what_it_is() -> None:
    """The text is what an operator sees when a number is bad."""
    for family in metrics.families(Counts().numbers, None):
        assert family.documentation.endswith("."), family.name
        assert len(family.documentation) > 15, family.name
