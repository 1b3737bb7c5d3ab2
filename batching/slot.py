"""A flush slot: one sink, whether it can be written through, and why not.

Owns opening the sink, however long that takes, and a write in doubt, which it has the sink repeat until the outcome is
known. Must not know the queue; which batches are written, and what their outcomes mean, is the batcher's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import anyio

from batching.errors import FlushCut
from batching.lane import Batch, Outcome
from batching.rate import Pace

logger = logging.getLogger(__name__)

Results: TypeAlias = Sequence[Sequence[Outcome] | Exception]
"""For each batch the outcomes of its submissions, or why none of it was stored."""


class Sink(Protocol):
    """What one flush slot writes through, typically a database connection. Used by one task, one call at a time."""

    def may_share(self, lane: Hashable, /) -> bool:
        """Whether small batches of the lane may be written together with those of other lanes that may."""

    def serial(self, lane: Hashable, /) -> Hashable | None:
        """Whatever batches of the lane have for themselves while they are written; None if they may be written at once.

        Lanes that have the same in common are given one batch at a time.
        """

    async def open(self) -> None:
        """Make ready to write; called before the first `write` and after one that raised.

        Raising means that nothing at all can be written through it at the moment: tried again until it does not.
        """

    async def write(self, batches: Sequence[Batch], /) -> Results:
        """Store the batches, each of another lane. Returns for each of them the outcomes of its submissions, in order.

        An outcome that is an exception is final for that submission, unless it is one of `Retry.on`: then this
        submission was **not** stored, the others of its batch were, and it is tried again apart from them. Such an
        exception in place of the outcomes says of the whole batch that none of it was stored and that it is worth
        trying again: it goes back to its lane, which pauses longer each time. Raising it means the same of all batches,
        and that the sink must be opened again.

        Raising `Retry.doubt` means that nobody knows what was stored. After `open`, `write` is called with the very
        same batches, has to find out, and stores what is not stored yet; it may raise `Retry.doubt` again. If it does
        not come to an end in time it is cancelled, `close` is called, and then `open`, for other batches.

        Raising anything else is a bug, and leaves unknown what was stored.
        """

    async def close(self) -> None:
        """Release what `open` acquired. Must not raise."""


class _Never(Exception):
    """Never raised: it stands for what never happens to a sink."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again: after exceptions `on`, with pauses that double from `first_seconds` to `max_seconds`.

    By these exceptions a sink says that nothing of the batch was stored and that it is worth another try. By `doubt`,
    which goes before `on`, it says that it does not know what was stored but will after it has been opened again. By
    `crowded` it says, when it is opened, that there is no room for one more: while others are open it rests for
    `rest_seconds`.
    """

    on: type[Exception]
    doubt: type[Exception] = _Never
    crowded: type[Exception] = _Never
    first_seconds: float = 0.1
    max_seconds: float = 2.0
    rest_seconds: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds before the next attempt after `failures` failures in a row (the first retry is immediate)."""
        if failures <= 1:
            return 0.0
        # The exponent is bounded so that a day of failures cannot overflow a float.
        full = min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 2, 32))
        return full * random.uniform(0.75, 1.0)  # noqa: S311 - spreads retries, protects nothing

    def rest(self) -> float:
        """Seconds before the next attempt of a slot for which there is no room."""
        return self.rest_seconds * random.uniform(0.75, 1.0)  # noqa: S311 - as above


class Slot:
    """One flush slot. `failed` is called with it when its sink could not be opened; `reason` says why by then."""

    def __init__(
        self,
        sink: Sink,
        retry: Retry,
        doubt_seconds: float,
        clock: Callable[[], float],
        failed: Callable[[Slot], object],
    ) -> None:
        self.sink = sink
        self.is_open = False
        self.is_busy = False
        """Whether it is writing."""
        self.opened = 0
        self.failed_to_open = 0
        """How often its sink could be opened, and could not."""
        self.retry_at = 0.0
        self.is_resting = False
        """Whether there is no room for it, so that it leaves the work to the others for a while."""
        self.reason: Exception | None = None
        """Why the sink could not be opened the last time, if it could not."""
        self.pace = Pace()
        self.scope = anyio.CancelScope()
        """What ends its work, and nothing else."""
        self._retry = retry
        self._doubt_seconds = doubt_seconds
        self._clock = clock
        self._failed = failed
        self._woken = anyio.Event()

    async def open(self, failures: int = 0) -> None:
        """Open the sink, however long that takes, after so many failures in a row."""
        while not self.is_open:
            delay = self._retry.rest() if self.is_resting else self._retry.delay(failures)
            self.retry_at = self._clock() + delay
            if delay:
                self._woken = anyio.Event()
                with anyio.move_on_after(delay):
                    await self._woken.wait()
            try:
                await self.sink.open()
            except Exception as error:  # noqa: BLE001 - whatever kept it from opening is reported and tried again
                failures += 1
                self.failed_to_open += 1
                self.reason = error
                self._failed(self)
            else:
                self.is_open = True
                self.opened += 1
                self.reason = None
                if self.is_resting:
                    self.is_resting = False
                    logger.info("there is room again: a slot that has rested goes on")

    def wake(self) -> None:
        """End its rest: the others cannot go on either."""
        self.is_resting = False
        self._woken.set()

    @property
    def is_crowded(self) -> bool:
        """Whether it could not be opened because there is no room for one more."""
        return isinstance(self.reason, self._retry.crowded)

    async def find_out(self, batches: Sequence[Batch]) -> Results:
        """After a write that ended in doubt: open the sink and have it write the same again, until the doubt is gone.

        Returns and raises what that does, or raises `FlushCut` after `doubt_seconds`. Deadlines do not count here: an
        answer that is late is worth more than one that says nothing.
        """
        doubts = 0
        with anyio.move_on_after(self._doubt_seconds):
            while True:
                self.is_open = False
                await self.open(doubts)
                try:
                    return await self.sink.write(batches)
                except self._retry.doubt:
                    doubts += 1
        requests = sum(len(batch.submissions) for batch in batches)
        logger.error("whether %d submissions are stored was not found out in %g s", requests, self._doubt_seconds)
        await self.sink.close()  # it may have been cut in the middle of something
        raise FlushCut


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """Flush slots at a moment: `busy` write, `away` have no open sink, `idle` wait for something to write.

    `opened` and `failed` count how often sinks could be opened, and could not, since the start.
    """

    busy: int
    idle: int
    away: int
    opened: int
    failed: int

    @classmethod
    def of(cls, slots: Sequence[Slot]) -> SlotStatistics:
        """What these slots do now."""
        busy = sum(slot.is_busy for slot in slots)
        away = sum(not (slot.is_open or slot.is_busy) for slot in slots)
        opened = sum(slot.opened for slot in slots)
        return cls(busy, len(slots) - busy - away, away, opened, sum(slot.failed_to_open for slot in slots))
