"""The codec of the recordset way: a request's body → JSON objects for `json_to_recordset`.

Owns what is looked at before PostgreSQL does: that each row is an object, its columns, and which rows may be the same
one. Must not know their values beyond that.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import msgspec
from msgspec import Raw

from sql.catalog import Table
from sql.encoded import (
    MALFORMED,
    NO_ROWS,
    Encoded,
    columns_of,
    decode_row,
    decode_rows,
    keys_differ,
    malformed,
    result_of,
)
from sql.errors import Rejected
from sql.pieces import PIECE_BYTES, array_in_pieces, lines_in_pieces
from sql.values import plain_text

_Rows = Sequence[Mapping[str, Raw]]
_Keys = set[tuple[str, ...]]


class RecordCodec:
    """Bodies → JSON objects for `json_to_recordset`: the rows stay as they came, only their keys are looked at.

    With `columns`, those are what all rows have, whatever their keys are, and `defaults` says whether one that a row
    lacks is its default instead of NULL; the reader of the objects must see to both. Raises `Rejected` for one that is
    none or takes no values. With `key`, the columns of a unique key, `Encoded.keys` has the keys of the rows.
    """

    def __init__(
        self,
        table: Table,
        *,
        columns: tuple[str, ...] | None = None,
        defaults: bool = False,
        key: tuple[str, ...] = (),
    ) -> None:
        self._columns = columns_of(table, columns, defaults=defaults)
        self._key = key
        self._has_key = columns is None or frozenset(key).issubset(columns)  # a key that is not listed is dropped

    def one(self, body: bytes) -> Encoded:
        """A JSON object. Raises `Rejected`."""
        return self._whole([_row(body, 1)], body.strip())

    def array(self, body: bytes) -> Encoded:
        """A JSON array of objects, which all have the same keys unless columns are listed. Raises `Rejected`."""
        rows = _rows(body)
        if rows is None:
            raise malformed()
        return self._whole(rows, body.strip()[1:-1])

    def array_steps(self, body: bytes) -> Generator[None, None, Encoded]:
        """The same. Yields between pieces of the work, if much."""
        if len(body) <= PIECE_BYTES:
            return self.array(body)
        joined = _Joined(self)

        def take(piece: bytes) -> bool:
            rows = _rows(piece)
            if rows is None:
                return False
            joined.add(rows, piece[1:-1])
            return True

        if not (yield from array_in_pieces(body, take)):
            raise malformed()
        return joined.encoded()

    def lines(self, body: bytes) -> Encoded:
        """Newline-delimited JSON objects, which all have the same keys unless columns are listed. Raises `Rejected`."""
        return result_of(self.lines_steps(body))

    def lines_steps(self, body: bytes) -> Generator[None, None, Encoded]:
        """The same. Yields between pieces of the work, if much."""
        joined = _Joined(self)
        number = 1
        for piece in lines_in_pieces(body):
            lines = [line for line in piece.split(b"\n") if line and not line.isspace()]
            rows = [_row(line, place) for place, line in enumerate(lines, number)]
            number += len(lines)
            joined.add(rows, b",".join(lines))
            yield
        return joined.encoded()

    def _whole(self, rows: _Rows, payload: bytes) -> Encoded:
        """All rows of a body."""
        if not rows:
            return NO_ROWS
        columns, keys = self.look_at(rows, payload)
        return Encoded(columns, payload, len(rows), None if keys is None else frozenset(keys))

    def look_at(self, rows: _Rows, payload: bytes) -> tuple[tuple[str, ...], _Keys | None]:
        """The columns of these rows, one at least, and their keys. Raises `Rejected`."""
        columns = self._columns.shape_of_all(rows).columns
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise malformed() from None
        if not self._key:
            return columns, None
        return columns, {key for row in rows if (key := _key_of(row, self._key))} if self._has_key else set()


class _Joined:
    """The rows of one body, looked at in pieces."""

    def __init__(self, codec: RecordCodec) -> None:
        self._codec = codec
        self._columns: tuple[str, ...] = ()
        self._payloads: list[bytes] = []
        self._rows = 0
        self._keys: _Keys | None = None

    def add(self, rows: _Rows, payload: bytes) -> None:
        """The next piece. Raises `Rejected`."""
        if not rows:
            return
        columns, keys = self._codec.look_at(rows, payload)
        if not self._rows:
            self._columns, self._keys = columns, keys
        elif columns != self._columns:
            raise keys_differ()
        elif self._keys is not None and keys is not None:
            self._keys |= keys
        self._payloads.append(payload)
        self._rows += len(rows)

    def encoded(self) -> Encoded:
        """All of them."""
        keys = None if self._keys is None else frozenset(self._keys)
        return Encoded(self._columns, b",".join(self._payloads), self._rows, keys)


def _rows(body: bytes) -> list[dict[str, Raw]] | None:
    """The rows of an array, None if it is no JSON. Raises `Rejected`."""
    try:
        return decode_rows(body)
    except msgspec.ValidationError:
        raise keys_differ() from None
    except MALFORMED:
        return None


def _row(line: bytes, number: int) -> dict[str, Raw]:
    try:
        return decode_row(line)
    except MALFORMED:
        raise Rejected(malformed().fault.at(number)) from None


def _key_of(row: Mapping[str, Raw], names: tuple[str, ...]) -> tuple[str, ...]:
    """The row's values in these columns; none where one is NULL: no other row can have the same."""
    key = []
    for name in names:
        raw = row.get(name)
        text = None if raw is None else plain_text(raw)
        if text is None:
            return ()
        key.append(text)
    return tuple(key)
