"""How fast the slots write, and how long something takes by that. Pure: no clock, times are given.

Owns how much a measurement says, and for how long. Must not know what waits, or what is refused because of it.
"""

from __future__ import annotations

from collections.abc import Sequence

_ROW_BYTES = 256
"""A row costs what so many bytes cost. COPY takes 1.4 µs for a row of 36 bytes and as much for one of 136; from there,
each kilobyte takes 3 to 6 µs more. So one rate will do for rows of all sizes."""

_MEMORY_SECONDS = 2.0
"""How much writing a measurement is averaged over: enough for a checkpoint not to look like the end, and little enough
that after a flush that hung for long the rate is found again while the clients are still there."""

_STALE_SECONDS = 10.0
"""A rate that has not been measured for so long may be that of other tables, in another weather: it is forgotten. Under
a load that matters there is a measurement with each flush."""


def work_of(rows: int, size: int) -> int:
    """Rows and bytes as one number."""
    return rows * _ROW_BYTES + size


class Pace:
    """How fast one slot writes, in work per second, and what it is writing now."""

    __slots__ = ("_measured_at", "_per_second", "_started", "_tells", "_work")

    def __init__(self) -> None:
        self._per_second: float | None = None
        self._measured_at = 0.0
        self._started: float | None = None
        self._work = 0
        self._tells = False

    def begin(self, work: int, now: float, *, tells: bool) -> None:
        """A flush begins. `tells` says whether it will say anything about the pace: what takes little of the time that
        a flush takes anyway does not, unless there was more that could have been taken.
        """
        self._work = work
        self._tells = tells and work > 0
        self._started = now

    def end(self, now: float) -> None:
        """The flush has been written."""
        if self._started is None:
            return
        before = self.per_second(now)
        seconds = now - self._started
        self._started = None
        if not self._tells or seconds <= 0:
            return
        if before is None:
            self._per_second = self._work / seconds
        else:
            self._per_second = (before * _MEMORY_SECONDS + self._work) / (_MEMORY_SECONDS + seconds)
        self._measured_at = now

    def drop(self) -> None:
        """The flush says nothing: it failed, or it is in doubt."""
        self._started = None

    def per_second(self, now: float) -> float | None:
        """What was measured, without regard to the flush that is running; None if that is nothing, or long ago."""
        reference = now if self._started is None else self._started
        return None if reference - self._measured_at > _STALE_SECONDS else self._per_second

    def at(self, now: float, usual: float) -> tuple[float, float]:
        """Work per second, and the work that is left of the running flush; `usual` if nothing was measured.

        A flush that takes longer than it should is time without work.
        """
        if self._started is None:
            return usual, 0.0
        left = self._work - usual * (now - self._started)
        if left >= 0:
            return usual, left
        return usual * _MEMORY_SECONDS / (_MEMORY_SECONDS - left / usual), 0.0


def seconds_until(paces: Sequence[Pace], now: float, rows: int, size: int) -> float | None:
    """When the slots will have written what they are writing and so much besides; None if their pace is not known.

    A slot that was not measured is taken for as fast as the others are when nothing hangs.
    """
    measured = [pace.per_second(now) for pace in paces]
    known = [rate for rate in measured if rate is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    left = float(work_of(rows, size))
    together = 0.0
    for pace, rate in zip(paces, measured, strict=True):
        per_second, running = pace.at(now, mean if rate is None else rate)
        together += per_second
        left += running
    return left / together
