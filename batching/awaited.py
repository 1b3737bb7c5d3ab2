"""A submission for whose outcome a task waits."""

from __future__ import annotations

import asyncio

from batching.flush import Flush
from batching.lane import Outcome, Submission


class Awaited(Submission):
    """A submission that a task waits for."""

    __slots__ = ("outcome",)

    def __init__(self, payload: object, size: int, rows: int, deadline: float, since: float) -> None:
        super().__init__(payload, size, rows, deadline, since)
        self.outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def answer(self, outcome: Outcome, _flush: Flush | None, /) -> None:
        """Wake the task."""
        if self.outcome.done():  # it was cancelled meanwhile
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)
