"""Flushes that hold batches of several lanes, and what a sink says of each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from batching import Batch, FlushCut, Outcome
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of


def test_a_lane_that_held_up_others_is_written_alone_for_a_while() -> None:
    """A table that is locked or slow must not be met by its neighbours in every flush."""

    async def main() -> None:
        sink = FakeSink()
        sink.shares, sink.busy = True, frozenset(["bad"])
        sizes: list[int] = []
        async with batcher_of(sink, observe=lambda flush, _batches, _failure: sizes.append(flush.lanes)).running(
            drain_seconds=1
        ) as batcher:

            async def both() -> None:
                async with asyncio.TaskGroup() as clients:
                    for lane in ("good", "bad"):
                        clients.create_task(batcher.write(lane, lane.encode(), 1, timeout_seconds=99))
                    await asyncio.sleep(1)
                    sink.busy = frozenset()

            await both()
            assert sizes[0] == 2
            sizes.clear()
            await both()
            assert set(sizes) == {1}, "apart"
            await asyncio.sleep(10)
            batcher._queue.resume(batcher.clock())
            sizes.clear()
            await both()
            assert sizes == [2], "together again"

    virtual_time.run(main())


def test_a_flush_of_which_nothing_was_stored_is_no_measure_of_speed() -> None:
    """Retry-After is reckoned from the rows that were really written."""

    async def main() -> None:
        sink = FakeSink()
        sink.shares, sink.busy, sink.seconds = True, frozenset(["a", "b"]), 1.0
        failures: list[Exception | None] = []
        async with batcher_of(sink, observe=lambda _flush, _batches, failure: failures.append(failure)).running(
            drain_seconds=1
        ) as batcher:
            async with asyncio.TaskGroup() as clients:
                for lane in "ab":
                    clients.create_task(batcher.write(lane, lane.encode(), 1, timeout_seconds=99))
                await asyncio.sleep(1.5)
                assert batcher._slots[0].pace.per_second(batcher.clock()) is None
                sink.busy = frozenset()
            assert failures[0] is not None
            assert failures[-1] is None

    virtual_time.run(main())


def test_a_sink_with_too_few_results_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows what it has stored, so that is the answer; and the slot goes on."""

    async def main() -> None:
        class Forgetful(FakeSink):
            async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome] | Exception]:
                return (await super().write(batches))[:-1]

        sink = Forgetful()
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            for _ in range(2):
                with pytest.raises(FlushCut):
                    await batcher.write("lane", b"row", 1, timeout_seconds=9)

    virtual_time.run(main())
    assert "0 results for 1 batches" in caplog.text
