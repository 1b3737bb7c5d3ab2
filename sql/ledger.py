"""The ledger: one row for each flush slot, advanced in the same transaction as each write.

By it a slot finds out after a lost connection whether its last write was committed. (Asking for the status of a
transaction's number would not do: after a crash of the server the number may be another transaction's.) Owns that row
and the schema it is in. Must not know what is written.
"""

from __future__ import annotations

import uuid
from enum import Enum, auto
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from sql.errors import Unavailable

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

    from sql.connect import Session

SCHEMA_SQL = (resources.files("sql") / "schema.sql").read_text("utf-8")

_IS_COMPLETE = """
    select to_regclass('headrace.ledger') is not null and to_regclass('headrace.idempotency_at') is not null
       and exists (
           select from pg_attribute where attrelid = to_regclass('headrace.quarantine') and attname = 'intent'
       )
       and (to_regclass('headrace.api_keys_name') is not null or not exists (
           select from pg_namespace where nspname = 'headrace' and pg_has_role(nspowner, 'usage')
       ))
"""
"""Rows are written without API keys as well: whoever may not make the table for them goes on without it."""

_OTHER_OWNER = """
    select quote_ident(pg_get_userbyid(nspowner)) from pg_namespace
     where nspname = 'headrace' and nspowner <> (select oid from pg_roles where rolname = current_user)
"""

# Raises if a column is missing, which another version may have called otherwise, or a right.
_CHECK = """
    select l.slot, l.flush, l.fence, l.at, i.key, i.fingerprint, i.answer, i.at, q.row, q.row_bytes, q.request_id,
        q.intent
    from headrace.ledger l, headrace.idempotency i, headrace.quarantine q where false
"""

_MAY_WRITE = """
    select has_table_privilege('headrace.ledger', 'insert') and has_table_privilege('headrace.ledger', 'update')
       and has_table_privilege('headrace.idempotency', 'insert')
       and has_table_privilege('headrace.idempotency', 'delete')
       and has_table_privilege('headrace.quarantine', 'insert')
"""

_SIGN_IN = """
    insert into headrace.ledger as l (slot, flush, fence) values ($1, $2, $3)
    on conflict (slot) do update set fence = greatest(l.fence + 1, excluded.fence), at = now()
    returning flush, fence, xmax = 0 as is_new
"""

# Whoever is left of an earlier connection could still commit what it was given.
_END_PREDECESSORS = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name = $1 and pid <> pg_backend_pid() and usename = current_user
"""

ROW_KEPT_SECONDS = 3600.0
"""A row whose slot has no session is kept for so long."""

_LOCK = 0x68656164  # of those who create the schema: they would fail when they do it at the same time


class Past(Enum):
    """What became of a flush whose end was not seen."""

    STORED = auto()
    NOT_STORED = auto()
    UNKNOWN = auto()


class Ledger:
    """The row of one slot. `flush` is the last write that is known to be committed.

    `fence` goes up with every connection: an attempt of an earlier one that is still under way somewhere, in a stopped
    backend or a router's buffer, finds another fence, and fails instead of committing late.
    """

    def __init__(self) -> None:
        self.slot = str(uuid.uuid4())
        self.flush = 0
        self.fence = 0

    @property
    def advance(self) -> str:
        """The statement that stands before a write and makes it known to be committed with it.

        It fails, by a NULL in `flush`, unless the row is as this slot has left it. If somebody has deleted the row it
        is made anew. Costs PostgreSQL 0.06 ms.
        """
        return (
            f"insert into headrace.ledger as l (slot, flush, fence)"
            f" values ('{self.slot}', {self.flush + 1}, {self.fence}) on conflict (slot) do update set at = now(),"
            f" flush = case when l.flush = {self.flush} and l.fence = {self.fence} then excluded.flush end"
        )

    def advanced(self) -> None:
        """The write is committed."""
        self.flush += 1

    @property
    def confirm(self) -> str:
        """A statement whose commit comes after all that was seen before, and waits for synchronous standbys."""
        return f"update headrace.ledger set at = now() where slot = '{self.slot}'"

    async def sign_in(self, connection: Session, application_name: str) -> Past:
        """Take the row for this connection; what became of the write after `flush`, if there was one.

        Waits, as long as locks are waited for, for one that is still under way. Its own commit waits for synchronous
        standbys, so what it has found there will not be lost with this server. Raises what asyncpg raises, and
        `Unavailable` with what to do if the role has not the rights, or if there was no such waiting.
        """
        try:
            await prepare(connection)
            await connection.execute(_CHECK)
            if not await connection.fetchval(_MAY_WRITE):
                raise asyncpg.InsufficientPrivilegeError("permission denied for tables in schema headrace")  # noqa: TRY301
            # Behind a pooler a backend with this name may be lent to somebody else by the time that it is ended. There
            # the pooler ends that of a connection which is lost, and the lock on the row is waited for.
            if not connection.is_pooled:
                await connection.fetch(_END_PREDECESSORS, application_name)
            row = await connection.fetchrow(_SIGN_IN, self.slot, self.flush, self.fence + 1)
        except asyncpg.InsufficientPrivilegeError as error:
            raise Unavailable(await _what_to_grant(connection, error)) from error
        assert row is not None  # noqa: S101 - INSERT … RETURNING of one row
        if connection.is_unconfirmed:
            raise Unavailable("no synchronous standby has confirmed the ledger")
        expected, self.flush, self.fence = self.flush, row["flush"], row["fence"]
        if self.flush == expected + 1:
            return Past.STORED
        # A new row says nothing: somebody has deleted the old one, and perhaps after a commit. A number further back
        # says that the database has lost commits (a restored backup, a replica that was behind), this one among them.
        return Past.UNKNOWN if row["is_new"] or self.flush > expected else Past.NOT_STORED


def is_fenced(error: BaseException) -> bool:
    """Whether a write has failed because the ledger was not as its slot had left it. Nothing was stored."""
    return (
        isinstance(error, asyncpg.NotNullViolationError)
        and error.schema_name == "headrace"
        and error.table_name == "ledger"
    )


async def prepare(connection: Connection) -> None:
    """Create what is missing of our schema. Raises what asyncpg raises."""
    if await connection.fetchval(_IS_COMPLETE):
        return
    async with connection.transaction():
        await connection.execute(f"select pg_advisory_xact_lock({_LOCK})")
        if not await connection.fetchval(_IS_COMPLETE):
            owner = await connection.fetchval(_OTHER_OWNER)
            if owner is not None:  # an administrator runs a command: what he makes belongs to whoever made the rest
                await connection.execute(f"set local role {owner}")
            await connection.execute(SCHEMA_SQL)


async def _what_to_grant(connection: Connection, error: asyncpg.InsufficientPrivilegeError) -> str:
    role, database, exists = await connection.fetchrow(
        "select quote_ident(current_user), quote_ident(current_database()), to_regnamespace('headrace') is not null"
    ) or ("the role", "the database", False)
    grant = f"grant create on database {database} to {role}"
    if exists:  # another role has created it
        rights = "select, insert, update, delete on all tables in"
        grant = f"grant usage on schema headrace to {role}; grant {rights} schema headrace to {role}"
    return (
        f"{error}: Headrace keeps a ledger in schema headrace, so that no row is stored twice. Run `{grant}` once,"
        " or set HEADRACE_AT_LEAST_ONCE=true to do without"
    )
