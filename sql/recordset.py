"""The recordset way: `INSERT … SELECT … FROM json_to_recordset … RETURNING`, for requests that want their rows back.

Owns the transaction around it and how returned rows are told apart. Must not know what errors mean to the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sql.target import Target

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


class RowsFiltered(Exception):
    """A trigger, rule or policy stored fewer or more rows than it was given, so they cannot be told apart.

    Nothing was stored. It cannot happen to a request that is alone.
    """


async def insert_returning(  # noqa: PLR0913 - what one transaction holds, in its order
    connection: Connection,
    target: Target,
    payloads: Sequence[bytes],
    rows: Sequence[int],
    *,
    before: str,
    after: Callable[[list[list[str]]], str],
) -> list[list[str]]:
    """Write the JSON objects of several requests and commit; for each of them its stored rows as JSON texts.

    `payloads` are objects joined by commas, `rows` how many each one has. `before` is SQL that runs first in the same
    transaction; `after` is given the result before the commit, and returns SQL that runs last. Raises `RowsFiltered`
    and what asyncpg raises; a server error means that nothing was stored.
    """
    parameter = f"[{b','.join(payloads).decode()}]" if target.columns else sum(rows)
    try:
        await connection.execute(f"begin;{before}")
        records = await connection.fetch(target.statement, parameter)
        if len(rows) == 1:
            results = [[record[0] for record in records]]
        elif len(records) != sum(rows):
            raise RowsFiltered  # noqa: TRY301 - rolled back like any other failure
        else:
            ends = iter(records)
            results = [[next(ends)[0] for _ in range(count)] for count in rows]
        last = after(results)
        if last:
            await connection.execute(last)
    except Exception:
        if not connection.is_closed():
            await connection.execute("rollback")
        raise
    # The commit of a transaction that has failed would roll it back, without raising anything.
    if await connection.execute("commit") != "COMMIT":
        raise RuntimeError("the transaction was rolled back by its commit")
    return results
