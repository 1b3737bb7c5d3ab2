"""The queue: what waits, in which lane, and what the next batch is. Pure decisions: no I/O, no clock, no `await`.

Owns the limits, the fairness between lanes and the rule that each submission is answered exactly once. Must not know
who flushes or when; `batcher.py` asks for batches and reports how they ended.
"""

from __future__ import annotations

import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from batching.errors import Closed, DeadlinePassed, FlushCut, NotQueued, QueueFull, TooLarge

logger = logging.getLogger(__name__)

_ROOM_AGAIN = 0.9
"""A queue that was full takes large submissions again when it is no fuller than this part of its limits."""

_ANSWER_FAILED = "an answer failed; the other submissions are answered all the same"

Outcome: TypeAlias = object
"""What became of one submission: an `Exception` instance of its own means it was not stored and why; anything else
(usually `None`) is the result of a write that is committed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold and what may be pending (waiting or being written). Rows are counted, bytes are payload.

    A submission that is larger than a batch is written alone; one larger than what may be pending is refused.

    A batch is small if it takes hardly longer than an empty one: for PostgreSQL, 500 rows take about two milliseconds,
    and one row takes half of one. Small batches of up to `lanes_max` lanes may be written together.
    """

    batch_rows_max: int = 10_000
    batch_bytes_max: int = 4 * 1024 * 1024
    pending_rows_max: int = 200_000
    pending_bytes_max: int = 256 * 1024 * 1024
    small_rows_max: int = 500
    small_bytes_max: int = 64 * 1024
    lanes_max: int = 64


class Submission(ABC):
    """Some rows that are stored together or not at all. Subclass it to be told what became of them.

    `payload` is opaque, `size` is its bytes, `rows` is how many rows it holds, `deadline` is in seconds on the
    batcher's clock.
    """

    __slots__ = ("deadline", "payload", "rows", "size", "waiting_in")

    def __init__(self, payload: object, size: int, rows: int, deadline: float) -> None:
        self.payload = payload
        self.size = size
        self.rows = rows
        self.deadline = deadline
        self.waiting_in: Lane | None = None

    @abstractmethod
    def answer(self, outcome: Outcome) -> None:
        """Take the outcome. Called exactly once, from the event loop, and must not block.

        It is not called if the submission was refused by `put` or withdrawn.
        """


class Lane:
    """The submissions that may share a batch, in order of arrival.

    `failures` counts the batches in a row that could not be written, `reason` says why the last one could not. None of
    its deadlines is before `soonest`. `is_held` says that it has no turn at the moment.
    """

    __slots__ = ("failures", "is_held", "key", "paused_until", "reason", "rows", "size", "soonest", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.rows = 0
        self.size = 0
        self.failures = 0
        self.reason: Exception | None = None
        self.paused_until: float | None = None
        self.soonest = math.inf
        self.is_held = False
        # A dict as an ordered set: withdrawing from the middle leaves no tombstones for a hostile client to pile up.
        self.waiting: dict[Submission, None] = {}


class Batch(NamedTuple):
    """Submissions of one lane that are written together. `size` is the bytes of their payloads, `failures` how often
    the lane has failed in a row.
    """

    lane: Hashable
    submissions: Sequence[Submission]
    rows: int
    size: int
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is pending at this moment. `waiting_*` is in the queue, `pending_*` also counts what is being written."""

    lanes: int
    waiting_submissions: int
    waiting_rows: int
    waiting_bytes: int
    pending_submissions: int
    pending_rows: int
    pending_bytes: int


class Queue:
    """Lanes of submissions within limits. Not thread-safe: it belongs to one event loop.

    `may_share` says of a lane whether its small batches may be written together with those of others.
    """

    def __init__(self, limits: Limits, may_share: Callable[[Hashable], bool] = lambda _: False) -> None:
        self.limits = limits
        self._may_share = may_share
        self.closed = False
        self.congested = False
        """Whether something did not fit and little of what is pending has been written since."""
        self.pending_submissions = 0
        self.pending_rows = 0
        self.pending_bytes = 0
        self._lanes: dict[Hashable, Lane] = {}
        # Each lane has waiting rows and is in one of these: in `_turns`, where the first is served next, or in
        # `_held`. Both can be left from the middle at no cost.
        self._turns: OrderedDict[Lane, None] = OrderedDict()
        self._held: dict[Lane, None] = {}
        # Lanes that have held up others, and until when they are written alone.
        self._apart: dict[Hashable, float] = {}
        # Lanes of which a small batch is being written, and whether that has taken a while already: it is stuck.
        self._soon_done: dict[Hashable, bool] = {}
        # Lanes that have failed, while a batch of them is tried again: no second slot is risked on those meanwhile.
        self._on_trial: set[Hashable] = set()

    def __len__(self) -> int:
        """How many lanes could be given a batch of."""
        return len(self._turns)

    def put(self, key: Hashable, submission: Submission) -> None:
        """Let a submission wait in lane `key`.

        Raises `Closed`, `TooLarge`, or `QueueFull` with `retry_seconds` 0 (the queue has no clock; the batcher knows).
        """
        limits = self.limits
        size = submission.size
        rows = submission.rows
        if self.closed:
            raise Closed
        if self.pending_rows + rows > limits.pending_rows_max or self.pending_bytes + size > limits.pending_bytes_max:
            if rows > limits.pending_rows_max:
                raise TooLarge("rows", limits.pending_rows_max)
            if size > limits.pending_bytes_max:
                raise TooLarge("bytes", limits.pending_bytes_max)
            self.congested = True
            raise QueueFull(retry_seconds=0)
        lane = self._lanes.get(key)
        is_new = lane is None
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        lane.waiting[submission] = None
        lane.rows += rows
        lane.size += size
        if submission.deadline < lane.soonest:  # noqa: PLR1730 - min() takes 0.1 µs more
            lane.soonest = submission.deadline
        submission.waiting_in = lane
        self.pending_submissions += 1
        self.pending_rows += rows
        self.pending_bytes += size
        if is_new or (lane.is_held and not self._has_reason_to_wait(lane)):
            self._queue_up(lane)

    def take(self) -> list[Batch]:
        """What is to be written next, together: the batch of the lane whose turn it is and, if that is small, those of
        the next lanes that are small as well and may share. Empty if nothing can be written.
        """
        limits = self.limits
        batches: list[Batch] = []
        rows = size = 0
        while self._turns and len(batches) < limits.lanes_max:
            lane = next(iter(self._turns))
            rows += lane.rows
            size += lane.size
            is_small = rows <= limits.small_rows_max and size <= limits.small_bytes_max
            shares = is_small and not lane.failures and lane.key not in self._apart and self._may_share(lane.key)
            if batches and not shares:
                break
            batches.append(self._take_next())
            if not shares:
                break
        return batches

    def _take_next(self) -> Batch:
        """The oldest submissions of the lane whose turn it is.

        A lane that has more than fits keeps its rest and goes behind all others.
        """
        lane, _ = self._turns.popitem(last=False)
        if lane.failures:
            self._on_trial.add(lane.key)
        limits = self.limits
        if lane.rows <= limits.batch_rows_max and lane.size <= limits.batch_bytes_max:
            del self._lanes[lane.key]
            batch = Batch(lane.key, tuple(lane.waiting), lane.rows, lane.size, lane.failures)
        else:
            batch = self._take_head(lane)
        for submission in batch.submissions:
            submission.waiting_in = None
        if self._is_small(batch):
            self._soon_done[batch.lane] = False
        if lane.key in self._lanes:  # with what did not fit
            self._queue_up(lane)
        return batch

    def _take_head(self, lane: Lane) -> Batch:
        """As many of the oldest submissions as fit into one batch, at least one."""
        taken: list[Submission] = []
        rows = size = 0
        for submission in lane.waiting:
            rows_with, size_with = rows + submission.rows, size + submission.size
            if taken and (rows_with > self.limits.batch_rows_max or size_with > self.limits.batch_bytes_max):
                break
            taken.append(submission)
            rows, size = rows_with, size_with
        for submission in taken:
            del lane.waiting[submission]
        lane.rows -= rows
        lane.size -= size
        if lane.waiting:
            # A dict that is emptied from the front keeps its holes; a copy drops them before they slow the next scan.
            lane.waiting = dict(lane.waiting)
        else:
            del self._lanes[lane.key]
        return Batch(lane.key, tuple(taken), rows, size, lane.failures)

    def give_back(self, batch: Batch, reason: Exception, pause_until: float | None = None) -> None:
        """Nothing of the batch was stored: its submissions wait again, at the head of their lane.

        The lane goes behind all others or, with `pause_until`, is not served before `resume` is told that this time has
        come: one that cannot be written must not hold up the rest.
        """
        self._land(batch)
        lane = self._lanes.get(batch.lane)
        if lane is None:
            lane = self._lanes[batch.lane] = Lane(batch.lane)
        lane.waiting = dict.fromkeys(itertools.chain(batch.submissions, lane.waiting))
        lane.soonest = min(s.deadline for s in lane.waiting)
        lane.rows += batch.rows
        lane.size += batch.size
        lane.failures = max(lane.failures, batch.failures) + 1
        lane.reason = reason
        lane.paused_until = pause_until
        self._queue_up(lane)
        for submission in batch.submissions:
            submission.waiting_in = lane

    def keep_apart(self, key: Hashable, until: float) -> None:
        """Have the lane written alone until then: it has held up those that it was written with."""
        self._apart[key] = until

    def resume(self, now: float) -> None:
        """Let lanes have their turn again whose pause is over. To be called twenty times a second or so."""
        for key in [key for key, until in self._apart.items() if until <= now]:
            del self._apart[key]
        for key in self._soon_done:
            self._soon_done[key] = True
        for lane in list(self._held):
            if lane.paused_until is not None and lane.paused_until <= now:
                lane.paused_until = None
            if not self._has_reason_to_wait(lane):
                self._queue_up(lane)

    def settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """The batch ended: tell each of its submissions its own outcome (one each, in the batch's order)."""
        if len(outcomes) != len(batch.submissions):
            # A bug of the sink. Somebody waits for each submission, so each is told what is known: nothing.
            logger.error("a sink gave %d outcomes for %d submissions", len(outcomes), len(batch.submissions))
            outcomes = [FlushCut() for _ in batch.submissions]
        self._land(batch)
        lane = self._lanes.get(batch.lane)
        if lane is not None:
            lane.failures = 0
            if lane.is_held and not self._has_reason_to_wait(lane):
                self._queue_up(lane)
        self.pending_submissions -= len(batch.submissions)
        self.pending_rows -= batch.rows
        self.pending_bytes -= batch.size
        if self.congested:
            self._look_whether_congested()
        for submission, outcome in zip(batch.submissions, outcomes, strict=True):
            submission.payload = None  # whoever still holds the submission does not hold its memory
            try:
                submission.answer(outcome)
            except Exception:
                logger.exception(_ANSWER_FAILED)

    def withdraw(self, submission: Submission) -> bool:
        """Take a submission out because nobody waits for its answer any more.

        True: it had not been given to a sink and will not be written. False: too late, its flush has begun or ended.
        """
        lane = submission.waiting_in
        if lane is None:
            return False
        self._leave_lane(submission, lane)
        self._forget(submission)
        return True

    def expire(self, now: float) -> int:
        """Answer `DeadlinePassed` to whatever waits and whose deadline is not after `now`; how many there were."""
        late: list[Submission] = []
        for lane in self._lanes.values():
            if lane.soonest <= now:
                late += (s for s in lane.waiting if s.deadline <= now)
                lane.soonest = min((s.deadline for s in lane.waiting if s.deadline > now), default=math.inf)
        self._refuse(late, lambda lane: DeadlinePassed(lane.reason))
        return len(late)

    def refuse_waiting(self, reason: Callable[[], NotQueued]) -> int:
        """Answer an exception of its own, made by `reason`, to everything that waits; how many there were."""
        waiting = [s for lane in self._lanes.values() for s in lane.waiting]
        self._refuse(waiting, lambda _: reason())
        return len(waiting)

    def statistics(self) -> Statistics:
        """What is pending at this moment."""
        return Statistics(
            lanes=len(self._lanes),
            waiting_submissions=sum(len(lane.waiting) for lane in self._lanes.values()),
            waiting_rows=sum(lane.rows for lane in self._lanes.values()),
            waiting_bytes=sum(lane.size for lane in self._lanes.values()),
            pending_submissions=self.pending_submissions,
            pending_rows=self.pending_rows,
            pending_bytes=self.pending_bytes,
        )

    def _refuse(self, submissions: Sequence[Submission], reason: Callable[[Lane], NotQueued]) -> None:
        for submission in submissions:
            lane = submission.waiting_in
            if lane is not None:  # else an answer to another one has withdrawn it meanwhile
                self._leave_lane(submission, lane)
                self._forget(submission)
                try:
                    submission.answer(reason(lane))
                except Exception:
                    logger.exception(_ANSWER_FAILED)

    def _leave_lane(self, submission: Submission, lane: Lane) -> None:
        del lane.waiting[submission]
        lane.rows -= submission.rows
        lane.size -= submission.size
        submission.waiting_in = None
        if not lane.waiting:
            del self._lanes[lane.key]
            self._leave_order(lane)

    def _is_small(self, what: Lane | Batch) -> bool:
        return what.rows <= self.limits.small_rows_max and what.size <= self.limits.small_bytes_max

    def _has_reason_to_wait(self, lane: Lane) -> bool:
        """Whether writing rows of the lane now would be a mistake, although a slot is free.

        It would be if writing it has just failed, or if a small batch of it is stuck, on a lock perhaps, that would
        take the next slot as well. And it would be wasteful while few rows wait for the end of a small batch: two cost
        twice as much as one, and not waiting saves a millisecond at most.
        """
        key = lane.key
        return (
            lane.paused_until is not None
            or key in self._on_trial
            or (key in self._soon_done and not lane.failures and (self._soon_done[key] or self._is_small(lane)))
        )

    def _queue_up(self, lane: Lane) -> None:
        """Give the lane its turn behind all others, or hold it."""
        self._leave_order(lane)
        lane.is_held = self._has_reason_to_wait(lane)
        if lane.is_held:
            self._held[lane] = None
        else:
            self._turns[lane] = None

    def _leave_order(self, lane: Lane) -> None:
        if lane.is_held:
            self._held.pop(lane, None)
        else:
            self._turns.pop(lane, None)

    def _land(self, batch: Batch) -> None:
        """The batch is not being written any more."""
        if batch.failures:
            self._on_trial.discard(batch.lane)
        if self._is_small(batch):
            self._soon_done.pop(batch.lane, None)

    def _look_whether_congested(self) -> None:
        limits = self.limits
        self.congested = (
            self.pending_rows > _ROOM_AGAIN * limits.pending_rows_max
            or self.pending_bytes > _ROOM_AGAIN * limits.pending_bytes_max
        )

    def _forget(self, submission: Submission) -> None:
        self.pending_submissions -= 1
        self.pending_rows -= submission.rows
        self.pending_bytes -= submission.size
        if self.congested:
            self._look_whether_congested()
        submission.payload = None
