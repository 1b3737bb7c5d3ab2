"""Lanes of which one batch is written at a time: two would be in each other's way."""

from __future__ import annotations

import pytest

from batching.lane import Batch
from batching.limits import Limits
from batching.queue import Queue
from tests.batching.test_troubled import Told

LIMITS = Limits(batch_rows_max=2, small_rows_max=0)


@pytest.fixture
def queue() -> Queue:
    """Two batches of lane "serial", one of another."""
    queue = Queue(LIMITS, serial=lambda lane: lane if lane == "serial" else None)
    for lane in ("serial", "serial", "serial", "other"):
        queue.put(lane, Told())
    return queue


def test_the_next_batch_waits_for_the_one_under_way(queue: Queue) -> None:
    """Whatever else there is goes first."""
    (first,) = queue.take()
    (other,) = queue.take()
    assert (first.lane, other.lane) == ("serial", "other")
    assert queue.take() == []
    queue.settle(first, [None, None])
    (second,) = queue.take()
    assert second.lane == "serial"
    queue.settle(second, [None])
    queue.settle(other, [None])
    assert queue.pending_submissions == 0


def test_a_batch_that_could_not_be_written_makes_room(queue: Queue) -> None:
    """Or its lane would wait for ever."""
    (first,) = queue.take()
    queue.give_back(first, ConnectionError())
    assert [batch.lane for batch in queue.take()] == ["other"]
    assert [batch.submissions for batch in queue.take()] == [first.submissions]


def test_lanes_with_something_in_common_take_turns() -> None:
    """Whatever each of them is for, and however much the first has to write."""
    queue = Queue(LIMITS, serial=lambda lane: str(lane)[:6])
    for lane in ("serial a", "serial a", "serial a", "serial b", "serial c"):
        queue.put(lane, Told())
    order = []
    while queue.pending_submissions:
        (batch,) = queue.take()
        assert queue.take() == [], "one at a time, also of those that had their turn before"
        order.append(batch.lane)
        queue.settle(batch, [None] * len(batch.submissions))
        queue.put("serial a", Told()) if len(order) < 5 else None
    assert order[:4] == ["serial a", "serial b", "serial c", "serial a"]


def test_what_is_in_trouble_is_not_kept_out_by_newcomers() -> None:
    """A lane that always has more would otherwise always be the first when a batch of it has ended."""
    queue = Queue(LIMITS, serial=lambda _: "all")
    for _ in range(4):
        queue.put("hot", Told())
    (batch,) = queue.take()
    queue.settle(batch, [None, None], {0: ConnectionError()}, 1.0)
    (batch,) = queue.take()
    queue.resume(2.0)
    for _ in range(3):
        queue.put("hot", Told())
    queue.settle(batch, [None, None])
    assert any(each.is_troubled for _ in range(2) for each in _written(queue))


def _written(queue: Queue) -> list[Batch]:
    batches = queue.take()
    for batch in batches:
        queue.settle(batch, [None] * len(batch.submissions))
    return batches


def test_what_is_in_trouble_waits_for_its_lane(queue: Queue) -> None:
    """It is written to the same rows, though it has a lane of its own."""
    (first,) = queue.take()
    queue.take()
    queue.settle(first, [None, None], {0: ConnectionError()}, 0.0)
    (second,) = queue.take()
    assert second.lane == "serial"
    assert not second.is_troubled
    queue.resume(1.0)
    assert queue.take() == []
    queue.settle(second, [None])
    queue.resume(2.0)
    (troubled,) = queue.take()
    assert troubled.is_troubled
