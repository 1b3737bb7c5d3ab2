"""Records of turns: their quantities, their medians, and whether the table agrees with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.measure import percentile
from bench.runs import lost_or_invented, measurements
from tests.bench.runs import LOAD, RUN, run_of


def test_cpu_is_shared_by_all_requests_that_were_worked_off() -> None:
    """A driver that leaves does not take along the work that it has caused."""
    quantities = replace(RUN, served=1250, cpu=0.05).quantities()
    assert quantities["cpu_us"] == pytest.approx(40)
    assert quantities["rps"] == 500


def test_bulk_is_counted_in_rows_too() -> None:
    """Requests of 1,000 rows and one file of a million can be compared by row only."""
    quantities = replace(RUN, rows_per_request=1000).quantities()
    assert quantities["rows_per_second"] == 500_000
    assert quantities["cpu_us_row"] == pytest.approx(0.02)
    assert quantities["postgres_us_row"] == pytest.approx(0.01)


def test_a_number_is_the_median_of_its_rounds() -> None:
    """One round in which the machine did something else must not count."""
    measured = measurements([run_of("headrace", cpu) for cpu in (0.02, 0.9, 0.03)])
    assert measured["one-64/headrace/cpu_us"] == pytest.approx(30)


def test_what_was_not_measured_is_not_there() -> None:
    """A zero would be taken for a very good result."""
    measured = measurements([replace(RUN, postgres_cpu=None)])
    assert "one-64/headrace/postgres_us" not in measured
    assert "one-64/headrace/batch_rows" not in measured


@pytest.mark.parametrize("stored", [1000, 1001, 1064])
def test_rows_of_requests_that_were_under_way_may_be_stored(stored: int) -> None:
    """The driver cuts its connections when its time is over."""
    assert lost_or_invented(replace(RUN, stored=stored), in_flight=64) is None


def test_a_missing_row_is_a_violation() -> None:
    """The first promise of the service."""
    violation = lost_or_invented(replace(RUN, stored=999), in_flight=64)
    assert violation == "one-64, headrace, round 1: 1 of 1,000 acknowledged rows are not in the table"


def test_a_row_too_many_is_a_violation() -> None:
    """Somebody wrote twice."""
    assert lost_or_invented(replace(RUN, stored=1065), in_flight=64) is not None


def test_requests_that_failed_may_be_stored_or_not() -> None:
    """Of a time-out the client knows nothing."""
    run = replace(RUN, load=replace(LOAD, errors={"timeout": 10}))
    assert lost_or_invented(replace(run, stored=1010), in_flight=0) is None
    assert lost_or_invented(replace(run, stored=1011), in_flight=0) is not None


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)])
def test_a_percentile_is_a_value_that_occurred(part: float, value: float) -> None:
    """Interpolated ones hide how few values there are."""
    assert percentile(list(range(100, 0, -1)), part) == value
    assert percentile([], part) == 0
