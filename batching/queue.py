"""The queue: what waits, in which lane, and what the next batch is. Pure decisions: no I/O, no clock, no `await`.

Owns the limits, the fairness between lanes and the rule that each submission is answered exactly once. Must not know
who flushes or when; `batcher.py` asks for batches and reports how they ended.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from batching.errors import Closed, DeadlinePassed, FlushCut, NotQueued, QueueFull, TooLarge

logger = logging.getLogger(__name__)

Outcome: TypeAlias = object
"""What became of one submission: an `Exception` instance of its own means it was not stored and why; anything else
(usually `None`) is the result of a write that is committed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may hold and what may be pending (waiting or being written). Rows are counted, bytes are payload.

    A submission that is larger than a batch is written alone; one larger than what may be pending is refused.
    """

    batch_rows_max: int = 10_000
    batch_bytes_max: int = 4 * 1024 * 1024
    pending_rows_max: int = 200_000
    pending_bytes_max: int = 256 * 1024 * 1024


class Submission:
    """Some rows that are stored together or not at all, and whom to tell.

    `payload` is opaque, `rows` is how many rows it holds, `deadline` is in seconds on the batcher's clock. `answer` is
    called exactly once with the outcome, from the event loop, and must not block; it is never called if the submission
    was refused by `put` or withdrawn.
    """

    __slots__ = ("answer", "deadline", "payload", "rows", "waiting_in")

    def __init__(self, payload: bytes, rows: int, deadline: float, answer: Callable[[Outcome], object]) -> None:
        self.payload = payload
        self.rows = rows
        self.deadline = deadline
        self.answer = answer
        self.waiting_in: Lane | None = None


class Lane:
    """The submissions that may share a batch, in order of arrival.

    `failures` counts the batches in a row that could not be written, `reason` says why the last one could not.
    """

    __slots__ = ("failures", "key", "paused_until", "reason", "rows", "size", "waiting")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.rows = 0
        self.size = 0
        self.failures = 0
        self.reason: Exception | None = None
        self.paused_until: float | None = None
        # A dict as an ordered set: withdrawing from the middle leaves no tombstones for a hostile client to pile up.
        self.waiting: dict[Submission, None] = {}


@dataclass(frozen=True, slots=True)
class Batch:
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
    """Lanes of submissions within limits. Not thread-safe: it belongs to one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.closed = False
        self.pending_submissions = 0
        self.pending_rows = 0
        self.pending_bytes = 0
        self._lanes: dict[Hashable, Lane] = {}
        # Each lane has waiting rows and is in one of these: in `_turns`, where the leftmost is served next, or in
        # `_paused`, after a batch of it could not be written.
        self._turns: deque[Lane] = deque()
        self._paused: dict[Lane, None] = {}
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
        size = len(submission.payload)
        rows = submission.rows
        if self.closed:
            raise Closed
        if self.pending_rows + rows > limits.pending_rows_max or self.pending_bytes + size > limits.pending_bytes_max:
            if rows > limits.pending_rows_max:
                raise TooLarge("rows", limits.pending_rows_max)
            if size > limits.pending_bytes_max:
                raise TooLarge("bytes", limits.pending_bytes_max)
            raise QueueFull(retry_seconds=0)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
            self._queue_up(lane)
        lane.waiting[submission] = None
        lane.rows += rows
        lane.size += size
        submission.waiting_in = lane
        self.pending_submissions += 1
        self.pending_rows += rows
        self.pending_bytes += size

    def take(self) -> Batch | None:
        """The next batch: the oldest submissions of the lane whose turn it is, or None if nothing waits.

        A lane that has more than fits keeps its rest and goes behind all others.
        """
        if not self._turns:
            return None
        lane = self._turns.popleft()
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
        return batch

    def _take_head(self, lane: Lane) -> Batch:
        """As many of the oldest submissions as fit into one batch, at least one."""
        taken: list[Submission] = []
        rows = size = 0
        for submission in lane.waiting:
            rows_with, size_with = rows + submission.rows, size + len(submission.payload)
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
            self._queue_up(lane)
        else:
            del self._lanes[lane.key]
        return Batch(lane.key, tuple(taken), rows, size, lane.failures)

    def give_back(self, batch: Batch, reason: Exception, pause_until: float | None = None) -> None:
        """Nothing of the batch was stored: its submissions wait again, at the head of their lane.

        The lane goes behind all others or, with `pause_until`, is not served before `resume` is told that this time has
        come: one that cannot be written must not hold up the rest.
        """
        if batch.failures:
            self._on_trial.discard(batch.lane)
        lane = self._lanes.get(batch.lane)
        if lane is None:
            lane = self._lanes[batch.lane] = Lane(batch.lane)
        else:
            self._leave_order(lane)
        lane.waiting = dict.fromkeys(itertools.chain(batch.submissions, lane.waiting))
        lane.rows += batch.rows
        lane.size += batch.size
        lane.failures = max(lane.failures, batch.failures) + 1
        lane.reason = reason
        lane.paused_until = pause_until
        self._queue_up(lane)
        for submission in batch.submissions:
            submission.waiting_in = lane

    def resume(self, now: float) -> None:
        """Let the lanes whose pause is over have their turn again."""
        for lane in [lane for lane in self._paused if lane.paused_until is not None and lane.paused_until <= now]:
            self._leave_order(lane)
            lane.paused_until = None
            self._queue_up(lane)

    def settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        """The batch ended: tell each of its submissions its own outcome (one each, in the batch's order)."""
        if len(outcomes) != len(batch.submissions):
            # A bug of the sink. Somebody waits for each submission, so each is told what is known: nothing.
            logger.error("a sink gave %d outcomes for %d submissions", len(outcomes), len(batch.submissions))
            outcomes = [FlushCut() for _ in batch.submissions]
        if batch.failures:
            self._on_trial.discard(batch.lane)
        lane = self._lanes.get(batch.lane)
        if lane is not None:
            lane.failures = 0
            if batch.failures and lane.paused_until is None:  # it waited for this trial only
                self._leave_order(lane)
                self._queue_up(lane)
        for submission, outcome in zip(batch.submissions, outcomes, strict=True):
            self._answer(submission, outcome)

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
        late = [s for lane in self._lanes.values() for s in lane.waiting if s.deadline <= now]
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
                self._answer(submission, reason(lane))

    def _leave_lane(self, submission: Submission, lane: Lane) -> None:
        del lane.waiting[submission]
        lane.rows -= submission.rows
        lane.size -= len(submission.payload)
        submission.waiting_in = None
        if not lane.waiting:
            del self._lanes[lane.key]
            self._leave_order(lane)

    def _queue_up(self, lane: Lane) -> None:
        """Give the lane its turn behind all others, or let it pause."""
        if lane.paused_until is None and lane.key not in self._on_trial:
            self._turns.append(lane)
        else:
            self._paused[lane] = None

    def _leave_order(self, lane: Lane) -> None:
        if lane in self._paused:
            del self._paused[lane]
        else:
            self._turns.remove(lane)

    def _answer(self, submission: Submission, outcome: Outcome) -> None:
        self._forget(submission)
        try:
            submission.answer(outcome)
        except Exception:
            logger.exception("an answer callback failed; the other submissions are answered all the same")

    def _forget(self, submission: Submission) -> None:
        self.pending_submissions -= 1
        self.pending_rows -= submission.rows
        self.pending_bytes -= len(submission.payload)
        submission.payload = b""  # whoever still holds the submission does not hold its memory
