"""The elements of an array that as a whole is no JSON because one of them is none; the others are not worse for it.

Owns where elements end. Must not know what a row may be.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import msgspec
from msgspec import Raw

from sql.encoded import MALFORMED, malformed

_STEPS_MAX = 100_000
"""Elements, and brackets of those that are nested deeply. So many take 0.2 s; a body that has more stays as it is."""

_WRONG_BYTES_MAX = 1024 * 1024
"""Looking for what is wrong with an element of this size takes up to 0.1 s; a larger one keeps its body as it is."""

_STEPS_AT_ONCE = 2_000

_USUAL_DEPTH = 8
"""Elements that are nested no deeper are found in one step."""

_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rb'[^"\[\]{}]++|' + _STRING


def _nested(depth: int) -> bytes:
    inner = b"|" + _nested(depth - 1) if depth > 1 else b""
    return rb"[\[{](?:" + _PLAIN + inner + rb")*+[\]}]"


_match_element = re.compile(
    _SPACE + rb"(?:" + _nested(_USUAL_DEPTH) + b"|" + _STRING + rb'|[^"\[\]{},]++)' + _SPACE, re.DOTALL
).match
_match_bracket = re.compile(rb"(?:" + _PLAIN + rb")*+[\[\]{}]", re.DOTALL).match
_replace_strings = re.compile(_STRING, re.DOTALL).sub
_decode = msgspec.json.Decoder(Raw).decode


def elements_of(body: bytes) -> Generator[None, None, list[bytes]]:
    """The elements of an array, each as it came. Yields between pieces of the work.

    One of them may be no JSON because of what is in its strings (half a character, for example), or because it is
    nested too deeply: it is certain all the same where it ends. Raises `Rejected` for everything else.
    """
    at, end = body.find(b"[") + 1, body.rfind(b"]")
    if not at or body[: at - 1].strip(b" \t\r\n") or body[end + 1 :].strip(b" \t\r\n"):
        raise malformed()
    elements: list[bytes] = []
    steps = 0
    while at <= end:
        found = _match_element(body, at, end)
        if found is None:
            start, (at, brackets) = at, (yield from _end_of_deep(body, at, end, _STEPS_MAX - steps))
            steps += brackets
        else:
            start, at = at, found.end()
        element = body[start:at].strip(b" \t\r\n")
        _check(element)
        elements.append(element)
        steps += 1
        if steps > _STEPS_MAX or (at < end and body[at : at + 1] != b","):
            raise malformed()
        if not steps % _STEPS_AT_ONCE:
            yield
        at += 1
    return elements


def _end_of_deep(body: bytes, at: int, end: int, brackets_max: int) -> Generator[None, None, tuple[int, int]]:
    """Where an element ends that is nested deeply, white space behind it included, and how many brackets it has."""
    depth = brackets = 0
    while not brackets or depth > 0:
        found = _match_bracket(body, at, end)
        brackets += 1
        if found is None or brackets > brackets_max:
            raise malformed()
        at = found.end()
        depth += 1 if body[at - 1] in b"[{" else -1
        if not brackets % _STEPS_AT_ONCE:
            yield
    while at < end and body[at] in b" \t\r\n":
        at += 1
    return at, brackets


def _check(element: bytes) -> None:
    """Raise `Rejected` unless what is wrong with an element, if anything, does not make it uncertain where it ends."""
    try:
        _decode(element)
    except MALFORMED:
        if len(element) > _WRONG_BYTES_MAX:
            raise malformed() from None
        try:
            _decode(_replace_strings(b'""', element))
        except RecursionError:
            pass
        except MALFORMED:
            raise malformed() from None
