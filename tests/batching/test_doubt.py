"""Writes of which it is in doubt what was stored: the sink is opened again and has to find out."""

from __future__ import annotations

import asyncio
import math

import pytest

from batching import Batch, Flush, FlushCut, Limits, Results, SinkAway
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, InDoubt, batcher_of, refuse


@pytest.mark.parametrize("doubts", [["all"], ["part"], ["none"], ["none", "part", "all"]])
def test_a_doubt_is_resolved_and_nothing_is_stored_twice(doubts: list[str]) -> None:
    """A connection that is lost during the commit must cost its clients a moment, not the knowledge."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts = list(doubts)
        flushes: list[tuple[Flush, Exception | None]] = []
        async with batcher_of(sink, observe=lambda flush, _batches, failure: flushes.append((flush, failure))).running(
            drain_seconds=1
        ) as batcher:
            async with asyncio.TaskGroup() as clients:
                answers = [
                    clients.create_task(batcher.write("lane", b"%d" % number, 1, timeout_seconds=1))
                    for number in range(3)
                ]
            assert [answer.result() for answer in answers] == [b"0", b"1", b"2"]
            assert sorted(payload for _, payload in sink.stored) == [b"0", b"1", b"2"]
            assert [(flush.rows, failure) for flush, failure in flushes] == [(3, None)], "it is one flush"
            assert asyncio.get_running_loop().time() < 1, "at once, and soon again"

    virtual_time.run(main())


def test_the_time_of_a_doubt_is_no_measure_of_speed() -> None:
    """The database was away; it was not slow."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts = ["none"]
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            sink.seconds = 1
            await batcher.write("lane", b"rows", 10_000, timeout_seconds=9)
            assert batcher._slots[0].pace.per_second(batcher.clock()) is None

    virtual_time.run(main())


def test_a_doubt_outlasts_deadlines_but_not_its_own_time() -> None:
    """Nobody may be told that rows were not stored when they may be; and nobody waits for ever."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts, sink.seconds = ["all"], 1
        async with batcher_of(sink, doubt_seconds=7).running(drain_seconds=1) as batcher:
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=2))
            await asyncio.sleep(0.5)
            sink.fail_open = True
            await asyncio.sleep(4)
            assert isinstance(batcher.away(), SinkAway), "no other slot can be opened"
            with pytest.raises(SinkAway):
                await batcher.write("lane", b"new", 1, timeout_seconds=2)
            assert not client.done()
            with pytest.raises(FlushCut):
                await client
            assert asyncio.get_running_loop().time() == pytest.approx(8), "from the first doubt on"
            sink.fail_open = False
            await asyncio.sleep(3)
            assert await batcher.write("lane", b"next", 1, timeout_seconds=2) == b"next", "the slot goes on"
            assert batcher.statistics().pending_rows == 0

    virtual_time.run(main())


def test_a_sink_that_doubts_again_and_again_gets_no_more_time_and_is_not_hammered() -> None:
    """A database that dies at each commit must not be asked without end, nor without pause."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts = ["none"] * 1000
        async with batcher_of(sink, doubt_seconds=10).running(drain_seconds=1) as batcher:
            with pytest.raises(FlushCut):
                await batcher.write("lane", b"row", 1, timeout_seconds=99)
            assert asyncio.get_running_loop().time() == pytest.approx(10)
            assert 5 < len(sink.batches) < 20
            assert batcher.away() is None, "it can be opened"

    virtual_time.run(main())


def test_a_second_write_that_hangs_is_cut_and_its_sink_closed() -> None:
    """What was cancelled in the middle must be opened anew before it is used for others."""

    async def main() -> None:
        class Hanging(FakeSink):
            async def write(self, batches: list[Batch], /) -> Results:  # type: ignore[override]
                if self._unsure is batches:
                    await asyncio.sleep(1000)
                return await super().write(batches)

        sink = Hanging()
        sink.doubts = ["all"]
        closed: list[float] = []

        async def close() -> None:
            closed.append(asyncio.get_running_loop().time())
            sink.is_open = False

        sink.close = close  # type: ignore[method-assign]
        async with batcher_of(sink, doubt_seconds=5).running(drain_seconds=1) as batcher:
            with pytest.raises(FlushCut):
                await batcher.write("lane", b"row", 1, timeout_seconds=99)
            assert closed == [5]
            assert await batcher.write("lane", b"next", 1, timeout_seconds=99) == b"next"
        assert sink.stored == [("lane", b"row"), ("lane", b"next")]

    virtual_time.run(main())


def test_what_proves_not_to_be_stored_is_tried_again_as_usual() -> None:
    """After a doubt a sink may find that nothing is stored and that the table is locked."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts = ["none"]
        async with batcher_of(sink).running(drain_seconds=1) as batcher:

            async def once() -> None:
                sink.fail = None
                await refuse()

            sink.seconds = 1
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=9))
            await asyncio.sleep(1.5)
            sink.fail = once
            assert await client == b"row"
            assert [when for when, _, _ in sink.batches] == [0, 1, 2]

    virtual_time.run(main())


def test_a_batch_in_doubt_does_not_outlast_the_drain() -> None:
    """SIGTERM while the database is down: the truth is that nobody knows, and it is told in time."""

    async def main() -> None:
        sink = FakeSink()
        sink.doubts, sink.seconds = ["all"], 1
        async with batcher_of(sink).running(drain_seconds=5) as batcher:
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=99))
            await asyncio.sleep(0.5)
            sink.fail_open = True
            await asyncio.sleep(1.5)
        assert asyncio.get_running_loop().time() == pytest.approx(7)
        with pytest.raises(FlushCut):
            await client
        assert not sink.is_open

    virtual_time.run(main())


def test_one_slot_in_doubt_does_not_hold_up_the_other() -> None:
    """Finding out can take long; other rows are written meanwhile."""

    async def main() -> None:
        first, second = FakeSink(), FakeSink()
        async with batcher_of(first, second).running(drain_seconds=30) as batcher:
            await asyncio.sleep(1)
            for sink in (first, second):  # whichever takes the row
                sink.doubts, sink.seconds = ["all"], 0.1
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=99))
            await asyncio.sleep(0.05)
            unsure, sound = (first, second) if first.batches else (second, first)
            unsure.fail_open, sound.doubts = True, []
            for number in range(5):
                await asyncio.sleep(1)
                assert batcher.away() is None
                assert await batcher.write("lane", b"%d" % number, 1, timeout_seconds=1) == b"%d" % number
            unsure.fail_open = False
            assert await client == b"row"

    virtual_time.run(main())


def test_a_doubt_that_is_returned_instead_of_raised_is_no_reason_to_write_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only `Retry.on` says that nothing was stored; a second write after anything else might store rows twice."""

    async def main() -> None:
        class Confused(FakeSink):
            async def write(self, batches: list[Batch], /) -> Results:  # type: ignore[override]
                await super().write(batches)
                return [InDoubt()]

        sink = Confused()
        async with batcher_of(sink, limits=Limits()).running(drain_seconds=1) as batcher:
            with pytest.raises(FlushCut):
                await batcher.write("lane", b"row", 1, timeout_seconds=9)
        assert sink.stored == [("lane", b"row")]

    virtual_time.run(main())
    assert "0 outcomes for 1 submissions" in caplog.text


def test_what_nobody_waits_for_is_not_given_up_before_the_end() -> None:
    """A stop while all is away: whoever waits is told at once; the rest may still be written when the sink is back."""

    async def main() -> None:
        sink = FakeSink()
        async with batcher_of(sink).running(drain_seconds=30) as batcher:
            await asyncio.sleep(1)
            sink.fail, sink.fail_open = refuse, True
            patient = asyncio.create_task(batcher.write("lane", b"a", 1, timeout_seconds=math.inf))
            hurried = asyncio.create_task(batcher.write("lane", b"b", 1, timeout_seconds=99))
            await asyncio.sleep(1)
            batcher.close()
            with pytest.raises(SinkAway):
                await hurried
            assert not patient.done()
            sink.fail, sink.fail_open = None, False
        assert await patient == b"a"

    virtual_time.run(main())
