"""Headrace that counts nothing: the same service without its metrics, which shows what those cost.

`python -m bench.baselines.uncounted PORT`, with the database in HEADRACE_DSN.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import anyio

from batching import Batch, Flush
from service import lifespan
from service.observing.counting import Counts
from service.observing.live import Live
from service.observing.numbers import Outcome, TableNumbers
from service.server import Server, spare_the_collector
from service.settings import Settings


class _Uncounted(Counts):
    """Takes note of nothing."""

    def stored(self, _table: TableNumbers, _outcome: int, _rows: int, _began: float, _queued: float) -> float:
        """A request has succeeded."""
        return 0.0

    def answered(self, _table: TableNumbers, _outcome: Outcome, _rows: int, _seconds: float) -> None:
        """A request has another outcome."""

    def refused(self, _status: int, _code: str) -> None:
        """An answer is no success."""

    def flushed(self, _flush: Flush, _batches: Sequence[Batch], _failure: Exception | None) -> None:
        """A flush has ended."""


class _Unwatched(Live):
    """Looks at nothing."""

    async def run(self) -> None:
        """Do nothing until it is cancelled."""
        await anyio.sleep_forever()


def main() -> None:
    """Serve, as `headrace serve` does."""
    vars(lifespan).update(Counts=_Uncounted, Live=_Unwatched)
    Server(Settings(port=int(sys.argv[1])), lambda _service, _url: spare_the_collector()).run()


if __name__ == "__main__":
    main()
