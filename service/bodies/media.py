"""What bodies may be: media types and content codings, and the steps by which each becomes JSON or NDJSON.

Owns which there are, and their order. Must not know how one of them works, nor what is done with the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from service.bodies.codings import Coding, codings_of, decompressed
from service.bodies.from_csv import rows_of_csv
from service.bodies.from_form import row_of_form
from service.bodies.from_msgpack import json_of_msgpack
from service.problems import Refused, refusal

_PIECE_BYTES = 32 * 1024
"""The first step is given so much at once; what each step makes of it takes less than 3 ms."""

_COLLECTED_BYTES = 256 * 1024
"""After so much that was decompressed, and is waiting for the rest, others have their turn: 1 ms."""

Convert = Callable[[Iterable[bytes], int], Iterator[bytes]]
"""From a body in pieces to JSON or NDJSON in pieces; may raise `Refused`. The number is how many bytes a row may have
in JSON. An empty piece, of those that come and those that go, is a breath: what has been done since the one before it
has taken about a millisecond, and others should have their turn."""


@dataclass(frozen=True, slots=True)
class Media:
    """A kind of body. `lines` says that it is, or becomes, NDJSON; otherwise it is JSON.

    `names_columns`: its rows all have the same columns, which the body names, and which `columns=` cannot change.
    """

    lines: bool = False
    names_columns: bool = False
    convert: Convert | None = None
    codings: tuple[Coding, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it can be read as it is."""
        return self.convert is None and not self.codings

    def decoded(self, chunks: Iterable[bytes], bytes_max: int, hold: Callable[[int], None]) -> Iterator[bytes]:
        """The body as JSON or NDJSON. An empty piece is a breath. Raises `Refused`, and what `hold` does.

        `bytes_max` is how large it may be after each step; `hold` is told what is decompressed, as it comes.
        """
        pieces = _slices(chunks)
        for coding in self.codings:
            pieces = decompressed(pieces, coding, bytes_max)
        if self.codings:
            pieces = _counted(pieces, hold)
        return pieces if self.convert is None else self.convert(pieces, bytes_max)


def media_of(content_type: str, content_encoding: str) -> Media:
    """The kind of body that a head announces, by its `Content-Type` and `Content-Encoding`. Raises `Refused`."""
    media_type = content_type.partition(";")[0].strip().lower()
    media = _MEDIA.get(media_type)
    if media is None:
        raise Refused(refusal(400, "PGRST102", f"Content-Type not acceptable: {media_type}"))
    return replace(media, codings=codings_of(content_encoding)) if content_encoding else media


def _whole(convert: Callable[[bytes, int], Iterator[bytes]]) -> Convert:
    """A conversion that needs all of the body."""

    def converted(pieces: Iterable[bytes], bytes_max: int) -> Iterator[bytes]:
        collected: list[bytes] = []
        since = 0
        for piece in pieces:
            collected.append(piece)
            since += len(piece)
            if since >= _COLLECTED_BYTES or not piece:
                since = 0
                yield b""
        body = b"".join(collected)
        collected.clear()
        yield from convert(body, bytes_max)

    return converted


_JSON = Media()
_LINES = Media(lines=True)
_CSV = Media(lines=True, names_columns=True, convert=rows_of_csv)
_FORM = Media(names_columns=True, convert=_whole(row_of_form))
_MSGPACK = Media(convert=_whole(json_of_msgpack))

_MEDIA = {
    "": _JSON,
    "*/*": _JSON,
    "application/json": _JSON,
    "application/x-ndjson": _LINES,
    "application/ndjson": _LINES,
    "application/jsonl": _LINES,
    "text/csv": _CSV,
    "application/x-www-form-urlencoded": _FORM,
    "application/msgpack": _MSGPACK,
    "application/x-msgpack": _MSGPACK,
    "application/vnd.msgpack": _MSGPACK,
}


def _slices(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about one size."""
    short: list[bytes] = []
    size = 0
    for chunk in chunks:
        if size + len(chunk) < _PIECE_BYTES:  # a hostile client's have a byte each
            short.append(chunk)
            size += len(chunk)
            continue
        data = b"".join([*short, chunk]) if short else chunk
        short, size = [], 0
        for at in range(0, len(data), _PIECE_BYTES):
            yield data[at : at + _PIECE_BYTES]
    if short:
        yield b"".join(short)


def _counted(pieces: Iterable[bytes], hold: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        hold(len(piece))
        yield piece
