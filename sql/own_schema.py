"""Schema `headrace` as an operator sees it: whether it is complete, what the role may do there, what is in it.

Only reads. What makes and fills it is `schema.sql`, `ledger.py`, `records.py` and `api_keys.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sql.connect import SLOT_NAME

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

QUARANTINE_COUNTED_MAX = 10_000
"""Counting more than that takes longer than anybody waits, and says no more."""


class OwnSchema(Struct, frozen=True):
    """Schema `headrace`. `lacking` are tables, columns and indexes, `denied` rights as GRANT has them: "SELECT, INSERT
    on headrace.quarantine".
    """

    exists: bool
    may_create: bool
    """Whether the role may make what is missing."""
    lacking: Sequence[str]
    denied: Sequence[str]

    @property
    def is_usable(self) -> bool:
        """Whether the service can use it as it is."""
        return self.exists and not self.lacking and not self.denied


class Contents(Struct, frozen=True):
    """What is in its tables. An age is None where there is nothing."""

    slots: int
    slots_connected: int
    oldest_slot_seconds: float | None
    quarantined: int
    """`QUARANTINE_COUNTED_MAX` + 1 means: more than that."""
    keys: int
    """Estimated."""
    keys_bytes: int
    oldest_key_seconds: float | None
    api_keys: int
    """Also those that were revoked or have expired."""
    api_keys_good: int


_TABLES = {
    "ledger": (("slot", "flush", "fence", "at"), ("SELECT", "INSERT", "UPDATE", "DELETE")),
    "idempotency": (("key", "fingerprint", "answer", "at"), ("SELECT", "INSERT", "UPDATE", "DELETE")),
    "quarantine": (
        (
            "id", "at", "schema_name", "table_name", "row", "row_bytes", "code", "message", "details", "hint",
            "column_name", "request_id", "row_number", "intent",
        ),
        ("SELECT", "INSERT"),
    ),
    "api_keys": (
        (
            "id", "name", "secret_sha256", "grants", "rows_per_second", "queue_share", "created_at", "expires_at",
            "revoked_at",
        ),
        ("SELECT",),
    ),
}  # fmt: skip
"""What `schema.sql` makes: the columns of each table, and the rights without which the service cannot do its work."""

_INDEXES = ("idempotency_at", "api_keys_name")

_SCHEMA = """
    select
        n.oid is not null as exists,
        case when n.oid is null then has_database_privilege(current_database(), 'create')
             else pg_has_role(n.nspowner, 'usage') end as may_create,
        coalesce(has_schema_privilege(n.oid, 'usage'), false) as enters
      from (select to_regnamespace('headrace')::oid as oid) as named left join pg_namespace n using (oid)
"""

_RELATIONS = """
    select c.relname::text as name,
        array(
            select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        ) as columns,
        array(
            select p from unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) as p
             where c.relkind <> 'i' and not has_table_privilege(c.oid, p)
        ) as denied
      from pg_class c where c.relnamespace = to_regnamespace('headrace')::oid and c.relkind in ('r', 'p', 'i')
"""

_CONTENTS = f"""
    select
        (select count(*) from headrace.ledger) as slots,
        (select count(*) from headrace.ledger l where exists (
            select from pg_stat_activity where application_name = '{SLOT_NAME} ' || l.slot
        )) as slots_connected,
        (select extract(epoch from now() - min(at))::float8 from headrace.ledger) as oldest_slot_seconds,
        (select count(*) from (
            select from headrace.quarantine limit {QUARANTINE_COUNTED_MAX + 1}
        ) as counted) as quarantined,
        coalesce((select n_live_tup from pg_stat_all_tables where relid = to_regclass('headrace.idempotency')), 0)
            as keys,
        pg_total_relation_size('headrace.idempotency') as keys_bytes,
        (select extract(epoch from now() - min(at))::float8 from headrace.idempotency) as oldest_key_seconds,
        (select count(*) from headrace.api_keys) as api_keys,
        (select count(*) from headrace.api_keys
          where revoked_at is null and (expires_at is null or expires_at > now())) as api_keys_good
"""


async def own_schema_of(connection: Connection) -> OwnSchema:
    """Whether it is there as the service needs it. Raises what asyncpg raises."""
    schema = await connection.fetchrow(_SCHEMA)
    assert schema is not None  # noqa: S101 - an outer join with one row
    relations = {row["name"]: row for row in await connection.fetch(_RELATIONS)}
    lacking: list[str] = []
    denied = [] if schema["enters"] or not schema["exists"] else ["USAGE on schema headrace"]
    for name, (columns, rights) in _TABLES.items():
        if name not in relations:
            lacking.append(name)
            continue
        there, refused = set(relations[name]["columns"]), set(relations[name]["denied"])
        lacking += [f"{name}.{column}" for column in columns if column not in there]
        missing = [right for right in rights if right in refused]
        if missing:
            denied.append(f"{', '.join(missing)} on headrace.{name}")
    lacking += [index for index in _INDEXES if index not in relations]
    return OwnSchema(schema["exists"], schema["may_create"], lacking, denied)


async def contents_of(connection: Connection) -> Contents:
    """What is in it. It must be usable. Raises what asyncpg raises."""
    row = await connection.fetchrow(_CONTENTS)
    assert row is not None  # noqa: S101 - a SELECT without FROM
    return Contents(**row)
