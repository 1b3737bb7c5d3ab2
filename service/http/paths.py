"""Paths: which table the path of a URL names.

Pure. Must not know methods, nor what else has a path.
"""

from __future__ import annotations

import re
import urllib.parse

_find_broken = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
"""Finds a percent sign that begins no escape (RFC 3986 section 2.1)."""


class TablePaths:
    """The paths `{prefix}/{table}`, as they come in requests.

    They are divided before they are decoded, so that the name of a table may have a slash in it.
    """

    def __init__(self, prefix: str) -> None:
        self._before = prefix.split("/")

    def table(self, path: bytes) -> str | None:
        """The table that a path names, None if it names none: it is elsewhere, not one segment behind the prefix, or
        not UTF-8 in valid escapes, as every name is.
        """
        *before, name = path.split(b"/")
        if not name or len(before) != len(self._before) or [_text(segment) for segment in before] != self._before:
            return None
        return _text(name)


def _text(segment: bytes) -> str | None:
    if b"%" in segment:
        if _find_broken(segment):
            return None
        segment = urllib.parse.unquote_to_bytes(segment)
    try:
        return segment.decode()
    except UnicodeDecodeError:
        return None
