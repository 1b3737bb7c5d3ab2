"""The micro-batcher: a queue of lanes, flush slots that empty it, one answer for each submission.

It knows neither rows, SQL nor HTTP: a payload is some bytes that count for some rows, a lane is any hashable value, and
a sink is whatever can write a batch.
"""

from batching.batcher import Batcher, Flush, Retry, Sink
from batching.errors import Closed, DeadlinePassed, NotQueued, OutcomeUnknown, QueueFull, SinkAway, TooLarge
from batching.queue import Batch, Limits, Outcome, Statistics, Submission

__all__ = [
    "Batch",
    "Batcher",
    "Closed",
    "DeadlinePassed",
    "Flush",
    "Limits",
    "NotQueued",
    "Outcome",
    "OutcomeUnknown",
    "QueueFull",
    "Retry",
    "Sink",
    "SinkAway",
    "Statistics",
    "Submission",
    "TooLarge",
]
