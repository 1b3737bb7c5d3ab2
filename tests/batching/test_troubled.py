"""Submissions that cannot be written though the rest of their batch can: they wait in a lane of their own."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable

import pytest

from batching import Batch, DeadlinePassed, Flush, Limits, Outcome, Results, Submission
from batching.queue import Queue
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of


class Told(Submission):
    """A submission of one row that tells a function."""

    def __init__(self, told: Callable[[Outcome], object] = lambda _: None, rows: int = 1) -> None:
        super().__init__(b"", 10, rows, math.inf)
        self.told = told

    def answer(self, outcome: Outcome, _flush: Flush | None, /) -> None:
        """Tell it."""
        self.told(outcome)


def test_one_that_is_in_trouble_holds_up_nobody_and_is_told_why() -> None:
    """A row that waits for somebody's lock must not make its neighbours or newcomers late."""

    async def main() -> None:
        sink = FakeSink()
        sink.trouble = Counter({b"locked": 10_000})
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            client = asyncio.create_task(batcher.write("lane", b"locked", 1, timeout_seconds=10))
            neighbour = asyncio.create_task(batcher.write("lane", b"neighbour", 1, timeout_seconds=1))
            assert await neighbour == b"neighbour"
            for number in range(50):
                assert await batcher.write("lane", b"%d" % number, 1, timeout_seconds=0.01) == b"%d" % number
                await asyncio.sleep(0.1)
            with pytest.raises(DeadlinePassed) as late:
                await client
            assert str(late.value.reason) == "row locked"
            assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)
            assert all(lane == "lane" for _, lane, _ in sink.batches), "the target is the same"
            tries = 10_000 - sink.trouble[b"locked"]
            assert 7 <= tries <= 12, "with pauses of up to two seconds"

    virtual_time.run(main())


def test_one_that_was_in_trouble_is_written_when_it_can_be() -> None:
    """The first retry is immediate: a deadlock's victim can be written at once."""

    async def main() -> None:
        sink = FakeSink()
        sink.trouble = Counter({b"victim": 1, b"locked": 4})
        async with batcher_of(sink).running(drain_seconds=1) as batcher, asyncio.TaskGroup() as clients:
            locked = clients.create_task(batcher.write("lane", b"locked", 1, timeout_seconds=99))
            await asyncio.sleep(0.01)
            assert await batcher.write("lane", b"victim", 1, timeout_seconds=99) == b"victim"
            assert await locked == b"locked"
            assert batcher.statistics().pending_rows == 0
        assert sorted(payload for _, payload in sink.stored) == [b"locked", b"victim"]

    virtual_time.run(main())


def test_those_in_trouble_are_tried_by_one_slot_at_a_time() -> None:
    """What waits for a lock must not take all slots with it."""

    async def main() -> None:
        writing: Counter[str] = Counter()

        class Slow(FakeSink):
            async def write(self, batches: list[Batch], /) -> Results:  # type: ignore[override]
                kind = "troubled" if batches[0].is_troubled else "sound"
                writing[kind] += 1
                assert writing["troubled"] <= 1
                if kind == "troubled":
                    tried.append(len(batches[0].submissions))
                    await asyncio.sleep(1)
                try:
                    return await super().write(batches)
                finally:
                    writing[kind] -= 1

        tried: list[int] = []
        sinks = Slow(), Slow(), Slow()
        for sink in sinks:
            sink.trouble = Counter({b"%d" % number: 1 for number in range(8)})
        limits = Limits(batch_rows_max=2, small_rows_max=0)
        async with batcher_of(*sinks, limits=limits).running(drain_seconds=1) as batcher, asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(batcher.write("lane", b"%d" % number, 1, timeout_seconds=99))
        assert len(tried) >= 4

    virtual_time.run(main())


def test_newcomers_neither_lengthen_the_pause_nor_take_the_turn_of_those_in_trouble() -> None:
    """Under steady trouble those that were first in it must still be tried again."""
    queue = Queue(Limits())

    def trouble(pause_until: float | None) -> None:
        queue.put("a", Told())
        (batch,) = queue.take()
        assert not batch.is_troubled
        queue.settle(batch, [OSError()], {0: OSError()}, pause_until)

    trouble(5)
    trouble(100)
    queue.put("b", Told())
    queue.resume(5)  # the troubled lane is behind that of b now
    trouble_turn = [queue.take()[0] for _ in range(1)]
    assert trouble_turn[0].lane == "b"
    queue.put("b", Told())
    (batch,) = queue.take()
    assert batch.is_troubled
    assert (len(batch.submissions), batch.failures) == (2, 1)


def test_its_place_among_those_in_trouble_is_kept_when_another_joins() -> None:
    """A lane that is moved behind the others by each newcomer would never have its turn."""
    queue = Queue(Limits(small_rows_max=0))
    queue.put("a", Told())
    queue.put("a", Told(rows=10_000))
    (first,) = queue.take()
    (second,) = queue.take()
    queue.settle(first, [OSError()], {0: OSError()})
    queue.put("b", Told())
    queue.settle(second, [OSError()], {0: OSError()})
    (batch,) = queue.take()
    assert batch.is_troubled


def test_what_fails_again_pauses_longer_and_goes_behind() -> None:
    """Those behind must be tried as well, even if the first of them are in trouble for good."""
    queue = Queue(Limits(batch_rows_max=2))
    for rows in (2, 1):
        queue.put("a", Told(rows=rows))
    for _ in range(2):
        (batch,) = queue.take()
        queue.settle(batch, [OSError()], {0: OSError()})
    (batch,) = queue.take()
    assert (batch.rows, batch.failures) == (2, 1)
    queue.settle(batch, [OSError()], {0: OSError()}, pause_until=7)
    assert not queue
    queue.resume(7)
    (batch,) = queue.take()
    assert (batch.rows, batch.failures) == (1, 2)
    assert not queue.take(), "the rest stays, while this is on trial"
    queue.settle(batch, [None])
    (batch,) = queue.take()
    assert (batch.rows, batch.failures) == (2, 1), "still in trouble"


def test_a_miscount_puts_nothing_aside(caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes that cannot be told apart say of none that it was not stored."""
    told: list[Outcome] = []
    queue = Queue(Limits())
    queue.put("a", Told(told.append))
    (batch,) = queue.take()
    queue.settle(batch, [OSError(), None], {0: OSError()})
    assert len(told) == 1
    assert queue.statistics().pending_submissions == 0
    assert "2 outcomes for 1 submissions" in caplog.text
