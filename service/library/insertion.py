"""Insertions: calls of the library's `insert`, as postings among those of the HTTP lanes.

Owns how an outcome reaches the task that waits. What becomes of the rows is decided in `posting.py` and `extras.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from batching import DeadlinePassed
from service.dialect.marks import Marks
from service.extras import ExtraPosting
from service.ingest import Request
from service.library.errors import exception_of
from service.plan import Plan
from service.posting import Posting, Respond
from service.problems import INTERNAL_ERROR, Answer
from sql import Encoded, Table

if TYPE_CHECKING:
    from service.postings import Postings


class _Awaited(Posting):
    """A posting for whose `outcome` a task waits: the body of the answer, or a `HeadraceError`.

    `expires` is the time on the batcher's clock by which the rows must have begun to be written; None leaves that to
    the settings.
    """

    __slots__ = ()

    _outcome: asyncio.Future[bytes]
    _expires: float | None

    @property
    def table(self) -> Table:
        """The table that the rows went to, when they are stored."""
        assert self._plan is not None  # noqa: S101 - there is no success without one
        return self._plan.table

    def refuse(self, error: Exception, *, at_once: bool = False) -> None:  # noqa: ARG002 - there is no body to wait for
        """Raise what the error means where the task waits."""
        if self.answered:
            return
        failure = exception_of(self._judge(error))
        failure.__cause__ = error.with_traceback(None)  # its frames refer to us: a cycle that would hold the rows
        self.answered = True
        self._end_arrival()
        if not self._outcome.done():
            self._outcome.set_exception(failure)

    @property
    def patience_seconds(self) -> float:
        """How long it may wait for a catalog."""
        seconds = super().patience_seconds
        return seconds if self._expires is None else min(seconds, self._expires - self._postings.batcher.clock())

    def _submit(self, plan: Plan, encoded: Encoded) -> None:
        """Hand the rows to the batcher, with the deadline of the call if that is sooner."""
        if self._expires is not None:
            now = self._postings.clock()
            if not now < self._expires:
                self._failed(DeadlinePassed())
                return
            if not self._is_submitted:
                self.since = now
                self.began = self.began or now
                self.deadline = min(self._expires, now + plan.wait_seconds)
                self._is_submitted = True
        super()._submit(plan, encoded)


class Insertion(_Awaited):
    """Rows, and nothing beside them."""

    __slots__ = ("_expires", "_outcome")

    def __init__(
        self, postings: Postings, request: Request, outcome: asyncio.Future[bytes], expires: float | None
    ) -> None:
        super().__init__(postings, request, _respond_to(outcome), None)
        self._outcome = outcome
        self._expires = expires
        if postings.traces is not None:
            postings.traces.insert(self, outcome)


class KeyedInsertion(_Awaited, ExtraPosting):
    """Rows with an idempotency key, which is among the `marks`."""

    __slots__ = ("_expires", "_outcome")

    def __init__(
        self, postings: Postings, request: Request, outcome: asyncio.Future[bytes], expires: float | None, marks: Marks
    ) -> None:
        ExtraPosting.__init__(self, postings, request, _respond_to(outcome), marks)
        self._outcome = outcome
        self._expires = expires
        if postings.traces is not None:
            postings.traces.insert(self, outcome)


def _respond_to(outcome: asyncio.Future[bytes]) -> Respond:
    """Takes the answer to a success; what is none comes by `refuse`."""

    def respond(answer: Answer) -> None:
        if outcome.done():
            return
        if answer.status < 400:
            outcome.set_result(answer.body)
        else:
            outcome.set_exception(exception_of(INTERNAL_ERROR))

    return respond
