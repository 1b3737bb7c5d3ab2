"""Rows whose turn would not come before their deadline are refused at once; and after an outage all begins small."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from batching import Batch, Batcher, Closed, DeadlinePassed, Limits, QueueFull, Results, Submission
from batching.limits import Ramp
from batching.queue import Queue
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of

LIMITS = Limits(
    batch_rows_max=100,
    batch_bytes_max=10_000,
    pending_rows_max=10_000,
    pending_bytes_max=1_000_000,
    small_rows_max=10,
    small_bytes_max=1000,
)


class Rows(Submission):
    """Rows of one byte each that count what becomes of them."""

    def __init__(self, rows: int, deadline: float, outcomes: Counter[str]) -> None:
        super().__init__(b"%d" % id(self), rows, rows, deadline)
        self.outcomes = outcomes

    def answer(self, outcome: object) -> None:
        """Count it."""
        self.outcomes["late" if isinstance(outcome, DeadlinePassed) else "stored"] += 1


def send(batcher: Batcher, lane: str, rows: int, seconds: float, outcomes: Counter[str]) -> float | None:
    """Submit some rows that have so many seconds; if they are refused, when to come back."""
    outcomes["sent"] += 1
    try:
        batcher.submit(lane, Rows(rows, batcher.clock() + seconds, outcomes))
    except QueueFull as full:
        outcomes["refused"] += 1
        return full.retry_seconds
    return None


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


def test_a_ramp_doubles_until_it_is_whole() -> None:
    """And begins again with the next outage."""
    ramp = Ramp(LIMITS)
    for _ in range(2):
        ramp.restart()
        seen: list[tuple[int, int, bool]] = []
        while not ramp.is_whole:
            seen.append((ramp.limits.batch_rows_max, ramp.limits.batch_bytes_max, ramp.is_untried))
            ramp.grow()
        assert ramp.limits == LIMITS
        assert seen == [(10, 1000, True), (20, 2000, False), (40, 4000, False), (80, 8000, False)]


def test_a_ramp_of_batches_that_are_small_anyway() -> None:
    """Even if there is nothing to double, the first one is tried before the others."""
    ramp = Ramp(Limits(batch_rows_max=5, batch_bytes_max=10))
    ramp.restart()
    assert (ramp.is_whole, ramp.is_untried, ramp.limits.batch_rows_max) == (False, True, 5)
    ramp.grow()
    assert (ramp.is_whole, ramp.is_untried, ramp.limits.batch_rows_max) == (True, False, 5)


def test_after_an_outage_one_slot_begins_with_a_small_batch() -> None:
    """A database that has just come back should not be met by everything that has waited for it."""

    async def main() -> None:
        sinks, outcomes = (FakeSink(), FakeSink()), Counter[str]()
        async with batcher_of(*sinks, limits=LIMITS).running(drain_seconds=99) as batcher:

            async def outage() -> None:
                raise ConnectionError("gone")

            await asyncio.sleep(0)
            for sink in sinks:
                sink.fail, sink.fail_open = outage, True
            for number in range(1000):
                send(batcher, "ab"[number % 2], 1, 99, outcomes)
            await asyncio.sleep(5)
            assert batcher.away() is not None
            for sink in sinks:
                sink.fail, sink.fail_open, sink.seconds = None, False, 1
                sink.batches.clear()
            await asyncio.sleep(20)
            when = sorted(batch[:1] + batch[2:] for sink in sinks for batch in sink.batches)
            first = when[0][0]
            assert when[0][1] == 10
            assert all(begun >= first + 1 for begun, _ in when[1:]), "of one slot only"
            assert [size for _, size in when[1:3]] == [20, 20], "then of both, and larger with each success"
            assert max(size for _, size in when) == 100
        assert outcomes["stored"] == 1000

    virtual_time.run(main())


def test_a_first_batch_that_fails_again_lets_the_other_slot_try() -> None:
    """Else a broken slot would keep a sound one from working."""

    async def main() -> None:
        broken, sound, outcomes = FakeSink(), FakeSink(), Counter[str]()
        async with batcher_of(broken, sound, limits=LIMITS).running(drain_seconds=99) as batcher:

            async def fail() -> None:
                raise ConnectionError("gone")

            await asyncio.sleep(0)
            for sink in (broken, sound):
                sink.fail, sink.fail_open = fail, True
            for _ in range(3):
                send(batcher, "lane", 5, 99, outcomes)
            send(batcher, "other", 5, 99, outcomes)
            await asyncio.sleep(5)
            broken.fail_open = sound.fail_open = False
            sound.fail = None
            await asyncio.sleep(10)
            assert outcomes["stored"] == 4

    virtual_time.run(main())


def test_a_first_batch_for_a_locked_table_lets_others_try() -> None:
    """That it cannot be written is its table's trouble; the sink is open and the next batch is the first one."""

    async def main() -> None:
        sink, outcomes = FakeSink(), Counter[str]()
        sink.fail_open = True
        async with batcher_of(sink, limits=LIMITS).running(drain_seconds=99) as batcher:
            await asyncio.sleep(1)
            sink.fail_open, sink.busy = False, frozenset(["locked"])
            await asyncio.sleep(3)
            send(batcher, "locked", 1, 99, outcomes)
            send(batcher, "open", 1, 99, outcomes)
            await asyncio.sleep(1)
            assert outcomes["stored"] == 1
            sink.busy = frozenset()

    virtual_time.run(main())


def test_a_first_batch_in_doubt_does_not_keep_the_other_slot_waiting() -> None:
    """It may remain so for long, while the other slot has a connection."""

    async def main() -> None:
        sinks, outcomes = (FakeSink(), FakeSink()), Counter[str]()
        for sink in sinks:
            sink.fail_open = True
        async with batcher_of(*sinks, limits=LIMITS).running(drain_seconds=99) as batcher:
            await asyncio.sleep(0)
            for sink in sinks:
                sink.fail_open = False
            await asyncio.sleep(3)
            assert not any(slot.reason for slot in batcher._slots)
            for sink in sinks:
                sink.seconds, sink.doubts = 1, ["none"]
            send(batcher, "a", 1, 99, outcomes)
            await asyncio.sleep(0.5)
            send(batcher, "b", 1, 5, outcomes)
            scout, other = sinks if sinks[0].batches else sinks[::-1]
            assert not other.batches
            scout.fail_open, other.doubts = True, []
            await asyncio.sleep(3)
            assert outcomes["stored"] == 1
            scout.fail_open = False
            await asyncio.sleep(5)
            assert outcomes["stored"] == 2

    virtual_time.run(main())


def test_refusal_of_a_closed_batcher() -> None:
    """What is large is not read for a service that stops."""

    async def main() -> None:
        async with batcher_of(FakeSink()).running(drain_seconds=1) as batcher:
            assert batcher.refusal() is None
            batcher.close()
            assert isinstance(batcher.refusal(), Closed)

    virtual_time.run(main())
