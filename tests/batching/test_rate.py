"""How fast the slots are taken to be, from what they have written."""

from __future__ import annotations

import pytest

from batching.rate import Pace, seconds_until, work_of


def flush(pace: Pace, rows: int, began: float, seconds: float, *, tells: bool = True) -> None:
    """Have it write so many rows."""
    pace.begin(work_of(rows, 0), began, tells=tells)
    pace.end(began + seconds)


def test_nothing_is_known_before_something_was_measured() -> None:
    """Guesses would refuse rows for no reason."""
    pace = Pace()
    flush(pace, 1, 0, 1, tells=False)
    flush(pace, 0, 1, 1)
    flush(pace, 100, 2, 0)
    assert seconds_until([pace], 3, 1000, 0) is None
    assert seconds_until([], 3, 1000, 0) is None


def test_slots_write_side_by_side() -> None:
    """What was measured at one of them is assumed of the other as well."""
    first, second = Pace(), Pace()
    flush(first, 1000, 0, 1)
    assert seconds_until([first, second], 1, 4000, 0) == pytest.approx(2)
    flush(second, 3000, 0, 1)
    assert seconds_until([first, second], 1, 4000, 0) == pytest.approx(1)


def test_rows_and_bytes_are_one_measure() -> None:
    """A rate of rows that was measured with fat ones says nothing about lean ones, and the other way round."""
    pace = Pace()
    pace.begin(work_of(10, 10_000_000), 0, tells=True)
    pace.end(1)
    assert 0.2 < (seconds_until([pace], 1, 10_000, 0) or 0) < 0.3
    assert seconds_until([pace], 1, 0, 5_000_000) == pytest.approx(0.5, rel=0.01)


def test_what_is_being_written_comes_first() -> None:
    """Of the running flush, what is left of it counts."""
    pace = Pace()
    flush(pace, 1000, 0, 1)
    pace.begin(work_of(1000, 0), 1, tells=True)
    assert seconds_until([pace], 1, 0, 0) == pytest.approx(1)
    assert seconds_until([pace], 1.75, 1000, 0) == pytest.approx(1.25)


def test_a_flush_that_hangs_is_time_in_which_nothing_is_written() -> None:
    """While a slot hangs the backlog does not get shorter, whatever was measured before."""
    pace = Pace()
    flush(pace, 1000, 0, 1)
    pace.begin(work_of(1000, 0), 1, tells=True)
    waits = [seconds_until([pace], 2 + overdue, 1000, 0) for overdue in (0, 2, 8)]
    assert waits == pytest.approx([1, 2, 5])
    pace.drop()
    assert seconds_until([pace], 10, 1000, 0) == pytest.approx(1), "it was no measure after all"


def test_a_slot_that_hangs_says_nothing_of_one_that_was_not_measured() -> None:
    """The other one may be as fast as ever."""
    hanging, other = Pace(), Pace()
    flush(hanging, 1000, 0, 1)
    hanging.begin(work_of(1, 0), 1, tells=False)
    assert seconds_until([hanging, other], 1000, 1000, 0) == pytest.approx(1, rel=0.01)


def test_a_slow_flush_is_made_up_for_in_seconds() -> None:
    """One long stall must not have rows refused for minutes."""
    pace = Pace()
    flush(pace, 10_000, 0, 0.1)
    flush(pace, 10_000, 1, 20)
    assert 0.9 < (seconds_until([pace], 21, 10_000, 0) or 0) < 1.2, "of twenty seconds, two are remembered"
    for number in range(40):
        flush(pace, 10_000, 21 + number / 10, 0.1)
    assert (seconds_until([pace], 25, 10_000, 0) or 0) < 0.13, "four seconds later it is nearly forgotten"


def test_a_measurement_is_forgotten_after_a_while() -> None:
    """It may have been that of other tables; but the flush that takes so long is no reason to forget."""
    pace = Pace()
    flush(pace, 1000, 0, 1)
    assert seconds_until([pace], 10, 1000, 0) is not None
    assert seconds_until([pace], 12, 1000, 0) is None
    pace.begin(work_of(1000, 0), 10, tells=True)
    assert (seconds_until([pace], 70, 1000, 0) or 0) > 20
