"""A flush: what a sink was given at once, and when. It goes to each submission with the outcome, and to the observer.

Holds numbers only: whoever keeps a flush keeps nothing of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from batching.lane import Batch


class Flush(NamedTuple):
    """So many lanes, submissions, rows and bytes. `began` is when the sink was given them and `ended` when it was known
    what became of them, in seconds on the batcher's clock. Of `slots` flush slots `slots_busy` were writing then, this
    one included.
    """

    lanes: int
    submissions: int
    rows: int
    size: int
    began: float
    ended: float
    slots_busy: int
    slots: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


Observe: TypeAlias = Callable[[Flush, Sequence[Batch], Exception | None], object]
"""Is told of each flush that has ended, after its submissions: the flush, its batches, and why, if nothing of it was
stored. It should not keep the batches."""
