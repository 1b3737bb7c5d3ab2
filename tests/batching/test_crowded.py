"""No room for one more sink: its slot rests, the others go on, and it comes back. In virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest

from batching import Batcher, DeadlinePassed, Limits, Retry
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, InDoubt, refuse


class NoRoom(ConnectionError):
    """There is none."""


class CrowdedSink(FakeSink):
    """Counts its attempts; while `crowded`, there is no room for it."""

    def __init__(self, *, crowded: bool = False) -> None:
        super().__init__()
        self.crowded = crowded
        self.attempts: list[float] = []

    async def open(self) -> None:
        self.attempts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)
        if self.crowded:
            raise NoRoom("too many clients")
        await super().open()


def batcher_of(*sinks: FakeSink) -> Batcher:
    """A batcher that knows what crowded means."""
    retry = Retry(on=OSError, doubt=InDoubt, crowded=NoRoom)
    return Batcher(sinks, Limits(), retry, clock=asyncio.get_running_loop().time)


def test_a_slot_without_room_rests(caplog: pytest.LogCaptureFixture) -> None:
    """To ask twice a second would be one more trouble for a full server. One line says so, not one an attempt."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        first, second = CrowdedSink(), CrowdedSink(crowded=True)
        async with batcher_of(first, second).running(drain_seconds=1) as batcher:
            await asyncio.sleep(100)
            assert len(second.attempts) <= 3 + 100 / 22
            assert (batcher.slots().away, batcher.slots().idle, batcher.away()) == (1, 1, None)
            assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"
            lines = [record.getMessage() for record in caplog.records]
            assert lines == ["no room for more: going on with 1 of 2 slots (too many clients)"]
            second.crowded = False
            await asyncio.sleep(31)
            assert (batcher.slots().away, batcher.slots().idle) == (0, 2)
            assert caplog.records[-1].getMessage() == "there is room again: a slot that has rested goes on"

    virtual_time.run(main())


def test_when_the_others_cannot_go_on_it_does_not_rest() -> None:
    """After an outage the first that gets in writes; and if none does, all is away, as it is without such a limit."""

    async def main() -> None:
        first, second = CrowdedSink(), CrowdedSink(crowded=True)
        async with batcher_of(first, second).running(drain_seconds=1) as batcher:
            await asyncio.sleep(10)
            before = len(second.attempts)
            first.fail = refuse
            first.crowded = True
            with pytest.raises(DeadlinePassed):
                await batcher.write("lane", b"row", 1, timeout_seconds=5)
            await asyncio.sleep(10)
            assert batcher.away() is not None
            assert len(second.attempts) >= before + 4
            second.crowded = False
            await asyncio.sleep(3)
            assert batcher.away() is None
            assert await batcher.write("lane", b"row", 1, timeout_seconds=1) == b"row"

    virtual_time.run(main())


def test_a_slot_that_has_to_find_out_does_not_rest() -> None:
    """Somebody waits for its answer."""

    async def main() -> None:
        first, second = CrowdedSink(), CrowdedSink()
        async with batcher_of(first, second).running(drain_seconds=1) as batcher:
            await asyncio.sleep(1)
            for sink in (first, second):
                sink.doubts.append("all")
            writing = asyncio.create_task(batcher.write("lane", b"row", 1, timeout_seconds=5))
            await asyncio.sleep(0.005)
            (busy,) = [sink for sink in (first, second) if not sink.is_open]
            busy.crowded = True
            await asyncio.sleep(5)
            assert not writing.done()
            busy.crowded = False
            await asyncio.sleep(2.1)
            assert await writing == b"row"

    virtual_time.run(main())


@pytest.mark.parametrize("crowded", [True, False])
def test_the_first_attempts_can_be_waited_for(crowded: bool) -> None:  # noqa: FBT001 - a case
    """A start that did not would be told of an outage by its first requests."""

    async def main() -> None:
        sinks = CrowdedSink(crowded=True), CrowdedSink(crowded=crowded)
        async with batcher_of(*sinks).running(drain_seconds=1) as batcher:
            await batcher.tried()
            assert (batcher.away() is not None) is crowded
            assert batcher.slots().opened == (not crowded)

    virtual_time.run(main())
