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


def insert_statement(table: Table, columns: Sequence[str], *, returning: bool) -> str:
    """The INSERT of JSON rows; parameter $1 is a JSON array of objects.

    With `returning` it answers one JSON object for each stored row, in the order of the array: INSERT … SELECT from a
    function scan is neither parallel nor sorted.
    """
    names = _list(columns)
    types = ", ".join(f"{quote_identifier(name)} {table.columns[name].type}" for name in columns)
    insert = f"insert into {table.identifier} ({names}) select {names} from json_to_recordset($1::json) as r({types})"
    return _returning(insert) if returning else insert


def default_rows_statement(table: Table, *, returning: bool) -> str:
    """The INSERT of rows without any column; parameter $1 says how many."""
    insert = f"insert into {table.identifier} select from generate_series(1, $1::int)"
    return _returning(insert) if returning else insert


def _list(columns: Sequence[str]) -> str:
    return ", ".join(quote_identifier(name) for name in columns)


def _returning(insert: str) -> str:
    return f"with stored as ({insert} returning *) select row_to_json(stored.*)::text from stored"
