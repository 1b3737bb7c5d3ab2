"""What codecs have in common: encoded rows, the dialect's words for bodies that are none, the columns of rows.

Owns which sets of columns rows of a table may have. Must not know how rows are encoded.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from sql.catalog import Table
from sql.errors import Fault, Rejected, unknown_column
from sql.shape import Shape

_SHAPES_MAX = 256
"""Sets of columns remembered per table; a producer with random keys must not grow memory."""

decode_row = msgspec.json.Decoder(dict[str, Raw]).decode
decode_rows = msgspec.json.Decoder(list[dict[str, Raw]]).decode
decode_elements = msgspec.json.Decoder(list[Raw]).decode

MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are no (acceptable) JSON, `ValidationError` included."""


Payload: TypeAlias = bytes | tuple[bytes, ...]
"""COPY text (from a `CopyCodec`; in pieces, if it is large) or JSON objects joined by commas (from a `RecordCodec`)."""


class Encoded(Struct, frozen=True):
    """Rows that are ready to be written: their columns in the table's order, the payload, and how many there are.

    A msgspec.Struct is made in a fifth of the time that a frozen dataclass takes, and one is made for each request.
    """

    columns: tuple[str, ...]
    payload: Payload
    rows: int

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


class Columns:
    """The sets of keys that rows of one table came with, checked once each."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._shapes: dict[frozenset[str], Shape] = {}

    def shape_of(self, keys: Iterable[str]) -> Shape:
        """The shape with these keys. Raises `Rejected` for one that is no column or takes no values."""
        key_set = frozenset(keys)
        shape = self._shapes.get(key_set)
        if shape is None:
            unknown = key_set.difference(self.table.columns)
            if unknown:
                raise unknown_column(self.table.name, min(unknown))
            shape = Shape(self.table, [name for name in self.table.columns if name in key_set])
            if len(self._shapes) >= _SHAPES_MAX:
                del self._shapes[next(iter(self._shapes))]
            self._shapes[key_set] = shape
        return shape


def result_of(steps: Generator[None, None, _T]) -> _T:
    """What a generator returns, when its steps need not be apart."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _T = end.value
            return result
