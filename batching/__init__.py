"""The micro-batcher: a queue of lanes, flush slots that empty it, one answer for each submission.

It knows neither rows, SQL nor HTTP: a payload is some bytes that count for some rows, a lane is any hashable value, and
a sink is whatever can write a batch.
"""

from batching.batcher import Batcher, Flush
from batching.errors import Closed, DeadlinePassed, FlushCut, NotQueued, QueueFull, SinkAway, TooLarge
from batching.lane import Batch, Outcome, Submission
from batching.limits import Limits
from batching.queue import Statistics
from batching.slot import Results, Retry, Sink

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
    "Results",
    "Retry",
    "Sink",
    "SinkAway",
    "Statistics",
    "Submission",
    "TooLarge",
]
