"""The queue: what waits, in which lane, and what the next batch is. Pure decisions: no I/O, no clock, no `await`.

Owns what is pending, its limits, and the rule that each submission is answered exactly once; whose turn it is, is
decided in `turns.py`. Must not know who flushes or when; `batcher.py` asks for batches and reports how they ended.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from batching.errors import Closed, DeadlinePassed, FlushCut, NotQueued, QueueFull, TooLarge
from batching.lane import Batch, Lane, Outcome, Submission, Troubled
from batching.limits import Limits
from batching.turns import Turns

if TYPE_CHECKING:
    from batching.flush import Flush

logger = logging.getLogger(__name__)

_ROOM_AGAIN = 0.9
"""A queue that was full takes large submissions again when it is no fuller than this part of its limits."""

_ANSWER_FAILED = "an answer failed; the other submissions are answered all the same"

_NONE: Mapping[int, Exception] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is pending at this moment. `waiting_*` is in the queue, `pending_*` also counts what is being written.

    `oldest_since` is when the oldest of what waits was handed over; infinity if nothing does.
    """

    lanes: int
    waiting_submissions: int
    waiting_rows: int
    waiting_bytes: int
    pending_submissions: int
    pending_rows: int
    pending_bytes: int
    oldest_since: float = math.inf


class Queue:
    """Lanes of submissions within limits. Not thread-safe: it belongs to one event loop.

    `may_share` says of a lane whether its small batches may be written together with those of others. `admit` is asked
    about what cannot be in the next batch, because more than one is pending already; it may raise `QueueFull`.
    `serial` says what a lane's batches have for themselves, one at a time.
    """

    def __init__(
        self,
        limits: Limits,
        may_share: Callable[[Hashable], bool] = lambda _: False,
        admit: Callable[[Hashable, Submission], None] = lambda _lane, _submission: None,
        serial: Callable[[Hashable], Hashable | None] = lambda _: None,
    ) -> None:
        self.limits = limits
        """May be replaced by others, of which batches may hold less; for the batches that are taken from then on."""
        self._may_share = may_share
        self._admit = admit
        self.closed = False
        self.congested = False
        """Whether something did not fit and little of what is pending has been written since."""
        self.pending_submissions = 0
        self.pending_rows = 0
        self.pending_bytes = 0
        # One batch may wait, however slow the sinks are: its flush shows whether they still are.
        self._free_rows = min(limits.batch_rows_max, limits.pending_rows_max)
        self._free_bytes = min(limits.batch_bytes_max, limits.pending_bytes_max)
        self._lanes: dict[Hashable, Lane] = {}  # each has waiting rows
        self._turns = Turns(limits, serial)

    def __len__(self) -> int:
        """How many lanes could be given a batch of."""
        return len(self._turns)

    def put(self, key: Hashable, submission: Submission) -> None:
        """Let a submission wait in lane `key`.

        Raises `Closed`, `TooLarge`, what `admit` raises, or `QueueFull` with `retry_seconds` 0 (the queue has no clock;
        the batcher knows); what its account raises.
        """
        size = submission.size
        rows = submission.rows
        if self.closed:
            raise Closed
        if self.pending_rows + rows > self._free_rows or self.pending_bytes + size > self._free_bytes:
            self._check_room(rows, size)
            self._admit(key, submission)
        if submission.account is not None:
            submission.account.take(rows, size)
        lane = self._lanes.get(key)
        is_new = lane is None
        if lane is None:
            lane = self._lanes[key] = Lane(key, key)
        lane.waiting[submission] = None
        lane.rows += rows
        lane.size += size
        if submission.deadline < lane.soonest:  # noqa: PLR1730 - min() takes 0.1 µs more
            lane.soonest = submission.deadline
        submission.waiting_in = lane
        self.pending_submissions += 1
        self.pending_rows += rows
        self.pending_bytes += size
        if is_new:
            self._turns.enter(lane)
        elif lane.is_held:
            self._turns.review(lane)

    def _check_room(self, rows: int, size: int) -> None:
        """Raise `QueueFull` or `TooLarge` if so much more may not be pending."""
        limits = self.limits
        if self.pending_rows + rows > limits.pending_rows_max or self.pending_bytes + size > limits.pending_bytes_max:
            if rows > limits.pending_rows_max:
                raise TooLarge("rows", limits.pending_rows_max)
            if size > limits.pending_bytes_max:
                raise TooLarge("bytes", limits.pending_bytes_max)
            self.congested = True
            raise QueueFull(retry_seconds=0)

    def is_short(self) -> bool:
        """Whether no more is pending than fits into one batch."""
        return self.pending_rows <= self._free_rows and self.pending_bytes <= self._free_bytes

    def waiting(self) -> tuple[int, int]:
        """Rows and bytes that wait."""
        return self.pending_rows - self._turns.flying_rows, self.pending_bytes - self._turns.flying_bytes

    def due(self) -> tuple[int, int]:
        """Rows and bytes that wait for nothing but a slot."""
        rows, size = self.waiting()
        return max(0, rows - self._turns.held_rows), max(0, size - self._turns.held_bytes)

    def ahead_of(self, key: Hashable) -> tuple[int, int]:
        """Rows and bytes that a newcomer of the lane has to wait for: those in its lane, and of the other lanes what
        has its turn before. So it hardly matters to a quiet lane how much waits in a busy one.
        """
        limits = self.limits
        lane = self._lanes.get(key)
        rows, size = (0, 0) if lane is None else (lane.rows, lane.size)
        turns = len(self._turns) * (1 + max(rows // limits.batch_rows_max, size // limits.batch_bytes_max))
        due_rows, due_bytes = self.due()
        if lane is not None and not lane.is_held:
            due_rows -= rows
            due_bytes -= size
        return (
            rows + min(due_rows, turns * limits.batch_rows_max),
            size + min(due_bytes, turns * limits.batch_bytes_max),
        )

    def take(self) -> list[Batch]:
        """What is to be written next, together: the batch of the lane whose turn it is and, if that is small, those of
        the next lanes that are small as well and may share. Empty if nothing can be written.
        """
        limits = self.limits
        turns = self._turns
        batches: list[Batch] = []
        rows = size = 0
        while turns.order and len(batches) < limits.lanes_max:
            lane = next(iter(turns.order))
            rows += lane.rows
            size += lane.size
            is_small = rows <= limits.small_rows_max and size <= limits.small_bytes_max
            shares = is_small and not turns.is_apart(lane) and self._may_share(lane.key)
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
        lane, _ = self._turns.order.popitem(last=False)
        limits = self.limits
        if lane.rows <= limits.batch_rows_max and lane.size <= limits.batch_bytes_max:
            taken, rows, size = tuple(lane.waiting), lane.rows, lane.size
            del self._lanes[lane.key]
        else:
            taken, rows, size = self._take_head(lane)
        is_small = rows <= limits.small_rows_max and size <= limits.small_bytes_max
        batch = Batch(lane.target, taken, rows, size, lane.soonest, lane.failures, lane.key, is_small)
        for submission in taken:
            submission.waiting_in = None
        self._turns.started(batch)
        if lane.key in self._lanes:  # with what did not fit
            self._turns.enter(lane)
        return batch

    def _take_head(self, lane: Lane) -> tuple[tuple[Submission, ...], int, int]:
        """As many of the oldest submissions as fit into one batch, at least one; with their rows and bytes."""
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
        return tuple(taken), rows, size

    def give_back(self, batch: Batch, reason: Exception, pause_until: float | None = None) -> None:
        """Nothing of the batch was stored: its submissions wait again, at the head of their lane.

        The lane goes behind all others or, with `pause_until`, is not served before `resume` is told that this time has
        come: one that cannot be written must not hold up the rest.
        """
        self._turns.landed(batch)
        lane = self._lanes.get(batch.key)
        if lane is None:
            lane = self._lanes[batch.key] = Lane(batch.key, batch.lane)
        lane.waiting = dict.fromkeys(itertools.chain(batch.submissions, lane.waiting))
        lane.soonest = min(lane.soonest, batch.deadline)
        lane.rows += batch.rows
        lane.size += batch.size
        lane.failures = max(lane.failures, batch.failures) + 1
        lane.reason = reason
        lane.paused_until = pause_until
        self._turns.move(lane)
        for submission in batch.submissions:
            submission.waiting_in = lane

    def let_pass(self, batch: Batch) -> None:
        """A batch that is being written will take long, and not because of its lane: nothing of that waits for it."""
        self._turns.release(batch)
        lane = self._lanes.get(batch.key)
        if lane is not None:
            self._turns.review(lane)

    def keep_apart(self, key: Hashable, until: float) -> None:
        """Have the lane written alone until then: it has held up those that it was written with."""
        self._turns.keep_apart(key, until)

    def resume(self, now: float) -> None:
        """Let lanes have their turn again whose pause is over. To be called twenty times a second or so."""
        self._turns.resume(now)

    def settle(
        self,
        batch: Batch,
        outcomes: Sequence[Outcome],
        again: Mapping[int, Exception] = _NONE,
        pause_until: float | None = None,
        *,
        flush: Flush | None = None,
    ) -> None:
        """The batch ended with `flush`: tell each of its submissions its own outcome (one each, in the batch's order).

        Those at the places in `again` are told nothing: they were not stored, for the reasons given there, and wait for
        another try in the troubled lane beside their own. That pauses as with `give_back` if it has not failed for
        itself yet, or has just failed again.
        """
        if len(outcomes) != len(batch.submissions):
            # A bug of the sink. Somebody waits for each submission, so each is told what is known: nothing.
            logger.error("a sink gave %d outcomes for %d submissions", len(outcomes), len(batch.submissions))
            outcomes = [FlushCut() for _ in batch.submissions]
            again = _NONE
        self._turns.landed(batch)
        lane = self._lanes.get(batch.key)
        if lane is not None:
            lane.failures = 1 if batch.is_troubled else 0  # what is in trouble stays with one slot at a time
            self._turns.review(lane)
        if again:
            batch, outcomes = self._set_aside(batch, outcomes, again, pause_until)
        self.pending_submissions -= len(batch.submissions)
        self.pending_rows -= batch.rows
        self.pending_bytes -= batch.size
        if self.congested:
            self._look_whether_congested()
        for submission, outcome in zip(batch.submissions, outcomes, strict=True):
            submission.payload = None  # whoever still holds the submission does not hold its memory
            if submission.account is not None:
                submission.account.give(submission.rows, submission.size)
            try:
                submission.answer(outcome, flush)
            except Exception:
                logger.exception(_ANSWER_FAILED)

    def _set_aside(
        self, batch: Batch, outcomes: Sequence[Outcome], again: Mapping[int, Exception], pause_until: float | None
    ) -> tuple[Batch, Sequence[Outcome]]:
        """Let some of a batch wait in its troubled lane, behind those that are there; the rest, with its outcomes."""
        key = batch.key if batch.is_troubled else Troubled(batch.lane)
        lane = self._lanes.get(key)
        # Newcomers do not lengthen the pause of those that are there: if they come often, it would never end.
        has_failed = lane is None or batch.is_troubled
        if lane is None:
            lane = self._lanes[key] = Lane(key, batch.lane)
        rows = size = 0
        for place, reason in again.items():
            submission = batch.submissions[place]
            lane.waiting[submission] = None
            lane.soonest = min(lane.soonest, submission.deadline)
            lane.reason = reason
            submission.waiting_in = lane
            rows += submission.rows
            size += submission.size
        lane.rows += rows
        lane.size += size
        if has_failed:
            lane.failures = max(lane.failures, batch.failures) + 1
            lane.paused_until = pause_until
            self._turns.move(lane)
        rest = [place for place in range(len(outcomes)) if place not in again]
        return (
            batch._replace(
                submissions=[batch.submissions[place] for place in rest], rows=batch.rows - rows, size=batch.size - size
            ),
            [outcomes[place] for place in rest],
        )

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

    def refuse_waiting(self, reason: Callable[[], NotQueued], *, but_patient: bool = False) -> int:
        """Answer an exception of its own, made by `reason`, to everything that waits; how many there were.

        `but_patient`: not to what has no deadline.
        """
        spared = math.inf if but_patient else math.nan  # nothing equals that
        waiting = [s for lane in self._lanes.values() for s in lane.waiting if s.deadline != spared]
        self._refuse(waiting, lambda _: reason())
        return len(waiting)

    def statistics(self) -> Statistics:
        """What is pending at this moment."""
        waiting_rows, waiting_bytes = self.waiting()
        return Statistics(
            lanes=len(self._lanes),
            waiting_submissions=sum(len(lane.waiting) for lane in self._lanes.values()),
            waiting_rows=waiting_rows,
            waiting_bytes=waiting_bytes,
            pending_submissions=self.pending_submissions,
            pending_rows=self.pending_rows,
            pending_bytes=self.pending_bytes,
            oldest_since=min([next(iter(lane.waiting)).since for lane in self._lanes.values()], default=math.inf),
        )

    def _refuse(self, submissions: Sequence[Submission], reason: Callable[[Lane], NotQueued]) -> None:
        for submission in submissions:
            lane = submission.waiting_in
            if lane is not None:  # else an answer to another one has withdrawn it meanwhile
                self._leave_lane(submission, lane)
                self._forget(submission)
                try:
                    submission.answer(reason(lane), None)
                except Exception:
                    logger.exception(_ANSWER_FAILED)

    def _leave_lane(self, submission: Submission, lane: Lane) -> None:
        del lane.waiting[submission]
        lane.rows -= submission.rows
        lane.size -= submission.size
        submission.waiting_in = None
        if not lane.waiting:
            del self._lanes[lane.key]
            self._turns.leave(lane)

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
        if submission.account is not None:
            submission.account.give(submission.rows, submission.size)
        if self.congested:
            self._look_whether_congested()
        submission.payload = None
