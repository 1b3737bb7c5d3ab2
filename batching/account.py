"""An account: what the submissions of one producer may take of the queue together, and how fast.

Owns these limits, so that no producer can have the queue for itself. Must not know who he is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from batching.errors import QueueFull, RateExceeded, ShareFull, TooLarge

_BURST_SECONDS = 1.0
"""So much of what was not written before may be written at once, or twice as much at worst (see `_lateness`)."""


class Account:
    """`rows_max` and `bytes_max` are what may be pending at once. Belongs to one event loop; `clock` gives seconds."""

    __slots__ = ("_at", "_clock", "_level", "_rate", "bytes_max", "pending_bytes", "pending_rows", "rows_max")

    def __init__(self, rows_max: int, bytes_max: int, clock: Callable[[], float]) -> None:
        self.rows_max = rows_max
        self.bytes_max = bytes_max
        self.pending_rows = 0
        self.pending_bytes = 0
        self._clock = clock
        self._rate = math.inf
        self._level = math.inf
        """Rows that may be written now. Below nought it is how many were too many."""
        self._at = clock()

    @property
    def rows_per_second(self) -> float:
        """How fast it may be taken from; infinity for as fast as anybody can."""
        return self._rate

    @rows_per_second.setter
    def rows_per_second(self, rate: float) -> None:
        if rate != self._rate:
            if self._rate != math.inf:
                self._fill()  # at the old rate. What is overdrawn stays so: to change the rate is no way around it
            self._rate = rate
            if rate != math.inf:
                self._level = min(self._level, rate * _BURST_SECONDS)
                self._at = self._clock()

    def take(self, rows: int, size: int) -> None:
        """So many rows and bytes more are pending. Raises `ShareFull`, `RateExceeded`, or `TooLarge` if they can never
        be.

        A submission may have more rows than the rate allows in a second: those after it wait until that is made up for.
        """
        # The limits may have been lowered since others were taken.
        if self.pending_rows + rows > self.rows_max or self.pending_bytes + size > self.bytes_max:
            if rows > self.rows_max:
                raise TooLarge("rows", self.rows_max)
            if size > self.bytes_max:
                raise TooLarge("bytes", self.bytes_max)
            raise ShareFull(retry_seconds=0)
        if self._rate != math.inf:
            if self._level < rows:
                late = self._lateness()
                if late is not None:
                    raise RateExceeded(late)
            self._level -= rows
        self.pending_rows += rows
        self.pending_bytes += size

    def charge(self, rows: int) -> None:
        """So many rows more were brought along, which do not wait in the queue; fewer, if some were brought in vain."""
        if self._rate != math.inf:
            self._level -= rows

    def give(self, rows: int, size: int) -> None:
        """So much is pending no more."""
        self.pending_rows -= rows
        self.pending_bytes -= size

    def refusal(self) -> QueueFull | None:
        """Why nothing can be taken now, or None; to prepare a large submission would be a waste of time."""
        if self.pending_rows >= self.rows_max or self.pending_bytes >= self.bytes_max:
            return ShareFull(retry_seconds=1)
        late = self._lateness()
        return None if late is None else RateExceeded(late)

    def _lateness(self) -> float | None:
        """After how many seconds something may be taken, None if it may be now.

        What has come to be allowed meanwhile is only looked at when little is left: reading the clock each time would
        double the cost of an account (0.3 µs a submission).
        """
        if self._rate == math.inf:
            return None
        self._fill()
        return None if self._level > 0 else -self._level / self._rate

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._rate * _BURST_SECONDS, self._level + (now - self._at) * self._rate)
        self._at = now
