"""The recordset way: `INSERT … SELECT … FROM json_to_recordset … RETURNING`, for requests that want to know more.

Owns the transaction around it and whose the returned rows are. Must not know what errors mean to the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sql.encoded import Keyed, runs
from sql.options import Written
from sql.target import Target

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


class RowsFiltered(Exception):
    """A trigger, rule or policy stored fewer or more rows than it was given, so they cannot be told apart.

    Nothing was stored. It cannot happen to a request that is alone.
    """


class NotSingular(Exception):
    """Some requests that may only store one row have stored `counts`, by their places. Nothing was stored."""

    def __init__(self, counts: dict[int, int]) -> None:
        super().__init__("not exactly one row")
        self.counts = counts


class Given(NamedTuple):
    """The rows of one request: JSON objects joined by commas, with the keys that they have, and how many they are."""

    payload: bytes | Keyed
    rows: int


async def insert_returning(
    connection: Connection,
    target: Target,
    requests: Sequence[Given],
    *,
    before: str,
    after: Callable[[Sequence[Written]], str],
) -> Sequence[Written]:
    """Write the rows of several requests and commit, unless the target says not to; what became of each request.

    `before` is SQL that runs first in the same transaction; `after` is given the result before the commit, and returns
    SQL that runs last. Raises `RowsFiltered`, `NotSingular` and what asyncpg raises; a server error means that nothing
    was stored.
    """
    options = target.options
    results: list[Written] = []
    try:
        await connection.execute(f"begin;{before}")
        for length in runs([request.payload for request in requests]):
            results += await _insert(connection, target, requests[len(results) : len(results) + length])
        if options.singular:
            counts = {place: result.count for place, result in enumerate(results) if result.count != 1}
            if counts:
                raise NotSingular(counts)  # noqa: TRY301 - rolled back like any other failure
        last = after(results)
        if options.rollback:
            last += ";set constraints all immediate"
        if last:
            await connection.execute(last)
    except Exception:
        if not connection.is_closed():
            await connection.execute("rollback")
        raise
    # The commit of a transaction that has failed would roll it back, without raising anything.
    end = "rollback" if options.rollback else "commit"
    if await connection.execute(end) != end.upper():
        raise RuntimeError("the transaction was rolled back by its commit")
    return results


async def _insert(connection: Connection, target: Target, requests: Sequence[Given]) -> list[Written]:
    """One statement."""
    total = sum([request.rows for request in requests])
    texts = [p.text if isinstance(p := request.payload, Keyed) else p for request in requests]
    parameter = f"[{b','.join(texts).decode()}]" if target.columns else total
    records = await connection.fetch(target.statement, parameter)
    found: list[list[str]] = [[] for _ in requests]
    changed = [0] * len(requests)
    if target.is_marked:
        whose = [place for place, request in enumerate(requests) for _ in range(request.rows)]
        for text, mark in records:
            place = whose[abs(mark) - 1]
            found[place].append(text)
            changed[place] += mark < 0
    elif len(requests) == 1:
        found = [[record[0] for record in records]]
    elif len(records) != total:
        raise RowsFiltered
    else:
        rest = iter(records)
        found = [[next(rest)[0] for _ in range(request.rows)] for request in requests]
    returns = target.options.returning is not None and bool(target.options.returning.items)
    return [
        Written(rows if returns else (), len(rows), len(rows) - updated)
        for rows, updated in zip(found, changed, strict=True)
    ]
