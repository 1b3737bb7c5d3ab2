"""The SQL that writes rows, as text. Everything in it is a quoted identifier, a type's name or our own words."""

from __future__ import annotations

from collections.abc import Sequence

from sql.catalog import Table, quote_identifier
from sql.values import DEFAULT, NULL


def copy_statement(table: Table, columns: Sequence[str], *, copy_default: bool) -> str:
    """The COPY of text into these columns. https://www.postgresql.org/docs/current/sql-copy.html"""
    # E'…' means the same whatever standard_conforming_strings says; a marker that lost its backslash would be a value.
    default = f", default E'\\{DEFAULT}'" if copy_default else ""
    return f"copy {table.identifier} ({_list(columns)}) from stdin (format text, null E'\\{NULL}'{default})"


def values_statement(table: Table, columns: Sequence[str]) -> str:
    """The beginning of an INSERT of constants; `values_of` is the rest.

    They reach the types' input functions just as the fields of a COPY do. But within one string of several statements
    this writes to many tables in one round trip, which COPY cannot.
    """
    return f"insert into {table.identifier} ({_list(columns)}) values "


def values_of(text: str) -> str:
    """Rows of COPY text as lists of constants."""
    rows = text.removesuffix("\n").replace("'", "''")
    if "\\" in rows:
        return ",".join([f"({','.join(map(_constant, row.split(_TAB)))})" for row in rows.split("\n")])
    # No escape sequence, no NULL: 0.3 µs a row instead of 1.2 (scenario "1,000 tables").
    return "('" + rows.replace("\t", "','").replace("\n", "'),('") + "')"


def recordset_statement(table: Table, columns: Sequence[str], payload: str, rows: int) -> str:
    """The INSERT of JSON objects, joined by commas, as a string without parameters; of `rows` rows without columns."""
    if not columns:
        return f"insert into {table.identifier} select from generate_series(1, {rows})"
    return _insert(table, columns, literal(f"[{payload}]"))


def literal(text: str) -> str:
    """A string constant that means the same whatever standard_conforming_strings says. No zero bytes."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


_TAB = "\t"


def _constant(field: str) -> str:
    """A field of COPY text, its quotes doubled, as a constant. All escapes of our COPY text mean the same in E'…'."""
    if field == NULL:
        return "null"
    if field == DEFAULT:
        return "default"
    return f"E'{field}'" if "\\" in field else f"'{field}'"


def returning_statement(table: Table, columns: Sequence[str]) -> str:
    """The INSERT of JSON rows that answers one JSON object for each stored row; parameter $1 is an array of objects.

    In the order of the array: INSERT … SELECT from a function scan is neither parallel nor sorted. Without columns, the
    parameter says how many rows.
    """
    if columns:
        return _returning(_insert(table, columns, "$1"))
    return _returning(f"insert into {table.identifier} select from generate_series(1, $1::int)")


def _insert(table: Table, columns: Sequence[str], source: str) -> str:
    names = _list(columns)
    types = ", ".join(f"{quote_identifier(name)} {table.columns[name].type}" for name in columns)
    return (
        f"insert into {table.identifier} ({names}) select {names} from json_to_recordset({source}::json) as r({types})"
    )


def _list(columns: Sequence[str]) -> str:
    return ", ".join(quote_identifier(name) for name in columns)


def _returning(insert: str) -> str:
    return f"with stored as ({insert} returning *) select row_to_json(stored.*)::text from stored"
