"""The connection budget: how many connections all workers of all pods may come to have, and whether there may be so
many.

Owns that arithmetic, which is the same at the start of the service and in `headrace doctor`, and the query for the
limits. What is in use at the moment does not count: the worker that starts first has to judge for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from sql.connect import SLOT_NAME
from sql.errors import SqlError

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

CATALOG_NAME = "headrace catalog"
HOUSEKEEPING_NAME = "headrace housekeeping"


class BudgetExceeded(SqlError):
    """The connections that were asked for are more than there may be. The text has the arithmetic, and the remedy."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for. `reserve` connections of the server are left to others: an operator, a backup, a migration.

    `beside` are the connections of a worker that are no slots: that of the catalog, which also looks at the state of
    the database, and once a minute that of housekeeping.
    """

    slots: int
    workers: int = 1
    pods: int = 1
    reserve: int = 3
    beside: int = 2

    @property
    def connections(self) -> int:
        """How many there are at most."""
        return self.pods * self.workers * (self.slots + self.beside)

    def __str__(self) -> str:
        many = [_many(self.pods, "pod"), _many(self.workers, "worker")]
        factors = " * ".join([*many, f"({_many(self.slots, 'flush slot')} + {self.beside})"])
        return f"{factors} = {_many(self.connections, 'connection')}"


class Room(Struct, frozen=True):
    """Connections: how many there may be, and are. None is: without a limit of its own."""

    max_connections: int
    superuser_reserved: int
    reserved: int
    """What `reserved_connections` keeps from this role; 0 if it may have those."""
    connections: int
    ours: int
    """Those of Headrace with this role in this database, as they call themselves."""
    role_max: int | None
    role: int
    database_max: int | None
    database: int

    @property
    def connections_max(self) -> int:
        """Without what is kept for others. That superusers could take what is kept for superusers does not count: it
        is for the one who has to mend things.
        """
        return self.max_connections - self.superuser_reserved - self.reserved


def shortages(demand: Demand, room: Room) -> list[str]:
    """Each limit that is too low for what is asked for, with the arithmetic."""
    found = []
    left = room.connections_max - demand.reserve
    if demand.connections > left:
        terms = (
            f"max_connections {room.max_connections} - superuser_reserved_connections {room.superuser_reserved}"
            f" - reserved_connections {room.reserved} - HEADRACE_CONNECTIONS_RESERVE {demand.reserve} = {left}"
        )
        found.append(f"{demand}, but {terms}")
    limits = (("role", "alter role", room.role_max), ("database", "alter database", room.database_max))
    found += [
        f"{demand}, but the {what} may have {limit} ({command} … connection limit)"
        for what, command, limit in limits
        if limit is not None and demand.connections > limit
    ]
    return found


REMEDY = (
    "raise the limit, lower HEADRACE_FLUSH_SLOTS, HEADRACE_WORKERS or HEADRACE_PODS, or put a pooler in between"
    " (PgBouncer in transaction mode)"
)


def check(demand: Demand, room: Room) -> None:
    """Raises `BudgetExceeded`."""
    found = shortages(demand, room)
    if found:
        raise BudgetExceeded(f"more connections than PostgreSQL allows: {'; '.join(found)}: {REMEDY}")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_ROOM = f"""
    select
        current_setting('max_connections')::int as max_connections,
        current_setting('superuser_reserved_connections')::int as superuser_reserved,
        case when pg_has_role(to_regrole('pg_use_reserved_connections'), 'usage') then 0
             else coalesce(current_setting('reserved_connections', true)::int, 0) end as reserved,
        coalesce((select sum(numbackends)::int from pg_stat_database) - 1, 0) as connections,
        (select count(*) from pg_stat_activity
          where usename = session_user and datname = d.datname
            and (application_name like '{SLOT_NAME}%' or application_name in ('{CATALOG_NAME}', '{HOUSEKEEPING_NAME}'))
            and pid <> pg_backend_pid()
        ) as ours,
        case when not r.rolsuper then nullif(r.rolconnlimit, -1) end as role_max,
        (select count(*) from pg_stat_activity where usename = session_user and datid is not null) - 1 as role,
        case when not r.rolsuper then nullif(d.datconnlimit, -1) end as database_max,
        (select numbackends from pg_stat_database where datid = d.oid) - 1 as database
      from pg_roles r, pg_database d
     where r.rolname = session_user and d.datname = current_database()
"""
"""All but the connection that asks."""


async def room_of(connection: Connection) -> Room:
    """Ask. Raises what asyncpg raises."""
    row = await connection.fetchrow(_ROOM)
    assert row is not None  # noqa: S101 - both exist, or we would not be connected
    return Room(**row)
