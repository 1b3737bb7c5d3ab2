"""The micro-batcher: a queue of lanes, flush slots that empty it, one answer for each submission.

It knows neither rows, SQL nor HTTP: a payload is some bytes that count for some rows, a lane is any hashable value, and
a sink is whatever can write a batch.
"""

from batching.batcher import Batcher, Flush, Retry, Sink
from batching.errors import Closed, DeadlinePassed, FlushCut, NotQueued, QueueFull, SinkAway, TooLarge
from batching.queue import Batch, Limits, Outcome, Statistics, Submission

__all__ = [
    "Batch",
    "Batcher",
    "Closed",
    "DeadlinePassed",
    "Flush",
    "FlushCut",
    "Limits",
    "NotQueued",
    "Outcome",
    "QueueFull",
    "Retry",
    "Sink",
    "SinkAway",
    "Statistics",
    "Submission",
    "TooLarge",
]
