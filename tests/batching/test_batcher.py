"""The batcher in virtual time, with sinks that are as slow, broken or absent as a test wants."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest

from batching import (
    Batch,
    Closed,
    DeadlinePassed,
    Flush,
    FlushCut,
    Limits,
    Outcome,
    QueueFull,
    Retry,
    SinkAway,
    SlotStatistics,
    Submission,
)
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of, refuse


def test_a_lone_row_on_an_idle_service_is_written_at_once() -> None:
    """There is no linger: waiting without a reason is what users of fixed flush intervals complain about."""

    async def main() -> None:
        sink = FakeSink()
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            await asyncio.sleep(5)
            assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"
            ((when, lane, size),) = sink.batches
            assert (lane, size) == ("lane", 1)
            assert when == pytest.approx(5)

    virtual_time.run(main())


def test_batches_grow_while_the_slot_is_busy() -> None:
    """Group commit: what arrives during a flush is the next batch, whole."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1
        async with batcher_of(sink).running(drain_seconds=10) as batcher, asyncio.TaskGroup() as clients:
            clients.create_task(batcher.write("lane", b"first", 1, timeout_seconds=9))
            await asyncio.sleep(0.5)
            for number in range(7):
                clients.create_task(batcher.write("lane", b"%d" % number, 1, timeout_seconds=9))
        assert sink.batches == [(0, "lane", 1), (1, "lane", 7)]

    virtual_time.run(main())


def test_rows_that_arrive_together_share_a_batch_even_when_idle() -> None:
    """The first row wakes a slot; those behind it in the same turn of the event loop come along."""

    async def main() -> None:
        first, second = FakeSink(), FakeSink()
        async with batcher_of(first, second).running(drain_seconds=1) as batcher:
            await asyncio.sleep(1)
            async with asyncio.TaskGroup() as clients:
                for number in range(5):
                    clients.create_task(batcher.write("lane", b"%d" % number, 1, timeout_seconds=9))
        assert [size for _, _, size in first.batches + second.batches] == [5]

    virtual_time.run(main())


def test_all_slots_work_on_many_lanes() -> None:
    """A second lane must not wait for the first while a slot is idle."""

    async def main() -> None:
        sinks = FakeSink(), FakeSink()
        for sink in sinks:
            sink.seconds = 1
        async with batcher_of(*sinks).running(drain_seconds=9) as batcher:
            await asyncio.sleep(1)
            async with asyncio.TaskGroup() as clients:
                for lane in "ab":
                    clients.create_task(batcher.write(lane, b"row", 1, timeout_seconds=9))
        assert [batch for sink in sinks for batch in sink.batches] in (
            [(1, "a", 1), (1, "b", 1)],
            [(1, "b", 1), (1, "a", 1)],
        )

    virtual_time.run(main())


def test_a_quiet_lane_is_served_while_a_busy_one_always_has_rows() -> None:
    """Fair between lanes: one producer's flood must not starve another's single row."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1
        limits = Limits(batch_rows_max=10)
        async with batcher_of(sink, limits=limits).running(drain_seconds=99) as batcher, asyncio.TaskGroup() as clients:
            for number in range(100):
                clients.create_task(batcher.write("busy", b"%d" % number, 1, timeout_seconds=99))
            await asyncio.sleep(0.5)
            await batcher.write("quiet", b"row", 1, timeout_seconds=99)
            assert asyncio.get_running_loop().time() <= 3

    virtual_time.run(main())


def test_a_sink_that_fails_once_is_tried_again_at_once() -> None:
    """A connection that was cut while idle is no outage; nobody should see more than a short delay."""

    async def main() -> None:
        sink = FakeSink()

        async def once() -> None:
            sink.fail = None
            await refuse()

        sink.fail = once
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"
            assert [when for when, _, _ in sink.batches] == [0, 0]
            assert sink.stored == [("lane", b"row")]

    virtual_time.run(main())


def test_while_the_sink_is_away_new_rows_are_refused_at_once_and_old_ones_wait_for_their_deadline() -> None:
    """503 with the time of the next attempt is truthful; letting clients run into their own time-outs is not."""

    async def main() -> None:
        sink = FakeSink()
        sink.fail = refuse
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            await asyncio.sleep(0)
            sink.fail_open = True
            waiting = asyncio.create_task(batcher.write("lane", b"early", 1, timeout_seconds=3))
            await asyncio.sleep(1)
            with pytest.raises(SinkAway) as refused:
                await batcher.write("lane", b"late", 1, timeout_seconds=3)
            assert 0 <= refused.value.retry_seconds <= 2
            assert str(refused.value.reason) == "no database"
            with pytest.raises(DeadlinePassed):
                await waiting
            assert 3 <= asyncio.get_running_loop().time() < 3.1
            sink.fail_open, sink.fail = False, None
            await asyncio.sleep(3)  # more than the longest pause between attempts
            assert batcher.away() is None, "it comes back by itself, without a request to try with"
            await batcher.write("lane", b"again", 1, timeout_seconds=3)
        assert sink.stored == [("lane", b"again")]

    virtual_time.run(main())


def test_one_slot_that_works_is_enough() -> None:
    """A connection limit that lets one of two slots through must not look like an outage."""

    async def main() -> None:
        broken, sound = FakeSink(), FakeSink()
        broken.fail_open = True
        async with batcher_of(broken, sound).running(drain_seconds=1) as batcher:
            await asyncio.sleep(10)
            assert batcher.away() is None
            assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"

    virtual_time.run(main())


def test_a_lane_that_cannot_be_written_does_not_hold_up_the_others() -> None:
    """A locked table is its own clients' trouble: nobody is told that the database is away, and others are written."""

    async def main() -> None:
        class Picky(FakeSink):
            async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome] | Exception]:
                if batches[0].lane == "locked" and asyncio.get_running_loop().time() < 20:
                    await asyncio.sleep(3)
                    self.is_open = False
                    raise TimeoutError("lock timeout")
                return await super().write(batches)

        first, second = Picky(), Picky()
        async with batcher_of(first, second).running(drain_seconds=1) as batcher:
            patient = asyncio.create_task(batcher.write("locked", b"patient", 1, timeout_seconds=40))
            await asyncio.sleep(1)
            hasty = asyncio.create_task(batcher.write("locked", b"hasty", 1, timeout_seconds=10))
            await asyncio.sleep(3.5)  # by now both slots have tried, and one is trying again
            for number in range(60):
                await asyncio.sleep(0.1)
                assert batcher.away() is None
                await batcher.write("open", b"%d" % number, 1, timeout_seconds=0.06)
            with pytest.raises(DeadlinePassed) as late:
                await hasty
            assert str(late.value.reason) == "lock timeout"
            assert await patient == b"patient"
            assert asyncio.get_running_loop().time() < 26, "after the longest pause and one more try at the latest"

    virtual_time.run(main())


def test_a_sink_with_a_bug_is_not_tried_again() -> None:
    """Nobody knows what it has stored, so a second try could store rows twice."""

    async def main() -> None:
        sink = FakeSink()

        async def bug() -> None:
            sink.fail = None
            raise ZeroDivisionError

        sink.fail = bug
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            with pytest.raises(FlushCut):
                await batcher.write("lane", b"row", 1, timeout_seconds=9)
            assert await batcher.write("lane", b"next", 1, timeout_seconds=9) == b"next"
        assert sink.stored == [("lane", b"next")]

    virtual_time.run(main())


def test_a_batch_that_one_slot_cannot_write_goes_to_an_idle_one() -> None:
    """Rows must not wait for a broken connection to be mended while a sound one has nothing to do."""

    async def main() -> None:
        broken, sound = FakeSink(), FakeSink()
        async with batcher_of(broken, sound).running(drain_seconds=1) as batcher:
            await asyncio.sleep(1)
            for sink in (broken, sound):  # whichever is first
                broken.fail_open = sound.fail_open = False
                broken.fail = sound.fail = None
                sink.fail, sink.fail_open = refuse, True
                assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"
        assert asyncio.get_running_loop().time() == pytest.approx(1)

    virtual_time.run(main())


def test_cancelling_a_waiter_withdraws_its_rows_and_harms_no_other() -> None:
    """A client that goes away must neither fail the batch nor have rows written that nobody waits for."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1
        async with batcher_of(sink).running(drain_seconds=9) as batcher:
            flying = asyncio.create_task(batcher.write("lane", b"flying", 1, timeout_seconds=9))
            await asyncio.sleep(0.1)
            gone = asyncio.create_task(batcher.write("lane", b"gone", 1, timeout_seconds=9))
            stays = asyncio.create_task(batcher.write("lane", b"stays", 1, timeout_seconds=9))
            await asyncio.sleep(0.1)
            flying.cancel()
            gone.cancel()
            assert await stays == b"stays"
            assert flying.cancelled()
            assert gone.cancelled()
        assert [payload for _, payload in sink.stored] == [b"flying", b"stays"]

    virtual_time.run(main())


def test_a_full_queue_says_when_to_come_back() -> None:
    """429 needs a Retry-After that means something: the backlog by the measured rate."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 2
        limits = Limits(batch_rows_max=10, pending_rows_max=100)
        async with batcher_of(sink, limits=limits).running(drain_seconds=99) as batcher, asyncio.TaskGroup() as clients:
            await batcher.write("lane", b"measure", 10, timeout_seconds=99)  # 10 rows in 2 s
            for number in range(10):
                clients.create_task(batcher.write("lane", b"%d" % number, 10, timeout_seconds=99))
            await asyncio.sleep(0)
            with pytest.raises(QueueFull) as full:
                await batcher.write("lane", b"too many", 1, timeout_seconds=99)
            assert full.value.retry_seconds == pytest.approx(20, abs=0.1)

    virtual_time.run(main())


def test_stopping_writes_what_was_accepted_and_refuses_what_is_new() -> None:
    """SIGTERM drains: no accepted request is cut."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1
        async with batcher_of(sink).running(drain_seconds=9) as batcher:
            clients = [asyncio.create_task(batcher.write("lane", b"%d" % n, 1, timeout_seconds=9)) for n in range(3)]
            await asyncio.sleep(0.5)
            batcher.close()
            with pytest.raises(Closed):
                await batcher.write("lane", b"new", 1, timeout_seconds=9)
        assert [client.result() for client in clients] == [b"0", b"1", b"2"]

    virtual_time.run(main())


def test_stopping_while_the_sink_is_away_answers_everybody_at_once() -> None:
    """Nobody should wait out a grace period for a database that is down."""

    async def main() -> None:
        sink = FakeSink()
        sink.fail = refuse
        async with batcher_of(sink).running(drain_seconds=60) as batcher:
            await asyncio.sleep(0)
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=60))
            sink.fail_open = True
            await asyncio.sleep(5)
        with pytest.raises(SinkAway):
            await client
        assert asyncio.get_running_loop().time() < 6

    virtual_time.run(main())


def test_a_sink_that_goes_away_while_stopping() -> None:
    """The same when the outage begins after the stop: SIGTERM is often sent to everything at once."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds, sink.fail = 2, refuse
        async with batcher_of(sink).running(drain_seconds=60) as batcher:
            client = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=60))
            await asyncio.sleep(1)
            sink.fail_open = True
            batcher.close()
        with pytest.raises(SinkAway):
            await client
        assert asyncio.get_running_loop().time() < 3

    virtual_time.run(main())


def test_a_flush_that_outlasts_the_drain_is_answered_with_the_truth() -> None:
    """A hung database must not keep the service from ending, and nobody may be told that a row was not stored."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1000
        async with batcher_of(sink).running(drain_seconds=5) as batcher:
            flying = asyncio.create_task(batcher.write("lane", b"flying", 1, timeout_seconds=9999))
            await asyncio.sleep(1)
            waiting = asyncio.create_task(batcher.write("lane", b"waiting", 1, timeout_seconds=9999))
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() == pytest.approx(7)
        with pytest.raises(FlushCut):
            await flying
        with pytest.raises(Closed):
            await waiting
        assert not sink.is_open

    virtual_time.run(main())


def test_draining_ends_the_slots_and_nothing_else() -> None:
    """Whoever drains still has the answers to send; a cancellation that reached it would cut them."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 1000
        async with batcher_of(sink).running(drain_seconds=5) as batcher:
            flying = asyncio.create_task(batcher.write("lane", b"flying", 1, timeout_seconds=9999))
            await asyncio.sleep(1)
            await batcher.drain(2)
            with pytest.raises(FlushCut):
                await flying
            await asyncio.sleep(100)  # sending the answers
            assert asyncio.get_running_loop().time() == pytest.approx(103)

    virtual_time.run(main())


def test_flushes_are_observed() -> None:
    """Metrics come from what the batcher reports, failures included."""

    async def main() -> None:
        sink, seen = FakeSink(), list[tuple[Flush, Sequence[Batch], Exception | None]]()

        async def once() -> None:
            sink.fail = None
            await refuse()

        sink.fail, sink.seconds = once, 0.5
        async with batcher_of(sink, observe=lambda *flush: seen.append(flush)).running(drain_seconds=1) as batcher:
            await batcher.write("lane", b"row", 3, timeout_seconds=9)
        assert [(f.lanes, f.rows, f.size, f.submissions, failure is None) for f, _, failure in seen] == [
            (1, 3, 3, 1, False),
            (1, 3, 3, 1, True),
        ]
        assert [f.seconds for f, _, _ in seen] == pytest.approx([0.5, 0.5])
        assert [(f.slots_busy, f.slots) for f, _, _ in seen] == [(1, 1), (1, 1)]
        assert [[batch.lane for batch in batches] for _, batches, _ in seen] == [["lane"], ["lane"]]
        assert batcher.retries == 1

    virtual_time.run(main())


class _Timed(Submission):
    """Remembers what it is told."""

    told: tuple[Outcome, Flush | None] | None = None

    def answer(self, outcome: Outcome, flush: Flush | None, /) -> None:
        """Keep it."""
        self.told = (outcome, flush)


def test_a_submission_is_told_the_flush_that_has_decided_it() -> None:
    """How long it waited and how long it was written is known to whoever answers it."""

    async def main() -> None:
        sink = FakeSink()
        sink.seconds = 0.5
        async with batcher_of(sink).running(drain_seconds=1) as batcher:
            now = batcher.clock()
            first, second, late = (_Timed(b"row", 3, 1, now + wait, now) for wait in (9, 9, 0.2))
            batcher.submit("lane", first)
            await asyncio.sleep(0.1)
            assert batcher.slots() == SlotStatistics(busy=1, idle=0, away=0, opened=1, failed=0)
            batcher.submit("lane", second)
            batcher.submit("lane", late)
            assert batcher.statistics().oldest_since == now
            await asyncio.sleep(1)
            assert batcher.slots() == SlotStatistics(busy=0, idle=1, away=0, opened=1, failed=0)
            assert batcher.statistics().oldest_since == math.inf
        assert first.told is not None
        assert second.told is not None
        assert late.told is not None
        assert first.told[1] is not None
        assert second.told[1] is not None
        assert [first.told[1].began - now, first.told[1].ended - now] == pytest.approx([0, 0.5])
        assert [second.told[1].began - now, second.told[1].ended - now] == pytest.approx([0.5, 1])
        assert isinstance(late.told[0], DeadlinePassed)
        assert late.told[1] is None

    virtual_time.run(main())


def test_slots_that_cannot_be_opened_are_away() -> None:
    """An operator must see that there is no connection, and how often one was tried."""

    async def main() -> None:
        sink = FakeSink()
        sink.fail_open = True
        async with batcher_of(sink, FakeSink()).running(drain_seconds=0) as batcher:
            await asyncio.sleep(0.3)
            now = batcher.slots()
            assert (now.busy, now.idle, now.away, now.opened) == (0, 1, 1, 1)
            assert now.failed > 1

    virtual_time.run(main())


def test_an_observer_with_a_bug_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Metrics are not worth a slot."""

    def broken(*_flush: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with batcher_of(FakeSink(), observe=broken).running(drain_seconds=1) as batcher:
            for _ in range(2):
                assert await batcher.write("lane", b"row", 1, timeout_seconds=9) == b"row"

    virtual_time.run(main())
    assert caplog.text.count("an observer failed") == 2


def test_retries_double_up_to_their_limit() -> None:
    """A database that is away for a day is neither hammered nor forgotten."""
    retry = Retry(on=OSError, first_seconds=0.1, max_seconds=2)
    assert [retry.delay(failures) for failures in (0, 1)] == [0, 0]
    assert 0.075 <= retry.delay(2) <= 0.1
    assert 0.15 <= retry.delay(3) <= 0.2
    assert 1.5 <= retry.delay(10_000) <= 2
