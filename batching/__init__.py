"""The micro-batcher: a queue of lanes, flush slots that empty it, one answer for each submission.

It knows neither rows, SQL nor HTTP: a payload is some bytes that count for some rows, a lane is any hashable value, and
a sink is whatever can write a batch.
"""

from batching.account import Account
from batching.batcher import Batcher
from batching.errors import (
    Closed,
    DeadlinePassed,
    FlushCut,
    NotQueued,
    QueueFull,
    RateExceeded,
    ShareFull,
    SinkAway,
    TooLarge,
)
from batching.flush import Flush, Observe
from batching.lane import Batch, Outcome, Submission
from batching.limits import Limits
from batching.queue import Statistics
from batching.slot import Results, Retry, Sink, SlotStatistics

__all__ = [
    "Account",
    "Batch",
    "Batcher",
    "Closed",
    "DeadlinePassed",
    "Flush",
    "FlushCut",
    "Limits",
    "NotQueued",
    "Observe",
    "Outcome",
    "QueueFull",
    "RateExceeded",
    "Results",
    "Retry",
    "ShareFull",
    "Sink",
    "SinkAway",
    "SlotStatistics",
    "Statistics",
    "Submission",
    "TooLarge",
]
