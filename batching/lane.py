"""Submissions, the lanes in which they wait, and the batches in which they leave.

Owns what these are. Must not know limits, turns or who writes: that is `queue.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from batching.account import Account
    from batching.flush import Flush

Outcome: TypeAlias = object
"""What became of one submission: an `Exception` instance of its own means it was not stored and why; anything else
(usually `None`) is the result of a write that is committed."""


class Submission(ABC):
    """Some rows that are stored together or not at all. Subclass it to be told what became of them.

    `payload` is opaque, and so is `extra`, which goes with it; `size` is their bytes, `rows` is how many rows they
    hold. Times are seconds on the batcher's clock: it was handed over at `since`, and is to be begun by `deadline`.
    `account` is that of its producer, if there is one.
    """

    __slots__ = ("account", "deadline", "extra", "payload", "rows", "since", "size", "waiting_in")

    def __init__(self, payload: object, size: int, rows: int, deadline: float, since: float = math.inf) -> None:
        self.payload = payload
        self.extra: object = None
        self.account: Account | None = None
        self.size = size
        self.rows = rows
        self.deadline = deadline
        self.since = since
        self.waiting_in: Lane | None = None

    @abstractmethod
    def answer(self, outcome: Outcome, flush: Flush | None, /) -> None:
        """Take the outcome, and the flush that brought it; None if it was in none. Called exactly once, from the event
        loop, and must not block.

        It is not called if the submission was refused by `put` or withdrawn.
        """


@dataclass(frozen=True, slots=True)
class Troubled:
    """The key of the lane beside another one, for those of its submissions that could not be written though the rest
    of their batch could. They wait there so that they hold up neither their neighbours nor newcomers.
    """

    target: Hashable


class Lane:
    """The submissions that may share a batch, in order of arrival. They are written to `target`; `key` is the same, or
    `Troubled`.

    `failures` counts the batches in a row that could not be written, `reason` says why the last one could not. None of
    its deadlines is before `soonest`. `is_held` says that it has no turn at the moment.
    """

    __slots__ = ("failures", "is_held", "key", "paused_until", "reason", "rows", "size", "soonest", "target", "waiting")

    def __init__(self, key: Hashable, target: Hashable) -> None:
        self.key = key
        self.target = target
        self.rows = 0
        self.size = 0
        self.failures = 0
        self.reason: Exception | None = None
        self.paused_until: float | None = None
        self.soonest = math.inf
        self.is_held = False
        # A dict as an ordered set: withdrawing from the middle leaves no tombstones for a hostile client to pile up.
        self.waiting: dict[Submission, None] = {}


class Batch(NamedTuple):
    """Submissions that are written together, to `lane`. `size` is the bytes of their payloads.

    None of their deadlines is before `deadline`; it has passed if the batch is being written again after a doubt.
    `failures` says how often the lane at hand has failed in a row, and `key` which lane that is: the one that `lane`
    names, or the troubled one beside it. `is_small` is as in `Limits`.
    """

    lane: Hashable
    submissions: Sequence[Submission]
    rows: int
    size: int
    deadline: float
    failures: int
    key: Hashable
    is_small: bool

    @property
    def is_troubled(self) -> bool:
        """Whether it consists of submissions that failed while others of their batch did not."""
        return self.key is not self.lane
