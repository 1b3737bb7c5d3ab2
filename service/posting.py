"""A posting: one request to store rows, from its head to its answer. All lanes drive it; none does what it does.

Owns the life of a request: its body, the second look at a newer catalog, the batcher, the answer. Synchronous: a lane
hands over what has arrived and is called back with the `Answer`. Must not know HTTP on the wire, nor how rows are
written, nor what the few requests need that ask for more (`extras.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from batching import Flush, NotQueued, Submission
from service.bodies.body import KEPT_BYTES_MAX, LARGE_BYTES, Arrival, decode, held_for
from service.dialect.marks import NO_MARKS
from service.http.cors import cross_origin
from service.ingest import Request
from service.observing.numbers import OUTCOMES, Outcome, TableNumbers
from service.observing.unforeseen import unforeseen
from service.plan import Plan, is_miss
from service.problems import (
    MALFORMED_HTTP,
    Answer,
    Problem,
    Refused,
    body_too_large,
    for_known,
    is_expected,
    problem_of,
)
from sql import Encoded, Extra, Rejected, TableChanged, TooLarge

if TYPE_CHECKING:
    from service.auth.caller import Caller
    from service.auth.producers import Producer
    from service.observing.account import Traced
    from service.postings import Postings

Respond: TypeAlias = Callable[[Answer], object]
"""How a lane is told the answer: once, from the event loop, maybe before the call that caused it returns."""


class Posting(Submission):
    """One request to store rows, and what the batcher and the slots know of it."""

    __slots__ = (
        "_arrival",
        "_body",
        "_is_submitted",
        "_plan",
        "_postings",
        "_request",
        "_respond",
        "answered",
        "apart",
        "began",
        "caller",
        "flush",
        "marks",
        "span",
        "spoilt",
    )

    account: Producer | None
    """Who has sent it, once he is let in; None if nobody has to be."""

    extra: Extra | None = None
    """What is written beside the rows; for nearly all requests there is nothing."""

    _keeps_body = False
    """Whether the body is kept until the outcome, whatever its size."""

    def __init__(self, postings: Postings, request: Request, respond: Respond, plan: Plan | None) -> None:
        # What a submission has besides is set when there is something to submit.
        self.rows = 0
        self.account = None
        self.caller: Caller | None = None
        """Who is to be let in before anything is planned; None if he is in already."""
        self.answered = False
        self.apart = False
        """Whether to keep its rows from those of others; for the lane to say."""
        self.spoilt = False
        """Whether the database has refused a row of it, which cost the others of its batch some time."""
        self.began = 0.0
        """When the request began, on the batcher's clock; 0 until it takes any time."""
        self.flush: Flush | None = None
        """The one that has settled what became of the rows."""
        self.marks = NO_MARKS
        self.span: Traced | None = None
        self._is_submitted = False
        self._postings = postings
        self._request = request
        self._respond = respond
        self._plan = plan
        self._arrival: Arrival | None = None
        self._body: bytes | None = None
        postings.received_requests += 1

    # ---------------------------------------------------------------- for the lane

    def whole(self, body: bytes, *, chunked: bool = False) -> None:
        """Take the body, all of it. `chunked` if it did not say before how long it would be."""
        size = len(body)
        if size > self._postings.limits.bytes_max or (size > LARGE_BYTES and self._refusal() is not None):
            self._in_one_piece(body, chunked=chunked)
            return
        if size <= KEPT_BYTES_MAX:
            self._body = body
        try:
            plan = self._plan
            if plan is None:
                plan = self._plan = self._make_plan()
            if size > KEPT_BYTES_MAX or plan.decodes:
                self._in_turns(plan, body, chunked=chunked)
                return
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
        now = postings.clock()
        self.began = self.began or now
        arrival = Arrival(declared, now + limits.seconds_max, expects=expects, keeps_all=self._keeps_body)
        self._arrival = arrival
        try:
            postings.arriving(self)
            if declared is not None and declared > limits.bytes_max:
                raise Refused(body_too_large(limits.bytes_max))  # noqa: TRY301 - one way out for all
            self._plan = self._make_plan()
            if declared is not None and self.account is not None and declared > self.account.bytes_max:
                raise Refused(body_too_large(self.account.bytes_max))  # noqa: TRY301 - as above
            arrival.read_by(self._plan)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._could_not_read(error)
        if declared is None or declared > LARGE_BYTES:
            refusal = self._refusal()
            if refusal is not None:
                self.refuse(refusal)
        arrival.expects = False

    def _refusal(self) -> NotQueued | None:
        """Why a large body need not be read, or None."""
        batcher = self._postings.batcher
        refusal = batcher.refusal(math.inf if self._plan is None else batcher.clock() + self._plan.wait_seconds)
        return self.account.refusal() if refusal is None and self.account is not None else refusal

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. It may refuse the request; what comes then is of no interest."""
        arrival = self._arrival
        if arrival is None or self.answered:
            return
        try:
            self._keep(arrival, chunk)
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
        if arrival.kept is not None and not arrival.decodes:
            self._body = b"".join(arrival.kept)
        if arrival.refusal is not None:
            self._answer(arrival.refusal)
        elif arrival.decodes and self._plan is not None and arrival.kept is not None:
            self._finish(self._decoding(self._plan, arrival, arrival.kept))
        elif arrival.reader is not None:  # else a newer catalog is being read, which decides what follows
            self._finish(arrival.reader.finishing())

    def abandon(self) -> None:
        """Nobody will read the answer. Rows that still wait are withdrawn; a flush that has begun goes on."""
        self._respond = to_nobody
        if self._postings.traces is not None:
            self._postings.traces.left(self)
        if self.answered:
            return
        if not self._is_submitted:
            refusal = None if self._arrival is None else self._arrival.refusal
            if refusal is None:  # else it is counted
                self._end("withdrawn")
            self._answer(refusal or MALFORMED_HTTP.answer)
        elif self._postings.batcher.withdraw(self):
            self._end("withdrawn")
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
            problem = self._judge(error)
            answer = cross_origin(problem.answer) if self._request.cross_origin else problem.answer
        if arrival is None or arrival.complete:
            self._answer(answer)
        elif at_once or not arrival.is_soon_over:
            self._answer(replace(answer, close=True))
        else:
            arrival.refuse(answer)
            self._postings.hold(-arrival.held, self.account)  # others may have the room before the end has come
            arrival.held = 0

    def _judge(self, error: Exception) -> Problem:
        """What the error means to the client; it is counted, and logged if it was not foreseen."""
        problem = problem_of(error)
        if not is_expected(error):
            problem = unforeseen("a request failed in a way that was not foreseen", error, self)
        if self.account is not None:
            problem = for_known(problem)
        if self._respond is not to_nobody:
            self._postings.counts.refused(problem.status, problem.fault.code)
        self._end(problem.outcome)
        return problem

    def annotate(self, add: Callable[[Posting, Answer], Answer]) -> None:
        """Have something added to the answer, whatever that will be."""
        respond = self._respond
        self._respond = lambda answer: respond(add(self, answer))

    def is_late(self, now: float) -> bool:
        """Whether the body should have arrived by now."""
        return self._arrival is not None and self._arrival.deadline <= now

    def _answer(self, answer: Answer) -> None:
        self.answered = True
        self._end_arrival()
        # What adds something to the answer refers to us: a cycle that would hold the body until the collector comes.
        respond, self._respond = self._respond, to_nobody
        respond(answer)

    def _end(self, outcome: Outcome) -> None:
        """Count what became of the request and its rows, unless they are stored."""
        self._postings.ended(self, outcome, self.rows)

    @property
    def numbers(self) -> TableNumbers:
        """Those of the table that the request is for."""
        return self._postings.ingest.numbers_of(self._request) if self._plan is None else self._plan.numbers

    @property
    def table_name(self) -> str:
        """The table, as schema.name, if it is known."""
        return "" if self._plan is None else f"{self._plan.table.schema}.{self._plan.table.name}"

    @property
    def plan(self) -> Plan | None:
        """The plan for it, once there is one."""
        return self._plan

    @property
    def is_submitted(self) -> bool:
        """Whether its rows were handed to the batcher, and so have waited since `since`."""
        return self._is_submitted

    # ---------------------------------------------------------------- reading

    def _in_turns(self, plan: Plan, body: bytes, *, chunked: bool = False) -> None:
        """A body that is large, or must be decoded, which may make it large."""
        if plan.decodes:
            self._body = None
            self._in_one_piece(body, chunked=chunked)
        else:
            self._postings.reading(self)
            self._finish(plan.encoding(body))

    def _in_one_piece(self, body: bytes, *, chunked: bool) -> None:
        self.begin(declared=None if chunked else len(body), expects=False)
        self.feed(body)
        self.finish()

    def _make_plan(self) -> Plan:
        """Let the caller in, and plan what he asks for. Raises `Refused`, and what `Ingest.plan` does."""
        postings = self._postings
        if self.caller is not None:
            self.account = postings.gate.admit(self.caller, self._request)
            self.caller = None
        return postings.ingest.plan(self._request)

    def _keep(self, arrival: Arrival, chunk: bytes) -> None:
        """Count a chunk, and keep it while the body is small."""
        if arrival.refusal is None:
            if self.account is not None and arrival.received + len(chunk) > self.account.bytes_max:
                raise TooLarge(self.account.bytes_max)  # for ever, so that it is no use to try again
            self._postings.hold(held_for(chunk), self.account)
            arrival.take(chunk, self._postings.limits.bytes_max)
            return
        arrival.swallow(len(chunk))
        if not arrival.is_soon_over:
            self._answer(replace(arrival.refusal, close=True))

    def _end_arrival(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            self._postings.arrived(self)
            self._postings.hold(-arrival.held, self.account)

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
        """Whether there is nothing more to do for the request."""
        return self.answered

    def _could_not_read(self, error: Exception) -> None:
        """Refuse, but for a name that the catalog does not have: that is looked up once more, in a newer one."""
        if is_miss(error):
            self._look_again(cast("Rejected", error))
        else:
            self._failed(error)

    def _look_again(self, miss: Rejected) -> None:
        if self._arrival is not None:
            self._arrival.reader = None
        self._postings.look_again(self, miss)

    @property
    def patience_seconds(self) -> float:
        """How long the request may wait for a catalog: as for anything else."""
        seconds = self._postings.ingest.seconds_max
        return seconds if self._plan is None else min(seconds, self._plan.wait_seconds)

    def read_again(self, error: Exception) -> None:
        """Read what is here of the body by the newest catalog, after `error` by an older one, and go on."""
        if self._is_over:
            return
        self._postings.reading(self)
        before, arrival = self._plan, self._arrival
        self._plan = None
        try:
            plan = self._plan = self._make_plan()
            if before is None and arrival is None and plan.decodes and self._body is not None:
                self._in_turns(plan, self._body)  # still as it came: without a plan, nobody knew what to do with it
                return
            if arrival is not None and (plan.decodes or not arrival.complete):
                kept = arrival.kept
            else:
                kept = None if self._body is None else [self._body]
            if not self._keeps_body and (arrival is None or arrival.complete):
                self._body = None
            steps = self._resumed(plan, kept)
        except Exception as failure:  # noqa: BLE001 - it becomes the answer
            self._could_not_read_again(failure)
        else:
            if kept is None:  # it was large
                is_same = before is not None and plan.table is before.table
                self._failed(error if is_same else TableChanged("the table was changed while the rows arrived"))
            elif steps is not None:
                self._finish(steps)

    def _resumed(self, plan: Plan, kept: list[bytes] | None) -> Generator[None, None, Encoded] | None:
        """What is left to do with what is here of the body, once it is complete. None: it is not."""
        arrival = self._arrival
        if arrival is not None and plan.decodes:
            if not arrival.complete or kept is None:
                arrival.read_by(plan)
                return None
            arrival.kept = None  # it is read no third time
            return self._decoding(plan, arrival, kept)
        reader = plan.reader()
        for chunk in kept or ():
            reader.feed(chunk)
        if arrival is not None and not arrival.complete:
            arrival.reader = reader
            return None
        return reader.finishing()

    def _decoding(self, plan: Plan, arrival: Arrival, chunks: list[bytes]) -> Generator[None, None, Encoded]:
        """The rows of a complete body that must be decoded first; from then on, what it is decoded to is the body."""
        reader = None if self._keeps_body else plan.reader()
        hold = partial(self._hold, arrival)
        self._body = yield from decode(plan.media, chunks, self._postings.limits.bytes_max, hold, reader)
        return (yield from plan.encoding(self._body or b"") if reader is None else reader.finishing())

    def _hold(self, arrival: Arrival, size: int) -> None:
        """Count so many bytes more of the body. Raises `TooLarge` if that is more than there may be of all bodies."""
        limit = self._postings.limits.held_bytes_max
        if self.account is not None:
            limit = min(limit, self.account.bytes_max)
        if arrival.held + size > limit:
            raise TooLarge(limit)
        self._postings.hold(size, self.account)
        arrival.held += size

    def _could_not_read_again(self, error: Exception) -> None:
        self._failed(error)

    # ---------------------------------------------------------------- writing

    def _submit(self, plan: Plan, encoded: Encoded) -> None:
        """Hand the rows to the batcher."""
        postings = self._postings
        rows = encoded.rows
        postings.received_rows += rows - self.rows
        self.rows = rows
        if self._arrival is not None:
            self._end_arrival()
        if postings.unread:
            postings.unread.discard(self)
        if not rows:
            self._store_nothing(plan)
            return
        batcher = postings.batcher
        self.payload = encoded.to_write
        body, size = self._body, encoded.size
        self.size = size if body is None or len(body) < size else len(body)  # it is kept for as long
        if not self._is_submitted:  # a second try has no more time
            now = self.since = postings.clock()
            self.deadline = now + plan.wait_seconds
            if not self.began:
                self.began = now
            self._is_submitted = True
        try:
            target = plan.target_of(encoded)
            batcher.submit(target.apart if self.apart else target, self)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            self._failed(error)

    def _store_nothing(self, plan: Plan) -> None:
        """There are no rows, which is a success, unless there must be some."""
        try:
            answer = plan.nothing()
        except Rejected as error:
            self._failed(error)
        else:
            self._end("committed")
            self._answer(answer)

    def answer(self, outcome: object, flush: Flush | None, /) -> None:
        """What became of the rows."""
        self.flush = flush
        if isinstance(outcome, Exception):
            if isinstance(outcome, TableChanged) and self._body is not None:
                self._was_in_vain()
                self.read_again(outcome)
            else:
                self.spoilt = isinstance(outcome, Rejected)
                self._failed(outcome)
            return
        plan = self._plan
        if plan is None or flush is None:
            return  # there is no success without them
        postings = self._postings
        queued = flush.began - self.since
        seconds = postings.counts.stored(plan.numbers, plan.outcome, self.rows, self.began, queued)
        if not self.answered:
            self.answered = True
            respond, self._respond = self._respond, to_nobody
            respond(success(self, plan.stored, outcome, self.rows))
        if seconds >= postings.slow.request_seconds:
            postings.slow.request(self, OUTCOMES[plan.outcome], seconds)

    def _was_in_vain(self) -> None:
        """The rows go to the batcher once more, and shall not count twice for what their producer may write."""
        if self.account is not None:
            self.account.charge(-self.rows)

    def _failed(self, error: Exception) -> None:
        """The rows are not stored."""
        self.refuse(error)


def success(posting: Posting, make: Callable[..., Answer], *what: object) -> Answer:
    """The answer to a success. Whatever goes wrong with that, somebody waits for one."""
    try:
        return make(*what)
    except Exception as error:  # noqa: BLE001 - it becomes the answer
        return unforeseen("the answer to a request whose rows are stored could not be made", error, posting).answer


def to_nobody(_answer: Answer) -> None:
    """The client has gone."""
