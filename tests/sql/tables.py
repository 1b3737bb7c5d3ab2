"""Tables without a database, and a reader of COPY text that shares no code with its writer."""

from __future__ import annotations

import re
from collections.abc import Callable

from sql import Column, CopyCodec, Encoded, Fault, Kind, RecordCodec, Rejected, Table
from sql.catalog import COPY_DEFAULT_VERSION

TYPES = {
    Kind.TEXT: "text",
    Kind.INTEGER: "integer",
    Kind.NUMBER: "numeric",
    Kind.BOOLEAN: "boolean",
    Kind.JSON: "jsonb",
    Kind.ARRAY: "text[]",
}
"""A type for each kind that COPY can write."""

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPED = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}


def column(name: str, kind: Kind = Kind.TEXT, **more: object) -> Column:
    """A column of that kind, nullable and without a default unless `more` says otherwise."""
    described: dict[str, object] = {"not_null": False, "default": None, "identity": None, "generated": False}
    return Column(name=name, type=TYPES[kind], kind=kind, **(described | more))  # type: ignore[arg-type]


def table(*columns: Column) -> Table:
    """A table `t` with these columns."""
    return Table("public", "t", {each.name: each for each in columns})


MIXED = table(*[column(kind.name.lower(), kind) for kind in TYPES])
"""A table with a column of each kind, named like it."""


def copy_codec(
    of: Table, server_version: int = 180000, *, columns: tuple[str, ...] | None = None, defaults: bool = False
) -> CopyCodec:
    """A codec as a service makes it for this table; for requests that list these columns, if there are any."""
    return CopyCodec(
        of,
        copy_default=server_version >= COPY_DEFAULT_VERSION,
        bytes_max=10**9,
        columns=columns,
        defaults=defaults,
    )


def record_codec(of: Table, *, columns: tuple[str, ...] | None = None, key: tuple[str, ...] = ()) -> RecordCodec:
    """The other codec of this table."""
    return RecordCodec(of, columns=columns, key=key)


def unescaped(field: str) -> str | None:
    """The value of a field as PostgreSQL reads it: https://www.postgresql.org/docs/current/sql-copy.html"""
    if field == "\\N":
        return None
    if field == "\\D":
        return "the default"
    return _ESCAPE.sub(lambda found: _UNESCAPED[found[1]], field)


def rows(encoded: Encoded) -> list[dict[str, str | None]]:
    """What PostgreSQL would read: the text of each column, None for NULL."""
    payload = encoded.payload
    text = (payload if isinstance(payload, bytes) else b"".join(payload)).decode()
    assert text.endswith("\n") or not text
    lines = text.split("\n")[:-1]
    assert len(lines) == encoded.rows
    if not encoded.columns:
        assert not any(lines)
        return [{} for _ in lines]
    return [dict(zip(encoded.columns, map(unescaped, line.split("\t")), strict=True)) for line in lines]


def warmed(codec: CopyCodec, body: bytes) -> CopyCodec:
    """The codec after so many rows of this shape that it has generated functions for it."""
    for _ in range(20):
        codec.one(body)
    assert codec._last is not None
    return codec


def outcome(call: Callable[..., Encoded], *arguments: bytes) -> list[dict[str, str | None]] | Fault:
    """What a codec answers: the rows that PostgreSQL would read, or the fault. Other exceptions fail the test."""
    try:
        return rows(call(*arguments))
    except Rejected as error:
        return error.fault
