"""What a request may bring along beside its rows: a key that makes it safe to repeat, the wish to keep its bad rows.

Owns those values, and how a body is taken apart row by row. Must not know how any of it is written.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from typing import cast

from msgspec import Struct

from sql.codec import CopyCodec
from sql.elements import elements_of
from sql.encoded import MALFORMED, Encoded, Payload, decode_elements, keys_differ, result_of
from sql.errors import Fault, Rejected
from sql.options import Intent, Written
from sql.record_codec import RecordCodec

_PIECE_BYTES = 8 * 1024
"""Looking at rows one by one takes some 0.2 µs a byte: 2 ms, then others have their turn."""

_ROWS_AT_ONCE = 500


class IdempotencyKey(Struct, frozen=True):
    """An idempotency key: 1 to 255 printable ASCII characters. `fingerprint` is a digest of the whole request."""

    text: str
    fingerprint: bytes


class BadRow(Struct, frozen=True):
    """A row that cannot be stored, as it came. `row` counts from 1 within its request."""

    row: int
    raw: bytes
    fault: Fault


class Stored(Struct, frozen=True):
    """What became of a request that had an `Extra`: its rows are committed, the `bad` ones are in quarantine.

    `result` is what they were told, if they asked for more than success. `replayed` says that an earlier request with
    the same key has written it all, and nothing was written now.
    """

    result: Written | None
    bad: Sequence[BadRow] = ()
    replayed: bool = False


class Salvage:
    """The wish to have bad rows kept in `headrace.quarantine`, in the transaction that holds the good ones.

    `body` is that of the request, with `lines` if it is newline-delimited JSON; `bad` are the rows that a codec has
    refused. With `everything`, all rows are kept when it is not a row but the request that fails (its table is gone):
    nobody is left to be told. `intent` is how they were to be written.
    """

    __slots__ = ("_rows", "bad", "body", "everything", "intent", "lines", "request_id")

    def __init__(  # noqa: PLR0913 - what a request has said, by name
        self,
        request_id: str,
        body: bytes,
        *,
        lines: bool,
        bad: Sequence[BadRow] = (),
        everything: bool = False,
        intent: Intent | None = None,
    ) -> None:
        self.request_id = request_id
        self.intent = intent
        self.body = body
        self.lines = lines
        self.bad = tuple(bad)
        self.everything = everything
        self._rows: list[bytes] | None = None  # taking the body apart takes 10 ms a megabyte

    def rows(self) -> list[tuple[int, bytes]]:
        """The rows that are not bad, as they came, with their numbers."""
        bad = {row.row for row in self.bad}
        if self._rows is None:
            self._rows = rows_of_body(self.body, lines=self.lines)
        return [(number, raw) for number, raw in enumerate(self._rows, 1) if number not in bad]

    def with_bad(self, rows: Sequence[BadRow]) -> Salvage:
        """The same with more bad rows."""
        bad = sorted([*self.bad, *rows], key=lambda row: row.row)
        more = copy(self)
        more.bad = tuple(bad)
        return more


class Extra:
    """What a request may bring along beside its rows."""

    __slots__ = ("key", "salvage")

    def __init__(self, key: IdempotencyKey | None = None, salvage: Salvage | None = None) -> None:
        self.key = key
        self.salvage = salvage


def rows_of_body(body: bytes, *, lines: bool) -> list[bytes]:
    """The rows of a body, each as it came. Raises `Rejected` if it cannot be divided."""
    return result_of(_dividing(body, lines=lines))


def _dividing(body: bytes, *, lines: bool) -> Generator[None, None, list[bytes]]:
    if lines:
        return [line.strip() for line in body.split(b"\n") if line and not line.isspace()]
    body = body.strip(b" \t\r\n")
    if not body.startswith(b"["):
        return [body]
    try:
        return [bytes(raw) for raw in decode_elements(body)]
    except MALFORMED:
        return (yield from elements_of(body))


def salvaging(
    codec: CopyCodec | RecordCodec, body: bytes, *, lines: bool
) -> Generator[None, None, tuple[Encoded, list[BadRow]]]:
    """What is good of a body of which not all is, and the rest. Raises `Rejected` if it cannot be divided into rows.

    An array's rows must all have the same keys, as ever: those of the first good one. Yields between pieces of the
    work.
    """
    good: list[bytes] = []
    bad: list[BadRow] = []
    columns: tuple[str, ...] | None = None
    size = 0
    for number, raw in enumerate((yield from _dividing(body, lines=lines)), 1):
        try:
            encoded = codec.one(raw)
            if columns is None:
                columns = encoded.columns
            elif encoded.columns != columns and not (lines and isinstance(codec, CopyCodec)):
                raise keys_differ()
        except Rejected as error:
            bad.append(BadRow(number, raw, error.fault.at(number)))
        else:
            good.append(raw)
        size += len(raw)
        if size >= _PIECE_BYTES:
            size = 0
            yield
    if isinstance(codec, CopyCodec):
        reader = codec.lines()
        for start in range(0, len(good), _ROWS_AT_ONCE):
            reader.feed(b"".join([_one_line(raw) + b"\n" for raw in good[start : start + _ROWS_AT_ONCE]]))
            yield
        return (yield from reader.finishing()), bad
    return codec.array(b"[" + b",".join(good) + b"]"), bad


def _one_line(raw: bytes) -> bytes:
    """A JSON value without line ends, which between its tokens mean nothing, and inside of them are not allowed."""
    return raw.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in raw or b"\r" in raw else raw


def without(payload: Payload, places: Sequence[int]) -> bytes:
    """COPY text without the lines at these places (from 0)."""
    whole = payload if isinstance(payload, bytes) else b"".join(cast("Sequence[bytes]", payload))
    lines = whole.split(b"\n")  # the last one is what follows the last line end: nothing
    leave = set(places)
    return b"\n".join([line for place, line in enumerate(lines) if place not in leave])
