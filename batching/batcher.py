"""The batcher: flush slots that empty the queue, each through a sink of its own.

Owns the flush rule (a lane with rows and a free slot are flushed at once; while all slots are busy, rows gather), the
retries of lanes and sinks that fail, and draining. Decisions live in `queue.py`. Must not know what a payload means.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
import anyio.abc

from batching.errors import Closed, FlushCut, NotQueued, QueueFull, SinkAway
from batching.queue import Batch, Limits, Outcome, Queue, Statistics, Submission

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What one flush slot writes through, typically a database connection. Used by one task, one call at a time."""

    def may_share(self, lane: Hashable, /) -> bool:
        """Whether small batches of the lane may be written together with those of other lanes that may."""

    async def open(self) -> None:
        """Make ready to write; called before the first `write` and after one that raised.

        Raising means that nothing at all can be written through it at the moment: tried again until it does not.
        """

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome] | Exception]:
        """Store the batches, each of another lane. Returns for each of them the outcomes of its submissions, in order.

        An outcome that is an exception is final for that submission. An exception of `Retry.on` in place of the
        outcomes means that **none** of the batch was stored and that it is worth trying again: it goes back to its
        lane, which pauses longer each time. Raising it means the same of all batches, and that the sink must be opened
        again. Raising anything else is a bug, and leaves unknown what was stored.
        """

    async def close(self) -> None:
        """Release what `open` acquired. Must not raise."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When to try again: after exceptions `on`, with pauses that double from `first_seconds` to `max_seconds`.

    By these exceptions a sink says that nothing of the batch was stored and that it is worth another try.
    """

    on: type[Exception]
    first_seconds: float = 0.1
    max_seconds: float = 2.0

    def delay(self, failures: int) -> float:
        """Seconds before the next attempt after `failures` failures in a row (the first retry is immediate)."""
        if failures <= 1:
            return 0.0
        # The exponent is bounded so that a day of failures cannot overflow a float.
        full = min(self.max_seconds, self.first_seconds * 2.0 ** min(failures - 2, 32))
        return full * random.uniform(0.75, 1.0)  # noqa: S311 - spreads retries, protects nothing


@dataclass(frozen=True, slots=True)
class Flush:
    """What a sink was given at once: how much it was, how long it took, and why, if none of it was stored."""

    lanes: int
    submissions: int
    rows: int
    size: int
    seconds: float
    failure: Exception | None


class _Awaited(Submission):
    """A submission that a task waits for."""

    __slots__ = ("outcome",)

    def __init__(self, payload: object, size: int, rows: int, deadline: float) -> None:
        super().__init__(payload, size, rows, deadline)
        self.outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def answer(self, outcome: Outcome) -> None:
        """Wake the task."""
        if self.outcome.done():  # it was cancelled meanwhile
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class _Slot:
    """One flush slot: its sink, and why it could not be opened the last time, if it could not."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.open = False
        self.retry_at = 0.0
        self.reason: Exception | None = None
        self.scope = anyio.CancelScope()
        """What ends its work, and nothing else."""


class Batcher:
    """Collects submissions into batches and writes them through its sinks, one flush at a time in each.

    Use `async with batcher.running()`; submissions are possible inside. `clock` gives seconds and is what deadlines are
    measured on. Belongs to one event loop.
    """

    _APART_SECONDS = 10.0  # a lane that was locked or slow holds up those it is written with no more often than that
    # Below so many rows most of a flush is its fixed cost: taking along what is in the sockets already makes batches of
    # 51 rows instead of 32 at 64 connections, for 5 % less CPU here and 15 % less in PostgreSQL. Above, nothing is
    # gained (scenarios "one row, 64 connections" and "512").
    _FEW_ROWS = 100
    _SWEEP_SECONDS = 0.05  # deadlines and pauses are seconds; a twentieth of one is exact enough and costs nothing

    def __init__(
        self,
        sinks: Sequence[Sink],
        limits: Limits,
        retry: Retry,
        *,
        observe: Callable[[Flush], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._queue = Queue(limits, sinks[0].may_share)
        self._slots = [_Slot(sink) for sink in sinks]
        self._retry = retry
        self._observe = observe
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._drained: asyncio.Event | None = None
        self._rate = _DrainRate()

    # ---------------------------------------------------------------- for producers

    def submit(self, lane: Hashable, submission: Submission) -> None:
        """Queue a submission; its `answer` is called with the outcome after the batch that holds it has ended.

        Raises without queueing it: `QueueFull`, `TooLarge`, `SinkAway`, `Closed`.
        """
        if self._slots[0].reason is not None and self.away() is not None:
            raise self._away()  # nameless: a name here would be a cycle that holds the rows until the collector comes
        try:
            self._queue.put(lane, submission)
        except QueueFull:
            raise QueueFull(self._backlog_seconds()) from None
        if self._idle and not self._waking:
            self._wake_another()

    def refusal(self) -> NotQueued | None:
        """Why a large submission would be refused now, or None; preparing it would be a waste of time.

        While the queue is full, a small one may still find room.
        """
        if self._queue.closed:
            return Closed()
        away = self.away()
        if away is not None:
            return away
        return QueueFull(self._backlog_seconds()) if self._queue.congested else None

    def withdraw(self, submission: Submission) -> bool:
        """Take a submission back because nobody waits for its answer any more.

        True: it had not been given to a sink and will not be written. False: too late, its flush has begun or ended.
        """
        return self._queue.withdraw(submission)

    async def write(self, lane: Hashable, payload: bytes, rows: int, *, timeout_seconds: float) -> object:
        """Submit and wait: returns the sink's result once the rows are committed.

        Raises what `submit` raises, `DeadlinePassed` when the rows did not reach a sink in time, or the exception that
        the sink has for this submission. When the waiting task is cancelled, rows that still wait are withdrawn; a
        flush that has begun goes on.
        """
        submission = _Awaited(payload, len(payload), rows, self.clock() + timeout_seconds)
        self.submit(lane, submission)
        try:
            return await submission.outcome
        finally:
            self._queue.withdraw(submission)

    @property
    def closed(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._queue.closed

    def statistics(self) -> Statistics:
        """What is pending at this moment."""
        return self._queue.statistics()

    def away(self) -> SinkAway | None:
        """Why nothing can be written now, or None as long as the sink of one slot is not known to be away."""
        soonest = math.inf
        reason: Exception | None = None
        for slot in self._slots:
            if slot.reason is None:
                return None
            if slot.retry_at < soonest:
                soonest, reason = slot.retry_at, slot.reason
        return None if reason is None else SinkAway(max(0.0, soonest - self.clock()), reason)

    def _away(self) -> SinkAway | Closed:
        return self.away() or Closed()

    # ---------------------------------------------------------------- for the owner

    @asynccontextmanager
    async def running(self, *, drain_seconds: float) -> AsyncIterator[Batcher]:
        """Run the flush slots; on leaving, refuse what is new and give what is pending `drain_seconds` to finish.

        Each submission has its answer when this returns; see `drain`.
        """
        async with anyio.create_task_group() as tasks:
            for slot in self._slots:
                tasks.start_soon(self._work, slot)
            tasks.start_soon(self._sweep)
            try:
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self.drain(drain_seconds)
                tasks.cancel_scope.cancel()

    async def drain(self, timeout_seconds: float) -> None:
        """Take nothing new and wait until everything pending is answered.

        After the time-out, what still waits is answered `Closed` and what is being written `FlushCut`: nothing can be
        written any more then. Calling it again is no error.
        """
        self.close()
        self._drained = self._drained or asyncio.Event()
        self._check_drained()
        with anyio.move_on_after(timeout_seconds):
            await self._drained.wait()
        self._refuse_waiting()
        if self._queue.pending_submissions:
            for slot in self._slots:
                slot.scope.cancel()
            await self._drained.wait()

    def close(self) -> None:
        """Take nothing new from now on; what is pending goes on. What cannot be written now is refused now."""
        self._queue.closed = True
        if self.away() is not None:
            self._refuse_waiting()

    # ---------------------------------------------------------------- the slots

    async def _work(self, slot: _Slot) -> None:
        """One slot's life: open the sink, write batch after batch, wait when there is none."""
        with slot.scope:
            try:
                while True:
                    if not slot.open:
                        await self._open(slot)
                    batches = self._queue.take()
                    if batches:
                        self._wake_another()  # for other lanes, or more rows than one batch holds
                        await self._flush(slot, batches)
                        self._check_drained()
                        if self._queue.pending_rows < self._FEW_ROWS:
                            await asyncio.sleep(0)  # one turn of the loop: what has arrived meanwhile comes along
                    else:
                        await self._wait_for_rows()
            finally:
                with anyio.CancelScope(shield=True):
                    await slot.sink.close()

    async def _open(self, slot: _Slot) -> None:
        """Open the slot's sink, however long that takes. While no slot's sink can be opened, all is away."""
        failures = 0
        while not slot.open:
            delay = self._retry.delay(failures)
            slot.retry_at = self.clock() + delay
            if delay:
                await anyio.sleep(delay)
            try:
                await slot.sink.open()
            except Exception as error:  # noqa: BLE001 - whatever kept it from opening is reported and tried again
                failures += 1
                slot.reason = error
                if self._queue.closed and self.away() is not None:
                    self._refuse_waiting()
            else:
                slot.open = True
                slot.reason = None

    async def _flush(self, slot: _Slot, batches: Sequence[Batch]) -> None:
        started = self.clock()
        failure: Exception | None = None
        try:
            results = await slot.sink.write(batches)
        except self._retry.on as error:
            failure = error
            slot.open = False  # it is opened again, which tells a lost connection from a table that is locked
            for batch in batches:
                self._give_back(batch, error)
        except BaseException as error:
            # A cancel comes when draining takes too long, anything else is a bug. Someone waits for each of these, and
            # the truth is that nobody knows.
            for batch in batches:
                self._queue.settle(batch, [FlushCut() for _ in batch.submissions])
            self._check_drained()
            if not isinstance(error, Exception):
                raise
            failure = error
            slot.open = False
            logger.exception("a sink failed in a way that it may not")
        else:
            failure = self._take_up(batches, results)
        self._note(
            Flush(
                lanes=len(batches),
                submissions=sum([len(batch.submissions) for batch in batches]),
                rows=sum([batch.rows for batch in batches]),
                size=sum([batch.size for batch in batches]),
                seconds=self.clock() - started,
                failure=failure,
            )
        )

    def _take_up(self, batches: Sequence[Batch], results: Sequence[Sequence[Outcome] | Exception]) -> Exception | None:
        """Pass on what a sink has returned; why not, if nothing of it was stored."""
        if len(results) != len(batches):
            logger.error("a sink gave %d results for %d batches", len(results), len(batches))
            results = [()] * len(batches)  # which the queue knows to be a mistake
        failure: Exception | None = None
        failed: list[Batch] = []
        for batch, result in zip(batches, results, strict=True):
            if isinstance(result, Exception):
                failure = result
                failed.append(batch)
                self._give_back(batch, result)
            else:
                self._queue.settle(batch, result)
        if len(failed) == len(batches):
            return failure
        for batch in failed:  # while others were written
            self._queue.keep_apart(batch.lane, self.clock() + self._APART_SECONDS)
        return None

    def _give_back(self, batch: Batch, reason: Exception) -> None:
        delay = self._retry.delay(batch.failures + 1)
        self._queue.give_back(batch, reason, self.clock() + delay if delay else None)
        self._wake_another()

    def _note(self, flush: Flush) -> None:
        if flush.failure is None:
            self._rate.add(flush.rows, flush.seconds)
        try:
            self._observe(flush)
        except Exception:
            logger.exception("an observer failed; the rows are written all the same")

    async def _wait_for_rows(self) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        try:
            await woken
        finally:
            # Only one slot wakes at a time: the rows that arrive until it runs are its batch.
            if woken.done() and not woken.cancelled():
                self._waking = False
            else:
                self._idle.remove(woken)

    def _wake_another(self) -> None:
        """If something waits and a slot is idle, have it take a batch."""
        if self._queue and self._idle and not self._waking:
            self._waking = True
            self._idle.pop().set_result(None)

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(self._SWEEP_SECONDS)
            if self._queue.pending_submissions:
                now = self.clock()
                self._queue.expire(now)
                self._queue.resume(now)
                self._wake_another()
                self._check_drained()

    # ---------------------------------------------------------------- draining and estimates

    def _refuse_waiting(self) -> None:
        self._queue.refuse_waiting(self._away)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and not self._queue.pending_submissions:
            self._drained.set()

    def _backlog_seconds(self) -> float:
        """When what is pending should be written, from the measured drain rate; 1 s while there is no measurement."""
        rate = self._rate.per_second() * len(self._slots)
        return self._queue.pending_rows / rate if rate else 1.0


class _DrainRate:
    """Rows that one busy slot writes per second, as a moving average over about ten seconds of writing."""

    _WINDOW_SECONDS = 10.0

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self._rows += rows
        self._seconds += seconds
        if self._seconds > self._WINDOW_SECONDS:
            self._rows /= 2
            self._seconds /= 2

    def per_second(self) -> float:
        return self._rows / self._seconds if self._seconds else 0.0
