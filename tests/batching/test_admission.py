"""Rows whose turn would not come before their deadline are refused at once."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from batching import Batch, Closed, QueueFull, Results
from batching.queue import Queue
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of
from tests.batching.floods import LIMITS, Rows, send


def test_what_cannot_be_begun_before_its_deadline_is_refused_with_the_time_to_come_back() -> None:
    """Nobody should wait for an answer that can only be "too late"."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.seconds = 1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            await asyncio.sleep(0)
            for _ in range(10):
                send(batcher, "lane", 100, 99, outcomes)
            await asyncio.sleep(5.5)  # five are written, one is being written, four wait
            assert send(batcher, "lane", 100, 4, outcomes) == pytest.approx(0.5)
            assert send(batcher, "lane", 1, 1, outcomes) == pytest.approx(3.5)
            assert isinstance(batcher.refusal(batcher.clock() + 4), QueueFull)
            assert batcher.refusal(batcher.clock() + 5) is None
            assert batcher.refusal() is None
            assert send(batcher, "lane", 100, 5, outcomes) is None
            assert send(batcher, "lane", 100, math.inf, outcomes) is None
            assert outcomes["refused"] == 2
        assert outcomes["late"] == 0
        assert outcomes["stored"] == 12

    virtual_time.run(main())


def test_a_burst_is_taken_by_a_service_that_has_written_single_rows() -> None:
    """A flush of one row takes as long as one of a hundred: its rate says nothing."""

    async def main() -> None:
        first, second, outcomes = FakeSink(), FakeSink(), Counter[str]()
        first.seconds = second.seconds = 0.01
        async with batcher_of(first, second, limits=LIMITS).running(drain_seconds=99) as batcher:
            for number in range(1000):
                send(batcher, "ab"[number % 2], 1, 1, outcomes)
                await asyncio.sleep(0.02)
            for lane in "abcd":  # both slots are busy now, and lanes wait for them
                send(batcher, lane, 1, 1, outcomes)
            await asyncio.sleep(0.005)
            for _ in range(100):
                assert send(batcher, "c", 99, 1, outcomes) is None
            assert batcher.refusal(batcher.clock() + 0.1) is None
            await asyncio.sleep(2)
        assert outcomes["stored"] == outcomes["sent"]

    virtual_time.run(main())


def test_small_flushes_count_if_more_waits_than_they_hold() -> None:
    """Many tables with few rows each: what single rows take is then what the backlog takes."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.seconds = 0.1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            for number in range(300):
                send(batcher, f"lane {number}", 1, 99, outcomes)
            await asyncio.sleep(10.05)  # a third is written
            assert send(batcher, "another", 1, 10, outcomes) == pytest.approx(10, abs=0.2)

    virtual_time.run(main())


def test_a_quiet_lane_does_not_wait_for_all_of_a_busy_one() -> None:
    """Who floods one table is refused; who sends a row to another one is not."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.seconds = 1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            await asyncio.sleep(0)
            for _ in range(20):
                send(batcher, "busy", 100, 99, outcomes)
            await asyncio.sleep(3.5)
            assert send(batcher, "busy", 1, 4, outcomes) is not None
            assert send(batcher, "quiet", 1, 4, outcomes) is None
            assert isinstance(batcher.refusal(batcher.clock() + 4), QueueFull), "for whatever lane it may be"
            await asyncio.sleep(4)
            assert outcomes["late"] == 0

    virtual_time.run(main())


def test_rows_of_a_locked_table_are_not_in_the_way_of_others() -> None:
    """They pause, so the slots are free for the rest, however many they are."""

    async def main() -> None:
        class Locked(FakeSink):
            async def write(self, batches: list[Batch], /) -> Results:  # type: ignore[override]
                if batches[0].lane == "locked":
                    await asyncio.sleep(0.1)
                    raise ConnectionError("lock timeout")
                return await super().write(batches)

        sink, outcomes = Locked(), Counter[str]()
        sink.seconds = 1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=1) as batcher:
            for _ in range(50):
                send(batcher, "locked", 100, 99, outcomes)
            await asyncio.sleep(4)
            for _ in range(3):
                send(batcher, "open", 100, 99, outcomes)
            await asyncio.sleep(2.5)
            send(batcher, "open", 100, 99, outcomes)
            send(batcher, "open", 100, 99, outcomes)
            assert send(batcher, "new", 1, 4, outcomes) is None

    virtual_time.run(main())


def test_a_service_that_hung_takes_everything_again_soon_after() -> None:
    """An estimate that only refusals could correct would refuse for ever."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.seconds = 0.1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:

            async def load(seconds: float) -> Counter[str]:
                before = Counter(outcomes)
                end = batcher.clock() + seconds
                while batcher.clock() < end:  # eight tenths of what can be written
                    send(batcher, "lane", 40, 1, outcomes)
                    await asyncio.sleep(0.05)
                return outcomes - before

            assert (await load(10))["refused"] == 0
            sink.seconds = 15
            await asyncio.sleep(0.2)
            hanging = await load(14)
            assert hanging["refused"] > 150, "most of it is told so at once"
            sink.seconds = 0.1
            await asyncio.sleep(2)
            await load(3)
            calm = await load(10)
            assert calm["refused"] + calm["late"] == 0

    virtual_time.run(main())


def test_most_of_an_overload_is_refused_and_hardly_anything_comes_too_late() -> None:
    """Twice what can be written: half of it is stored in time, the other half is told at once."""

    async def main() -> None:
        sinks, outcomes = (FakeSink(), FakeSink()), Counter[str]()
        for sink in sinks:
            sink.seconds = 0.1
        async with batcher_of(*sinks, limits=LIMITS).running(drain_seconds=99) as batcher:
            for _ in range(2000):
                send(batcher, "lane", 20, 1, outcomes)
                await asyncio.sleep(0.005)
            await asyncio.sleep(5)
        assert outcomes["stored"] == pytest.approx(1000, rel=0.15)
        assert outcomes["late"] < 20

    virtual_time.run(main())


def test_a_slot_that_cannot_be_opened_writes_nothing() -> None:
    """What two slots have written in a second takes one of them two."""

    async def main() -> None:
        sinks, outcomes = (FakeSink(), FakeSink()), Counter[str]()
        for sink in sinks:
            sink.seconds = 1
        async with batcher_of(*sinks, limits=LIMITS).running(drain_seconds=99) as batcher:
            await asyncio.sleep(0)
            for _ in range(20):
                send(batcher, "lane", 100, 99, outcomes)
            await asyncio.sleep(4.5)
            assert send(batcher, "lane", 1, 4, outcomes) == pytest.approx(1.5, abs=0.1)

            async def fail() -> None:
                raise ConnectionError("gone")

            sinks[0].fail, sinks[0].fail_open = fail, True
            await asyncio.sleep(1)
            assert batcher.away() is None
            assert send(batcher, "lane", 1, 4, outcomes) == pytest.approx(6.5, abs=0.1)
            sinks[0].fail, sinks[0].fail_open = None, False

    virtual_time.run(main())


def test_a_batch_may_always_wait() -> None:
    """How would it be found out otherwise that a sink that was slow is fast again?"""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.seconds = 9
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            send(batcher, "lane", 100, 99, outcomes)
            await asyncio.sleep(9.5)
            for lane in "ab":
                send(batcher, lane, 50, 99, outcomes)
            await asyncio.sleep(0)
            assert batcher.refusal(batcher.clock() + 1) is None
            assert send(batcher, "b", 1, 1, outcomes) is not None

    virtual_time.run(main())


def test_single_rows_say_nothing_while_many_rows_wait_for_a_locked_table() -> None:
    """Those do not wait for a slot."""

    async def main() -> None:
        class Locked(FakeSink):
            async def write(self, batches: list[Batch], /) -> Results:  # type: ignore[override]
                if batches[0].lane == "locked":
                    raise ConnectionError("lock timeout")
                return await super().write(batches)

        sink, outcomes = Locked(), Counter[str]()
        sink.seconds = 0.1
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=1) as batcher:
            send(batcher, "locked", 90, 99, outcomes)
            for _ in range(50):
                await asyncio.sleep(0.2)
                send(batcher, "open", 1, 99, outcomes)
            assert outcomes["stored"] > 40
            assert batcher._slots[0].pace.per_second(batcher.clock()) is None

    virtual_time.run(main())


def test_small_lanes_that_pause_are_not_a_backlog() -> None:
    """Single rows between them say as little as on an idle service."""

    async def main() -> None:
        batcher, outcomes = batcher_of(FakeSink(), limits=LIMITS), Counter[str]()
        queue = batcher._queue
        for number in range(4):
            send(batcher, f"locked {number}", 5, 99, outcomes)
            (batch,) = queue.take()
            queue.give_back(batch, OSError(), pause_until=99)
        queue.resume(1)
        for lane in "abc":
            send(batcher, lane, 1, 99, outcomes)
        assert not batcher._is_telling(1, 1)
        for number in range(10):
            send(batcher, f"open {number}", 1, 99, outcomes)
        assert batcher._is_telling(1, 1)

    virtual_time.run(main())


def test_a_large_flush_that_fails_is_no_measure() -> None:
    """Else an outage would be remembered as slowness."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()

        async def fail() -> None:
            raise ConnectionError("gone")

        sink.seconds, sink.fail = 1, fail
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            send(batcher, "lane", 100, 99, outcomes)
            await asyncio.sleep(1.5)
            assert batcher._slots[0].pace.per_second(batcher.clock()) is None
            sink.fail = None
            await asyncio.sleep(1)
            assert batcher._slots[0].pace.per_second(batcher.clock()) is not None

    virtual_time.run(main())


def test_what_is_ahead_of_a_newcomer() -> None:
    """Its own lane whole, of each other what has its turn before, and nothing that pauses."""
    queue = Queue(LIMITS)
    outcomes = Counter[str]()
    for lane, rows in (("a", 60), ("a", 60), ("a", 60), ("b", 30)):
        queue.put(lane, Rows(rows, math.inf, outcomes))
    assert queue.ahead_of("a") == (210, 210)
    assert queue.ahead_of("b") == (210, 210)
    for _ in range(4):
        queue.put("a", Rows(60, math.inf, outcomes))
    assert queue.ahead_of("a") == (450, 450)
    assert queue.ahead_of("b") == (30 + 200, 30 + 420), "by rows, two turns of a hundred"
    assert queue.ahead_of("c") == (200, 450)
    for _ in range(5):
        queue.put("b", Rows(54, math.inf, outcomes))
    assert queue.ahead_of("a") == (420 + 300, 420 + 300), "five turns for a, so all of b"
    for _ in range(5):
        assert queue.withdraw(next(reversed(queue._lanes["b"].waiting)))
    batch, *_ = queue.take()
    queue.give_back(batch, OSError(), pause_until=9)
    queue.resume(1)
    assert queue.ahead_of("b") == (30, 30)
    assert queue.ahead_of("a") == (420 + 30, 420 + 30)
    assert queue.due() == (30, 30)


def test_the_queue_asks_about_what_does_not_fit_into_the_next_batch_only() -> None:
    """On the usual way nothing but two numbers is looked at."""
    asked: list[object] = []
    queue = Queue(LIMITS, admit=lambda lane, _: asked.append(lane))
    outcomes = Counter[str]()
    queue.put("a", Rows(60, math.inf, outcomes))
    queue.put("b", Rows(40, math.inf, outcomes))
    assert queue.is_short()
    assert not asked
    queue.put("c", Rows(1, math.inf, outcomes))
    assert asked == ["c"]
    assert not queue.is_short()


def test_refusal_of_a_closed_batcher() -> None:
    """What is large is not read for a service that stops."""

    async def main() -> None:
        async with batcher_of(FakeSink()).running(drain_seconds=1) as batcher:
            assert batcher.refusal() is None
            batcher.close()
            assert isinstance(batcher.refusal(), Closed)

    virtual_time.run(main())
