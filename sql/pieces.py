"""Large bodies in pieces: arrays and lines are cut between their rows, so that others have their turn meanwhile.

Owns where to cut. Must not know columns, nor what a row may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator

PIECE_BYTES = 32 * 1024
"""Reading rows of odd kinds takes up to 1 µs a byte; usual ones are read in half a millisecond."""

_DOUBTFUL_BYTES = 1024 * 1024
"""A piece that has become so large has rows that are large or look like several; few more guesses are worth it."""

_GUESSES_MAX = 4

_SPACE = rb"[ \t\r\n]*"
_find_cut = re.compile(rb"}" + _SPACE + rb"(,)" + _SPACE + rb"{").search
_match_opening = re.compile(_SPACE + rb'({[ \t\r\n]{0,16}"[^"\\]{1,63}"[ \t\r\n]{0,16}:)').match
_find_closing = re.compile(rb"}[ \t\r\n}\]]{0,31}\Z").search

Take = Callable[[bytes], bool]
"""Takes a smaller array; False if it is no JSON. What else it raises is about rows that the large one has."""


def array_in_pieces(body: bytes, take: Take) -> Generator[None, None, bool]:
    """Give `take` the elements of a JSON array of objects as smaller arrays, and return whether it is JSON.

    Yields between pieces.
    Where one element ends and the next begins is guessed, and the guess is right exactly if what is before it is an
    array of its own: within a string or a nested value it would break off.
    """
    start, end = body.find(b"[") + 1, body.rfind(b"]")
    if not start or end < start or body[: start - 1].strip(b" \t\r\n") or body[end + 1 :].strip(b" \t\r\n"):
        return False
    find_likely = _likely(body, start, end)
    while True:
        cut = yield from _taken(body, start, end, take, find_likely)
        if cut is None:
            return False
        if cut == end:
            return True
        start = cut + 1
        yield


def lines_in_pieces(body: bytes) -> Iterator[bytes]:
    """Whole lines, as many at once as make a piece."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start + PIECE_BYTES) + 1 or len(body)
        yield body[start:end]
        start = end


_Search = Callable[[bytes, int, int], "re.Match[bytes] | None"]


def _taken(body: bytes, start: int, end: int, take: Take, find_likely: _Search) -> Generator[None, None, int | None]:
    """Where the piece ended that was taken, None if there is none. Yields between guesses."""
    size = PIECE_BYTES
    while start + size < end:
        guesses = _GUESSES_MAX if size < _DOUBTFUL_BYTES else 1
        for find in (find_likely, _find_cut):
            at = start + size
            for _ in range(guesses):
                found = find(body, at, end)
                if found is None:
                    break
                if take(b"[%b]" % body[start : found.start(1)]):
                    return found.start(1)
                at = found.end(1)
                yield
        size *= 2
    return end if take(b"[%b]" % body[start:end]) else None


def _likely(body: bytes, start: int, end: int) -> _Search:
    """Finds what stands between two rows that begin and end like the first one begins and the last one ends."""
    opening, closing = _match_opening(body, start, end), _find_closing(body, max(start, end - 64), end)
    if opening is None or closing is None:
        return _find_cut
    return re.compile(re.escape(closing[0].rstrip()) + _SPACE + rb"(,)" + _SPACE + re.escape(opening[1])).search
