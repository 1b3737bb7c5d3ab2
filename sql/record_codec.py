"""The codec of the recordset way: a request's body → JSON objects for `json_to_recordset`.

Owns what is looked at before PostgreSQL does: that each row is an object, and its keys. Must not know its values.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import cast

import msgspec

from sql.catalog import Table
from sql.encoded import (
    MALFORMED,
    NO_ROWS,
    Columns,
    Encoded,
    decode_row,
    decode_rows,
    keys_differ,
    malformed,
    result_of,
)
from sql.errors import Rejected
from sql.pieces import PIECE_BYTES, array_in_pieces, lines_in_pieces


class RecordCodec:
    """Bodies → JSON objects for `json_to_recordset`: the rows stay as they came, only their keys are looked at."""

    def __init__(self, table: Table) -> None:
        self._columns = Columns(table)

    def one(self, body: bytes) -> Encoded:
        """A JSON object. Raises `Rejected`."""
        return self._rows([_keys(body, 1)], body.strip())

    def array(self, body: bytes) -> Encoded:
        """A JSON array of objects that all have the same keys. Raises `Rejected`."""
        try:
            rows = decode_rows(body)
        except msgspec.ValidationError:
            raise keys_differ() from None
        except MALFORMED:
            raise malformed() from None
        return self._rows([row.keys() for row in rows], body.strip()[1:-1])

    def array_steps(self, body: bytes) -> Generator[None, None, Encoded]:
        """The same. Yields between pieces of the work, if much."""
        if len(body) <= PIECE_BYTES:
            return self.array(body)
        pieces: list[Encoded] = []

        def take(piece: bytes) -> bool:
            try:
                rows = decode_rows(piece)
            except msgspec.ValidationError:
                raise keys_differ() from None
            except MALFORMED:
                return False
            pieces.append(self._rows([row.keys() for row in rows], piece[1:-1]))
            return True

        if not (yield from array_in_pieces(body, take)):
            raise malformed()
        return _joined(pieces)

    def lines(self, body: bytes) -> Encoded:
        """Newline-delimited JSON objects that all have the same keys. Raises `Rejected`."""
        return result_of(self.lines_steps(body))

    def lines_steps(self, body: bytes) -> Generator[None, None, Encoded]:
        """The same. Yields between pieces of the work, if much."""
        pieces: list[Encoded] = []
        number = 1
        for piece in lines_in_pieces(body):
            lines = [line for line in piece.split(b"\n") if line and not line.isspace()]
            keys = [_keys(line, place) for place, line in enumerate(lines, number)]
            number += len(lines)
            pieces.append(self._rows(keys, b",".join(lines)))
            yield
        return _joined(pieces)

    def _rows(self, keys: list[Iterable[str]], payload: bytes) -> Encoded:
        if not keys:
            return NO_ROWS
        key_sets = {frozenset(row) for row in keys}
        if len(key_sets) > 1:
            raise keys_differ()
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise malformed() from None
        return Encoded(self._columns.shape_of(key_sets.pop()).columns, payload, len(keys))


def _joined(pieces: list[Encoded]) -> Encoded:
    """JSON objects of one request that were looked at in pieces."""
    pieces = [piece for piece in pieces if piece.rows]
    if any(piece.columns != pieces[0].columns for piece in pieces):
        raise keys_differ()
    if len(pieces) <= 1:
        return pieces[0] if pieces else NO_ROWS
    payload = b",".join([cast("bytes", piece.payload) for piece in pieces])
    return Encoded(pieces[0].columns, payload, sum(piece.rows for piece in pieces))


def _keys(line: bytes, number: int) -> Iterable[str]:
    try:
        return decode_row(line)
    except MALFORMED:
        raise Rejected(malformed().fault.at(number)) from None
