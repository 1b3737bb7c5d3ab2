"""The SQL that writes rows, as text. Everything in it is a quoted identifier, a type's name or our own words."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sql.catalog import Column, Table, quote_identifier
from sql.options import EVERYTHING, Form, Item, Missing, Options, Returning, Sort
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


def recordset_statement(table: Table, columns: Sequence[str], options: Options, payload: str, rows: int) -> str:
    """The INSERT of JSON objects, joined by commas, as a string without parameters; of `rows` rows without columns."""
    source = literal(f"[{payload}]") if columns else str(rows)
    return _insert(table, columns, options, source, marked=False)


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


def returning_statement(table: Table, columns: Sequence[str], options: Options, *, marked: bool) -> str:
    """The INSERT of JSON rows that answers a row for each one that it has stored; parameter $1 is an array of objects.
    Without columns, the parameter says how many rows.

    The answer's first column is what is returned of the row, NULL if that is nothing. Usually the answers are in the
    order of the array: INSERT … SELECT from a function scan is neither parallel nor sorted. If that is not enough,
    `marked` says that there is a second column: the number of the row in the array, counted from 1; negative, if one
    that was there has been changed.
    """
    returning = options.returning or Returning()
    mark = _mark(table)
    insert = _insert(table, columns, options, "$1" if columns else "$1::int", marked=marked)
    kept = _kept(returning)
    if marked:
        kept.append(f"current_setting('{_ROW}')::int as {mark}")
    answer = [_answer(table, returning, marked=marked)]
    if marked:
        answer.append(f"stored.{mark}")
    order = f" order by {', '.join(map(_sort, returning.order))}" if returning.order else ""
    return f"with stored as ({insert} returning {', '.join(kept)}) select {', '.join(answer)} from stored{order}"


_ROW = "headrace.row"
"""A setting of the transaction, in which the row at hand leaves its number: the rows that a function returns are
inserted one after the other, and what is returned of a row is computed before the next one is read."""


def _insert(table: Table, columns: Sequence[str], options: Options, source: str, *, marked: bool) -> str:
    """`source` is the JSON array, or without columns the number of rows."""
    mark = _mark(table)
    conflict = _on_conflict(columns, options, marked=marked)
    where = f" where set_config('{_ROW}', {{}}::text, true) is not null" if marked else ""
    if not columns:
        rows = f"select from generate_series(1, {source}) as r({mark})"
        return f"insert into {table.identifier} {rows}{where.format(f'r.{mark}')}{conflict}"
    names = _list(columns)
    types = ", ".join(f"{quote_identifier(name)} {table.columns[name].type}" for name in columns)
    values = ", ".join(f"r.{quote_identifier(name)}" for name in columns)
    if options.missing is Missing.DEFAULT:
        values = ", ".join(_or_default(table.columns[name]) for name in columns)
        rows = f"json_array_elements({source}::json) with ordinality as e(row, n), json_to_record(e.row) as r({types})"
        where = where.format("e.n")
    elif marked:
        rows = f"rows from (json_to_recordset({source}::json) as ({types})) with ordinality as r({names}, {mark})"
        where = where.format(f"r.{mark}")
    else:
        rows = f"json_to_recordset({source}::json) as r({types})"
    return f"insert into {table.identifier} ({names}) select {values} from {rows}{where}{conflict}"


def _or_default(column: Column) -> str:
    """The value of a column, or its default where the row does not have it."""
    name = quote_identifier(column.name)
    if not column.has_default:
        return f"r.{name}"
    # A key that is there with null gives the JSON null, which is not NULL.
    # PostgreSQL leaves out the cast to the column's type that a default has; without it, a CASE might choose another.
    default = f"cast({column.default} as {column.bare_type})"
    return f"case when e.row -> {literal(column.name)} is null then {default} else r.{name} end"


def _on_conflict(columns: Sequence[str], options: Options, *, marked: bool) -> str:
    conflict = options.conflict
    if conflict is None:
        return ""
    arbiter = f" on conflict ({_list(conflict.columns)})"
    if not (conflict.merge and columns):
        return f"{arbiter} do nothing"
    values = ", ".join(f"{quote_identifier(name)} = excluded.{quote_identifier(name)}" for name in columns)
    changed = f" where set_config('{_ROW}', '-' || current_setting('{_ROW}'), true) is not null" if marked else ""
    return f"{arbiter} do update set {values}{changed}"


def _kept(returning: Returning) -> list[str]:
    """What the INSERT returns: no column that is not asked for, since each needs the right to read it."""
    names = dict.fromkeys([item.column for item in returning.items] + [sort.column for sort in returning.order])
    if "*" in names:
        return ["*"]
    return [quote_identifier(name) for name in names] or ["true"]


def _answer(table: Table, returning: Returning, *, marked: bool) -> str:
    """One row as text."""
    if not returning.items:
        return "null"
    if returning.items == EVERYTHING.items and not marked:
        row = "stored.*"
    else:
        items = []
        for item in returning.items:
            items += [item] if item.column != "*" else [Item(name) for name in table.columns]
        whole = _unused("r", [item.label for item in items])
        row = f"(select {whole} from (select {', '.join(map(_item, items))}) as {whole})"
    match returning.form:
        case Form.JSON:
            return f"row_to_json({row})::text"
        case Form.JSON_STRIPPED:
            return f"json_strip_nulls(row_to_json({row}))::text"
        case Form.CSV:
            return f"(select substr(t, 2, length(t) - 2) from (select ({row})::text as t) as t)"


def _item(item: Item) -> str:
    value = f"stored.{quote_identifier(item.column)}"
    if item.cast is not None:
        value = f"cast({value} as {item.cast})"
    return f"{value} as {quote_identifier(item.label)}"


def _sort(sort: Sort) -> str:
    direction = " desc" if sort.descending else ""
    nulls = "" if sort.nulls_first is None else " nulls first" if sort.nulls_first else " nulls last"
    return f"stored.{quote_identifier(sort.column)}{direction}{nulls}"


def _mark(table: Table) -> str:
    """The name of the column that holds a row's number."""
    return _unused("row number", table.columns)


def _unused(name: str, names: Collection[str]) -> str:
    """A name that is none of these, quoted."""
    while name in names:
        name += "!"
    return quote_identifier(name)


def _list(columns: Sequence[str]) -> str:
    return ", ".join(quote_identifier(name) for name in columns)
