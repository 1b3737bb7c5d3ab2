"""A posting: one request to store rows, from its head to its answer. All lanes drive it; none does what it does.

Owns the life of a request: its body within limits on size, time and memory, the second look at a newer catalog, the
batcher, the answer, the metrics. Synchronous: a lane hands over what has arrived and is called back with the `Answer`.
Must not know HTTP on the wire, nor how rows are written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import anyio

from batching import Batcher, Closed, Outcome, QueueFull, Submission
from service.ingest import Ingest, Plan, Reader, Request, is_miss
from service.metrics import Metrics
from service.problems import (
    MALFORMED_HTTP,
    Answer,
    Refused,
    body_late,
    body_too_large,
    is_expected,
    problem_of,
)
from sql import CatalogWatch, Encoded, Rejected, TableChanged

logger = logging.getLogger(__name__)

Respond: TypeAlias = Callable[[Answer], object]
"""How a lane is told the answer: once, from the event loop, maybe before the call that caused it returns."""

_KEPT_BYTES_MAX = 64 * 1024
"""A body up to this size is kept until its answer, so that it can be read again by a newer catalog."""

_OBJECT_BYTES = 64
"""What a piece of a body takes in memory beside its bytes."""

_LARGE_BYTES = 16 * 1024
"""Reading the rows of a body of this size takes longer than refusing it, by far (scenario "overload")."""

SWALLOWED_BYTES_MAX = 256 * 1024
"""What may still come of a body that is refused already, to keep the connection; for more it is closed. Most bulk
requests are smaller (1,000 rows of five columns have 100 kB)."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What one body may be, and what all bodies that are arriving may hold together."""

    bytes_max: int
    seconds_max: float
    held_bytes_max: int


class Postings:
    """All requests to store rows that are under way, with what they need. One for each service."""

    _SWEEP_SECONDS_MAX = 0.25

    def __init__(
        self, ingest: Ingest, batcher: Batcher, watch: CatalogWatch, metrics: Metrics, limits: BodyLimits
    ) -> None:
        self.ingest = ingest
        self.batcher = batcher
        self.metrics = metrics
        self.limits = limits
        self._watch = watch
        self._stopping = False
        self._held = 0
        self._arriving: set[Posting] = set()
        self._looking: set[asyncio.Task[None]] = set()

    def open(self, request: Request, respond: Respond, plan: Plan | None = None) -> Posting:
        """A request of which the head is known. Give it its body by `whole`, or by `begin`, `feed` and `finish`."""
        return Posting(self, request, respond, plan)

    async def run(self) -> None:
        """Refuse bodies that take too long to arrive. Runs until it is cancelled."""
        clock = self.batcher.clock
        while True:
            await anyio.sleep(min(self._SWEEP_SECONDS_MAX, self.limits.seconds_max / 4))
            now = clock()
            for posting in [posting for posting in self._arriving if posting.is_late(now)]:
                posting.refuse(Refused(body_late(self.limits.seconds_max)), at_once=True)

    def stop(self) -> None:
        """Wait for no more: what has not arrived yet is refused, so that a slow sender cannot hold up the end."""
        self._stopping = True
        for posting in list(self._arriving):
            posting.refuse(Closed(), at_once=True)

    # ---------------------------------------------------------------- for the postings

    def arriving(self, posting: Posting) -> None:
        """A body is on its way. Raises `Closed`."""
        if self._stopping:
            raise Closed
        self._arriving.add(posting)

    def arrived(self, posting: Posting) -> None:
        """Nothing more is waited for."""
        self._arriving.discard(posting)

    def hold(self, size: int) -> None:
        """Count so many bytes more of bodies, or fewer. Raises `QueueFull` if that is too much."""
        if size > 0 and self._held + size > self.limits.held_bytes_max:
            raise QueueFull(retry_seconds=1)
        self._held += size

    def look_again(self, posting: Posting, miss: Rejected) -> None:
        """Read the catalog, then have the posting look by it at what was missing."""
        task = asyncio.get_running_loop().create_task(self._look_again(posting, miss))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look_again(self, posting: Posting, miss: Rejected) -> None:
        try:
            await self._watch.after_miss()
        except Exception as error:  # noqa: BLE001 - it is the answer
            posting.refuse(error)
        else:
            posting.read_again(miss)


class _Arrival:
    """What a body that comes in pieces needs beyond the posting itself."""

    __slots__ = (
        "complete",
        "deadline",
        "declared",
        "expects",
        "held",
        "kept",
        "reader",
        "received",
        "refusal",
        "swallowed",
    )

    def __init__(self, declared: int | None, deadline: float, *, expects: bool) -> None:
        self.declared = declared
        self.expects = expects
        self.deadline = deadline
        self.complete = False
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


class Posting(Submission):
    """One request to store rows, and what the batcher knows of it."""

    __slots__ = ("_arrival", "_body", "_is_submitted", "_plan", "_postings", "_request", "_respond", "answered")

    def __init__(self, postings: Postings, request: Request, respond: Respond, plan: Plan | None) -> None:
        # What a submission has besides is set when there is something to submit.
        self.rows = 0
        self.answered = False
        self.extra = None
        self._is_submitted = False
        self._postings = postings
        self._request = request
        self._respond = respond
        self._plan = plan
        self._arrival: _Arrival | None = None
        self._body: bytes | None = None

    # ---------------------------------------------------------------- for the lane

    def whole(self, body: bytes, *, chunked: bool = False) -> None:
        """Take the body, all of it. `chunked` if it did not say before how long it would be."""
        size = len(body)
        if size > self._postings.limits.bytes_max or (
            size > _LARGE_BYTES and self._postings.batcher.refusal() is not None
        ):
            self.begin(declared=None if chunked else size, expects=False)
            self.feed(body)
            self.finish()
            return
        if size <= _KEPT_BYTES_MAX:
            self._body = body
        try:
            plan = self._plan
            if plan is None:
                plan = self._plan = self._postings.ingest.plan(self._request)
            encoded = plan.encode(body)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._could_not_read(error)
        else:
            self._submit(plan, encoded)

    def begin(self, *, declared: int | None, expects: bool) -> None:
        """The body will come in pieces, by `feed` and `finish`: `declared` bytes in all, where that is known.

        `expects` says that the client waits to be told to go on (`Expect: 100-continue`), so the request may be
        refused before.
        """
        postings = self._postings
        limits = postings.limits
        arrival = _Arrival(declared, postings.batcher.clock() + limits.seconds_max, expects=expects)
        self._arrival = arrival
        try:
            postings.arriving(self)
            if declared is not None and declared > limits.bytes_max:
                raise Refused(body_too_large(limits.bytes_max))  # noqa: TRY301 - one way out for all
            self._plan = postings.ingest.plan(self._request)
            arrival.reader = self._plan.reader()
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._could_not_read(error)
        if declared is None or declared > _LARGE_BYTES:
            refusal = postings.batcher.refusal()
            if refusal is not None:
                self.refuse(refusal)
        arrival.expects = False

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. It may refuse the request; what comes then is of no interest."""
        arrival = self._arrival
        if arrival is None or self.answered:
            return
        try:
            self._hold(arrival, chunk)
            if arrival.reader is not None and not self.answered:
                arrival.reader.feed(chunk)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._could_not_read(error)

    def finish(self) -> None:
        """The body is complete."""
        arrival = self._arrival
        if arrival is None or self.answered:
            return
        arrival.complete = True
        self._postings.arrived(self)
        if arrival.kept is not None:
            self._body = b"".join(arrival.kept)
        if arrival.refusal is not None:
            self._answer(arrival.refusal)
        elif arrival.reader is not None:  # else a newer catalog is being read, which decides what follows
            self._finish(arrival.reader.finishing())

    def abandon(self) -> None:
        """Nobody will read the answer. Rows that still wait are withdrawn; a flush that has begun goes on."""
        self._respond = _to_nobody
        if self.answered:
            return
        if not self._is_submitted:
            self.refuse(Refused(MALFORMED_HTTP), at_once=True)
        elif self._postings.batcher.withdraw(self):
            self._postings.metrics.answered("shed", self.rows)
            self.answered = True

    # ---------------------------------------------------------------- refusals

    def refuse(self, error: Exception, *, at_once: bool = False) -> None:
        """Answer with what the error means.

        If the body is still arriving, its end is waited for where that is near, unless it must be answered at once.
        """
        if self.answered:
            return
        arrival = self._arrival
        if arrival is not None and arrival.refusal is not None:
            answer = arrival.refusal
        else:
            problem = problem_of(error)
            if not is_expected(error):
                logger.error("a request failed in a way that was not foreseen", exc_info=error)
            self._postings.metrics.answered(problem.outcome, self.rows)
            answer = problem.answer
        if arrival is None or arrival.complete:
            self._answer(answer)
        elif at_once or not arrival.is_soon_over:
            self._answer(replace(answer, close=True))
        else:
            arrival.refusal = answer
            arrival.kept = arrival.reader = None

    def is_late(self, now: float) -> bool:
        """Whether the body should have arrived by now."""
        return self._arrival is not None and self._arrival.deadline <= now

    def _answer(self, answer: Answer) -> None:
        self.answered = True
        self._end_arrival()
        self._respond(answer)

    # ---------------------------------------------------------------- reading

    def _hold(self, arrival: _Arrival, chunk: bytes) -> None:
        """Count a chunk, and keep it while the body is small."""
        size, limit = len(chunk), self._postings.limits.bytes_max
        arrival.received += size
        if arrival.refusal is not None:
            arrival.swallowed += size
            if not arrival.is_soon_over:
                self._answer(replace(arrival.refusal, close=True))
            return
        self._postings.hold(size + _OBJECT_BYTES)
        arrival.held += size + _OBJECT_BYTES
        if arrival.received > limit:
            arrival.swallowed = arrival.received - limit
            raise Refused(body_too_large(limit))
        if arrival.kept is not None:
            arrival.kept.append(chunk)
            if arrival.received > _KEPT_BYTES_MAX and arrival.reader is not None:
                arrival.kept = None

    def _end_arrival(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            self._postings.arrived(self)
            self._postings.hold(-arrival.held)

    def _finish(self, steps: Generator[None, None, Encoded]) -> None:
        """One piece of the work that is left when the body is complete; others have their turn between the pieces."""
        if self._is_over:
            return
        try:
            next(steps)
        except StopIteration as end:
            if self._plan is not None:
                self._submit(self._plan, end.value)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._could_not_read(error)
        else:
            asyncio.get_running_loop().call_soon(self._finish, steps)

    @property
    def _is_over(self) -> bool:
        """Whether it was answered for good; 202 is no more than a promise."""
        return self.answered and not self._is_submitted

    def _could_not_read(self, error: Exception) -> None:
        """Refuse, but for a name that the catalog does not have: that is looked up once more, in a newer one."""
        if is_miss(error):
            if self._arrival is not None:
                self._arrival.reader = None
            self._postings.look_again(self, cast("Rejected", error))
        else:
            self.refuse(error)

    def read_again(self, error: Exception) -> None:
        """Read what is here of the body by the newest catalog, after `error` by an older one, and go on."""
        if self._is_over:
            return
        before, arrival = self._plan, self._arrival
        try:
            plan = self._plan = self._postings.ingest.plan(self._request)
            if arrival is not None and not arrival.complete:
                kept = arrival.kept
            else:
                kept = None if self._body is None else [self._body]
                self._body = None
            reader = plan.reader()
            for chunk in kept or ():
                reader.feed(chunk)
        except Exception as failure:  # noqa: BLE001 - it becomes the answer
            self._failed(failure)
        else:
            if kept is None:  # it was large
                is_same = before is not None and plan.table is before.table
                self._failed(error if is_same else TableChanged("the table was changed while the rows arrived"))
            elif arrival is not None and not arrival.complete:
                arrival.reader = reader
            else:
                self._finish(reader.finishing())

    # ---------------------------------------------------------------- writing

    def _submit(self, plan: Plan, encoded: Encoded) -> None:
        """Hand the rows to the batcher, and answer before the commit if the client asked for that."""
        self.rows = rows = encoded.rows
        if self._arrival is not None:
            self._end_arrival()
        if not rows:
            self._postings.metrics.answered("committed", 0)
            self._answer(plan.accepted if plan.respond_async else plan.stored(None))
            return
        batcher = self._postings.batcher
        self.payload = encoded.payload
        body = self._body
        self.size = encoded.size if body is None else max(encoded.size, len(body))  # it is kept for as long
        if not self._is_submitted:  # a second try has no more time
            self.deadline = batcher.clock() + plan.wait_seconds
            self._is_submitted = True
        try:
            batcher.submit(plan.target_of(encoded), self)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._failed(error)
        else:
            if plan.respond_async and not self.answered:
                self.answered = True
                self._respond(plan.accepted)

    def answer(self, outcome: Outcome) -> None:
        """What became of the rows."""
        if isinstance(outcome, Exception):
            if isinstance(outcome, TableChanged) and self._body is not None:
                self.read_again(outcome)
            else:
                self._failed(outcome)
            return
        self._postings.metrics.answered("committed", self.rows)
        if not self.answered and self._plan is not None:
            self.answered = True
            self._respond(self._plan.stored(outcome))

    def _failed(self, error: Exception) -> None:
        """The rows are not stored. After a 202 nobody is left to tell but the log and the metrics."""
        if not self.answered:
            self.refuse(error)
            return
        problem = problem_of(error)
        self._postings.metrics.answered(problem.outcome, self.rows)
        logger.error(
            "%d rows for %s that were accepted with 202 could not be stored: %s %s",
            self.rows,
            self._request.table if self._plan is None else self._plan.table.identifier,
            problem.fault.code,
            problem.fault.message,
        )


def _to_nobody(_answer: Answer) -> None:
    """The client has gone."""
