"""One transaction: a part of the work as SQL, with the ledger and what requests bring along, and how long it may take.

Owns what is sent, and therefore what the position in an error means. Must not know what an error means to the requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import asyncpg

from sql import records
from sql.connect import Session, Timeouts, milliseconds
from sql.copy import copy
from sql.encoded import Keyed, Payload
from sql.errors import Unconfirmed
from sql.ledger import Ledger
from sql.options import Written
from sql.recordset import Given, RowsFiltered, insert_returning
from sql.statements import literal
from sql.target import Way
from sql.work import Part, Rows, Work

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_LOCK_SECONDS_MIN = 0.05
"""However near a deadline is, a lock that is held for a moment is waited for."""


class Writer:
    """Writes parts, one at a time. `returned` is what the last one has answered before its commit, if it does."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.returned: Sequence[Sequence[object]] | None = None
        self._timeouts = timeouts
        self._lengths = [0]  # of what stands before the rows, and of each statement

    async def write(
        self, connection: Session, ledger: Ledger | None, work: Work, part: Part
    ) -> Sequence[Sequence[object]]:
        """Write a part in one transaction; what is returned to each of its requests. Raises what asyncpg raises, and
        `Unconfirmed`.
        """
        self.returned = None
        before = self._settings(work, part)
        if connection.limits:
            before.insert(0, connection.limits)
        if part.groups[0].target.options.rollback:
            ledger = None  # nothing will be stored that one must know of
        if ledger is not None:
            before.append(ledger.advance)
        target = part.groups[0].target
        self._lengths = [sum(len(statement) + 1 for statement in before)]
        if target.way is Way.RECORDSET_RETURNING:
            self._lengths = [0]  # its statement is sent alone
            if ledger is not None:
                before += records.claims(extra for _, _, _, extra in work.extras(part))
            results: Sequence[Sequence[object]] = await self._write_returning(
                connection, work, part, ";".join(before), keeps=ledger is not None
            )
        else:
            if ledger is not None:
                before += records.claims(extra for _, _, _, extra in work.extras(part))
                before += records.kept((group.target, extra) for group, _, _, extra in work.extras(part))
                self._lengths = [sum(len(statement) + 1 for statement in before)]
            if len(part.groups) == 1 and target.way is Way.COPY:
                await self._copy(connection, work, part, "".join([f"{statement};" for statement in before]))
            else:
                await self._write_together(connection, work, part, before)
            results = [[None] * len(group.places) for group in part.groups]
        if connection.is_unconfirmed:
            raise Unconfirmed("a commit was not confirmed by a synchronous standby")
        if ledger is not None:
            ledger.advanced()
        return results

    async def _copy(self, connection: Connection, work: Work, part: Part, before: str) -> None:
        (group,) = part.groups
        async with asyncio.timeout(self._timeouts.answer_seconds):
            await copy(connection, group.target, _payloads(work.requests(group)), before)

    async def _write_together(self, connection: Connection, work: Work, part: Part, before: list[str]) -> None:
        """As one string of statements, in one round trip."""
        texts = []
        for group in part.groups:
            requests = work.requests(group)
            texts.append(group.target.text(_payloads(requests), sum([request.rows for request in requests])))
        self._lengths += [len(text) + 1 for text in texts]
        # Each statement has its own time-out, so that many slow ones together take longer than one may.
        patience = self._timeouts.answer_seconds + len(texts) * self._timeouts.shared_statement_seconds
        async with asyncio.timeout(patience):
            await connection.execute(";".join([*before, *texts]))

    async def _write_returning(
        self, connection: Connection, work: Work, part: Part, before: str, *, keeps: bool
    ) -> Sequence[Sequence[object]]:
        (group,) = part.groups
        requests = work.requests(group)
        target = group.target
        if target.table.filtering_triggers and not target.is_marked and len(requests) > 1:
            raise RowsFiltered
        async with asyncio.timeout(self._timeouts.answer_seconds):
            results = await insert_returning(
                connection,
                target,
                [Given(cast("bytes | Keyed", request.payload), request.rows) for request in requests],
                before=before,
                after=lambda results: self._after(work, part, results) if keeps else self._remember(results),
            )
        return [results]

    def _after(self, work: Work, part: Part, results: Sequence[Written]) -> str:
        """What is written after rows of which more is told: the answers for the keys, and bad rows."""
        self._remember(results)
        extras = list(work.extras(part))
        after = records.answers((extra, results[number]) for _, number, _, extra in extras)
        return ";".join(after + records.kept((group.target, extra) for group, _, _, extra in extras))

    def _settings(self, work: Work, part: Part) -> list[str]:
        """How long this part may take, where that is less than usual."""
        timeouts = self._timeouts
        found = []
        time_zone = part.groups[0].target.options.time_zone
        if time_zone:
            found.append(f"set local time zone {literal(time_zone)}")
        lock_seconds = timeouts.lock_seconds
        if part.shared:
            found.append(f"set local statement_timeout = '{milliseconds(timeouts.shared_statement_seconds)}'")
        if part.shared or part.gently:
            lock_seconds = timeouts.shared_lock_seconds
        # Nobody should wait beyond a deadline because somebody else has a lock: it ends in nothing being stored.
        patience = work.deadline(part) - time.monotonic()
        if patience < lock_seconds:
            lock_seconds = max(_LOCK_SECONDS_MIN, patience)
        if lock_seconds < timeouts.lock_seconds:
            found.append(f"set local lock_timeout = '{milliseconds(lock_seconds)}'")
        return found

    def _remember(self, results: Sequence[Written]) -> str:
        self.returned = [results]
        return ""

    def suspect(self, error: asyncpg.PostgresError, part: Part) -> int | None:
        """Which of several tables an error is about, by the place in the statements or the name that it gives."""
        position = str(error.position or "")
        if position.isdigit():
            ends = list(accumulate(self._lengths))
            number = next((n for n, end in enumerate(ends) if int(position) <= end), 0)
            return number - 1 if number else None
        named = [
            number
            for number, group in enumerate(part.groups)
            if (group.target.table.schema, group.target.table.name) == (error.schema_name, error.table_name)
        ]
        return named[0] if len(named) == 1 else None

    def is_ours(self, error: asyncpg.PostgresError) -> bool:
        """Whether an error is about what stands before the rows: somebody has changed schema headrace."""
        position = str(error.position or "")
        if not position.isdigit() or int(position) > self._lengths[0] or isinstance(error.context, str):
            return False
        # A value may be parsed, too (a regclass, say), and its error has a position in that value.
        return any(name in str(error) for name in ("headrace", "ledger", "idempotency", "quarantine"))


def _payloads(requests: Sequence[Rows]) -> list[Payload]:
    """Whoever handed the requests over did not look at them."""
    return cast("list[Payload]", [request.payload for request in requests])
