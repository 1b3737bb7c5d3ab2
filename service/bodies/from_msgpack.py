"""MessagePack bodies → JSON: a map is a row, an array of maps is many (https://github.com/msgpack/msgpack).

Owns how its values are written, so that PostgreSQL reads them by the column's type: binary data in the hexadecimal form
of bytea, timestamps by RFC 3339 with all their digits, floats that JSON does not have as strings. Must not know tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from struct import Struct
from types import GenericAlias
from typing import Any

import msgspec
from msgpack import OutOfData, Unpacker  # type: ignore[import-untyped]
from msgpack.exceptions import UnpackException  # type: ignore[import-untyped]

from service.problems import Refused, body_malformed, body_too_large

_WINDOW_BYTES = 64 * 1024
"""In so much it is looked at once where rows end: 0.3 ms."""

_SLICE_BYTES = 32 * 1024
"""Rows that are converted at once: 0.5 ms if they are usual ones."""

_ROWS_AT_ONCE = 1000

_VALUES_BYTES = 4 * 1024
"""Values that are converted one by one, before others have their turn: 3 ms if they have a byte each."""

_DEPTH = 4
"""How deep arrays and maps may be for the fast way."""


def json_of_msgpack(body: bytes, bytes_max: int) -> Iterator[bytes]:
    """The body as JSON, no row larger than `bytes_max`. An empty piece is a breath. Raises `Refused`."""
    container = _CONTAINERS.get(body[0]) if body else None
    if container is None:
        raise _refused("A MessagePack body is a map, or an array of maps")
    if container.is_map:
        for piece, rows in _slices(body, 0, 1):
            yield from _converted(piece, rows, bytes_max) if piece else (piece,)
        return
    count, start = container.read(body, 1)
    if start > len(body):
        raise _refused(_NOT_COMPLETE)
    before = b"["
    for piece, rows in _slices(body, start, count):
        if piece:
            yield before
            yield from _converted(piece, rows, bytes_max)
            before = b","
        else:
            yield b""
    yield b"]" if count else b"[]"


def _slices(body: bytes, start: int, count: int) -> Iterator[tuple[bytes, int]]:
    """So many values that begin there, some at a time, and how many. Nothing at all is a breath. Raises `Refused`.

    Nothing is built of them: a length that is declared, but not there, takes no memory.
    """
    unpacker = Unpacker(max_buffer_size=len(body))
    fed = start
    taken = start  # up to here they were yielded
    waiting = 0
    for number in range(1, count + 1):
        while True:
            try:
                unpacker.skip()
            except OutOfData:
                if fed == len(body):
                    raise _refused(_NOT_COMPLETE) from None
                if fed > start:
                    yield b"", 0
                unpacker.feed(body[fed : fed + _WINDOW_BYTES])
                fed = min(fed + _WINDOW_BYTES, len(body))
            except (ValueError, UnpackException) as error:
                raise _refused("The body is no MessagePack data", str(error) or type(error).__name__) from None
            else:
                break
        waiting += 1
        end = start + unpacker.tell()
        if end - taken >= _SLICE_BYTES or waiting == _ROWS_AT_ONCE or number == count:
            yield body[taken:end], waiting
            taken, waiting = end, 0
    if taken < len(body):
        raise _refused("There is something behind the MessagePack data")


def _converted(data: bytes, count: int, bytes_max: int) -> Iterator[bytes]:
    """So many values as JSON, with commas between them."""
    if len(data) <= 2 * _SLICE_BYTES and not _find_no_number(data):
        try:
            rows = _decode_rows(b"\xdd%b%b" % (count.to_bytes(4), data))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # it has values of other types, or is wrong; which, the slow way finds out
        else:
            yield _encode(rows)[1:-1]
            return
    yield from _converted_one_by_one(data, count, bytes_max)


# -------------------------------------------------------------------- the fast way


def _plain_type() -> Any:
    """What has the same meaning in JSON; msgspec must not find anything else."""
    scalar: Any = bool | int | float | str | None
    value = scalar
    for _ in range(_DEPTH):
        value = scalar | GenericAlias(list, (value,)) | GenericAlias(dict, (str, value))
    return GenericAlias(list, (GenericAlias(dict, (str, value)),))


_decode_rows = msgspec.msgpack.Decoder(_plain_type()).decode
_encode = msgspec.json.Encoder().encode

# NaN or an infinity, which msgspec would write as null; or something that looks like it, once in a million floats.
_find_no_number = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]").search


# -------------------------------------------------------------------- the slow way


def _converted_one_by_one(data: bytes, count: int, bytes_max: int) -> Iterator[bytes]:
    """The same for any values. Holds no objects but the pieces of JSON: a body of empty maps would fill the memory.

    That the data is complete, and not too deep, was seen before.
    """
    out: list[bytes] = []
    around: list[tuple[int, bool]] = []  # the containers that are open, but for the innermost
    left, is_map = count, False  # how many keys and values are still to come in that, and whether it is a map
    at = since = size = 0
    while left:
        kind = data[at]
        if is_map and left % 2 == 0 and kind not in _STRINGS:
            raise _refused("The MessagePack data has a key that is no string")
        container = _CONTAINERS.get(kind)
        if container is None:
            text, at = _SCALARS[kind](data, at + 1)
            out.append(text)
            left -= 1
        else:
            entries, at = container.read(data, at + 1)
            out.append(b"{" if container.is_map else b"[")
            around.append((left, is_map))
            left, is_map = (2 * entries, True) if container.is_map else (entries, False)
            if left:
                continue
        while not left and around:
            out.append(b"}" if is_map else b"]")
            left, is_map = around.pop()
            left -= 1
        if left:
            out.append(b":" if is_map and left % 2 else b",")
        if at - since >= _VALUES_BYTES or not left:
            since = at
            piece = b"".join(out)
            out.clear()
            size += len(piece)
            if size > bytes_max:
                raise Refused(body_too_large(bytes_max, "written as JSON"))
            yield piece


_Read = Callable[[bytes, int], tuple[bytes, int]]
"""From the data and where a value goes on behind its first byte, to its JSON and where it ends."""

_ReadLength = Callable[[bytes, int], tuple[int, int]]


class _Container:
    """An array or a map. `read` gives the number of its entries, and where they begin."""

    def __init__(self, read: _ReadLength, *, is_map: bool) -> None:
        self.read = read
        self.is_map = is_map


def _fixed_length(length: int) -> _ReadLength:
    return lambda _data, at: (length, at)


def _length(size: int) -> _ReadLength:
    return lambda data, at: (int.from_bytes(data[at : at + size]), at + size)


def _fixed(text: bytes) -> _Read:
    return lambda _data, at: (text, at)


def _string(length: _ReadLength) -> _Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        size, at = length(data, at)
        try:
            return _encode(str(data[at : at + size], "utf-8")), at + size
        except UnicodeDecodeError:
            raise _refused("A string that is not UTF-8") from None

    return read


def _binary(length: _ReadLength) -> _Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        size, at = length(data, at)
        return b'"\\\\x%b"' % data[at : at + size].hex().encode(), at + size

    return read


def _integer(size: int, *, signed: bool) -> _Read:
    return lambda data, at: (b"%d" % int.from_bytes(data[at : at + size], signed=signed), at + size)


def _float(form: str) -> _Read:
    unpack, size = Struct(form).unpack_from, Struct(form).size

    def read(data: bytes, at: int) -> tuple[bytes, int]:
        (number,) = unpack(data, at)
        if math.isfinite(number):
            return _encode(number), at + size
        return b'"NaN"' if math.isnan(number) else b'"Infinity"' if number > 0 else b'"-Infinity"', at + size

    return read


def _extension(length: _ReadLength) -> _Read:
    def read(data: bytes, at: int) -> tuple[bytes, int]:
        size, at = length(data, at)
        if size not in _TIMESTAMPS or data[at] != 0xFF:
            raise _refused("An extension type that is no timestamp")
        end = at + 1 + size
        return _moment(*_TIMESTAMPS[size](data[at + 1 : end])), end

    return read


_TIMESTAMPS: dict[int, Callable[[bytes], tuple[int, int]]] = {
    4: lambda data: (int.from_bytes(data), 0),
    8: lambda data: (int.from_bytes(data) & 0x3_FFFF_FFFF, int.from_bytes(data) >> 34),
    12: lambda data: (int.from_bytes(data[4:], signed=True), int.from_bytes(data[:4])),
}
"""By their size: seconds since 1970 and nanoseconds."""


def _moment(seconds: int, nanoseconds: int) -> bytes:
    try:
        text = (datetime(1970, 1, 1) + timedelta(seconds=seconds)).isoformat()  # noqa: DTZ001 - the zone is Z, below
    except OverflowError:
        raise _refused("A timestamp before the year 1 or after the year 9999") from None
    if nanoseconds >= 1_000_000_000:
        raise _refused("A timestamp with more than a second of nanoseconds")
    fraction = f".{nanoseconds:09}".rstrip("0") if nanoseconds else ""
    return f'"{text}{fraction}Z"'.encode()


_CONTAINERS = {
    **{0x80 + size: _Container(_fixed_length(size), is_map=True) for size in range(16)},
    **{0x90 + size: _Container(_fixed_length(size), is_map=False) for size in range(16)},
    0xDC: _Container(_length(2), is_map=False),
    0xDD: _Container(_length(4), is_map=False),
    0xDE: _Container(_length(2), is_map=True),
    0xDF: _Container(_length(4), is_map=True),
}

_STRINGS: dict[int, _Read] = {
    **{0xA0 + size: _string(_fixed_length(size)) for size in range(32)},
    **{0xD9 + place: _string(_length(size)) for place, size in enumerate((1, 2, 4))},
}

_SCALARS: dict[int, _Read] = {
    **_STRINGS,
    **{number: _fixed(b"%d" % number) for number in range(128)},
    **{256 + number: _fixed(b"%d" % number) for number in range(-32, 0)},
    0xC0: _fixed(b"null"),
    0xC2: _fixed(b"false"),
    0xC3: _fixed(b"true"),
    0xCA: _float(">f"),
    0xCB: _float(">d"),
    **{0xC4 + place: _binary(_length(size)) for place, size in enumerate((1, 2, 4))},
    **{0xC7 + place: _extension(_length(size)) for place, size in enumerate((1, 2, 4))},
    **{0xCC + place: _integer(size, signed=False) for place, size in enumerate((1, 2, 4, 8))},
    **{0xD0 + place: _integer(size, signed=True) for place, size in enumerate((1, 2, 4, 8))},
    **{0xD4 + place: _extension(_fixed_length(size)) for place, size in enumerate((1, 2, 4, 8, 16))},
}
"""By the first byte. Only 0xC1, which means nothing, is neither here nor a container."""


_NOT_COMPLETE = "The MessagePack data is not complete"


def _refused(message: str, details: str | None = None) -> Refused:
    return Refused(body_malformed(message, details))
