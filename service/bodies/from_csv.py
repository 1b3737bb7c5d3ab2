"""CSV bodies → NDJSON: each row a JSON object of strings, or null where a field is a bare `NULL`.

Owns what a CSV may look like: RFC 4180, with any line end. The first record names the columns; blank lines are skipped.
Must not know tables: a column that there is none of is the codec's affair.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import starmap
from typing import cast

import msgspec

from service.problems import Refused, body_malformed

_RECORD_BYTES_MAX = 4 * 1024 * 1024
"""The csv module takes 10 ns and 4 to 8 bytes of memory for each byte of a field, in one go. And a quote without its
counterpart is found out after so much."""

_COLUMNS_MAX = 1664
"""PostgreSQL has no more in a row, be it of a table or a view."""

_WRITTEN_BYTES = 32 * 1024
"""Names of columns that are written at once: rows may be a thousand times as large in JSON as in CSV."""

_ROWS_AT_ONCE = 500
"""Rows that are written at once: 0.5 ms, if they are not wide."""

_REMEMBERED_CHARACTERS_MAX = 8 * 1024
"""Names of columns that are worth remembering; a table with more has hundreds."""

_LINES_AT_ONCE = 1000
"""Line ends that are looked at one by one, where something is wrong: 0.5 ms."""

_BOM = b"\xef\xbb\xbf"

_find_line_ends = re.compile(rb"\r\n?|\n").finditer

# A quote behind or before anything but a comma, a line end or another quote. RFC 4180 has no such thing.
_find_stray = re.compile(r'[^",\r\n]"|"[^",\r\n]').search

# The field "NULL", which is a string. In an uneven place the quotes of a field are doubled.
_quoted_null = re.compile(r'(?<![^,\r\n])"NULL"(?![^,\r\n])')
_MARK = "\udfff"
"""Stands for that field: no UTF-8 decodes to it."""

_VALUES: dict[str, str | None] = {"NULL": None, _MARK: "NULL"}

_encode_lines = msgspec.json.Encoder().encode_lines

Record = list[str | None]


def rows_of_csv(pieces: Iterable[bytes], _bytes_max: int) -> Iterator[bytes]:
    """The rows as NDJSON, in pieces that can be read at once. An empty piece is a breath. Raises `Refused`.

    What is wrong is told of the first place where something is, after the rows before it, however the body was cut.
    """
    rows = _Rows()
    for block in _blocks(_without_bom(pieces)):
        try:
            records = _parsed(block)
        except ValueError:
            for record in _singly(block):
                yield from rows.take(rows.parsed(record))
        else:
            yield from rows.take(records)
    if not rows.has_names:
        raise Refused(body_malformed("The body has no line that names the columns"))


class _Rows:
    """The rows of one body; `has_names` when there was a first record, with the names of the columns."""

    def __init__(self) -> None:
        self.has_names = False
        self._taken = 0
        self._width = 0
        self._places: list[int] | None = None
        self._at_once = 1
        self._encode: _Encode = _encode_lines

    def parsed(self, record: bytes) -> list[Record]:
        """What is in the block of the next record. Raises `Refused`."""
        try:
            return _parsed(record)
        except ValueError as error:
            raise self._refused(str(error)) from None

    def take(self, records: list[Record]) -> Iterator[bytes]:
        """The next records as NDJSON."""
        if not self.has_names and records:
            self._begin(["NULL" if name is None else name for name in records.pop(0)])
        if not records:
            yield b""
        for start in range(0, len(records), self._at_once):
            some = records[start : start + self._at_once]
            good = len(some)
            if set(map(len, some)) != {self._width}:
                good = next(place for place, record in enumerate(some) if len(record) != self._width)
            yield self._lines(some[:good])
            if good < len(some):
                raise self._refused("All lines must have same number of fields")

    def _begin(self, names: list[str]) -> None:
        if len(names) > _COLUMNS_MAX:
            raise Refused(body_malformed(f"The first line names more than {_COLUMNS_MAX} columns"))
        self.has_names = True
        self._width = len(names)
        last = {name: place for place, name in enumerate(names)}  # as of the keys of a JSON object, the last counts
        self._places = list(last.values()) if len(last) < len(names) else None
        self._encode = _encoder(tuple(last))
        self._at_once = max(1, min(_ROWS_AT_ONCE, _WRITTEN_BYTES // (sum(map(len, last)) + 1)))

    def _lines(self, records: list[Record]) -> bytes:
        self._taken += len(records)
        if self._places is not None:
            records = [[record[place] for place in self._places] for record in records]
        return self._encode(records)

    def _refused(self, message: str) -> Refused:
        """The record behind those that were taken is not what it should be."""
        return Refused(body_malformed(message, row=self._taken + 1 if self.has_names else None))


_Encode = Callable[[Iterable[Record]], bytes]


def _encoder(names: tuple[str, ...]) -> _Encode:
    """The function from records with these columns to lines."""
    if sum(map(len, names)) <= _REMEMBERED_CHARACTERS_MAX:
        fast = _struct_encoder(names)
        if fast is not None:
            return fast
    return lambda records: _encode_lines([dict(zip(names, record, strict=True)) for record in records])


@lru_cache(maxsize=64)
def _struct_encoder(names: tuple[str, ...]) -> _Encode | None:
    """The same by a struct, in two thirds of the time. Making its type takes as long as ten rows.

    None if a name has a character that JSON escapes.
    """
    try:
        row = msgspec.defstruct(
            "Row",
            [(f"c{i}", object) for i in range(len(names))],
            rename={f"c{i}": name for i, name in enumerate(names)},
            gc=False,
        )
    except ValueError:
        return None
    return lambda records: _encode_lines(starmap(row, records))


def _parsed(block: bytes) -> list[Record]:
    """The records of a block of whole ones. Raises `ValueError`, with what is wrong."""
    try:
        text = block.decode()
    except UnicodeDecodeError:
        raise ValueError("The body is not UTF-8") from None
    if '"' not in text:  # the csv module takes twice as long
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        records: list[list[str]] = [line.split(",") for line in text.split("\n") if line]
    else:
        if _find_stray('"'.join(text.split('"')[::2])):  # what is outside of quotes
            raise ValueError('A field with quotes must be in quotes, and the quotes doubled ("")')
        if '"NULL"' in text:
            text = _quoted_null.sub(_MARK, text)
        before = csv.field_size_limit(len(text))  # of the whole process, which is not ours alone
        try:
            # StringIO knows all line ends, and leaves those in quotes alone. A blank line is a record without fields.
            records = list(filter(None, csv.reader(io.StringIO(text, newline=""), strict=True)))
        finally:
            csv.field_size_limit(before)
    if "NULL" in text or _MARK in text:
        return [list(map(_VALUES.get, record, record)) for record in records]
    return cast("list[Record]", records)


# -------------------------------------------------------------------- where records end


def _blocks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole records, some at a time. An empty one is a breath. Raises `Refused`."""
    rest: list[bytes] = []  # of a record that has not ended
    quotes = size = 0  # in the rest
    for piece in pieces:
        end = _last_end(piece, quotes)
        if end:
            yield b"".join([*rest, piece[:end]])
            rest, quotes, size = [], 0, 0
        else:
            yield b""
        if end < len(piece):
            rest.append(piece[end:])
            quotes += piece.count(b'"', end)
            size += len(piece) - end
        if size > _RECORD_BYTES_MAX:
            raise Refused(body_malformed(f"A line is longer than {_RECORD_BYTES_MAX} bytes, or a quote does not end"))
    if quotes % 2:
        raise Refused(body_malformed("A quote does not end"))
    if rest:
        yield b"".join(rest)


def _singly(block: bytes) -> Iterator[bytes]:
    """The records of a block one by one. An empty one is a breath."""
    start = quotes = at = 0
    for number, line_end in enumerate(_find_line_ends(block)):
        quotes += block.count(b'"', at, line_end.end())
        at = line_end.end()
        if quotes % 2 == 0:
            yield block[start:at]
            start = at
        elif number % _LINES_AT_ONCE == 0:
            yield b""
    if start < len(block):
        yield block[start:]


def _last_end(piece: bytes, quotes: int) -> int:
    """Where the last record ends that ends in the piece, 0 if none does. Before it are so many quotes of a record.

    A line end is in quotes if the number of quotes before it is odd. What is not RFC 4180 may be cut in a wrong place;
    it is refused all the same, by what is around its quotes.
    """
    line_end = b"\n" if b"\n" in piece else b"\r"
    end = len(piece)
    quotes += piece.count(b'"')
    while True:
        at = piece.rfind(line_end, 0, end) + 1
        if not at:
            return 0
        quotes -= piece.count(b'"', at, end)
        if quotes % 2 == 0:
            return at
        end = piece.rfind(b'"', 0, at)
        if end < 0:
            return 0  # the quote began before the piece
        quotes -= 1


def _without_bom(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Spreadsheets put it at the beginning. Pieces may be shorter than it."""
    start = b""
    iterator = iter(pieces)
    for piece in iterator:
        start += piece
        if len(start) >= len(_BOM):
            break
    yield start.removeprefix(_BOM)
    yield from iterator
