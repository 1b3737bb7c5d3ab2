"""Framing: where requests begin and end in what a connection receives, and the parser that finds it out.

Bytes in, one request at a time out: its head, pieces of its body, its end. Owns the limits of what is none of these.
Must not know what a request is for, nor who answers it. Does no I/O.
"""

from __future__ import annotations

import httptools

from service.http.heads import Head, Heads
from service.problems import MALFORMED_HTTP, Refused

BLANK_LINE = b"\r\n\r\n"
"""The end of a head, and of a chunked body."""

PIECE_BYTES_MAX = 32 * 1024
"""What is taken at once of a body that is not here as a whole. Reading rows of odd kinds takes up to 1 µs a byte."""

_FRAMING_BYTES = 12
"""What a chunk takes beside its data: eight digits of its size, two line ends."""


class Framing:
    """One connection's. `take` what arrives until there is a `head`, and until the request `is_complete`; then `next`.

    The methods `on_…` are the parser's callbacks: they note what it finds.
    """

    def __init__(self, heads: Heads) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.has_begun = False
        self.head: Head | None = None
        self.is_complete = False
        self.splits = False
        """Whether a body is taken in pieces even if it is here as a whole."""
        self.source = b""
        """The head as it came."""
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        """Names in lower case, and values."""
        self.is_local = False
        """Whether the connection came in at an address that only this machine reaches."""
        self._heads = heads
        self._pieces: list[bytes] = []
        self._has_head = False
        self._keep_alive = True
        self._left = 0  # of a body of known length
        self._tail = b""  # the last bytes, in case a blank line begins with them
        self._overhead = 0  # bytes of a chunked body that are neither data nor what it takes to frame it
        self._counted_pieces = 0

    def take(self, data: bytes, at: int) -> int:
        """Parse on at `at`, no further than the end of the head or of the request. Returns where that is.

        Raises `Refused` for what is no HTTP, must not be believed, or is too much.
        """
        end = self._cut(data, at)
        piece = data[at:end]
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserError:
            raise Refused(MALFORMED_HTTP) from None
        self._tail = (self._tail + piece[-3:])[-3:]
        if self.head is None:
            self.source += piece
            self._heads.check_size(len(self.source), self.url, len(self.headers))
            if self._has_head:
                self._read_head()
        else:
            self._left -= len(piece)
            self._check_overhead(len(piece))
        return end

    def pieces(self) -> list[bytes]:
        """What has come of the body since the last call."""
        pieces, self._pieces = self._pieces, []
        self._counted_pieces = 0
        return pieces

    def next(self) -> None:
        """Forget this request; what comes is another."""
        self.has_begun = self._has_head = self.is_complete = False
        self.head = None
        self.source = self._tail = b""
        self._overhead = 0

    # ---------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self.has_begun = True
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        """A piece of the URL."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or a trailer."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._has_head = True
        self._keep_alive = self.parser.should_keep_alive()  # the parser forgets it with the end of the request

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.is_complete = True

    # ---------------------------------------------------------------- within a request

    def _cut(self, data: bytes, at: int) -> int:
        """Where the head or the body that goes on at `at` may end: what is behind that may be another request."""
        last = len(data)
        if self.head is not None:
            size = self.head.body_size
            if size is not None and not self.splits and self._left == size and at + size <= last:
                return at + size  # it is here as a whole
            last = min(last, at + PIECE_BYTES_MAX)
            if size is not None:
                return min(last, at + self._left)
        if self._tail:
            seam = (self._tail + data[at : at + 3]).find(BLANK_LINE)
            if seam >= 0:
                return at + seam + 4 - len(self._tail)
        end = data.find(BLANK_LINE, at, last)
        return last if end < 0 else end + 4

    def _read_head(self) -> None:
        line, _, _ = self.source.lstrip(b"\r\n").partition(b"\r\n")
        if b" HTTP/1." not in line:
            raise Refused(MALFORMED_HTTP)  # the parser knows RTSP too
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self.head = self._heads.read(
            method, self.url, version, self.headers, keep_alive=self._keep_alive, is_local=self.is_local
        )
        self._left = self.head.body_size or 0
        self._tail = b""

    def _check_overhead(self, size: int) -> None:
        """Refuse what grows between the pieces of a chunked body or behind it: extensions, trailers."""
        found = self._pieces[self._counted_pieces :]
        self._counted_pieces += len(found)
        self._overhead = max(0, self._overhead + size - sum(map(len, found)) - _FRAMING_BYTES * len(found))
        self._heads.check_size(self._overhead, b"", len(self.headers))

    def _ignore_upgrade(self) -> None:
        """Nobody need upgrade (RFC 9110 section 7.8), but the parser takes what follows for another protocol.

        Java's HTTP client offers HTTP/2 in this way with its first request. So the head is parsed once more without the
        offer, by a parser that goes on with the body.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise Refused(MALFORMED_HTTP)
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
                lines.append(b"connection: %b\r\n" % b",".join(tokens))
            elif name != b"upgrade":
                lines.append(b"%b: %b\r\n" % (name, value))
        self.is_complete = False
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(b"".join([*lines, b"\r\n"]))
        except httptools.HttpParserError:
            raise Refused(MALFORMED_HTTP) from None
