"""What took long, for the log: requests, and flushes, with the parts that their time consists of.

Owns from when on that is worth a line, and that an outage does not fill the disk with such lines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio

from batching import Batch, Flush
from service.observing.account import names_of, rounded, times_of
from service.observing.counting import tables_of

if TYPE_CHECKING:
    from service.posting import Posting

logger = logging.getLogger(__name__)

_LINES_MAX = 5
"""Of requests, and of flushes, in a second: when all is slow, the first few tell as much as all the others would."""

_NAMED_MAX = 5


class SlowLog:
    """Writes the lines. A request, or a flush, that takes so many seconds is slow."""

    def __init__(self, request_seconds: float, flush_seconds: float) -> None:
        self.request_seconds = request_seconds
        self.flush_seconds = flush_seconds
        # Apart, because the requests of a slow flush are told of before it, and it explains them.
        self._requests = _Few("more slow requests: %d")
        self._flushes = _Few("more slow flushes: %d")

    async def run(self) -> None:
        """Begin a new second, each second. Runs until it is cancelled, which leaves nothing untold."""
        try:
            while True:
                await anyio.sleep(1)
                self.next_second()
        finally:
            self.next_second()

    def next_second(self) -> None:
        """Say how many lines were left out, and allow as many again."""
        self._requests.start_again()
        self._flushes.start_again()

    def request(self, posting: Posting, outcome: str, seconds: float) -> None:
        """It is known what became of a request, so many seconds after it began."""
        if not self._requests.has_room():
            return
        times = times_of(posting, posting.began + seconds)
        words = [f"{times[name]:.3f} s {where}" for name, where in _PARTS if name in times]
        flush = posting.flush
        slots = {} if flush is None else _slots(flush)
        told = names_of(posting) | {"outcome": outcome, "rows": posting.rows, "seconds": rounded(seconds)}
        what = "a request took %.3f s" + (": " + ", ".join(words) if words else "")
        logger.warning(what, seconds, extra=told | times | slots)

    def flush(self, flush: Flush, batches: Sequence[Batch], failure: Exception | None) -> None:
        """A flush has ended. `failure` is why nothing of it was stored."""
        if flush.seconds < self.flush_seconds or not self._flushes.has_room():
            return
        names = tables_of(batches)
        told: dict[str, object] = {
            "tables": names[:_NAMED_MAX],
            "lanes": flush.lanes,
            "requests": flush.submissions,
            "rows": flush.rows,
            "bytes": flush.size,
            "seconds": rounded(flush.seconds),
        }
        if failure is not None:
            told["failure"] = type(failure).__name__  # its words may be about somebody's rows
        more = f" and {len(names) - _NAMED_MAX} others" if len(names) > _NAMED_MAX else ""
        where = ", ".join(names[:_NAMED_MAX]) + more
        logger.warning(
            "a flush took %.3f s: %d rows for %s", flush.seconds, flush.rows, where, extra=told | _slots(flush)
        )


_PARTS = (("read_seconds", "to be read"), ("queue_seconds", "in the queue"), ("write_seconds", "for the write"))


def _slots(flush: Flush) -> dict[str, object]:
    """What the flush slots did when it began, itself included."""
    return {"slots_busy": flush.slots_busy, "slots_idle": flush.slots - flush.slots_busy}


class _Few:
    """Some lines a second. `summary` tells of the others."""

    def __init__(self, summary: str) -> None:
        self._summary = summary
        self._wanted = 0

    def has_room(self) -> bool:
        """Whether there may be one more."""
        self._wanted += 1
        return self._wanted <= _LINES_MAX

    def start_again(self) -> None:
        """Another second begins."""
        left_out, self._wanted = self._wanted - _LINES_MAX, 0
        if left_out > 0:
            logger.warning(self._summary, left_out)
