"""The quarantine: bad rows that were kept, looked at, tried again, or dropped. For the command line.

Owns the reading and emptying of `headrace.quarantine`. Must not know how rows get there (`records.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

import asyncpg
import msgspec
from msgspec import Struct

from sql.catalog import load
from sql.codec import CopyCodec
from sql.errors import (
    Fault,
    Meaning,
    Rejected,
    TooLarge,
    Unavailable,
    as_error,
    fault_of,
    meaning_of,
    one_line,
    unknown_table,
)
from sql.options import Intent
from sql.record_codec import RecordCodec
from sql.statements import literal
from sql.target import Target, Way, way_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_BYTES_MAX = 1 << 30

_decode_intent = msgspec.json.Decoder(Intent).decode

_COLUMNS = """
    id, at, schema_name as schema, table_name as table, coalesce(row_bytes, convert_to(row, 'UTF8')) as row,
    code, message, details, hint, column_name as column, request_id, row_number, intent::text as intent
"""

_FILTER = "($1::text is null or table_name = $1 or schema_name || '.' || table_name = $1)"


class Entry(Struct, frozen=True):
    """A row in quarantine, as it came, and why it is there. `row_number` counts from 1 within its request."""

    id: int
    at: datetime
    schema: str
    table: str
    row: bytes
    code: str
    message: str
    details: str | None
    hint: str | None
    column: str | None
    request_id: str
    row_number: int
    intent: str | None
    """How it was to be stored, as JSON, where that was no plain insert."""


async def entries(connection: Connection, *, table: str | None = None, limit: int, after: int = 0) -> list[Entry]:
    """The oldest entries after this id, of all tables or one (its name, or schema.name)."""
    if not await _exists(connection):
        return []
    records = await connection.fetch(
        f"select {_COLUMNS} from headrace.quarantine where {_FILTER} and id > $2 order by id limit $3",
        table,
        after,
        limit,
    )
    return [Entry(**record) for record in records]


async def count(connection: Connection, *, table: str | None = None) -> int:
    """How many entries there are, of all tables or one."""
    if not await _exists(connection):
        return 0
    number: int = await connection.fetchval(f"select count(*) from headrace.quarantine where {_FILTER}", table)
    return number


async def entry(connection: Connection, entry_id: int) -> Entry | None:
    """One entry, or None if there is none with this id."""
    if not await _exists(connection):
        return None
    record = await connection.fetchrow(f"select {_COLUMNS} from headrace.quarantine where id = $1", entry_id)
    return None if record is None else Entry(**record)


async def drop(connection: Connection, ids: Sequence[int]) -> int:
    """Delete these entries; how many there were."""
    if not await _exists(connection):
        return 0
    return len(await connection.fetch("delete from headrace.quarantine where id = any($1) returning id", ids))


async def replay(connection: Connection, entry_id: int) -> Fault | None:
    """Try to store an entry's row again. None: it is stored and has left the quarantine, in one transaction.

    Otherwise it stays, with the reason of today, which is returned. Raises `Unavailable` if the database cannot judge
    it now, and `LookupError` if there is no such entry.
    """
    try:
        async with connection.transaction():
            record = await connection.fetchrow(
                f"select {_COLUMNS} from headrace.quarantine where id = $1 for update", entry_id
            )
            if record is None:
                raise LookupError(entry_id)
            found = Entry(**record)
            intent = _decode_intent(found.intent or "{}")
            if intent.time_zone:
                await connection.execute(f"set local time zone {literal(intent.time_zone)}")
            await connection.execute(await _statement(connection, found, intent))
            await connection.execute("delete from headrace.quarantine where id = $1", entry_id)
    except Rejected as error:
        fault = error.fault
    except (asyncpg.PostgresError, asyncpg.PostgresWarning) as raised:
        failure = cast("asyncpg.PostgresError", as_error(raised))
        if meaning_of(failure) in (Meaning.BUSY, Meaning.AWAY):
            raise Unavailable(one_line(failure)) from raised
        fault = fault_of(failure)
    else:
        return None
    await connection.execute(
        "update headrace.quarantine set code = $2, message = $3, details = $4, hint = $5, column_name = $6"
        " where id = $1",
        entry_id,
        fault.code,
        fault.message,
        fault.details,
        fault.hint,
        fault.column,
    )
    return fault


async def _statement(connection: Connection, entry: Entry, intent: Intent) -> str:
    """The INSERT of an entry's row, by the catalog of this moment. Raises `Rejected`."""
    catalog = await load(connection, [entry.schema])
    table = catalog.tables.get((entry.schema, entry.table))
    if table is None:
        raise unknown_table(entry.schema, entry.table)
    options = intent.options
    way = way_of(table, options, copy_default=catalog.copy_default)
    listed = intent.columns
    if way is Way.COPY:
        codec: CopyCodec | RecordCodec = CopyCodec(
            table, copy_default=catalog.copy_default, bytes_max=_BYTES_MAX, columns=listed, defaults=intent.defaults
        )
    else:
        codec, way = RecordCodec(table, columns=listed, defaults=intent.defaults), Way.RECORDSET
    try:
        encoded = codec.one(entry.row)
    except TooLarge as error:
        raise Rejected(Fault("54000", str(error))) from None
    if not encoded.columns:
        way = Way.RECORDSET
    target = Target(table, encoded.columns, way, catalog.copy_default, options)
    return target.each(encoded.payload, [entry.row])[0]


async def _exists(connection: Connection) -> bool:
    found: bool = await connection.fetchval("select to_regclass('headrace.quarantine') is not null")
    return found
