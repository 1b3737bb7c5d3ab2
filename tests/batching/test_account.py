"""Accounts: no producer has the queue for itself, and none writes faster than he may."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching import Account, QueueFull, RateExceeded, ShareFull, TooLarge


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def account(rate: float, clock: Clock) -> Account:
    """One that is limited by its rate alone."""
    made = Account(10**9, 10**9, clock)
    made.rows_per_second = rate
    return made


@given(
    rate=st.floats(0.5, 1000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_allows(rate: float, steps: list[tuple[float, int]]) -> None:
    """In any time: the rate, what one second before has left, and the one submission that overdraws it."""
    clock = Clock()
    limited = account(rate, clock)
    taken = largest = 0
    for seconds, rows in steps:
        clock.now += seconds
        if limited.refusal() is None:
            limited.take(rows, 1)
            taken += rows
            largest = max(largest, rows)
        else:
            with pytest.raises(RateExceeded):
                limited.take(rows, 1)
        assert taken <= rate * (1 + clock.now - 100) + largest + 1e-6


@given(rate=st.floats(0.5, 1000), rows=st.integers(1, 5000))
def test_who_waits_as_long_as_he_is_told_may_go_on(rate: float, rows: int) -> None:
    """Retry-After is a promise."""
    clock = Clock()
    limited = account(rate, clock)
    limited.take(rows, 1)
    for _ in range(3):
        late = limited.refusal()
        if late is None:
            break
        clock.now += late.retry_seconds + 1e-6
    assert limited.refusal() is None
    limited.take(1, 1)


def test_a_request_with_more_rows_than_a_second_allows_is_taken() -> None:
    """It could never be stored otherwise; those after it wait."""
    clock = Clock()
    limited = account(10, clock)
    limited.take(100, 1)
    with pytest.raises(RateExceeded) as refused:
        limited.take(1, 1)
    assert refused.value.retry_seconds == pytest.approx(9)


def test_a_share_is_told_from_the_queue() -> None:
    """Who is refused for what he has sent himself should know; and what can never fit is not to be sent again."""
    own = Account(10, 100, Clock())
    own.take(8, 80)
    with pytest.raises(ShareFull):
        own.take(3, 1)
    with pytest.raises(ShareFull):
        own.take(1, 21)
    with pytest.raises(TooLarge):
        own.take(11, 1)
    with pytest.raises(TooLarge):
        own.take(1, 101)
    assert (own.pending_rows, own.pending_bytes) == (8, 80), "what was refused takes nothing"
    own.give(8, 80)
    own.take(10, 100)
    assert isinstance(own.refusal(), ShareFull)


def test_a_lower_limit_holds_at_once() -> None:
    """An operator lowers the share of a producer that has taken more than that."""
    own = Account(10, 100, Clock())
    own.take(8, 80)
    own.rows_max = 4
    with pytest.raises(QueueFull):
        own.take(1, 1)
    own.give(8, 80)
    own.take(4, 1)


def test_the_same_rate_again_gives_nothing_away() -> None:
    """Each request of a producer brings his limits along; that must not fill up what he has overdrawn."""
    clock = Clock()
    limited = account(10, clock)
    limited.take(50, 1)
    limited.rows_per_second = 10
    with pytest.raises(RateExceeded):
        limited.take(1, 1)


def test_to_change_the_rate_is_no_way_around_it() -> None:
    """A producer may have two credentials in his name, with different limits, and use them in turns."""
    clock = Clock()
    limited = account(10, clock)
    taken = 0
    for rate in (10.0, 11.0, math.inf, 10.0, 11.0):
        limited.rows_per_second = rate
        if limited.refusal() is None:
            limited.take(1000, 1)
            taken += 1
    assert taken == 2, "once at the first rate, and once without any"


def test_a_long_silence_is_no_credit() -> None:
    """Else who was quiet for a day could write for a day at once."""
    clock = Clock()
    limited = account(10, clock)
    clock.now += 86_400
    limited.take(100_000, 1)
    with pytest.raises(RateExceeded):
        limited.take(1, 1)


def test_what_does_not_wait_in_the_queue_counts_as_well() -> None:
    """Bad rows are written, too; and what is handed over once more counts once."""
    limited = account(10, Clock())
    limited.take(5, 1)
    limited.charge(5)
    assert limited.refusal() is not None
    limited.charge(-5)
    assert limited.refusal() is None
