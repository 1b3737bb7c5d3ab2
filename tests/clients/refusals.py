"""Inserts and upserts that must fail, and what every client must be told. Each client's own way of saying it is its
test's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows for a table, and the error that they give.

    `upsert` turns the insert into one, by these columns or, if it is empty, by the primary key.
    """

    table: str
    rows: Any
    status: int
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    schema: str = "public"
    upsert: str | None = None

    @property
    def error(self) -> dict[str, str | None]:
        """The four words of the error."""
        return {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint}


REFUSALS: dict[str, Refusal] = {
    # The database's
    "a unique key": Refusal(
        "items",
        {"id": 1, "name": "screw"},
        409,
        "23505",
        'duplicate key value violates unique constraint "items_pkey"',
        "Key (id)=(1) already exists.",
    ),
    "a foreign key": Refusal(
        "orders",
        {"id": 1, "item_id": 999},
        409,
        "23503",
        'insert or update on table "orders" violates foreign key constraint "orders_item_id_fkey"',
        'Key (item_id)=(999) is not present in table "items".',
    ),
    "NOT NULL": Refusal(
        "items",
        {"id": 5, "qty": 3},
        400,
        "23502",
        'null value in column "name" of relation "items" violates not-null constraint',
        "Failing row contains (5, null, 3, null).",
    ),
    "CHECK": Refusal(
        "items",
        {"id": 5, "name": "screw", "qty": -1},
        400,
        "23514",
        'new row for relation "items" violates check constraint "items_qty_check"',
        "Failing row contains (5, screw, -1, null).",
    ),
    "a value of the wrong type": Refusal(
        "items", {"name": "screw", "qty": "many"}, 400, "22P02", 'invalid input syntax for type integer: "many"'
    ),
    "a value for an identity column": Refusal(
        "tickets",
        {"id": 5, "title": "x"},
        400,
        "428C9",
        'cannot insert a non-DEFAULT value into column "id"',
        'Column "id" is an identity column defined as GENERATED ALWAYS.',
        "Use OVERRIDING SYSTEM VALUE to override.",
    ),
    "a trigger's raise": Refusal(
        "faults",
        {"state": "P0001", "message": "I refuse", "detail": "because", "hint": "ask nicely"},
        400,
        "P0001",
        "I refuse",
        "because",
        "ask nicely",
    ),
    "a trigger's status": Refusal(
        "faults",
        {"state": "PT402", "message": "Payment Required", "detail": "Quota exceeded", "hint": "Upgrade"},
        402,
        "PT402",
        "Payment Required",
        "Quota exceeded",
        "Upgrade",
    ),
    "a row among many": Refusal(
        "items",
        [{"id": 5, "name": "a"}, {"id": 6, "name": None}, {"id": 7}],
        400,
        "23502",
        'null value in column "name" of relation "items" violates not-null constraint',
        "Failing row contains (6, null, 1, null).",
    ),
    "the same key twice in an upsert": Refusal(
        "items",
        [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
        500,
        "21000",
        "ON CONFLICT DO UPDATE command cannot affect row a second time",
        hint="Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
        upsert="",
    ),
    "an upsert by columns without a unique key": Refusal(
        "items",
        {"id": 5, "name": "a"},
        400,
        "42P10",
        "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        upsert="name",
    ),
    "an upsert that meets another key": Refusal(
        "devices",
        {"id": "00000000-0000-0000-0000-00000000000b", "serial": "SN-1"},
        409,
        "23505",
        'duplicate key value violates unique constraint "devices_serial_key"',
        "Key (serial)=(SN-1) already exists.",
        upsert="id",
    ),
    # The dialect's
    "an unknown column": Refusal(
        "items",
        {"name": "a", "bogus": 1},
        400,
        "PGRST204",
        "Could not find the 'bogus' column of 'items' in the schema cache",
    ),
    "an unknown column among many rows": Refusal(
        "items",
        [{"name": "a", "zeta": 1}, {"alpha": 2}],
        400,
        "PGRST204",
        "Could not find the 'alpha' column of 'items' in the schema cache",
    ),
    "an unknown table": Refusal(
        "nowhere", {"a": 1}, 404, "PGRST205", "Could not find the table 'public.nowhere' in the schema cache"
    ),
    "a table of another schema": Refusal(
        "items",
        {"name": "a"},
        404,
        "PGRST205",
        "Could not find the table 'audit.items' in the schema cache",
        schema="audit",
    ),
    "a schema that is not exposed": Refusal(
        "items",
        {"name": "a"},
        406,
        "PGRST106",
        "Invalid schema: secret",
        hint="Only the following schemas are exposed: public, audit",
        schema="secret",
    ),
    "rows that are no objects": Refusal("items", [1, 2], 400, "PGRST102", "All object keys must match"),
    "a path of two segments": Refusal(
        "items/1", {"name": "a"}, 404, "PGRST125", "Invalid path specified in request URL"
    ),
}
"""Each leaves the tables as they were."""
