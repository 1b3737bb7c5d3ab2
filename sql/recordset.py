"""The recordset way: `INSERT … SELECT … FROM json_to_recordset`, for whatever COPY cannot do.

Owns the transaction around it and how returned rows are told apart. Must not know what errors mean to the requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sql.target import Target, Way

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


class RowsFiltered(Exception):
    """A trigger, rule or policy stored fewer or more rows than it was given, so they cannot be told apart.

    Nothing was stored. It cannot happen to a request that is alone.
    """


async def insert(
    connection: Connection, target: Target, payloads: Sequence[bytes], rows: Sequence[int]
) -> list[list[str]]:
    """Write the JSON objects of several requests and commit; for each of them its stored rows as JSON texts.

    `payloads` are objects joined by commas, `rows` how many each one has. The lists are empty unless the way returns
    rows. Raises `RowsFiltered` and what asyncpg raises; a server error means that nothing was stored.
    """
    parameter = f"[{b','.join(payloads).decode()}]" if target.columns else sum(rows)
    if target.way is not Way.RECORDSET_RETURNING or len(rows) == 1:
        records = await connection.fetch(target.statement, parameter)
        return [[record[0] for record in records]] if len(rows) == 1 else [[] for _ in rows]
    async with connection.transaction():
        records = await connection.fetch(target.statement, parameter)
        if len(records) != sum(rows):
            raise RowsFiltered  # rolls back
    ends = iter(records)
    return [[next(ends)[0] for _ in range(count)] for count in rows]
