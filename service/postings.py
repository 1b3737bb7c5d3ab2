"""All requests to store rows that are under way, and what they share. One for each service.

Owns what they may hold together, how long their bodies may take, and where each of them is, so that none is lost. Must
not know how any one of them goes on.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import anyio

from batching import Batcher, Closed, DeadlinePassed, QueueFull
from service.auth.gate import Gate
from service.bodies.body import BodyLimits
from service.dialect import prefer
from service.dialect.annotation import annotated
from service.dialect.keys import Keys
from service.dialect.marks import NO_MARKS, Marks
from service.extras import ExtraPosting
from service.ingest import Ingest, Request
from service.observing.counting import Counts
from service.observing.numbers import COMMITTED, OUTCOMES, Outcome
from service.observing.slow import SlowLog
from service.plan import Plan
from service.posting import Posting, Respond
from service.problems import Refused, body_late
from sql import CatalogWatch, Rejected

if TYPE_CHECKING:
    from collections.abc import Hashable

    from service.auth.caller import Caller
    from service.auth.producers import Producer
    from service.observing.traces import Traces


class Postings:
    """Opens postings of those whom the `gate` lets in. `keys` is None if there is no place for idempotency keys,
    `traces` if there are none.
    """

    _SWEEP_SECONDS_MAX = 0.25

    def __init__(  # noqa: PLR0913 - it is where the parts of a request's life meet
        self,
        ingest: Ingest,
        batcher: Batcher,
        watch: CatalogWatch,
        counts: Counts,
        limits: BodyLimits,
        *,
        gate: Gate,
        keys: Keys | None,
        slow: SlowLog,
        traces: Traces | None = None,
    ) -> None:
        self.ingest = ingest
        self.batcher = batcher
        self.clock = batcher.clock
        self.counts = counts
        self.slow = slow
        self.traces = traces
        self.limits = limits
        self.gate = gate
        self.keys = keys
        self.received_requests = 0
        self.received_rows = 0
        self.unread: set[Posting] = set()
        """Those whose rows are not with the batcher: they are arriving, being read, or waiting for a catalog."""
        self.rows_aside = 0
        """Bad rows of requests whose good ones are with the batcher."""
        self._watch = watch
        self.stopping = False
        self._held = 0
        self._arriving: set[Posting] = set()
        self._looking: set[asyncio.Task[None]] = set()
        self._postponed: list[tuple[ExtraPosting, Hashable]] = []

    def open(self, request: Request, respond: Respond, marks: Marks, caller: Caller) -> Posting:
        """A request of which the head is known. Give it its body by `whole`, or by `begin`, `feed` and `finish`."""
        posting = self._open(request, respond, None, marks)
        posting.caller = caller
        return posting

    def open_again(self, request: Request, respond: Respond, plan: Plan, account: Producer | None) -> Posting:
        """One like another that was let in and planned before, and has no marks."""
        posting = self._open(request, respond, plan, NO_MARKS)
        posting.account = account
        return posting

    def _open(self, request: Request, respond: Respond, plan: Plan | None, marks: Marks) -> Posting:
        preferences = prefer.parse(request.prefer)
        posting = (
            ExtraPosting(self, request, respond, marks)
            if marks.keys or preferences.is_extra
            else Posting(self, request, respond, plan)
        )
        posting.marks = marks
        if marks.name or preferences.server_timing:
            posting.annotate(partial(annotated, self.clock, timing=preferences.server_timing))
        if self.traces is not None:
            self.traces.begin(posting, request.table)
        return posting

    async def run(self) -> None:
        """Refuse bodies that take too long to arrive. Runs until it is cancelled."""
        clock = self.batcher.clock
        while True:
            await anyio.sleep(min(self._SWEEP_SECONDS_MAX, self.limits.seconds_max / 4))
            now = clock()
            for posting in [posting for posting in self._arriving if posting.is_late(now)]:
                posting.refuse(Refused(body_late(self.limits.seconds_max)), at_once=True)
            self._submit_postponed()

    def stop(self) -> None:
        """Wait for no more: what has not arrived yet is refused, so that a slow sender cannot hold up the end."""
        self.stopping = True
        for posting in list(self._arriving):
            posting.refuse(Closed(), at_once=True)
        for task in self._looking:
            task.cancel()
        self._submit_postponed()

    def pending(self) -> tuple[int, int]:
        """Requests that have been received and have no outcome, and their rows: with the batcher, not yet, or not any
        more.
        """
        with_batcher = self.batcher.statistics()
        return (
            with_batcher.pending_submissions + len(self.unread),
            with_batcher.pending_rows + self.rows_aside + sum(posting.rows for posting in self.unread),
        )

    @property
    def held_bytes(self) -> int:
        """What bodies hold that arrive, are read or are decompressed."""
        return self._held

    # ---------------------------------------------------------------- for the postings

    def arriving(self, posting: Posting) -> None:
        """A body is on its way. Raises `Closed`."""
        self.unread.add(posting)
        if self.stopping:
            raise Closed
        self._arriving.add(posting)

    def arrived(self, posting: Posting) -> None:
        """Nothing more is waited for."""
        self._arriving.discard(posting)

    def reading(self, posting: Posting) -> None:
        """Its rows are not ready to be written."""
        self.unread.add(posting)
        posting.began = posting.began or self.clock()

    def stored(self, posting: ExtraPosting, outcome: int, rows: int, bad: int) -> None:
        """Count a success: its place in `OUTCOMES`, the rows of the request, and how many of them are in quarantine."""
        flush = posting.flush
        queued = 0.0 if flush is None else flush.began - posting.since
        began = posting.began if posting.took is None else self.clock() - posting.took
        seconds = self.counts.stored(posting.numbers, outcome, rows, began, queued)
        if outcome == COMMITTED and bad:
            self.counts.set_aside(posting.numbers, outcome, bad)
        if seconds >= self.slow.request_seconds:
            self.slow.request(posting, OUTCOMES[outcome], seconds)

    def ended(self, posting: Posting, outcome: Outcome, rows: int) -> None:
        """Count what became of a request without having been stored by the batcher."""
        self.unread.discard(posting)
        seconds = self.clock() - posting.began if posting.began else 0.0
        self.counts.answered(posting.numbers, outcome, rows, seconds)
        if seconds >= self.slow.request_seconds:
            self.slow.request(posting, outcome, seconds)

    def hold(self, size: int, account: Producer | None) -> None:
        """Count so many bytes more of bodies, or fewer. Raises `QueueFull` if that is too much, in all or of one."""
        if size > 0 and self._held + size > self.limits.held_bytes_max:
            raise QueueFull(retry_seconds=1)
        if account is not None:
            account.hold(size)
        self._held += size

    def look_again(self, posting: Posting, miss: Rejected) -> None:
        """Read the catalog, then have the posting look by it at what was missing."""
        self.reading(posting)
        task = asyncio.get_running_loop().create_task(self._look_again(posting, miss))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look_again(self, posting: Posting, miss: Rejected) -> None:
        try:
            async with asyncio.timeout(posting.patience_seconds):
                await self._watch.after_miss()
        except asyncio.CancelledError:
            posting.refuse(Closed(), at_once=True)
        except TimeoutError:
            posting.refuse(DeadlinePassed())
        except Exception as error:  # noqa: BLE001 - it is the answer
            posting.refuse(error)
        else:
            posting.read_again(miss)

    def postpone(self, posting: ExtraPosting, lane: Hashable) -> None:
        """The batcher does not take the rows now, but nobody is left who could send them again."""
        self.unread.add(posting)
        self._postponed.append((posting, lane))

    def _submit_postponed(self) -> None:
        postponed, self._postponed = self._postponed, []
        for posting, lane in postponed:
            posting.submit_to(lane)
