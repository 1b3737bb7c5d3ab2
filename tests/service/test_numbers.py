"""What is counted, added up, and read back."""

from __future__ import annotations

from itertools import pairwise

import pytest

from service.observing.numbers import (
    OUTCOMES,
    SECONDS,
    SLOW_MAX,
    Numbers,
    SlowFlush,
    State,
    TableNumbers,
    decode,
    encode,
    together,
)


def _slow(at: float) -> SlowFlush:
    return SlowFlush(at, 2.0, ["public.t"], 1, 1, 1, None)


def _numbers(requests: int, waited: float) -> Numbers:
    numbers = Numbers(State(oldest_seconds=waited, queued_rows=requests, draining=1), requests, requests)
    numbers.tables[f"public.t{requests}"] = TableNumbers([requests] + [0] * 7, [requests] + [0] * 7)
    numbers.tables["public.both"] = TableNumbers([1] + [0] * 7, [2] + [0] * 7, 3, 0.5)
    numbers.refusals = {"429 HR429": 1, f"400 {requests}": 2}
    numbers.queue_seconds.counts[3] = requests
    numbers.queue_seconds.sum = 0.25
    numbers.slow = [_slow(waited)]
    return numbers


def test_the_numbers_of_workers_are_added_up() -> None:
    """Whichever worker is asked tells those of all."""
    all_ = together([_numbers(2, 1.5), _numbers(3, 0.5)])
    assert all_.state == State(workers=2, oldest_seconds=1.5, queued_rows=5, draining=2)
    assert (all_.received_requests, all_.received_rows) == (5, 5)
    assert {name: table.requests[0] for name, table in all_.tables.items()} == {
        "public.t2": 2,
        "public.both": 2,
        "public.t3": 3,
    }
    assert all_.tables["public.both"] == TableNumbers([2] + [0] * 7, [4] + [0] * 7, 6, 1.0)
    assert all_.refusals == {"429 HR429": 2, "400 2": 2, "400 3": 2}
    assert (all_.queue_seconds.counts[3], all_.queue_seconds.sum) == (5, 0.5)
    assert all_.slow == [_slow(0.5), _slow(1.5)], "by time"


def test_adding_up_changes_none_of_them() -> None:
    """They go on counting."""
    first, second = _numbers(2, 1.5), _numbers(3, 0.5)
    together([first, second]).tables["public.both"].requests[0] += 1
    assert (first, second) == (_numbers(2, 1.5), _numbers(3, 0.5))


def test_only_the_last_slow_flushes_are_kept() -> None:
    """Twenty workers would else bring twenty times as many."""
    many = Numbers(slow=[_slow(at) for at in range(SLOW_MAX)])
    assert [flush.at for flush in together([many, Numbers(slow=[_slow(99)])]).slow] == [*range(1, SLOW_MAX), 99]


def test_numbers_are_read_as_they_were_written() -> None:
    """Workers tell each other by files."""
    numbers = _numbers(2, 1.5)
    assert decode(encode(numbers)) == numbers


def test_the_balance() -> None:
    """A request is pending or has an outcome."""
    numbers = Numbers(State(pending_requests=2, pending_rows=7), 5, 20)
    numbers.tables["public.t"] = TableNumbers([1] * 3 + [0] * 5, [4] * 3 + [0] * 5)
    assert (numbers.unbalanced_requests, numbers.unbalanced_rows) == (0, 1)


def test_buckets_are_near_enough_for_percentiles() -> None:
    """A percentile is read off the bucket that it is in."""
    assert list(SECONDS) == sorted(SECONDS)
    assert max(after / before for before, after in pairwise(SECONDS)) == pytest.approx(5 / 3)
    assert len(TableNumbers().requests) == len(OUTCOMES)
