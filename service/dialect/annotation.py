"""What an answer says of its request: the name by which it is found again, and where the time went.

Must not know what becomes of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from service.problems import Answer

if TYPE_CHECKING:
    from service.posting import Posting


def named(answer: Answer, name: str) -> Answer:
    """The answer with the name of its request, if it has one."""
    if not name:
        return answer
    return replace(answer, headers=(*answer.headers, ("x-request-id", name)), is_unique=True)


def annotated(clock: Callable[[], float], posting: Posting, answer: Answer, *, timing: bool) -> Answer:
    """The answer with the name of its request, if it has one, and with `Server-Timing` if that is wanted."""
    answer = named(answer, posting.marks.name)
    if timing:
        timed = ("server-timing", _server_timing(posting, clock()))
        answer = replace(answer, headers=(*answer.headers, timed), is_unique=True)
    return answer


def _server_timing(posting: Posting, now: float) -> str:
    """Where the time went, in milliseconds: https://www.w3.org/TR/server-timing/"""
    parts = {"total": now - posting.began if posting.began else 0.0}
    if posting.flush is not None:
        parts = {"queue": posting.flush.began - posting.since, "write": posting.flush.seconds} | parts
    return ", ".join([f"{name};dur={seconds * 1e3:.3f}" for name, seconds in parts.items()])
