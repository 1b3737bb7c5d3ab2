"""Stored rows as PostgreSQL's JSON → Python's values.

Owns which Python type the values of a column have. What that type cannot hold (the date `infinity`, a year before 1)
stays PostgreSQL's text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypedDict, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import Raw

from sql import Column, Kind, Table

_TYPES: dict[str, Any] = {
    "date": date,
    "double precision": float,
    "numeric": Decimal,
    "real": float,
    "time with time zone": time,
    "time without time zone": time,
    "timestamp with time zone": datetime,
    "timestamp without time zone": datetime,
    "uuid": UUID,
}
"""Types of which JSON says less than PostgreSQL, as `format_type` has them. All others are as in JSON."""

_NUMBER = int | Decimal
"""For a domain over some number: a whole one is an int, and no digit is lost."""

_MODIFIER = re.compile(r"\(.*?\)")
_INTERVAL = re.compile(r"(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?", re.ASCII)

_decode_rows = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode

_UNREADABLE = (msgspec.ValidationError, ArithmeticError)


class Reader:
    """Reads what was returned of rows of a table: these columns, or all of them."""

    def __init__(self, table: Table, columns: Sequence[str] | None) -> None:
        self.table = table
        known = table.columns
        self._hints = {name: _hint(known[name]) for name in columns or known if name in known}
        self._readers = [
            (name, _READERS[type_])
            for name, type_ in ((name, _bare(known[name]).removesuffix("[]")) for name in self._hints)
            if type_ in _READERS
        ]
        of_row: Any = TypedDict("Row", {name: hint | None for name, hint in self._hints.items()})  # type: ignore[misc] # its keys are known at run time
        rows: Any = msgspec.json.Decoder(list[of_row], strict=False)  # else it would not take "NaN" for a float
        self._decode: Callable[[bytes], list[dict[str, Any]]] = rows.decode

    def rows(self, body: bytes) -> list[dict[str, Any]]:
        """The rows of a JSON array of objects."""
        try:
            rows = self._decode(body)
        except _UNREADABLE:
            rows = [
                {name: _read(raw, self._hints[name]) for name, raw in row.items() if name in self._hints}
                for row in _decode_rows(body)
            ]
        for name, read in self._readers:
            for row in rows:
                row[name] = _each(read, row.get(name))
        return rows


def _bare(column: Column) -> str:
    """Its type without modifiers, such as the number of digits."""
    return _MODIFIER.sub("", column.type)


def _hint(column: Column) -> Any:
    name = _bare(column)
    if column.kind is Kind.ARRAY and name.endswith("[]"):
        element = _TYPES.get(name.removesuffix("[]"))
        return Any if element is None else list[element | None]  # type: ignore[valid-type] # known at run time
    return _TYPES.get(name, _NUMBER if column.kind is Kind.NUMBER else Any)


def _read(raw: Raw, hint: Any) -> Any:
    """One value: of its type if it can be, else as JSON has it. Elements of arrays are read one by one."""
    try:
        return msgspec.json.decode(raw, type=hint | None, strict=False)
    except _UNREADABLE:
        if not bytes(raw).startswith(b"["):
            return msgspec.json.decode(raw)
    element = get_args(hint)[0] if get_origin(hint) is list else hint
    return [_read(each, element) for each in _decode_array(raw)]


def _each(read: Callable[[str], Any], value: Any) -> Any:
    """A text as `read` has it, and those in an array."""
    if isinstance(value, list):
        return [_each(read, each) for each in value]
    return read(value) if isinstance(value, str) else value


def _bytes(text: str) -> object:
    """Bytes in the notation that is PostgreSQL's default."""
    return bytes.fromhex(text[2:]) if text.startswith("\\x") else text


def _timedelta(text: str) -> object:
    """An interval of days and less in the notation that is PostgreSQL's default; months are no timedelta."""
    found = _INTERVAL.fullmatch(text)
    if found is None:
        return text
    days, sign, hours, minutes, seconds, fraction = found.groups()
    try:
        time_of_day = timedelta(
            hours=int(hours or 0),
            minutes=int(minutes or 0),
            seconds=int(seconds or 0),
            microseconds=int((fraction or "").ljust(6, "0")),
        )
        return timedelta(int(days or 0)) + (-time_of_day if sign == "-" else time_of_day)
    except OverflowError:
        return text


_READERS: dict[str, Callable[[str], object]] = {"bytea": _bytes, "interval": _timedelta}
"""Types that are a text in JSON, in a notation of PostgreSQL's own."""
