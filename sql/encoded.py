"""What codecs have in common: encoded rows, the dialect's words for bodies that are none, the columns of rows.

Owns which sets of columns rows of a table may have. Must not know how rows are encoded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar, cast

import msgspec
from msgspec import Raw, Struct

from sql.catalog import Table
from sql.errors import Fault, Rejected, unknown_column
from sql.shape import ListedShape, Shape

_SHAPES_MAX = 256
"""Sets of columns remembered per table; a producer with random keys must not grow memory."""

decode_row = msgspec.json.Decoder(dict[str, Raw]).decode
decode_rows = msgspec.json.Decoder(list[dict[str, Raw]]).decode
decode_elements = msgspec.json.Decoder(list[Raw]).decode

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no (acceptable) JSON, `ValidationError` included."""


Payload: TypeAlias = bytes | tuple[bytes, ...]
"""COPY text (from a `CopyCodec`; in pieces, if it is large) or JSON objects joined by commas (from a `RecordCodec`)."""


class Keyed(Struct, frozen=True):
    """JSON objects joined by commas, and the keys of these rows, by which they may be there already."""

    text: bytes
    keys: frozenset[tuple[str, ...]]


def runs(payloads: Iterable[object]) -> list[int]:
    """How many payloads each run has that may be written by one statement: none has a key in common with another one.

    A statement may change a row only once, but each request may change what the one before it has stored. Runs are in
    order, and not merged: keys that do not look equal may be so all the same.
    """
    lengths = [0]
    seen: set[tuple[str, ...]] = set()
    for payload in payloads:
        if isinstance(payload, Keyed):
            if not seen.isdisjoint(payload.keys):
                lengths.append(0)
                seen.clear()
            seen |= payload.keys
        lengths[-1] += 1
    return lengths


class Encoded(Struct, frozen=True):
    """Rows that are ready to be written: their columns in the table's order, the payload, and how many there are.

    `keys` are the keys that its rows have, as texts, if the codec was told which columns these are. Equal texts are
    most likely one key, different ones mostly different keys.

    A msgspec.Struct is made in a fifth of the time that a frozen dataclass takes, and one is made for each request.
    """

    columns: tuple[str, ...]
    payload: Payload
    rows: int
    keys: frozenset[tuple[str, ...]] | None = None

    @property
    def to_write(self) -> Payload | Keyed:
        """What the writer is given."""
        keys = self.keys
        return self.payload if keys is None else Keyed(cast("bytes", self.payload), keys)

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.payload) if self.payload.__class__ is bytes else sum(map(len, self.payload))  # type: ignore[arg-type] # the check is one that mypy does not know


_T = TypeVar("_T")

NO_ROWS = Encoded((), b"", 0)


def is_array(body: bytes) -> bool:
    """Whether a JSON body is an array: its first character that is not white space says so."""
    return body[:1] == b"[" or body.lstrip(b" \t\r\n")[:1] == b"["


def malformed() -> Rejected:
    """The dialect's answer to a body that is no JSON of the right kind."""
    return Rejected(Fault("PGRST102", "Empty or invalid json"))


def keys_differ() -> Rejected:
    """The dialect's answer to an array whose elements are not objects with the same keys."""
    return Rejected(Fault("PGRST102", "All object keys must match"))


def columns_of(table: Table, listed: Iterable[str] | None, *, defaults: bool) -> Columns:
    """What columns the rows of requests have that list these, or none; see `ListedShape` for `defaults`.

    Raises `Rejected` for a listed name that is no column or takes no values.
    """
    return Columns(table) if listed is None else ListedColumns(table, listed, defaults=defaults)


def in_order(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    """These columns in the table's order, each once. Raises `Rejected` for the first by name that is none."""
    wanted = frozenset(names)
    unknown = wanted.difference(table.columns)
    if unknown:
        raise unknown_column(table.name, min(unknown))
    return tuple([name for name in table.columns if name in wanted])


class Columns:
    """The sets of keys that rows of one table came with, checked once each."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._shapes: dict[frozenset[str], Shape] = {}

    def shape_of_all(self, rows: Sequence[Mapping[str, Raw]]) -> Shape:
        """The shape that all of these rows have, one at least. Raises `Rejected` also if their keys differ."""
        keys = rows[0].keys()
        for row in rows:
            if row.keys() != keys:
                raise keys_differ()
        return self.shape_of(keys)

    def shape_of(self, keys: Iterable[str]) -> Shape:
        """The shape with these keys. Raises `Rejected` for one that is no column or takes no values."""
        key_set = frozenset(keys)
        shape = self._shapes.get(key_set)
        if shape is None:
            shape = Shape(self.table, in_order(self.table, key_set))
            if len(self._shapes) >= _SHAPES_MAX:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key_set] = shape
        return shape


class ListedColumns(Columns):
    """The columns that requests have listed, which all of their rows have, whatever their keys are."""

    def __init__(self, table: Table, listed: Iterable[str], *, defaults: bool) -> None:
        super().__init__(table)
        self._shape = ListedShape(table, in_order(table, listed), defaults=defaults)

    def shape_of_all(self, rows: Sequence[Mapping[str, Raw]]) -> Shape:  # noqa: ARG002 - it does not depend on them
        """The one shape."""
        return self._shape

    def shape_of(self, keys: Iterable[str]) -> Shape:  # noqa: ARG002 - it does not depend on them
        """The one shape."""
        return self._shape


def result_of(steps: Generator[None, None, _T]) -> _T:
    """What a generator returns, when its steps need not be apart."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
