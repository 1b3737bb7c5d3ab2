"""Form bodies → JSON: one row of strings (https://url.spec.whatwg.org/#urlencoded-parsing).

Owns how a form is written. Must not know tables.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterator
from urllib.parse import unquote_to_bytes

import msgspec

from service.problems import Refused, body_malformed, body_too_large

_FIELDS_MAX = 10_000
"""PostgreSQL has 1664 columns at most, so this leaves room for keys that are repeated. A field takes some 4 µs."""

_FIELDS_AT_ONCE = 500

_PIECE_BYTES = 16 * 1024
"""What is decoded at once. Each escaped character takes some 40 bytes of memory and 0.1 µs."""

_JSON = (b'{"', b"[{", b"{ ", b"[ ", b"{\n", b"[\n")
"""How bodies begin of which somebody forgot to say that they are JSON: with curl, they pass for forms."""

_encode = msgspec.json.Encoder().encode
_new_decoder = codecs.getincrementaldecoder("utf-8")


def row_of_form(body: bytes, bytes_max: int) -> Iterator[bytes]:
    """The row as a JSON object, of `bytes_max` at most. Of a key that is repeated, the last value counts.

    An empty piece is a breath. Raises `Refused`.
    """
    if body.startswith(_JSON):
        raise Refused(body_malformed("The body is JSON, but its Content-Type says that it is a form"))
    if body.count(b"&") >= _FIELDS_MAX:
        raise Refused(body_malformed(f"The form has more than {_FIELDS_MAX} fields"))
    row: dict[bytes, bytes] = {}
    size = 2
    for number, field in enumerate(body.split(b"&"), 1):
        if field:
            name, _, value = field.partition(b"=")
            key = yield from _string(name, bytes_max)
            size -= len(row.get(key, b""))
            row[key] = yield from _string(value, bytes_max)
            size += len(key) + len(row[key]) + 2
            if size > bytes_max:
                raise Refused(body_too_large(bytes_max, "written as JSON"))
        if number % _FIELDS_AT_ONCE == 0:
            yield b""
    yield b"{%b}" % b",".join([b"%b:%b" % item for item in row.items()])


def _string(text: bytes, bytes_max: int) -> Generator[bytes, None, bytes]:
    """A name or a value as a JSON string. Yields breaths."""
    decoder = _new_decoder()
    pieces: list[bytes] = []
    size = at = 0
    try:
        while at < len(text):
            end = _end_of_piece(text, at)
            characters = decoder.decode(unquote_to_bytes(text[at:end].replace(b"+", b" ")), final=end == len(text))
            pieces.append(_encode(characters)[1:-1])
            size += len(pieces[-1])
            if size > bytes_max:
                raise Refused(body_too_large(bytes_max, "written as JSON"))
            if at:
                yield b""
            at = end
    except UnicodeDecodeError:
        raise Refused(body_malformed("The form is not UTF-8")) from None
    return b'"%b"' % b"".join(pieces)


def _end_of_piece(text: bytes, at: int) -> int:
    """Where a piece ends that begins here: not within an escaped character."""
    end = at + _PIECE_BYTES
    if end >= len(text):
        return len(text)
    escape = text.rfind(b"%", end - 2, end)
    return end if escape < 0 else escape
