"""The state of the database, as far as an operator of the service should see it, and what is in quarantine.

Owns the two queries. Must not know who looks, nor how often.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
from msgspec import Struct

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

QUARANTINE_ROWS_MAX = 10_000
"""More are not counted: it is looked every few seconds."""

_NEWEST = 5

_BRIEFLY = "set local lock_timeout = '50ms'; set local statement_timeout = '250ms'"
"""The connection has other things to do, on which requests wait."""

_SERVER = """
    select
        current_setting('server_version') as version,
        current_setting('max_connections')::int as connections_max,
        (select sum(numbackends)::int from pg_stat_database) as connections,
        current_setting('transaction_read_only')::bool as read_only,
        extract(epoch from clock_timestamp())::float8 as clock,
        case when has_schema_privilege(to_regnamespace('headrace'), 'usage')
            then coalesce(has_table_privilege(to_regclass('headrace.quarantine'), 'select'), false)
            else false
        end as keeps_bad_rows
"""

_QUARANTINE = f"""
    select
        (select count(*) from (select from headrace.quarantine limit {QUARANTINE_ROWS_MAX}) as counted) as rows,
        newest.*
    from (
        select id, at, schema_name, table_name, column_name, code
        from headrace.quarantine order by id desc limit {_NEWEST}
    ) as newest
"""


class Kept(Struct, frozen=True):
    """A row in quarantine, without its values. `condition` is what PostgreSQL calls the code, "" if it has no name."""

    id: int
    at: datetime
    table: str
    column: str | None
    code: str
    condition: str


class Vitals(Struct, frozen=True):
    """A database at a moment. `skew_seconds` is by how much its clock is ahead of ours.

    `quarantine_rows` is None if there is no quarantine, or it may not be read; `newest` are the newest rows in it.
    """

    version: str
    connections: int
    connections_max: int
    read_only: bool
    skew_seconds: float
    quarantine_rows: int | None
    newest: tuple[Kept, ...]


async def vitals(connection: Connection) -> Vitals:
    """Look. Raises what asyncpg raises."""
    before = time.time()
    server = await connection.fetchrow(_SERVER)
    between = (before + time.time()) / 2
    assert server is not None  # noqa: S101 - it is a select without a source
    kept = await _newest(connection) if server["keeps_bad_rows"] else None
    rows = None if kept is None else kept[0]["rows"] if kept else 0
    newest = tuple(
        [
            Kept(
                record["id"],
                record["at"],
                f"{record['schema_name']}.{record['table_name']}",
                record["column_name"],
                record["code"],
                _CONDITIONS.get(record["code"], ""),
            )
            for record in kept or ()
        ]
    )
    return Vitals(
        version=server["version"],
        connections=server["connections"] or 0,
        connections_max=server["connections_max"],
        read_only=server["read_only"],
        skew_seconds=server["clock"] - between,
        quarantine_rows=rows,
        newest=newest,
    )


async def _newest(connection: Connection) -> list[asyncpg.Record] | None:
    """The newest rows in quarantine, with how many there are; None if that cannot be had at once: it is locked, say."""
    try:
        async with connection.transaction(readonly=True):
            await connection.execute(_BRIEFLY)
            return await connection.fetch(_QUARANTINE)
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.InsufficientPrivilegeError):
        return None


def _words(name: str) -> str:
    """NotNullViolationError → not null violation."""
    return re.sub("(?<!^)([A-Z])", r" \1", name.removesuffix("Error")).lower()


_CONDITIONS = {
    error.sqlstate: _words(name)
    for name, error in vars(asyncpg.exceptions).items()
    if isinstance(error, type) and issubclass(error, asyncpg.PostgresError) and isinstance(error.sqlstate, str)
}
