"""The isolation of bad rows, on a database that is a set of bad rows: right verdicts, in a bounded number of writes."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
from hypothesis import given, settings
from hypothesis import strategies as st

from sql import BadRow, Extra, Rejected, Salvage, Stored, Table, Target, Unavailable, Way
from sql.errors import Fault
from sql.work import Part, Work, salvage_of
from tests.sql.batches import Batch, Request

_TARGETS = [Target(Table("public", name, {}), ("n",), Way.COPY, copy_default=True) for name in "abcd"]


class Database:
    """Takes parts and fails for the first bad row, as PostgreSQL does; counts what it was asked."""

    def __init__(self, *, says_where: bool) -> None:
        self.says_where = says_where
        self.stored: list[bytes] = []
        self.quarantine: list[bytes] = []
        self.writes = 0
        self.rows = 0
        self.trials = 0

    def work_off(self, work: Work) -> Sequence[Sequence[object] | Exception]:
        """What `Slot.write` does, without a connection."""
        while work.parts:
            part = work.parts.pop()
            if part.suspicion is not None:
                self._try(work, part)
                continue
            self.writes += 1
            found = self._first_bad(work, part)
            if found is None:
                for group in part.groups:
                    for request in work.requests(group):
                        self.stored += _lines(request.payload)
                        salvage = salvage_of(request)
                        if salvage is not None:
                            self.quarantine += [row.raw for row in salvage.bad]
                work.stored(part, [[None] * len(group.places) for group in part.groups])
            elif len(part.groups) > 1:
                work.leave_out(part, found[0] if self.says_where else None)
            else:
                error = asyncpg.CheckViolationError("bad")
                if self.says_where:
                    error.context = f"COPY {part.groups[0].target.table.name}, line {found[1]}"
                work.isolate(part, error)
        return work.results()

    def _first_bad(self, work: Work, part: Part) -> tuple[int, int] | None:
        for number, group in enumerate(part.groups):
            lines = [line for request in work.requests(group) for line in _lines(request.payload)]
            self.rows += len(lines)
            for line, text in enumerate(lines, 1):
                if text.startswith(b"bad"):
                    return number, line
        return None

    def _try(self, work: Work, part: Part) -> None:
        self.trials += 1
        (request,) = work.requests(part.groups[0])
        lines = _lines(request.payload)
        work.tried(part, {n: Fault("23514", "bad") for n, line in enumerate(lines) if line.startswith(b"bad")})


def _lines(payload: object) -> list[bytes]:
    assert isinstance(payload, bytes)
    return payload.split(b"\n")[:-1]


def _request(names: Sequence[bytes], *, keeps: bool) -> Request:
    payload = b"".join(name + b"\n" for name in names)
    extra = Extra(salvage=Salvage("r", payload, lines=True)) if keeps else None
    return Request(payload, len(names), extra)


_requests = st.lists(st.tuples(st.lists(st.booleans(), min_size=1, max_size=4), st.booleans()), min_size=1, max_size=40)


@given(st.lists(_requests, min_size=1, max_size=4), st.booleans())
@settings(deadline=None)
def test_each_request_has_its_own_verdict(batches: list[list[tuple[list[bool], bool]]], says_where: bool) -> None:  # noqa: FBT001
    """Whoever is in the batch, and whether or not the database says where the bad row is."""
    number = 0
    made: list[Batch] = []
    for target, requests in zip(_TARGETS, batches, strict=False):
        submissions = []
        for rows, keeps in requests:
            names = [b"%s %d" % (b"bad" if is_bad else b"good", number + n) for n, is_bad in enumerate(rows)]
            number += len(rows)
            submissions.append(_request(names, keeps=keeps))
        made.append(Batch(target, submissions))
    database = Database(says_where=says_where)
    results = database.work_off(Work(made))
    stored: list[bytes] = []
    kept: list[bytes] = []
    bad_requests = bad_batches = 0
    for batch, outcomes in zip(made, results, strict=True):
        assert isinstance(outcomes, Sequence)
        bad_batches += b"bad" in b"".join([bytes(r.payload) for r in batch.submissions])
        for request, outcome in zip(batch.submissions, outcomes, strict=True):
            lines = _lines(request.payload)
            bad = [line for line in lines if line.startswith(b"bad")]
            bad_requests += bool(bad)
            if request.extra is not None:
                assert isinstance(outcome, Stored)
                assert [row.raw for row in outcome.bad] == bad
                assert [lines[row.row - 1] for row in outcome.bad] == bad
                stored += [line for line in lines if line not in bad]
                kept += bad
            elif bad:
                assert isinstance(outcome, Rejected)
            else:
                assert outcome is None
                stored += lines
    assert sorted(database.stored) == sorted(stored)
    assert sorted(database.quarantine) == sorted(kept)
    # One write for all, and for each bad request a few more: leaving its table out, finding it, writing it, the rest.
    largest = max(len(batch.submissions) for batch in made)
    halvings = 1 if says_where else largest.bit_length()
    assert database.writes <= 1 + 2 * len(made) * bad_batches + bad_requests * (3 + 2 * halvings)


def test_a_batch_of_nothing_but_bad_rows_costs_two_writes_a_request() -> None:
    """And each row is sent a dozen times, not a thousand times."""
    for says_where in (True, False):
        database = Database(says_where=says_where)
        requests = [_request([b"bad %d" % n], keeps=False) for n in range(1024)]
        (outcomes,) = database.work_off(Work([Batch(_TARGETS[0], requests)]))
        assert isinstance(outcomes, Sequence)
        assert all(isinstance(outcome, Rejected) for outcome in outcomes)
        assert database.writes <= 2 * 1024
        assert database.rows <= 13 * 1024


def test_a_request_of_nothing_but_bad_rows_is_tried_once() -> None:
    """Its rows are told apart in one round trip, however many there are."""
    for says_where in (True, False):
        database = Database(says_where=says_where)
        request = _request([b"bad %d" % n for n in range(1000)], keeps=True)
        (outcomes,) = database.work_off(Work([Batch(_TARGETS[0], [request])]))
        assert isinstance(outcomes, Sequence)
        (outcome,) = outcomes
        assert isinstance(outcome, Stored)
        assert len(outcome.bad) == 1000
        assert database.trials == 1
        assert database.writes <= 5


def test_a_row_that_waits_for_somebody_is_found() -> None:
    """The others need not wait for that; and when all of them do, it is not asked a thousand times."""
    error = asyncpg.LockNotAvailableError("locked")
    for locked, most in (({b"7"}, 24), (set(map(b"%d".__mod__, range(1000))), 40)):
        requests = [_request([b"%d" % n], keeps=False) for n in range(1000)]
        work = Work([Batch(_TARGETS[0], requests)])
        writes = 0
        while work.parts:
            part = work.parts.pop()
            writes += 1
            if any(line in locked for r in work.requests(part.groups[0]) for line in _lines(r.payload)):
                work.wait_for_others(part, error, "SQLSTATE 55P03")
            else:
                work.stored(part, [[None] * len(part.groups[0].places)])
        assert writes <= most
        (outcomes,) = work.results()
        if len(locked) > 1:
            assert isinstance(outcomes, Unavailable), "all of it goes back"
        else:
            assert isinstance(outcomes, Sequence)
            assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Unavailable)] == [7]


def test_bad_rows_keep_their_numbers() -> None:
    """Those that a codec has refused are counted, too."""
    payload = b"good\nbad\ngood\n"
    body = b"x\ngood\nbad\ny\ngood\n"
    refused = [BadRow(1, b"x", Fault("1", "")), BadRow(4, b"y", Fault("1", ""))]
    request = Request(payload, 3, Extra(salvage=Salvage("r", body, lines=True, bad=refused)))
    (outcomes,) = Database(says_where=True).work_off(Work([Batch(_TARGETS[0], [request])]))
    assert isinstance(outcomes, Sequence)
    (outcome,) = outcomes
    assert isinstance(outcome, Stored)
    assert [(row.row, row.raw) for row in outcome.bad] == [(1, b"x"), (3, b"bad"), (4, b"y")]
