"""How much at once: what one batch may hold, what may be pending, and less of it after an outage. Pure.

Must not know what is waiting, or who writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


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


class Ramp:
    """The limits in force: after an outage batches begin small, and are doubled with each success until they are whole.

    A database that has just come back has cold caches and everybody's backlog at once; what it cannot take yet should
    be found out with a few rows and by one slot.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.is_whole = True
        self.is_untried = False
        """Whether nothing has been written since the outage."""
        self._whole = limits

    def restart(self) -> None:
        """Nothing can be written at the moment: begin small."""
        self.is_untried = True
        self._set(self._whole.small_rows_max, self._whole.small_bytes_max)

    def grow(self) -> None:
        """Something has been written."""
        self.is_untried = False
        self._set(2 * self.limits.batch_rows_max, 2 * self.limits.batch_bytes_max)

    def _set(self, rows: int, size: int) -> None:
        rows_max, bytes_max = self._whole.batch_rows_max, self._whole.batch_bytes_max
        self.is_whole = rows >= rows_max and size >= bytes_max and not self.is_untried
        self.limits = replace(self._whole, batch_rows_max=min(rows, rows_max), batch_bytes_max=min(size, bytes_max))
