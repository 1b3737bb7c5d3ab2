"""The recordset way: `INSERT … SELECT … FROM json_to_recordset`, for whatever COPY cannot do.

Owns the statement and how returned rows are told apart. Must not know requests or what to do about errors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from sql.catalog import quote_identifier
from sql.target import Target, Way

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


@lru_cache(maxsize=4096)
def insert_statement(target: Target) -> str:
    """The INSERT for a target; parameter $1 is a JSON array of objects.

    With RECORDSET_RETURNING it answers one JSON object for each stored row, in the order of the array: INSERT … SELECT
    from a function scan is neither parallel nor sorted.
    """
    table = target.table
    columns = ", ".join(quote_identifier(name) for name in target.columns)
    types = ", ".join(f"{quote_identifier(name)} {table.columns[name].type}" for name in target.columns)
    insert = (
        f"insert into {table.identifier} ({columns}) select {columns} from json_to_recordset($1::json) as r({types})"
    )
    return _returning(insert, target.way)


def default_rows_statement(target: Target) -> str:
    """The INSERT of rows without any column; parameter $1 says how many."""
    return _returning(f"insert into {target.table.identifier} select from generate_series(1, $1::int)", target.way)


def _returning(insert: str, way: Way) -> str:
    if way is not Way.RECORDSET_RETURNING:
        return insert
    return f"with stored as ({insert} returning *) select row_to_json(stored.*)::text from stored"


async def insert(connection: Connection, target: Target, payload: bytes, rows: int) -> list[str]:
    """Write JSON objects (joined by commas) and commit; the stored rows as JSON texts if the way returns them.

    Raises what asyncpg raises; a server error means that nothing was stored.
    """
    if target.columns:
        records = await connection.fetch(insert_statement(target), f"[{payload.decode()}]")
    else:
        records = await connection.fetch(default_rows_statement(target), rows)
    return [record[0] for record in records]
