"""After an outage: one slot begins, with a small batch, and what follows doubles with each success."""

from __future__ import annotations

import asyncio
from collections import Counter

from batching import Limits
from batching.limits import Ramp
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of
from tests.batching.floods import LIMITS, send


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
