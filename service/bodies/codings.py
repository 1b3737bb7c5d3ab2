"""Content codings: what a `Content-Encoding` lists, and how a coded body is undone in pieces, within a limit.

Owns gzip and zstd. Must not know what is in a body.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from service.problems import Refused, body_malformed, body_too_large, codings_refused

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CODINGS_MAX = 2
"""Nobody who means well compresses more often. Each layer could make a bomb a thousand times larger."""

_PIECE_BYTES = 32 * 1024
"""What comes out at once, in 50 µs or less; as much as the codecs read at once."""

_MEMBERS_MAX = 10_000
"""Collectors join compressed pieces. Each costs up to 13 µs, though it may be empty and take nine bytes."""

_MEMBERS_AT_ONCE = 100
"""Then it is time for a breath."""

_WINDOW_BYTES_LOG = 23
"""8 MiB, what a zstd decoder must take in HTTP, and an encoder must not exceed (RFC 9659)."""


class Decompressor(Protocol):
    """What undoes one gzip member or zstd frame."""

    @property
    def eof(self) -> bool:
        """Whether its end has come."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to get out without putting something in."""

    @property
    def unused_data(self) -> bytes:
        """What was put in behind its end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Put something in, and get no more out than asked for."""


class _Gzip:
    """zlib's decompressor, to be used like that of zstd."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _zstd() -> Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_BYTES_LOG})


@dataclass(frozen=True, slots=True)
class Coding:
    """A content coding. `padding` are bytes that may stand behind a member and mean nothing."""

    name: str
    start: Callable[[], Decompressor]
    error: type[Exception]
    padding: bytes = b""


_GZIP = Coding("gzip", _Gzip, zlib.error, padding=b"\0")  # gzip(1) takes zeros there: blocks of a tape
_ZSTD = Coding("zstd", _zstd, zstd.ZstdError)

_CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "zstd": _ZSTD}


def codings_of(content_encoding: str) -> tuple[Coding, ...]:
    """The codings of a body, in the order to undo them: the reverse of the one in the header (RFC 9110 section 8.4).

    Raises `Refused` for an unknown one, or for too many.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    for name in names:
        if name not in _CODINGS:
            raise Refused(codings_refused(f"Content-Encoding not acceptable: {name}"))
    if len(names) > _CODINGS_MAX:
        raise Refused(codings_refused(f"A body may have {_CODINGS_MAX} content codings, not {len(names)}"))
    return tuple(_CODINGS[name] for name in reversed(names))


def decompressed(pieces: Iterable[bytes], coding: Coding, bytes_max: int) -> Iterator[bytes]:
    """What is in a body that comes in pieces, `bytes_max` at most. An empty piece is a breath between two of work.

    Raises `Refused`.
    """
    members = _Members(coding, bytes_max)
    for data in pieces:
        is_silent = True
        for piece in members.take(data):
            yield piece
            is_silent = False
        if is_silent:
            yield b""
    if not members.are_complete:
        raise Refused(body_malformed(f"The body is no complete {coding.name} data"))


class _Members:
    """The gzip members or zstd frames of one body, which stand behind one another."""

    def __init__(self, coding: Coding, bytes_max: int) -> None:
        self._coding = coding
        self._bytes_max = bytes_max
        self._begun = 0
        self._size = 0
        self._open: Decompressor | None = None

    @property
    def are_complete(self) -> bool:
        """Whether the body may end here. One without any member is none."""
        return self._open is None and self._begun > 0

    def take(self, data: bytes) -> Iterator[bytes]:
        """What the next piece of the body brings. Raises `Refused`."""
        while data or not (self._open is None or self._open.needs_input):
            if self._open is None:
                if self._begun:
                    data = data.lstrip(self._coding.padding)
                    if not data:
                        return
                if self._begun % _MEMBERS_AT_ONCE == _MEMBERS_AT_ONCE - 1:
                    yield b""
                self._open = self._begin()
            piece = self._decompress(self._open, data)
            if piece:
                yield piece
            data = b""
            if self._open.eof:
                data, self._open = self._open.unused_data, None

    def _begin(self) -> Decompressor:
        self._begun += 1
        if self._begun > _MEMBERS_MAX:
            raise Refused(body_malformed(f"The body has more than {_MEMBERS_MAX} parts of {self._coding.name} data"))
        return self._coding.start()

    def _decompress(self, member: Decompressor, data: bytes) -> bytes:
        try:
            piece = member.decompress(data, _PIECE_BYTES)
        except self._coding.error as error:
            raise Refused(body_malformed(f"The body is no {self._coding.name} data", str(error))) from None
        self._size += len(piece)
        if self._size > self._bytes_max:
            raise Refused(body_too_large(self._bytes_max, "decompressed"))
        return piece
