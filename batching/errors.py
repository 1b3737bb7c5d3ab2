"""Why a submission has no result. All but `FlushCut` mean: nothing of it was stored."""

from __future__ import annotations


class NotQueued(Exception):
    """The submission was refused or taken out of the queue; nothing of it was stored."""


class QueueFull(NotQueued):
    """The limits on what may wait are reached. `retry_seconds` is when the backlog should be gone."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__("the queue is full")
        self.retry_seconds = retry_seconds


class ShareFull(QueueFull):
    """What the submissions of one producer may take of the queue is taken; others may still find room."""


class RateExceeded(QueueFull):
    """One producer has handed over more rows than he may in that time. In `retry_seconds` he may go on."""


class TooLarge(NotQueued):
    """The submission alone exceeds what may ever wait, so trying again cannot help."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"more than {limit} {what} in one submission")
        self.what = what
        self.limit = limit


class SinkAway(NotQueued):
    """No flush slot can write at the moment. `retry_seconds` is when the next attempt is due."""

    def __init__(self, retry_seconds: float, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.retry_seconds = retry_seconds
        self.reason = reason


class DeadlinePassed(NotQueued):
    """The submission's deadline passed while it waited in the queue; `reason` is why its lane could not be written."""

    def __init__(self, reason: BaseException | None = None) -> None:
        super().__init__("the deadline passed before the rows could be written")
        self.reason = reason


class Closed(NotQueued):
    """The batcher is stopping and takes nothing new."""

    def __init__(self) -> None:
        super().__init__("the service is stopping")


class FlushCut(Exception):
    """The flush was cut short; the rows may or may not be stored."""

    def __init__(self) -> None:
        super().__init__("the write was cut short: the rows may or may not be stored")
