"""Postings that ask for more than storing rows: an idempotency key, bad rows kept apart, an answer before the commit.

Owns what becomes of bad rows and of rows whose sender has gone with a 202, so that none of those is lost without a
word. Must not know how keys and bad rows are written: that goes along with the rows as `sql.Extra`.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4, uuid5

from batching import Flush, QueueFull, SinkAway
from service.dialect import prefer
from service.dialect.keys import Fingerprint, key_text
from service.dialect.marks import Marks
from service.ingest import Request
from service.observing.account import names_of
from service.observing.numbers import QUARANTINED, REPLAYED, Outcome
from service.plan import Plan, is_miss
from service.posting import Posting, Respond, success, to_nobody
from service.problems import Refused, is_expected, keys_not_kept, problem_of
from sql import (
    BadRow,
    Encoded,
    Extra,
    Fault,
    IdempotencyKey,
    KeyReused,
    Rejected,
    Salvage,
    Stored,
    TableChanged,
    Written,
    nothing_target,
    rows_of_body,
)

if TYPE_CHECKING:
    from service.postings import Postings

logger = logging.getLogger(__name__)

_KEYED = UUID("a7f5c5a2-33b4-4c53-9a8e-0f9ad6d3b1a1")
"""The namespace of request ids that are made from idempotency keys (RFC 9562 section 5.5)."""


class ExtraPosting(Posting):
    """One such request. `_promised` is the plan by which it was answered 202, once it was."""

    __slots__ = (
        "_aside",
        "_bad",
        "_fingerprint",
        "_has_looked",
        "_is_salvaged",
        "_is_spoilt",
        "_keeps_body",
        "_key",
        "_promised",
        "_request_id",
        "extra",
        "took",
    )

    def __init__(self, postings: Postings, request: Request, respond: Respond, marks: Marks) -> None:
        super().__init__(postings, request, respond, None)
        preferences = prefer.parse(request.prefer)
        self.extra: Extra | None = None
        self._keeps_body = preferences.respond_async or preferences.quarantine
        self.marks = marks
        self._fingerprint = Fingerprint(request) if marks.keys else None
        self._key: IdempotencyKey | None = None  # once it is claimed
        self._request_id = ""
        self._bad: Sequence[BadRow] = ()
        self._aside = 0  # how many of them are not counted in `rows`
        self._has_looked = False
        self._is_spoilt = False  # whether the codec has refused a row while others were still to come
        self._is_salvaged = False  # whether good rows were parted from bad ones, or cannot be
        self._promised: Plan | None = None
        self.took: float | None = None
        """Seconds to its answer, if it has got one before the commit."""

    # ---------------------------------------------------------------- for the lane

    def whole(self, body: bytes, *, chunked: bool = False) -> None:
        """Take the body, all of it."""
        self._in_one_piece(body, chunked=chunked)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body."""
        if self._fingerprint is not None:
            self._fingerprint.update(chunk)
        super().feed(chunk)

    def finish(self) -> None:
        """The body is complete."""
        super().finish()
        if self._is_spoilt and self._plan is not None and not self.answered:
            self._salvage(self._plan)

    # ---------------------------------------------------------------- reading

    def _make_plan(self) -> Plan:
        if self.marks.keys:
            key_text(self.marks.keys)
            if self._postings.keys is None:
                raise Refused(keys_not_kept())
        return super()._make_plan()

    @property
    def _is_over(self) -> bool:
        return self.answered and self._promised is None

    def _could_not_read(self, error: Exception) -> None:
        """Look once more, then refuse, or have bad rows kept where that was asked for or nobody is left to be told."""
        if self._promised is not None:
            self._keep_what_cannot_be_read(error)
        elif is_miss(error) and not self._has_looked:
            self._has_looked = True
            self._look_again(cast("Rejected", error))
        elif self._plan is not None and self._plan.salvages and self._may_salvage(error):
            self._salvage(self._plan)
        else:
            self._failed(error)

    def _may_salvage(self, error: Exception) -> bool:
        return isinstance(error, Rejected) and not self._is_salvaged

    def read_again(self, error: Exception) -> None:
        """Read what is here of the body by the newest catalog."""
        self._is_salvaged = False
        self._bad = ()
        super().read_again(error)

    def _could_not_read_again(self, error: Exception) -> None:
        self._could_not_read(error)

    def _salvage(self, plan: Plan) -> None:
        """Part the good rows from the bad and go on with both, when all of the body is here."""
        arrival = self._arrival
        if arrival is not None and not arrival.complete:
            arrival.reader = None
            self._is_spoilt = True
            return
        self._is_salvaged = True
        self._finish(self._salvaging(plan, self._body or b""))

    def _salvaging(self, plan: Plan, body: bytes) -> Generator[None, None, Encoded]:
        encoded, self._bad = yield from plan.salvaging(body)
        if not self._has_looked and self._promised is None:
            for row in self._bad:
                if row.fault.code == "PGRST204":
                    raise Rejected(row.fault)  # so that a newer catalog is asked about the column
        return encoded

    def _keep_what_cannot_be_read(self, error: Exception) -> None:
        """After a 202: the table is not what it was, and by its newest state some or all of the rows mean nothing."""
        promised = self._promised
        if promised is None or self._body is None or not self._postings.ingest.quarantines:
            self._failed(error)
        elif self._plan is not None and self._may_salvage(error):
            self._salvage(self._plan)
        else:
            self._keep_all(promised, problem_of(error).fault)

    def _keep_all(self, plan: Plan, fault: Fault) -> None:
        """Every row is bad, for this one reason."""
        body = self._body or b""
        try:
            rows = rows_of_body(body, lines=plan.lines)
        except Rejected:
            rows = [body]
        self._bad = [BadRow(number, raw, fault) for number, raw in enumerate(rows, 1)]
        self._submit(plan, _NOTHING)

    # ---------------------------------------------------------------- writing

    def _submit(self, plan: Plan, encoded: Encoded) -> None:
        """Hand the rows to the batcher with what goes along with them, and promise them if that was asked for."""
        postings, bad = self._postings, self._bad
        if not (encoded.rows or bad):
            super()._submit(plan, encoded)
            return
        self._end_arrival()
        self._count(encoded.rows or len(bad), len(bad) if encoded.rows else 0)
        table = plan.table
        try:
            target = plan.target_of(encoded) if encoded.rows else nothing_target(table.schema, table.name)
            self._claim_key()
        except (Rejected, Refused) as error:
            self._failed(error)
            return
        self.payload = encoded.to_write
        self.extra = self._make_extra(plan)
        self.size = encoded.size + sum([len(row.raw) for row in bad])
        if self._body is not None:
            self.size += len(self._body)
        if not self._is_submitted:  # a second try has no more time
            now = self.since = postings.clock()
            self.deadline = now + plan.wait_seconds
            self._is_submitted = True
        self.submit_to(target.apart if self.apart else target)
        if self.account is not None and not self.answered:
            self.account.charge(self._aside)  # they are written as well
        if plan.respond_async and not self.answered:
            self._promised = plan
            self.answered = True
            self.took = postings.clock() - self.began
            respond, self._respond = self._respond, to_nobody
            respond(plan.accepted)

    def submit_to(self, lane: Hashable) -> None:
        """Hand the rows to the batcher; later, if it does not take them and they are promised."""
        self._postings.unread.discard(self)
        if self._promised is not None:
            self.account = None  # what its producer may take was judged before the promise
        try:
            self._postings.batcher.submit(lane, self)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            may_wait = self._promised is not None and not self._postings.stopping
            if may_wait and isinstance(error, (QueueFull, SinkAway)):
                self._postings.postpone(self, lane)
            else:
                self._failed(error)

    def _claim_key(self) -> None:
        """Have the key for this request alone until its outcome. Raises `Refused`."""
        if self._fingerprint is None or self._key is not None or self._postings.keys is None:
            return
        text = key_text(self.marks.keys)
        if self.account is not None:
            text = f"{self.account.name}\n{text}"  # keys of different producers are different keys
        key = IdempotencyKey(text, self._fingerprint.digest())
        self._postings.keys.claim(key)
        self._key = key

    def _make_extra(self, plan: Plan) -> Extra | None:
        salvage = None
        if plan.salvages or (plan.respond_async and self._postings.ingest.quarantines):
            salvage = Salvage(
                self._name(),
                self._body or b"",
                lines=plan.lines,
                bad=self._bad,
                everything=plan.respond_async,
                intent=plan.intent,
            )
        return None if salvage is None and self._key is None else Extra(self._key, salvage)

    def _name(self) -> str:
        """The request id, to find bad rows by: the client's or one of our own, the same one for each try with a key."""
        if not self._request_id:
            if self.marks.name:
                self._request_id = self.marks.name
            elif self._key is not None:
                self._request_id = uuid5(_KEYED, f"{self._key.text} {self._key.fingerprint.hex()}").hex
            else:
                self._request_id = uuid4().hex
        return self._request_id

    def _names(self) -> dict[str, object]:
        """For the log: with the name that its bad rows have in quarantine, if they have one."""
        return names_of(self) | ({"request_id": self._request_id} if self._request_id else {})

    # ---------------------------------------------------------------- outcomes

    def answer(self, outcome: object, flush: Flush | None, /) -> None:
        """What became of the rows."""
        self.flush = flush
        if isinstance(outcome, TableChanged) and self._body is not None:
            self._has_looked = True  # the slot has just read the catalog
            self._was_in_vain()
            self.read_again(outcome)
        elif isinstance(outcome, Exception):
            self.spoilt = isinstance(outcome, Rejected)
            self._failed(outcome)
        elif isinstance(outcome, Stored):
            self.spoilt = len(outcome.bad) > len(self._bad)  # those, the codec has found
            self._stored(outcome)
        else:
            self._stored(Stored(cast("Written | None", outcome)))

    def _stored(self, stored: Stored) -> None:
        rows, bad = self.rows + self._aside, len(stored.bad)
        self._release()
        plan = self._plan or self._promised
        if plan is None:
            return
        self._postings.stored(self, _outcome_of(plan, stored, rows), rows, bad)
        if not self.answered:
            self.answered = True
            respond, self._respond = self._respond, to_nobody
            respond(success(self, plan.stored_extra, stored, rows, self._name() if bad else ""))
        elif bad and not stored.replayed:
            logger.warning(
                "%d of %d rows for %s that were accepted with 202 are in quarantine (request %s): %s %s",
                bad,
                rows,
                plan.table.identifier,
                self._name(),
                stored.bad[0].fault.code,
                stored.bad[0].fault.message,
                extra=self._names(),
            )

    def _failed(self, error: Exception) -> None:
        """The rows are not stored. After a 202 nobody is left to tell but the log and the metrics."""
        if self._promised is None:
            self.refuse(error)
            return
        if isinstance(error, KeyReused) and self._body is not None:
            # Another request has used the key. It would have been told, had it waited for the answer.
            self._postings.reading(self)
            self._drop_key()
            self._keep_all(self._promised, problem_of(error).fault)
            return
        rows = self.rows + self._aside
        problem = problem_of(error)
        self._end(problem.outcome)
        logger.error(
            "%d rows for %s that were accepted with 202 could not be stored: %s %s",
            rows,
            self._promised.table.identifier,
            problem.fault.code,
            problem.fault.message,
            exc_info=None if is_expected(error) else error,
            extra=self._names(),
        )

    def _end(self, outcome: Outcome) -> None:
        rows = self.rows + self._aside
        self._release()
        self._postings.ended(self, outcome, rows)

    # ---------------------------------------------------------------- what is held until the outcome

    def _count(self, rows: int, aside: int) -> None:
        """The request has so many rows for the batcher to count, and so many more that are bad."""
        self._postings.received_rows += rows + aside - self.rows - self._aside
        self._postings.rows_aside += aside - self._aside
        self.rows, self._aside = rows, aside

    def _release(self) -> None:
        self._postings.rows_aside -= self._aside
        self.rows += self._aside  # they are told of together
        self._aside = 0
        self._drop_key()

    def _drop_key(self) -> None:
        if self._key is not None and self._postings.keys is not None:
            self._postings.keys.release(self._key)
            self._key = None
            self._fingerprint = None


def _outcome_of(plan: Plan, stored: Stored, rows: int) -> int:
    """The place in `OUTCOMES` of a request with so many rows."""
    if stored.replayed:
        return REPLAYED
    return QUARANTINED if stored.bad and len(stored.bad) == rows else plan.outcome


_NOTHING = Encoded((), b"", 0)
