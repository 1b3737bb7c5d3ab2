"""The body of a request on its way in: how much of it there is, what is kept of it, and when it should be complete.

Owns the limits of bodies, and how one that must be decoded gets to its reader. Must not know what is in one, nor what
becomes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from service.bodies.media import Media
from service.plan import Plan, Reader
from service.problems import Answer, Refused, body_too_large

KEPT_BYTES_MAX = 64 * 1024
"""A body up to this size is kept until its answer, so that it can be read again by a newer catalog."""

LARGE_BYTES = 16 * 1024
"""Reading the rows of a body of this size takes longer than refusing it, by far (scenario "overload")."""

TURN_BYTES = 32 * 1024
"""After so much of a body was decoded and read, others have their turn. Odd rows are read in 1 µs a byte."""

SWALLOWED_BYTES_MAX = 256 * 1024
"""What may still come of a body that is refused already, to keep the connection; for more it is closed. Most bulk
requests are smaller (1,000 rows of five columns have 100 kB)."""

_OBJECT_BYTES = 64
"""What a piece of a body takes in memory beside its bytes."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What one body may be, and what all bodies that are arriving may hold together."""

    bytes_max: int
    seconds_max: float
    held_bytes_max: int


class Arrival:
    """A body that comes in pieces: `declared` bytes, where that is known. `deadline` is when it must be complete.

    `expects` says that the client waits to be told to go on. `keeps_all` has it kept whatever its size. `decodes` says
    that it cannot be read before it is complete. `refusal` is the answer that waits for the end of the body.
    """

    __slots__ = (
        "complete",
        "deadline",
        "declared",
        "decodes",
        "expects",
        "held",
        "keeps_all",
        "kept",
        "reader",
        "received",
        "refusal",
        "swallowed",
    )

    def __init__(self, declared: int | None, deadline: float, *, expects: bool, keeps_all: bool) -> None:
        self.declared = declared
        self.expects = expects
        self.deadline = deadline
        self.keeps_all = keeps_all
        self.complete = False
        self.decodes = False
        self.received = 0
        self.held = 0
        self.swallowed = 0
        self.kept: list[bytes] | None = []
        self.reader: Reader | None = None
        self.refusal: Answer | None = None

    @property
    def is_soon_over(self) -> bool:
        """Whether what is left of the body is little enough to be read for nothing, as far as one can know."""
        if self.expects:
            return False
        left = self.swallowed if self.declared is None else self.declared - self.received
        return left <= SWALLOWED_BYTES_MAX

    def read_by(self, plan: Plan) -> None:
        """Read what comes by this plan, or leave it as it is until it can be decoded: without a reader it is kept."""
        self.decodes = plan.decodes
        if not plan.decodes:
            self.reader = plan.reader()

    def refuse(self, answer: Answer) -> None:
        """Forget the body; what still comes of it is counted, no more."""
        self.refusal = answer
        self.kept = self.reader = None

    def swallow(self, size: int) -> None:
        """Count a piece that nobody wants."""
        self.received += size
        self.swallowed += size

    def take(self, piece: bytes, limit: int) -> None:
        """Keep a piece, as long as the body is small. Raises `Refused` when it is larger than `limit`."""
        self.received += len(piece)
        self.held += len(piece) + _OBJECT_BYTES
        if self.received > limit:
            self.swallowed = self.received - limit
            raise Refused(body_too_large(limit))
        if self.kept is not None:
            self.kept.append(piece)
            if self.received > KEPT_BYTES_MAX and self.reader is not None and not self.keeps_all:
                self.kept = None


def held_for(piece: bytes) -> int:
    """The bytes that a piece takes in memory."""
    return len(piece) + _OBJECT_BYTES


def decode(
    media: Media, chunks: list[bytes], bytes_max: int, hold: Callable[[int], None], reader: Reader | None
) -> Generator[None, None, bytes | None]:
    """Decode a complete body and feed it to the reader; without one, it is kept whatever its size.

    Returns what it is decoded to, JSON or NDJSON, unless that is too much to be kept. Yields between pieces of the
    work. `hold` is told what takes memory, as it comes. Raises what the reader, `hold` and `Media.decoded` do.
    """
    kept: list[bytes] | None = []
    holds = media.convert is not None and (reader is None or reader.collects)
    size = since = 0
    for piece in media.decoded(chunks, bytes_max, hold):
        size += len(piece)
        since += len(piece)
        if holds:
            hold(len(piece))
        if reader is not None and size > KEPT_BYTES_MAX:
            kept = None
        if kept is not None:
            kept.append(piece)
        if reader is not None and piece:
            reader.feed(piece)
        if since >= TURN_BYTES or not piece:
            since = 0
            yield
    return None if kept is None else b"".join(kept)
