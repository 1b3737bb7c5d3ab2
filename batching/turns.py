"""Turns: which lane is served next, and which has a reason to wait. Pure decisions: no I/O, no clock, no `await`.

Owns the order of lanes, pauses and everything for which a lane is held back. Must not know what is in a lane, except
how much, nor the limits on what may be pending: that is `queue.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from batching.lane import Batch, Lane
from batching.limits import Limits


class Turns:
    """Lanes that have something to write, each either in the order or held."""

    def __init__(self, limits: Limits, serial: Callable[[Hashable], Hashable | None]) -> None:
        self.order: OrderedDict[Lane, None] = OrderedDict()
        """The first is served next."""
        self.flying_rows = 0
        """What is being written."""
        self.flying_bytes = 0
        self.held_rows = 0
        """What the held lanes had at the last `resume`, which is exact enough: most of it stays for seconds."""
        self.held_bytes = 0
        self._limits = limits
        # Like the order, it can be left from the middle at no cost.
        self._held: dict[Lane, None] = {}
        # Lanes that have held up others, and until when they are written alone.
        self._apart: dict[Hashable, float] = {}
        # Lanes of which a small batch is being written, and whether that has taken a while already: it is stuck.
        self._soon_done: dict[Hashable, bool] = {}
        # Lanes that have failed, while a batch of them is tried again: no second slot is risked on those meanwhile.
        self._on_trial: set[Hashable] = set()
        # What batches have for themselves that are being written.
        self._serial = serial
        self._taken: set[Hashable] = set()

    def __len__(self) -> int:
        """How many lanes could be given a batch of."""
        return len(self.order)

    def enter(self, lane: Lane) -> None:
        """Give a lane that has none its turn behind all others, or hold it."""
        lane.is_held = self._has_reason_to_wait(lane)
        if lane.is_held:
            self._held[lane] = None
        else:
            self.order[lane] = None

    def move(self, lane: Lane) -> None:
        """Give a lane that may have a turn another one, behind all others, or hold it."""
        self.leave(lane)
        self.enter(lane)

    def review(self, lane: Lane) -> None:
        """Give a held lane its turn if the reason is gone. It keeps the turn that it has."""
        if lane.is_held and not self._has_reason_to_wait(lane):
            self.move(lane)

    def leave(self, lane: Lane) -> None:
        """The lane has nothing to write."""
        if lane.is_held:
            self._held.pop(lane, None)
        else:
            self.order.pop(lane, None)

    def started(self, batch: Batch) -> None:
        """The batch is being written."""
        self.flying_rows += batch.rows
        self.flying_bytes += batch.size
        if batch.failures:
            self._on_trial.add(batch.key)
        if batch.is_small:
            self._soon_done[batch.key] = False
        taken = self._serial(batch.lane)
        if taken is not None:
            self._taken.add(taken)
            for lane in [lane for lane in self.order if self._serial(lane.target) == taken]:
                self.move(lane)

    def landed(self, batch: Batch) -> None:
        """The batch is not being written any more."""
        self.flying_rows -= batch.rows
        self.flying_bytes -= batch.size
        self.release(batch)
        taken = self._serial(batch.lane)
        if taken is not None:
            self._taken.discard(taken)
            # All that have waited for it, in the order in which they came, or the busiest would always be the first.
            for lane in [lane for lane in self._held if self._serial(lane.target) == taken]:
                self.review(lane)

    def _is_taken(self, lane: Lane) -> bool:
        """Whether a batch is being written that has for itself what the lane needs."""
        return bool(self._taken) and self._serial(lane.target) in self._taken

    def release(self, batch: Batch) -> None:
        """Its lane does not have to wait for the batch."""
        if batch.failures:
            self._on_trial.discard(batch.key)
        if batch.is_small:
            self._soon_done.pop(batch.key, None)

    def keep_apart(self, key: Hashable, until: float) -> None:
        """Have the lane written alone until then: it has held up those that it was written with."""
        self._apart[key] = until

    def is_apart(self, lane: Lane) -> bool:
        """Whether the lane is written alone."""
        return bool(lane.failures) or lane.key in self._apart

    def resume(self, now: float) -> None:
        """Let lanes have their turn again whose pause is over."""
        for key in [key for key, until in self._apart.items() if until <= now]:
            del self._apart[key]
        for key in self._soon_done:
            self._soon_done[key] = True
        for lane in list(self._held):
            if lane.paused_until is not None and lane.paused_until <= now:
                lane.paused_until = None
            self.review(lane)
        self.held_rows = sum(lane.rows for lane in self._held)
        self.held_bytes = sum(lane.size for lane in self._held)

    def _has_reason_to_wait(self, lane: Lane) -> bool:
        """Whether writing rows of the lane now would be a mistake, although a slot is free.

        It would be if writing it has just failed, if what it is written to is taken, or if a small batch
        of it is stuck, on a lock perhaps, that would take the next slot as well. And it would be wasteful while few
        rows wait for the end of a small batch: two cost twice as much as one, and not waiting saves a millisecond at
        most.
        """
        key = lane.key
        return (
            lane.paused_until is not None
            or key in self._on_trial
            or self._is_taken(lane)
            or (key in self._soon_done and not lane.failures and (self._soon_done[key] or self._is_small(lane)))
        )

    def _is_small(self, lane: Lane) -> bool:
        return lane.rows <= self._limits.small_rows_max and lane.size <= self._limits.small_bytes_max
