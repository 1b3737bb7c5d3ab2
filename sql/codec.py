"""The codec of the COPY way: a request's body → rows as lines of COPY text.

Owns what a body may look like and how rows with different keys are brought together. Must not know HTTP, batches or
connections: bytes in, `Encoded` out, `Rejected` with the dialect's words for whatever is wrong with the sender's rows.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import cast

import msgspec
from msgspec import Raw, Struct

from sql.catalog import Table
from sql.encoded import (
    MALFORMED,
    NO_ROWS,
    Encoded,
    Payload,
    columns_of,
    decode_row,
    decode_rows,
    keys_differ,
    malformed,
    result_of,
)
from sql.errors import Fault, Rejected, TooLarge
from sql.pieces import PIECE_BYTES, array_in_pieces
from sql.shape import Shape
from sql.values import DEFAULT, NULL

_COMPILE_AFTER_ROWS = 8
"""Generating a decoder costs about 0.5 ms, as much as 200 rows the slow way; not worth it for a stray set of keys."""

_PIECE_BYTES = 256 * 1024
"""A large payload is kept in pieces of about this size, and handled piece by piece: less than 3 ms of work each."""

_SEGMENTS_MAX = 256
"""Runs of rows with different keys that are kept as they came; more are brought to one form, which holds them all."""

_LONG_TEXT = 16 * 1024
"""Taking apart a text of this size takes some milliseconds."""

_SHORT_TEXT = 4 * 1024
"""A text up to this size is joined with the next one: alone, a short line takes ten times its bytes in memory."""

_WHOLE_BYTES_MAX = 4 * _PIECE_BYTES
"""Joining so much takes 0.1 ms; a payload up to this size is one piece."""


class CopyCodec:
    """Bodies → COPY text for one table. Remembers the shape used last and tries it first.

    `copy_default` says whether COPY has a marker for DEFAULT, `bytes_max` how large the text for one body may get.
    With `columns`, those are what all rows have, whatever their keys are; one that a row lacks is NULL, or with
    `defaults` its default, which takes the marker. Raises `Rejected` for one that is none or takes no values.
    """

    def __init__(
        self,
        table: Table,
        *,
        copy_default: bool,
        bytes_max: int,
        columns: tuple[str, ...] | None = None,
        defaults: bool = False,
    ) -> None:
        if defaults and not copy_default:
            raise ValueError("without a marker for DEFAULT, COPY has no defaults for rows that lack a column")
        self._columns = columns_of(table, columns, defaults=defaults)
        self._copy_default = copy_default
        self._bytes_max = bytes_max
        self._last: Shape | None = None  # a compiled one

    def one(self, body: bytes) -> Encoded:
        """A JSON object. Raises `Rejected`."""
        shape = self._last
        if shape is not None:
            try:
                line = shape.line_function(body)(shape.decode_row(body))
            except (*MALFORMED, Rejected):
                pass  # it may have other keys; the slow way finds out, or what is wrong
            else:
                return Encoded(shape.columns, line.encode(), 1)
        shape, line = self._row(body)
        return Encoded(shape.columns, line.encode(), 1)

    def array(self, body: bytes) -> Encoded:
        """A JSON array of objects, which all have the same keys unless columns are listed. Raises `Rejected`, with the
        row where there is one.
        """
        encoded = self._array(body, 1)
        if encoded is None:
            raise malformed()
        return encoded

    def array_steps(self, body: bytes) -> Generator[None, None, Encoded]:
        """The same. Yields between pieces of the work, if much. Raises also `TooLarge`."""
        if len(body) <= PIECE_BYTES:
            return self.array(body)
        columns: tuple[str, ...] | None = None
        texts: list[bytes] = []
        rows = size = 0

        def take(piece: bytes) -> bool:
            nonlocal columns, rows, size
            encoded = self._array(piece, rows + 1)
            if encoded is None:
                return False
            if columns is None:
                columns = encoded.columns
            elif columns != encoded.columns:
                raise keys_differ()
            texts.append(cast("bytes", encoded.payload))
            rows += encoded.rows
            size += encoded.size
            self.limit(size)
            return True

        if not (yield from array_in_pieces(body, take)):
            raise malformed()
        return Encoded(columns or (), (yield from _payload(texts)), rows)

    def _array(self, body: bytes, number: int) -> Encoded | None:
        """An array whose first row has this number, None if it is no JSON. Raises `Rejected`."""
        if self._last is not None:
            try:
                rows = self._last.decode_rows(body)
            except MALFORMED:
                pass
            else:
                text = _lines(self._last, rows, body)
                if text is not None:
                    return Encoded(self._last.columns, text.encode(), len(rows)) if rows else NO_ROWS
        try:
            values = decode_rows(body)
        except msgspec.ValidationError:
            raise keys_differ() from None
        except MALFORMED:
            return None
        if not values:
            return NO_ROWS
        shape = self._columns.shape_of_all(values)
        lines = [_located(shape, row, place) for place, row in enumerate(values, number)]
        self._saw(shape, len(values))
        return Encoded(shape.columns, "".join(lines).encode(), len(values))

    def lines(self) -> LineReader:
        """A reader for newline-delimited JSON."""
        return LineReader(self)

    # ---------------------------------------------------------------- for the line reader

    def slice(self, data: bytes) -> tuple[Shape, str, int] | None:
        """Whole lines of which all have the shape used last: (shape, COPY text, rows). None: go line by line."""
        shape = self._last
        if shape is None:
            return None
        try:
            rows = shape.decode_lines(data)
        except MALFORMED:
            return None
        # msgspec also takes values that share a line or span several, which the slow way refuses. Between a brace that
        # closes and one that opens there is a comma inside of a value, so these are the ends of lines between values.
        ends = data.count(b"}\n{") + data.count(b"}\r\n{") + 1
        if not len(rows) == data.count(b"\n") == ends:
            return None
        text = _lines(shape, rows, data)
        return None if text is None else (shape, text, len(rows))

    def row_of(self, line: bytes, number: int) -> tuple[Shape, str]:
        """One line, the slow way. Raises `Rejected` naming row `number`."""
        try:
            return self._row(line)
        except Rejected as error:
            raise Rejected(error.fault.at(number)) from None

    def union(self, segments: list[_Segment], rows: int) -> Generator[None, None, Encoded]:
        """So many rows with different keys: all columns that occur, with their default where a row has none.

        Yields between pieces of the work.
        """
        if not self._copy_default:
            raise Rejected(
                Fault("PGRST102", "All object keys must match", hint="Rows with different keys need PostgreSQL 16.")
            )
        shape = self._columns.shape_of(name for segment in segments for name in segment.shape.columns)
        places_of = {narrow: self._places(shape, narrow) for narrow in {segment.shape for segment in segments}}
        pieces: list[bytes] = []
        size = since = 0
        for segment in segments:
            places = places_of[segment.shape]
            if segment.shape is shape:
                pieces += segment.texts
                size += sum(map(len, segment.texts))
                continue
            for text in segment.texts:
                # Tabs and line ends inside values are escaped, so splitting finds the fields. A row without any field
                # is an empty line.
                lines = []
                for line in text.decode().split("\n")[:-1]:
                    fields = [*line.split("\t"), DEFAULT, NULL]
                    lines.append("\t".join([fields[place] for place in places]))
                lines.append("")
                pieces.append("\n".join(lines).encode())
                size += len(pieces[-1])
                self.limit(size)
                since += len(pieces[-1])
                if since >= _LONG_TEXT:
                    since = 0
                    yield
        return Encoded(shape.columns, (yield from _payload(pieces)), rows)

    def merged(self, segments: list[_Segment]) -> list[_Segment]:
        """The same rows as one segment, or as two, where the first is long and has fewer columns than the others.

        Raises `Rejected`, `TooLarge`.
        """
        first = segments[0]
        encoded = result_of(self.union([_Segment(first.shape), *segments[1:]], rows=0))
        has_all = encoded.columns == first.shape.columns
        merged = first if has_all else _Segment(self._columns.shape_of(encoded.columns))
        for text in [encoded.payload] if isinstance(encoded.payload, bytes) else encoded.payload:
            merged.add(text)
        return [first] if has_all else [first, merged]

    def limit(self, size: int) -> None:
        """Raise `TooLarge` if the text for one body has become that. A row without keys becomes as wide as the others
        or as what is listed, so a small body could fill the memory.
        """
        if size > self._bytes_max:
            raise TooLarge(self._bytes_max)

    def _places(self, shape: Shape, segment: Shape) -> list[int]:
        """Where the fields of the wide shape are in a row of the narrow one that DEFAULT and NULL were appended to.

        COPY takes the marker for DEFAULT only where there is one.
        """
        columns = self._columns.table.columns
        return [
            segment.columns.index(name) if name in segment.columns else -2 if columns[name].has_default else -1
            for name in shape.columns
        ]

    def _row(self, body: bytes) -> tuple[Shape, str]:
        try:
            values = decode_row(body)
        except MALFORMED:
            raise malformed() from None
        shape = self._columns.shape_of(values)
        line = _line(shape, values)
        self._saw(shape, 1)
        return shape, line

    def _saw(self, shape: Shape, rows: int) -> None:
        shape.rows_seen += rows
        if shape.rows_seen >= _COMPILE_AFTER_ROWS and shape.compilable and shape.columns:
            self._last = shape


class _Segment:
    """A run of rows with the same shape, as pieces of COPY text."""

    __slots__ = ("shape", "texts")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.texts: list[bytes] = []

    def add(self, text: bytes) -> None:
        """Rows behind those that are there."""
        if self.texts and len(self.texts[-1]) < _SHORT_TEXT:
            self.texts[-1] += text
        else:
            self.texts.append(text)


class LineReader:
    """Newline-delimited JSON, fed in chunks cut anywhere, as COPY text. Blank lines are skipped, CRLF is fine.

    Rows may have different keys where the database can be told "the default here" (PostgreSQL 16). Holds the encoded
    rows and at most one unfinished line of the source. Raises `Rejected` naming the row and `TooLarge`, from `feed` and
    `finish`.
    """

    def __init__(self, codec: CopyCodec) -> None:
        self._codec = codec
        self._rest: list[bytes] = []  # pieces of an unfinished line; joining them one by one would be quadratic
        self._rows = self._size = 0
        self._segments: list[_Segment] = []
        self._before: list[_Segment] = []  # long ones, each with more columns than the one before it

    def feed(self, chunk: bytes) -> None:
        """Encode the lines that this chunk completes."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._rest.append(chunk)
            return
        self._take(b"".join([*self._rest, chunk[:end]]))
        self._rest = [chunk[end:]] if end < len(chunk) else []

    def finish(self) -> Encoded:
        """All rows, in one go; see `finishing`."""
        return result_of(self.finishing())

    def finishing(self) -> Generator[None, None, Encoded]:
        """Encode a last line without a line end and return all rows. Yields between pieces of the work, if much."""
        if self._rest:
            self._take(b"".join([*self._rest, b"\n"]))
            self._rest = []
        segments = self._before + self._segments
        if not segments:
            return NO_ROWS
        columns = segments[0].shape.columns
        if any(segment.shape.columns != columns for segment in segments):
            return (yield from self._codec.union(segments, self._rows))
        payload = yield from _payload([text for segment in segments for text in segment.texts])
        return Encoded(columns, payload, self._rows)

    def _take(self, data: bytes) -> None:
        """Whole lines."""
        fast = self._codec.slice(data)
        if fast is not None:
            self._add(*fast)
            return
        for line in data.split(b"\n"):
            if line and not line.isspace():
                self._add(*self._codec.row_of(line, self._rows + 1), 1)

    def _add(self, shape: Shape, text: str, rows: int) -> None:
        if not rows:
            return
        self._rows += rows
        if not self._segments or self._segments[-1].shape is not shape:
            if len(self._segments) >= _SEGMENTS_MAX:
                *before, last = self._codec.merged(self._segments)
                self._before += before
                self._segments = [last]
            self._segments.append(_Segment(shape))
        encoded = text.encode()
        self._segments[-1].add(encoded)
        self._size += len(encoded)
        self._codec.limit(self._size)


def _payload(pieces: list[bytes]) -> Generator[None, None, Payload]:
    """One piece, or several of a good size where that would be a large one. Yields between them.

    Memory stays at about that of the rows: what is joined is let go of.
    """
    if sum(map(len, pieces)) <= _WHOLE_BYTES_MAX:
        return b"".join(pieces)
    joined: list[bytes] = []
    group: list[bytes] = []
    size = 0
    pieces.reverse()
    while pieces:
        group.append(pieces.pop())
        size += len(group[-1])
        if size >= _PIECE_BYTES or not pieces:
            joined.append(b"".join(group))
            group.clear()
            size = 0
            yield
    return tuple(joined)


def _lines(shape: Shape, rows: list[Struct], source: bytes) -> str | None:
    """All rows as lines, or None if one of them is bad."""
    try:
        return "".join(map(shape.line_function(source), rows))
    except (Rejected, *MALFORMED):
        return None


def _line(shape: Shape, values: dict[str, Raw]) -> str:
    try:
        return shape.line(values)
    except MALFORMED:
        raise malformed() from None


def _located(shape: Shape, values: dict[str, Raw], number: int) -> str:
    try:
        return _line(shape, values)
    except Rejected as error:
        raise Rejected(error.fault.at(number)) from None
