"""The work of one write: what has its outcome, and what must still be written, part by part.

Owns the isolation of bad rows, so that one request's rows never fail another's, and its bounds. Pure: no connection.
`slot.py` tries parts and reports how they ended.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import asyncpg
from msgspec import Struct

from sql.encoded import Payload, runs
from sql.errors import Fault, Rejected, Unavailable, fault_of, line_of, not_singular
from sql.options import Written
from sql.salvage import BadRow, Extra, Salvage, Stored, without
from sql.target import Target, Way, nothing_target

_LOCATED_TOGETHER = 3
"""Bad requests of a batch after which the rest is written in parts: one more COPY for each of the first, then two."""

_BUSY_MAX = 16
"""How often a wait for somebody's lock is worth finding out whose row it is: enough for one among thousands."""


_RUNS_MAX = 50
"""Statements of upserts in one transaction, for requests with keys in common: each takes a round trip."""

_REPEATS_MAX = 50
"""Enough to part two requests with the same key among many; then somebody is deleting them as fast as we insert."""


class Rows(Protocol):
    """What a slot must know of a submission: the `Payload` of a codec for the batch's target, and how many rows it is.

    To whoever hands the batch over, the payload is opaque, and so is `extra`: an `Extra` with what the request brought
    along, or None.
    """

    @property
    def payload(self) -> object:
        """What is written."""

    @property
    def rows(self) -> int:
        """How many rows that is."""

    @property
    def extra(self) -> object:
        """What is written beside it."""


class Batch(Protocol):
    """What a slot must know of a batch. `lane` is a `Target`; no request's deadline is before `deadline`, in seconds on
    a monotonic clock; `failures` counts how often in a row batches of the lane could not be written.
    """

    @property
    def lane(self) -> Hashable:
        """What it is written to."""

    @property
    def submissions(self) -> Sequence[Rows]:
        """The requests."""

    @property
    def deadline(self) -> float:
        """When the first of them is late."""

    @property
    def failures(self) -> int:
        """How often it was tried in vain."""


def salvage_of(request: Rows) -> Salvage | None:
    """The wish to have bad rows kept, if a request has it."""
    return None if request.extra is None else cast("Extra", request.extra).salvage


class Reduced(Struct, frozen=True):
    """A request of which some bad rows have been taken out."""

    payload: Payload
    rows: int
    extra: Extra | None


class Group(NamedTuple):
    """Requests of one batch, by their places in it, and what they are written to."""

    target: Target
    batch: int
    places: Sequence[int]


class Part(NamedTuple):
    """What is written in one transaction. `gently`: without waiting long for locks. `shared`: nor for anything else,
    since several tables are in this together.

    With `suspicion` it is one request, which has failed as a whole for this reason: its rows are tried one by one.
    """

    groups: Sequence[Group]
    gently: bool = False
    shared: bool = False
    suspicion: Fault | None = None


class Work:
    """Batches on their way into the database."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        groups = [Group(cast("Target", b.lane), n, range(len(b.submissions))) for n, b in enumerate(batches)]
        if len(groups) > 1:
            groups.sort(key=lambda group: group.target.order)
        self.parts = [Part(groups, shared=len(groups) > 1)]
        """What must still be written; taken from the end."""
        self.looked_again: set[Target] = set()
        """The targets that the newest catalog agrees with."""
        self.is_doubtful = False
        """Whether it is unknown if the last part is stored."""
        self.failure: Exception | None = None
        """What nobody foresaw at the last part."""
        self._brings_extras = bool([1 for b in batches for request in b.submissions if request.extra is not None])
        self._at_once: Sequence[Sequence[object]] | None = None
        self._requests = sum([len(batch.submissions) for batch in batches])
        self._outcomes: list[dict[int, object]] = [{} for _ in batches]
        self._reduced: dict[tuple[int, int], Reduced] = {}
        self._located = 0
        self._waited = 0
        self._repeats = 0

    def next(self) -> Part:
        """Take what is written next: no more statements in a transaction than their time-out is meant for."""
        part = self.parts.pop()
        group = part.groups[0]
        if group.target.serial and len(group.places) > _RUNS_MAX:
            lengths = runs([request.payload for request in self.requests(group)])
            if len(lengths) > _RUNS_MAX:
                first = sum(lengths[:_RUNS_MAX])
                self._push(part, group.places[first:], group.places[:first])
                part = self.parts.pop()
        return part

    def is_of(self, batches: Sequence[Batch]) -> bool:
        """Whether it is the work on these batches."""
        return len(batches) == len(self.batches) and all(
            ours is theirs for ours, theirs in zip(self.batches, batches, strict=True)
        )

    def is_all(self, part: Part) -> bool:
        """Whether a part is all of it, as it came."""
        return not self._reduced and sum([len(group.places) for group in part.groups]) == self._requests

    def requests(self, group: Group) -> Sequence[Rows]:
        """The requests of a group as they are now."""
        submissions = self.batches[group.batch].submissions
        if not self._reduced:
            return submissions if len(group.places) == len(submissions) else [submissions[p] for p in group.places]
        return [self._reduced.get((group.batch, place), submissions[place]) for place in group.places]

    def extras(self, part: Part) -> Iterator[tuple[Group, int, Rows, Extra]]:
        """The requests of a part that bring something along, each with its group and its number in that."""
        if self._brings_extras:
            for group in part.groups:
                for number, request in enumerate(self.requests(group)):
                    if request.extra is not None:
                        yield group, number, request, cast("Extra", request.extra)

    def deadline(self, part: Part) -> float:
        """When the first of a part is late."""
        return min([self.batches[group.batch].deadline for group in part.groups])

    def failures(self, part: Part) -> int:
        """How often a part was tried in vain before."""
        return max([self.batches[group.batch].failures for group in part.groups])

    def results(self) -> Sequence[Sequence[object] | Exception]:
        """For each batch the outcome of each of its requests, or what has kept all of it from being written."""
        if self._at_once is not None:
            return self._at_once
        results: list[Sequence[object] | Exception] = []
        for batch, outcomes in zip(self.batches, self._outcomes, strict=True):
            mine = [outcomes[place] for place in range(len(batch.submissions))]
            none = mine and all(isinstance(outcome, Unavailable) for outcome in mine)
            results.append(cast("Unavailable", mine[0]) if none else mine)
        return results

    # ---------------------------------------------------------------- outcomes

    def settle(self, group: Group, place: int, outcome: object) -> None:
        """The outcome of one request."""
        self._outcomes[group.batch][place] = outcome

    def settle_all(self, part: Part, outcomes: Iterable[object]) -> None:
        """The outcomes of all requests of a part, in order."""
        places = ((group, place) for group in part.groups for place in group.places)
        for (group, place), outcome in zip(places, outcomes, strict=False):
            self._outcomes[group.batch][place] = outcome

    def stored(self, part: Part, results: Sequence[Sequence[object]]) -> None:
        """A part is committed; `results` are what is returned to the requests of each of its groups."""
        if self.is_all(part) and not self._brings_extras:
            # The usual case, in which every request counts: nothing was left over.
            by_batch = dict(zip([group.batch for group in part.groups], results, strict=True))
            self._at_once = [by_batch[n] for n in range(len(self.batches))]
            return
        for group, outcomes in zip(part.groups, results, strict=True):
            self._outcomes[group.batch].update(zip(group.places, outcomes, strict=True))
        for group, number, _, extra in self.extras(part):
            place = group.places[number]
            result = cast("Written | None", self._outcomes[group.batch][place])
            bad = extra.salvage.bad if extra.salvage is not None else ()
            self._outcomes[group.batch][place] = Stored(result, bad)

    def unavailable(self, part: Part, reason: str) -> None:
        """Nothing of a part is stored, and it is worth trying again later."""
        self.settle_all(part, iter(lambda: Unavailable(reason), None))

    def reject(self, part: Part, fault: Fault) -> None:
        """All requests of a part fail for this reason, whatever their rows are."""
        for group in part.groups:
            for number, request in enumerate(self.requests(group)):
                salvage = salvage_of(request)
                if salvage is not None and salvage.everything and group.target.way is not Way.NONE:
                    self._quarantine(part, group, number, dict.fromkeys(range(request.rows), fault))
                else:
                    self.settle(group, group.places[number], Rejected(fault))

    def not_singular(self, part: Part, counts: Mapping[int, int]) -> None:
        """Some requests of a part, by their places in it, would have stored another number of rows than one."""
        group = part.groups[0]
        for place, count in counts.items():
            self.settle(group, group.places[place], Rejected(not_singular(count)))
        self.without(part, {(group.batch, group.places[place]) for place in counts})

    # ---------------------------------------------------------------- dividing

    def leave_out(self, part: Part, suspect: int | None) -> None:
        """One of the tables has failed a part: `suspect`, counted in the part, if the error says which one."""
        groups = list(part.groups)
        if suspect is not None:
            self.parts += [part._replace(groups=groups[:suspect] + groups[suspect + 1 :])]
            self.parts += [part._replace(groups=[groups[suspect]])]
        else:
            middle = len(groups) // 2
            self.parts += [part._replace(groups=groups[middle:]), part._replace(groups=groups[:middle])]

    def one_by_one(self, part: Part) -> None:
        """Each request by itself; where triggers drop rows, the returned ones could not be told apart otherwise."""
        group = part.groups[0]
        self._push(part, *([place] for place in reversed(group.places)))

    def halve(self, part: Part) -> None:
        """Half of the requests, then the other half. Of one table, and more than one request."""
        places = list(part.groups[0].places)
        middle = len(places) // 2
        self._push(part, places[middle:], places[:middle])

    def without(self, part: Part, gone: set[tuple[int, int]]) -> None:
        """A part without some of its requests, named by batch and place: they have their outcome."""
        groups = [
            group._replace(places=[place for place in group.places if (group.batch, place) not in gone])
            for group in part.groups
        ]
        groups = [group for group in groups if group.places]
        if groups:
            self.parts.append(part._replace(groups=groups))

    def repeat(self, part: Part) -> None:
        """One of the keys of a part is known, but none can be found: two may be the same, or one has just expired."""
        self._repeats += 1
        if self._repeats > _REPEATS_MAX:
            self.unavailable(part, "an idempotency key comes and goes")
        elif len(part.groups) > 1:
            self.leave_out(part, None)
        elif len(part.groups[0].places) > 1:
            self.halve(part)
        else:
            self.parts.append(part)

    def wait_for_others(self, part: Part, error: asyncpg.PostgresError, reason: str) -> None:
        """A row of the part waits for somebody else's transaction. Find it, since the others need not wait."""
        self._waited += 1
        group = part.groups[0]
        part = part._replace(gently=True)
        place = self._line(error, group)
        if len(group.places) == 1 or self._waited > _BUSY_MAX:
            self.unavailable(part, reason)
        elif place is not None:
            self.settle(group, group.places[place[0]], Unavailable(reason))
            self._push(part, [p for n, p in enumerate(group.places) if n != place[0]])
        else:
            self.halve(part)

    def isolate(self, part: Part, error: asyncpg.PostgresError) -> None:
        """A row of a part is bad: its request fails, found by the line that the error names or by halving.

        A request that wants its bad rows kept loses only that row.
        """
        if part.suspicion is not None:
            # Not even trying its rows has come to an end, so nobody can say which of them are good.
            self.reject(part, part.suspicion)
            return
        group = part.groups[0]
        fault = fault_of(error)
        found = self._line(error, group)
        if found is not None:
            self._located += 1
            self._drop(part, *found, fault)
        elif len(group.places) > 1:
            self.halve(part)
        else:
            (request,) = self.requests(group)
            if salvage_of(request) is None or group.target.way is Way.NONE:
                self.reject(part, fault.at(1) if request.rows == 1 else fault)
            elif request.rows == 1 and not group.target.casts:
                self._quarantine(part, group, 0, {0: fault})
            else:
                self.parts.append(part._replace(suspicion=fault))

    def tried(self, part: Part, faults: dict[int, Fault]) -> None:
        """The rows of a part of one request were tried one by one: those are bad, by their places from 0."""
        group = part.groups[0]
        if faults:
            self._quarantine(part, group, 0, faults)
        elif part.suspicion is not None:  # all of them together are
            self.reject(part, part.suspicion)

    def _drop(self, part: Part, number: int, row: int, column: str | None, fault: Fault) -> None:
        """Row `row` (from 1) of request `number` of the part is bad."""
        group = part.groups[0]
        request = self.requests(group)[number]
        place = group.places[number]
        before, after = list(group.places[:number]), list(group.places[number + 1 :])
        if salvage_of(request) is None:
            self.settle(group, place, Rejected(fault.at(row, column)))
        elif self._located > _LOCATED_TOGETHER:
            self.parts.append(part._replace(groups=[group._replace(places=[place])], suspicion=fault))
        else:
            self._quarantine(part, group, number, {row - 1: fault.at(row, column)})
        # At first all of the rest together, since bad rows are rare. When there are many, what stands before (all good
        # so far) and the rest in halves: written as a whole, a batch of nothing but bad rows would be sent once for
        # each of them.
        if self._located <= _LOCATED_TOGETHER:
            self._push(part, before + after)
        else:
            middle = len(after) // 2
            self._push(part, after[middle:], after[:middle], before)

    def _quarantine(self, part: Part, group: Group, number: int, faults: dict[int, Fault]) -> None:
        """Take rows out of a request, by their places from 0 in its payload, and have them kept with what is left."""
        place = group.places[number]
        request = self.requests(group)[number]
        extra = cast("Extra", request.extra)
        assert extra.salvage is not None  # noqa: S101 - or its rows could not be taken out
        rows = extra.salvage.rows()
        bad = [
            BadRow(rows[n][0], rows[n][1], fault.at(rows[n][0], fault.column)) for n, fault in sorted(faults.items())
        ]
        target = group.target
        left = len(rows) - len(bad)
        payload: Payload = b""
        if left and target.way is Way.COPY:
            payload = without(cast("Payload", request.payload), list(faults))
        elif left and target.columns:
            payload = b",".join([raw for n, (_, raw) in enumerate(rows) if n not in faults])
        if not left:
            target = nothing_target(target.table.schema, target.table.name)
        self._reduced[group.batch, place] = Reduced(payload, left, Extra(extra.key, extra.salvage.with_bad(bad)))
        self.parts.append(part._replace(groups=[Group(target, group.batch, [place])], suspicion=None))

    def _line(self, error: asyncpg.PostgresError, group: Group) -> tuple[int, int, str | None] | None:
        """Whose row an error names: the number of the request in the group, the row from 1 in that, the column."""
        located = line_of(error, group.target.table.name) if group.target.way is Way.COPY else None
        if located is not None:
            line, column = located
            for number, request in enumerate(self.requests(group)):
                if line <= request.rows:
                    return (number, line, column) if line > 0 else None
                line -= request.rows
        return None

    def _push(self, part: Part, *stretches: Sequence[int]) -> None:
        group = part.groups[0]
        self.parts += [part._replace(groups=[group._replace(places=places)]) for places in stretches if places]
