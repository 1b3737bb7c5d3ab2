"""The batcher: flush slots that empty the queue, each through a sink of its own.

Owns the flush rule (a lane with rows and a free slot are flushed at once; while all slots are busy, rows gather), what
the outcomes of a flush mean, admission by deadline, and draining. Decisions live in `queue.py`, `rate.py` and
`limits.py`, the life of a sink in `slot.py`. Must not know what a payload means.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from batching.awaited import Awaited
from batching.errors import Closed, FlushCut, NotQueued, QueueFull, SinkAway
from batching.flush import Flush, Observe
from batching.lane import Batch, Outcome, Submission
from batching.limits import Limits, Ramp
from batching.queue import Queue, Statistics
from batching.rate import seconds_until, work_of
from batching.slot import Results, Retry, Sink, Slot, SlotStatistics

logger = logging.getLogger(__name__)


class Batcher:
    """Collects submissions into batches and writes them through its sinks, one flush at a time in each.

    Use `async with batcher.running()`; submissions are possible inside. `clock` gives seconds and is what deadlines are
    measured on. Belongs to one event loop.

    A batch is in doubt for `doubt_seconds` at most, from when its sink first said so; see `Sink.write`.
    """

    _APART_SECONDS = 10.0  # a lane that was locked or slow holds up those it is written with no more often than that
    # Below so many rows most of a flush is its fixed cost: taking along what is in the sockets already makes batches of
    # 51 rows instead of 32 at 64 connections, for 5 % less CPU here and 15 % less in PostgreSQL. Above, nothing is
    # gained (scenarios "one row, 64 connections" and "512").
    _FEW_ROWS = 100
    _SCOUTING_SECONDS = 1.0  # a first batch that takes longer is stuck on something of its own, a lock most likely
    _SWEEP_SECONDS = 0.05  # deadlines and pauses are seconds; a twentieth of one is exact enough and costs nothing

    def __init__(  # noqa: PLR0913 - the last three are what hardly anybody gives
        self,
        sinks: Sequence[Sink],
        limits: Limits,
        retry: Retry,
        *,
        doubt_seconds: float = 20.0,
        observe: Observe = lambda _flush, _batches, _failure: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._queue = Queue(limits, sinks[0].may_share, self._admit, sinks[0].serial)
        self._slots = [Slot(sink, retry, doubt_seconds, clock, self._sink_failed) for sink in sinks]
        # What takes longer to write than writing anything takes.
        self._much_rows = min(limits.small_rows_max, limits.batch_rows_max // 2)
        self._much_bytes = min(limits.small_bytes_max, limits.batch_bytes_max // 2)
        self._ramp = Ramp(limits)
        self._scout: Slot | None = None
        self._scouting_since = 0.0
        """The slot that writes the first batch after an outage."""
        self._retry = retry
        self._observe = observe
        self.retries = 0
        """How many batches, or single submissions of them, were not stored and had to wait for another try."""
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._drained: asyncio.Event | None = None
        self._tried = asyncio.Event()

    # ---------------------------------------------------------------- for producers

    def submit(self, lane: Hashable, submission: Submission) -> None:
        """Queue a submission; its `answer` is called with the outcome after the batch that holds it has ended.

        Raises without queueing it: `QueueFull` (also if its turn would not come before its deadline; of its kinds,
        `ShareFull` and `RateExceeded` are about the submission's account), `TooLarge`, `SinkAway`, `Closed`.
        """
        if self._slots[0].reason is not None and self.away() is not None:
            raise self._away()  # nameless: a name here would be a cycle that holds the rows until the collector comes
        try:
            self._queue.put(lane, submission)
        except QueueFull as full:
            raise type(full)(full.retry_seconds or self._backlog_seconds()) from None
        if self._idle and not self._waking:
            self._wake_another()

    def refusal(self, deadline: float = math.inf) -> NotQueued | None:
        """Why a large submission with this deadline would be refused now, or None; preparing it would be a waste of
        time.

        While the queue is full, a small one may still find room, and while the deadline is too soon for what is in the
        busiest lane, it may not be for that of a quiet one. Which lane a submission is for is not known before it has
        been prepared, so this is about the busiest.
        """
        if self._queue.closed:
            return Closed()
        away = self.away()
        if away is not None:
            return away
        if self._queue.congested:
            return QueueFull(self._backlog_seconds())
        if self._queue.is_short():
            return None
        late = self._lateness(self._queue.due(), deadline)
        return QueueFull(late) if late > 0 else None

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
        now = self.clock()
        submission = Awaited(payload, len(payload), rows, now + timeout_seconds, now)
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

    def slots(self) -> SlotStatistics:
        """What the flush slots do at this moment."""
        return SlotStatistics.of(self._slots)

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

    async def tried(self) -> None:
        """Wait until something can be written, or it is known that nothing can."""
        await self._tried.wait()

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
        """Take nothing new from now on; what is pending goes on. What cannot be written now is refused now, unless it
        has no deadline: nobody waits for that, and it may still be written before the end.
        """
        self._queue.closed = True
        if self.away() is not None:
            self._refuse_waiting(but_patient=True)

    # ---------------------------------------------------------------- the slots

    async def _work(self, slot: Slot) -> None:
        """One slot's life: open the sink, write batch after batch, wait when there is none."""
        with slot.scope:
            try:
                while True:
                    if not slot.is_open:
                        await slot.open()
                        self._tried.set()
                    batches = () if self._is_scouting() else self._queue.take()
                    if batches:
                        if self._ramp.is_untried:
                            self._scout = slot
                            self._scouting_since = self.clock()
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

    def _sink_failed(self, slot: Slot) -> None:
        """A sink could not be opened. While none can be, all is away."""
        self._rest(slot)
        if self.away() is None:
            return
        self._tried.set()
        self._ramp.restart()
        self._queue.limits = self._ramp.limits
        if self._queue.closed:
            self._refuse_waiting(but_patient=True)

    def _rest(self, slot: Slot) -> None:
        """Have a slot for which there is no room leave the work to the others, unless it has something to find out.
        When they cannot be opened either, it goes on trying, as they do.
        """
        left = sum(other.is_open for other in self._slots)
        if left and slot.is_crowded and not slot.is_busy:
            if not slot.is_resting:
                slots = len(self._slots)
                logger.warning("no room for more: going on with %d of %d slots (%s)", left, slots, slot.reason)
            slot.is_resting = True
        elif not left:
            for other in self._slots:
                if other.is_resting:
                    other.wake()

    def _is_scouting(self) -> bool:
        """Whether the first batch after an outage is being written, and the other slots have to wait for its end.

        If it turns out to be in doubt, they need not: finding out may take long.
        """
        return (
            self._scout is not None
            and self._scout.is_open
            and self.clock() - self._scouting_since < self._SCOUTING_SECONDS
        )

    async def _flush(self, slot: Slot, batches: Sequence[Batch]) -> None:
        began = self.clock()
        rows = sum([batch.rows for batch in batches])
        size = sum([batch.size for batch in batches])
        slot.pace.begin(work_of(rows, size), began, tells=self._is_telling(rows, size))
        slot.is_busy = True
        busy = sum([slot.is_busy for slot in self._slots])
        failure: Exception | None = None

        def ended() -> Flush:
            slot.is_busy = False
            submissions = sum([len(batch.submissions) for batch in batches])
            return Flush(len(batches), submissions, rows, size, began, self.clock(), busy, len(self._slots))

        try:
            results = await self._write(slot, batches)
        except self._retry.on as error:
            failure = error
            flush = ended()
            slot.is_open = False  # it is opened again, which tells a lost connection from a table that is locked
            for batch in batches:
                self._give_back(batch, error)
        except BaseException as error:
            # A cancel comes when draining takes too long, `FlushCut` when a doubt does, anything else is a bug. Someone
            # waits for each of these, and the truth is that nobody knows.
            flush = ended()
            for batch in batches:
                self._queue.settle(batch, [FlushCut() for _ in batch.submissions], flush=flush)
            self._check_drained()
            if not isinstance(error, Exception):
                raise
            failure = error
            slot.is_open = False
            if not isinstance(error, FlushCut):
                logger.exception("a sink failed in a way that it may not")
        else:
            flush = ended()
            failure = self._take_up(batches, results, flush)
        self._learn(slot, flush.ended, failure)
        try:
            self._observe(flush, batches, failure)
        except Exception:
            logger.exception("an observer failed; the rows are written all the same")

    def _learn(self, slot: Slot, ended: float, failure: Exception | None) -> None:
        """A flush has ended: take up how fast that was, and whether more may be written at once."""
        if failure is None:
            slot.pace.end(ended)
            if not self._ramp.is_whole:
                self._ramp.grow()
                self._queue.limits = self._ramp.limits
        else:
            slot.pace.drop()
        self._scout = None  # for better or worse, it is known by now how a write ends

    async def _write(self, slot: Slot, batches: Sequence[Batch]) -> Results:
        """What the sink returns or raises, but for a doubt: that is resolved, or becomes `FlushCut`."""
        try:
            return await slot.sink.write(batches)
        except self._retry.doubt:
            slot.pace.drop()
            for batch in batches:
                self._queue.let_pass(batch)
        return await slot.find_out(batches)

    def _take_up(self, batches: Sequence[Batch], results: Results, flush: Flush) -> Exception | None:
        """Pass on what a sink has returned; why not, if nothing of it was stored."""
        if len(results) != len(batches):
            logger.error("a sink gave %d results for %d batches", len(results), len(batches))
            results = [()] * len(batches)  # which the queue knows to be a mistake
        failure: Exception | None = None
        failed: list[Batch] = []
        for batch, result in zip(batches, results, strict=True):
            if isinstance(result, self._retry.on):
                failure = result
                failed.append(batch)
                self._give_back(batch, result)
            else:  # any other exception in this place is a mistake as well: it does not say that nothing was stored
                self._settle(batch, () if isinstance(result, Exception) else result, flush)
        if len(failed) == len(batches):
            return failure
        for batch in failed:  # while others were written
            self._queue.keep_apart(batch.lane, self.clock() + self._APART_SECONDS)
        return None

    def _settle(self, batch: Batch, outcomes: Sequence[Outcome], flush: Flush) -> None:
        """Pass on the outcomes of one batch, but for those that are worth another try."""
        if outcomes.count(None) == len(outcomes):  # a tenth of the time that looking at each of them takes
            self._queue.settle(batch, outcomes, flush=flush)
            return
        on = self._retry.on
        again = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, on)}
        self.retries += len(again)
        self._queue.settle(batch, outcomes, again, self._pause_until(batch), flush=flush)

    def _give_back(self, batch: Batch, reason: Exception) -> None:
        self.retries += 1
        self._queue.give_back(batch, reason, self._pause_until(batch))
        self._wake_another()

    def _pause_until(self, batch: Batch) -> float | None:
        """When what has failed is tried again; None if at once."""
        delay = self._retry.delay(batch.failures + 1)
        return self.clock() + delay if delay else None

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

    # ---------------------------------------------------------------- draining

    def _refuse_waiting(self, *, but_patient: bool = False) -> None:
        """Refuse what waits; `but_patient`: except for what has no deadline, for which nobody waits."""
        self._queue.refuse_waiting(self._away, but_patient=but_patient)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and not self._queue.pending_submissions:
            self._drained.set()

    # ---------------------------------------------------------------- estimates

    def _admit(self, lane: Hashable, submission: Submission) -> None:
        """Raise `QueueFull` for what cannot be begun before its deadline, as far as one can tell."""
        late = self._lateness(self._queue.ahead_of(lane), submission.deadline)
        if late > 0:
            raise QueueFull(late)

    def _lateness(self, ahead: tuple[int, int], deadline: float) -> float:
        """By how many seconds a deadline is too soon for what has so many rows and bytes before it; 0 if it is not."""
        seconds = self._seconds_until(*ahead)
        return 0.0 if seconds is None else max(0.0, self.clock() + seconds - deadline)

    def _seconds_until(self, rows: int, size: int) -> float | None:
        """How long so much takes; None if that is not known."""
        return seconds_until([slot.pace for slot in self._slots if slot.reason is None], self.clock(), rows, size)

    def _is_telling(self, rows: int, size: int) -> bool:
        """Whether a flush will say how fast the sink is: if it is large, or much waits in lanes that are all small."""
        queue = self._queue
        if not self._is_much(queue.pending_rows, queue.pending_bytes):
            return False  # which is the usual case, and saves a microsecond
        if self._is_much(rows, size):
            return True
        due_rows, due_bytes = queue.due()
        lanes = len(queue) or 1
        return self._is_much(due_rows, due_bytes) and not self._is_much(due_rows // lanes, due_bytes // lanes)

    def _is_much(self, rows: int, size: int) -> bool:
        return rows >= self._much_rows or size >= self._much_bytes

    def _backlog_seconds(self) -> float:
        """When what is pending should be written, from the measured drain rate; 1 s while there is no measurement."""
        seconds = self._seconds_until(*self._queue.waiting())
        return 1.0 if seconds is None else seconds
