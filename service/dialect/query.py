"""The query of a request to store rows: `columns`, `on_conflict`, `select`, `order`. Pure: text in, a frozen value out.

Owns what of PostgREST's query language means something when rows are written, and refuses what it would refuse. Must
not know tables: whether there is such a column is for others to say. The shape of filters is in `dialect/filters.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from service.dialect.filters import check_filter, check_logic
from service.dialect.scan import NAME_WANTED, Scan, malformed
from sql import Item, Sort

_ITEMS_MAX = 1600
"""Names in one list: PostgreSQL's limit for the columns of a table."""

_CAST_START = re.compile(" *:: *")
_CAST = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?: +[A-Za-z_][A-Za-z0-9_]*)*(?:\[\])?")

# Casts go into SQL as they are. Of several words only these are types: "text from secrets" is not one.
_LONG_TYPES = frozenset({
    "bit varying",
    "character varying",
    "double precision",
    "national character",
    "national character varying",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
})  # fmt: skip

_COMMA = re.compile(" *, *")
_ALIAS_END = re.compile(" *:(?!:)")
_DIRECTION = re.compile(r"\.(asc|desc)(?![^.,])")
_NULLS = re.compile(r"\.nulls(first|last)(?![^.,])")


@dataclass(frozen=True, slots=True)
class Query:
    """What the query asks for.

    `columns` are the keys to take from JSON bodies, None for all of them. `on_conflict` is the arbiter of an upsert,
    empty for the primary key. `select` and `order` shape the representation.
    """

    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] = ()
    select: tuple[Item, ...] = (Item("*"),)
    order: tuple[Sort, ...] = ()


NOTHING = Query()


def parse(query: str) -> Query:
    """Read a query as it came, percent-encoded. Of a parameter that is repeated the first counts.

    Filters are looked at and do nothing, `limit` and `offset` likewise. Raises `Refused`.
    """
    if not query:
        return NOTHING
    first: dict[str, str] = {}
    orders: list[tuple[Sort, ...]] = []
    for name, value in _parameters(query):
        last = name.rpartition(".")[2]
        if name in _SHAPING:
            first.setdefault(name, value)
        elif last == "order":
            order = _order(Scan(name, value))
            if name == "order":
                orders.append(order)
        elif last in ("and", "or"):
            check_logic(name, value)
        elif last not in ("limit", "offset"):
            check_filter(name, value)
    columns, on_conflict, select = map(first.get, _SHAPING)
    return Query(
        columns=None if columns is None else _names(Scan("columns", columns)),
        on_conflict=() if on_conflict is None else _names(Scan("on_conflict", on_conflict)),
        select=NOTHING.select if select is None else _select(Scan("select", select)),
        order=orders[0] if orders else (),
    )


_SHAPING = ("columns", "on_conflict", "select")


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    """Names and values, decoded. A name without `=` has no value, and says nothing."""
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if equals:
            yield _decoded(name), _decoded(value)


def _decoded(text: str) -> str:
    """What was percent-encoded. Each character of `text` is a byte of the URL."""
    try:
        decoded = unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode()
    except UnicodeError:
        raise malformed("The query is not UTF-8", None) from None
    if "\0" in decoded:
        raise malformed("The query has a character that PostgreSQL cannot store: U+0000", None)
    return decoded


_T = TypeVar("_T")


def _list(scan: Scan, item: Callable[[Scan], _T]) -> tuple[_T, ...]:
    """Items between commas, to the end: at least one."""
    scan.spaces()
    items = [item(scan)]
    while not scan.at_end():
        if scan.take(_COMMA) is None:
            raise scan.expected("a comma or the end")
        items.append(item(scan))
        if len(items) > _ITEMS_MAX:
            raise scan.expected(f"no more than {_ITEMS_MAX} items")
    return tuple(items)


def _name(scan: Scan) -> str:
    name = scan.name()
    scan.spaces()
    return name


def _names(scan: Scan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_list(scan, _name)))  # as in PostgREST, a name that is repeated counts once


def _select(scan: Scan) -> tuple[Item, ...]:
    # PostgREST answers with empty objects to a blank one, which nobody can want.
    return _list(scan, _item) if scan.text.strip() else NOTHING.select


def _item(scan: Scan) -> Item:
    """`*`, or `alias:column::type`, of which only the column must be there."""
    if scan.take_text("*"):
        scan.spaces()
        return Item("*")
    if scan.sees("..."):
        raise _unsupported("Embedded resources are not supported in select")
    column, alias = scan.name(), None
    if scan.take(_ALIAS_END) is not None:
        scan.spaces()
        if scan.sees("*"):
            raise scan.expected(NAME_WANTED)
        column, alias = scan.name(), column
    _refuse_more(scan, "select")
    cast = _cast(scan) if scan.take(_CAST_START) is not None else None
    _refuse_more(scan, "select")
    scan.spaces()
    return Item(column, alias, cast)


def _refuse_more(scan: Scan, where: str) -> None:
    """Say of what PostgREST has after a column, and we have not, that it is not supported."""
    if scan.sees("->"):
        raise _unsupported(f"JSON paths are not supported in {where}")
    if scan.sees("(", "!"):
        raise _unsupported(f"Embedded resources and aggregates are not supported in {where}")
    if where == "select" and scan.sees("."):
        raise _unsupported("Aggregates are not supported in select")


def _cast(scan: Scan) -> str:
    found = scan.take(_CAST)
    words = "" if found is None else " ".join(found.split())
    if not words or (" " in words and words.removesuffix("[]").lower() not in _LONG_TYPES):
        raise scan.expected("the name of a type after ::")
    return words


def _order(scan: Scan) -> tuple[Sort, ...]:
    return _list(scan, _sort)


def _sort(scan: Scan) -> Sort:
    column = scan.name()
    _refuse_more(scan, "order")
    direction = scan.take(_DIRECTION)
    nulls = scan.take(_NULLS)
    scan.spaces()
    return Sort(column, direction == ".desc", None if nulls is None else nulls == ".nullsfirst")


def _unsupported(message: str) -> Exception:
    return malformed(message, "Name columns of the table itself")
