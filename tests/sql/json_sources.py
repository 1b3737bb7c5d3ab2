"""Hypothesis strategies for JSON as source text, written in all the ways that JSON allows."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from sql import Kind, Table
from tests.sql.tables import TYPES, column, table

spaces = st.text(" \t\r\n", max_size=2)

_characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"/\b\f\n\r\t\0 {},;NDux.\x7f\u2028😀')

strings = st.builds(
    lambda text, ascii_only, slash: json.dumps(text, ensure_ascii=ascii_only).replace("/", slash),
    st.text(_characters, max_size=8),
    st.booleans(),
    st.sampled_from(["/", "\\/", "\\u002f", "\\u002F"]),
)

numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)

_scalars = st.sampled_from(["null", "true", "false", "0", "-0", '"null"', '"true"', '"\\\\u0000"']) | numbers | strings


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON arrays of these."""
    padded = st.lists(st.tuples(spaces, items, spaces).map("".join), max_size=3)
    return st.tuples(spaces, padded).map(lambda parts: f"[{','.join(parts[1]) or parts[0]}]")


def _objects(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.lists(st.tuples(strings, spaces, items).map(lambda m: f"{m[1]}{m[0]}{m[1]}:{m[1]}{m[2]}"), max_size=3)
    return st.tuples(spaces, members).map(lambda parts: f"{{{','.join(parts[1]) or parts[0]}}}")


values = st.recursive(_scalars, lambda inner: arrays(inner) | _objects(inner), max_leaves=6)
"""Any JSON value."""

USUAL: dict[Kind, st.SearchStrategy[str]] = {
    Kind.TEXT: strings,
    Kind.INTEGER: st.integers(-(2**70), 2**70).map(str),
    Kind.NUMBER: numbers,
    Kind.BOOLEAN: st.sampled_from(["true", "false"]),
    Kind.JSON: values,
    Kind.ARRAY: arrays(strings | numbers | st.just("null")),
}
"""What producers send to a column of each kind, but for null."""

_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)

_tables = st.lists(
    st.builds(column, _names, st.sampled_from(list(TYPES))), min_size=1, max_size=5, unique_by=lambda each: each.name
).map(lambda columns: table(*columns))

Row = dict[str, str]
"""Column → JSON source."""


@st.composite
def tables_and_rows(draw: st.DrawFn, *, usual: bool = False) -> tuple[Table, list[Row]]:
    """A table, and rows that all have the same of its columns; with any values, or what producers usually send."""
    drawn = draw(_tables)
    columns = draw(
        st.lists(st.sampled_from(list(drawn.columns.values())), min_size=1, unique_by=lambda each: each.name)
    )
    kinds = {each.name: USUAL[each.kind] | st.just("null") for each in columns}
    row = st.fixed_dictionaries(kinds if usual else {name: value | values for name, value in kinds.items()})
    return drawn, draw(st.lists(row, min_size=1, max_size=4))


def source(row: Row) -> bytes:
    """The row as JSON."""
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in row.items())}}}".encode()
