"""Answers as bytes on the wire, as uvicorn would write them.

Must not know requests or connections.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.problems import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
"""RFC 9110 section 15.2.1: go on with the body."""


class Wire:
    """Writes answers. Those that many requests get, successes without a body, are put together once a second."""

    _KNOWN_MAX = 1024

    def __init__(self) -> None:
        self._defaults: list[tuple[bytes, bytes]] = []
        self._lines = b""
        self._known: dict[Answer, bytes] = {}

    def bytes_of(self, answer: Answer, defaults: list[tuple[bytes, bytes]], close: bool) -> bytes:  # noqa: FBT001 - 0.1 µs less than by name
        """The whole answer. `defaults` are uvicorn's default headers: a new list each second, with the new date."""
        if defaults is not self._defaults:
            self._defaults = defaults
            self._lines = b"".join([b"%b: %b\r\n" % header for header in defaults])
            self._known.clear()
        known = self._known.get(answer)
        if known is not None and not close:
            return known
        lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in answer.headers]
        lines.append(b"content-length: %d\r\n" % len(answer.body))
        if close:
            lines.append(b"connection: close\r\n")
        whole = b"".join([STATUS_LINE[answer.status], self._lines, *lines, b"\r\n", answer.body])
        if not (answer.body or close or answer.is_unique) and len(self._known) < self._KNOWN_MAX:
            self._known[answer] = whole
        return whole
