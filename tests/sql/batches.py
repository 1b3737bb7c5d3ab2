"""What a slot is given: batches of requests, without a batcher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sql import EVERYTHING, Extra, Options, Target, Way
from sql.catalog import load
from tests.harness import Connection


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


async def target_of(db: Connection, way: Way = Way.COPY, table: str = "t") -> Target:
    """Column n of the table."""
    catalog = await load(db, ["public"])
    return Target(catalog.tables["public", table], ("n",), way, catalog.copy_default, options_of(way))


def options_of(way: Way) -> Options:
    """What must be asked of a write so that it goes that way."""
    return Options(returning=EVERYTHING) if way is Way.RECORDSET_RETURNING else Options()


def requests(way: Way, *numbers: int) -> list[Request]:
    """A request for each number, as the way wants it."""
    return [Request(b"%d\n" % n if way is Way.COPY else b'{"n":%d}' % n) for n in numbers]
