"""Rows in great numbers, with deadlines, and what became of them."""

from __future__ import annotations

from collections import Counter

from batching import Batcher, DeadlinePassed, Flush, Limits, QueueFull, Submission

LIMITS = Limits(
    batch_rows_max=100,
    batch_bytes_max=10_000,
    pending_rows_max=10_000,
    pending_bytes_max=1_000_000,
    small_rows_max=10,
    small_bytes_max=1000,
)


class Rows(Submission):
    """Rows of one byte each that count what becomes of them."""

    def __init__(self, rows: int, deadline: float, outcomes: Counter[str]) -> None:
        super().__init__(b"%d" % id(self), rows, rows, deadline)
        self.outcomes = outcomes

    def answer(self, outcome: object, _flush: Flush | None, /) -> None:
        """Count it."""
        self.outcomes["late" if isinstance(outcome, DeadlinePassed) else "stored"] += 1


def send(batcher: Batcher, lane: str, rows: int, seconds: float, outcomes: Counter[str]) -> float | None:
    """Submit some rows that have so many seconds; if they are refused, when to come back."""
    outcomes["sent"] += 1
    try:
        batcher.submit(lane, Rows(rows, batcher.clock() + seconds, outcomes))
    except QueueFull as full:
        outcomes["refused"] += 1
        return full.retry_seconds
    return None
