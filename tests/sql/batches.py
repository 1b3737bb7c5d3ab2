"""What a slot is given: batches of requests, without a batcher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sql import Extra, Target


@dataclass
class Request:
    """What a slot knows of a request."""

    payload: bytes
    rows: int = 1
    extra: Extra | None = None


@dataclass
class Batch:
    """What a slot knows of a batch."""

    lane: Target
    submissions: Sequence[Request]
    deadline: float = math.inf
    failures: int = 0
