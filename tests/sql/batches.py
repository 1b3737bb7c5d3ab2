"""What a slot is given: batches of requests, without a batcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sql import Target


@dataclass
class Request:
    """What a slot knows of a request."""

    payload: bytes
    rows: int = 1


@dataclass
class Batch:
    """What a slot knows of a batch."""

    lane: Target
    submissions: Sequence[Request]
