"""Rows as Python has them → the JSON body of a request, by the rules of the dialect.

Owns which Python values may be sent, and as what: PostgreSQL reads the text, so nothing may be lost on the way there.
Must not know what becomes of the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from types import NoneType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeGuard
from uuid import UUID

import msgspec
from pydantic import BaseModel

from sql import Column, Kind, Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row: TypeAlias = "Mapping[str, Any] | DataclassInstance | msgspec.Struct | BaseModel"
"""What may be one row: a mapping (a TypedDict is one), a dataclass instance, a Struct or a model."""

_PIECE_ROWS = 500
"""Rows that are encoded in one go; they take a millisecond or two."""

_AS_THEY_ARE = frozenset({str, int, bool, NoneType, date, UUID})
"""msgspec writes these as PostgreSQL reads them, whatever the column."""

# A Decimal as a number keeps its digits, and is a number in json columns too.
_encode = msgspec.json.Encoder(decimal_format="number").encode

_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


class TableUnknown(Exception):
    """How a value is to be written depends on its column, and the table is not known."""


def is_row(rows: object) -> TypeGuard[Row]:
    """Whether it is one row, not several."""
    if isinstance(rows, (dict, BaseModel, msgspec.Struct, Mapping)):  # Mapping last: asking it takes the longest
        return True
    return dataclasses.is_dataclass(rows) and not isinstance(rows, type)


def body_of(row: Row, table: Table | None) -> bytes:
    """One row as a JSON object. Raises TypeError and ValueError that name the column, and `TableUnknown`."""
    values = row if row.__class__ is dict else _mapping(row, 1)
    return _encoded(values if _is_plain(values) else _converted(values, 1, table), [values])


class Body:
    """Several rows, to become a JSON array. `names` are all that occur, `differs` says that not each row has all."""

    def __init__(self, rows: Sequence[Row], table: Table | None) -> None:
        self._rows = rows
        self._table = table
        self.names: set[str] = set()
        self.differs = False

    def encoding(self) -> Generator[None, None, bytes]:
        """The array. Yields between pieces of the work. Raises as `body_of`, and names the row, counted from 1."""
        pieces = []
        for start in range(0, len(self._rows), _PIECE_ROWS):
            if start:
                yield
            pieces.append(self._piece(start))
        return b"[" + b",".join(pieces) + b"]"

    def _piece(self, start: int) -> bytes:
        rows = [
            row if row.__class__ is dict else _mapping(row, number)
            for number, row in enumerate(self._rows[start : start + _PIECE_ROWS], start + 1)
        ]
        if not start:
            self.names.update(rows[0])
        if not all(row.keys() == self.names for row in rows):
            self.differs = True
            self.names.update(*rows)
        values = [
            row if _is_plain(row) else _converted(row, number, self._table)
            for number, row in enumerate(rows, start + 1)
        ]
        return _encoded(values, values, start)[1:-1]


def _mapping(row: Row, number: int) -> Mapping[str, Any]:
    """The columns of a row that is no dict. Fields that are not set (`msgspec.UNSET`) are no columns."""
    fields = _fields(row)
    if fields is not None:
        return fields
    if not isinstance(row, Mapping):
        raise TypeError(f"row {number}: {_type(row)} is no row")
    return dict(row)


def _fields(value: object) -> dict[str, Any] | None:
    """The fields of a dataclass instance, a Struct or a model by their names; None for anything else."""
    if isinstance(value, BaseModel):
        extra = value.__pydantic_extra__
        return {**value.__dict__, **extra} if extra else value.__dict__
    if isinstance(value, msgspec.Struct):
        return {name: field for name, field in msgspec.structs.asdict(value).items() if field is not msgspec.UNSET}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Whether msgspec writes each value as PostgreSQL reads it. 0.1 µs a value; it is so with nearly all rows."""
    for value in row.values():
        kind = value.__class__
        if kind in _AS_THEY_ARE:
            continue
        if kind is float:
            if isfinite(value):  # else msgspec would write null
                continue
        elif kind is datetime and _has_whole_minutes(value):
            continue
        return False
    return True


def _has_whole_minutes(moment: datetime | time) -> bool:
    """Whether its zone is so many minutes from UTC. Before 1972 some have seconds, which msgspec would drop."""
    offset = moment.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


def _converted(row: Mapping[str, Any], number: int, table: Table | None) -> dict[str, Any]:
    """The row as msgspec can write it. Raises TypeError, ValueError, `TableUnknown`."""
    converted = {}
    for name, value in row.items():
        try:
            converted[name] = _Converter(name, table).convert(value)
        except (TypeError, ValueError, RecursionError) as error:
            _blame(error, number, name)
    return converted


class _Converter:
    """Converts the values of one column, whose type is looked up if that matters: JSON has no word for NaN or bytes,
    but the input functions of other types have.
    """

    def __init__(self, name: str, table: Table | None) -> None:
        self._name = name
        self._table = table

    def convert(self, value: object) -> object:  # noqa: C901, PLR0911 - a table, whose rows are types
        if value.__class__ in _AS_THEY_ARE:
            return value
        match value:
            case Enum():
                return self.convert(value.value)
            case float() | Decimal():
                return self._number(value)
            case str():  # subclasses of these, which msgspec does not know
                return str.__str__(value)
            case int():
                return int(value)
            case datetime() | date() | time():
                return value.isoformat()
            case timedelta():
                # PostgreSQL keeps days and seconds apart, as Python does.
                return f"P{value.days}DT{value.seconds}.{value.microseconds:06}S"
            case UUID():
                return str(value)
            case bytes() | bytearray() | memoryview():
                return self._bytes(value)
            case Mapping():
                return {self._key(key): self.convert(each) for key, each in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.convert(each) for each in value]
        fields = _fields(value)
        if fields is None:
            raise TypeError(f"cannot store {_type(value)}")
        return {name: self.convert(each) for name, each in fields.items()}

    def _number(self, value: float | Decimal) -> object:
        exact = Decimal(value)
        if exact.is_finite():
            return float(value) if isinstance(value, float) else exact
        if self._is_json():
            raise ValueError(f"JSON has no {value}")
        return "NaN" if exact.is_nan() else "-Infinity" if exact.is_signed() else "Infinity"

    def _bytes(self, value: bytes | bytearray | memoryview) -> str:
        column = self._column()
        # In any other column, the notation for the bytes would be the text.
        if self._is_json() or (column is not None and column.value.name != "bytea"):
            raise TypeError(f"cannot store {_type(value)} in a column of type {column.type if column else 'json'}")
        return f"\\x{value.hex()}"

    def _key(self, key: object) -> str:
        if not isinstance(key, str):
            raise TypeError(f"cannot store a mapping with a key that is {_type(key)}")
        return str.__str__(key)

    def _is_json(self) -> bool:
        column = self._column()
        return column is not None and (column.kind is Kind.JSON or column.json_elements)

    def _column(self) -> Column | None:
        """The column; None for a name that is none, which others refuse."""
        if self._table is None:
            raise TableUnknown
        return self._table.columns.get(self._name)


def _encoded(values: object, rows: Sequence[Mapping[str, Any]], start: int = 0) -> bytes:
    """`values`, which are `rows` or the only one of them, as JSON. Raises TypeError, ValueError."""
    try:
        return _encode(values)
    except _UNENCODABLE as error:
        for number, row in enumerate(rows, start + 1):
            for name, value in row.items():
                try:
                    _encode({name: value})
                except _UNENCODABLE as found:
                    _blame(found, number, name)
        raise ValueError(f"cannot be written as JSON: {error}") from error


def _blame(error: Exception, number: int, name: object) -> NoReturn:
    """Say which value it was."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(f"row {number}, column {name}: {error}") from error


def _type(value: object) -> str:
    """The type of a value, for people."""
    kind = type(value)
    return f"a value of type {kind.__qualname__}"
