"""A slot: one connection that writes batches, and the verdict on each request in them.

Owns the connection, what an error means for the requests of a batch, and finding out what became of a write whose end
was not seen. Satisfies `batching.Sink` without knowing it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import cast
from weakref import WeakKeyDictionary

import asyncpg

from sql import records
from sql.catalog import Catalog
from sql.connect import SLOT_NAME, Session, Timeouts, connect
from sql.encoded import Payload
from sql.errors import (
    InDoubt,
    KeyReused,
    Meaning,
    OutcomeUnknown,
    SqlError,
    TableChanged,
    Unavailable,
    Unconfirmed,
    as_error,
    fault_of,
    is_of_time_zone,
    meaning_of,
    one_line,
    unavailable,
    unknown_column,
    unknown_table,
)
from sql.ledger import ROW_KEPT_SECONDS, Ledger, Past, is_fenced
from sql.recordset import NotSingular, RowsFiltered
from sql.target import Target
from sql.transaction import Writer
from sql.work import Batch, Part, Work, salvage_of

logger = logging.getLogger(__name__)

_TRIAL_SECONDS = 5.0
"""How long the rows of a request may take to be tried one by one; the others of its batch wait for that."""

_AGREED_SECONDS = 1.0
"""For so long a table is as expected that has just been looked at: the watch looks as often. Else each request that
asks for the impossible (a cast to no type, say) would have the catalog read."""

_STALE_SECONDS = ROW_KEPT_SECONDS / 2
"""After so long without a write the slot signs in again: where its session cannot be seen (behind a pooler, say), its
row in the ledger would be taken for a dead one's, and of a write in doubt nobody could tell any more."""


class Slot:
    """Writes one batch at a time. `changed` is awaited for the newest catalog when a table is not as expected.

    `at_least_once`: keep no ledger, and write again what may have been written already. `resolved` is told what was
    found out about a write whose end was not seen: "stored", "not_stored" or "unknown".
    """

    def __init__(
        self,
        dsn: str,
        timeouts: Timeouts,
        changed: Callable[[], Awaitable[Catalog]],
        *,
        at_least_once: bool = False,
        resolved: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._dsn = dsn
        self._resolved = resolved
        self._timeouts = timeouts
        self._changed = changed
        self._ledger = None if at_least_once else Ledger()
        self._connection: Session | None = None
        self._used = 0.0
        self._complaint = ""
        self._unfinished: Work | None = None
        self._lost_at = 0.0
        self._past = Past.NOT_STORED
        self._writer = Writer(timeouts)
        self._agreed: WeakKeyDictionary[Target, float] = WeakKeyDictionary()

    async def open(self) -> None:
        """Connect, if not connected, and find out what became of the last write. Raises `Unavailable`."""
        if self._connection is not None and not self._connection.is_closed():
            return
        name = SLOT_NAME if self._ledger is None else f"{SLOT_NAME} {self._ledger.slot}"
        connection = await connect(self._dsn, self._timeouts, name)
        try:
            async with asyncio.timeout(self._timeouts.answer_seconds):
                past = Past.NOT_STORED if self._ledger is None else await self._ledger.sign_in(connection, name)
        except BaseException as error:
            connection.terminate()
            self._give_up_late()
            self._complain(error)
            if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)):
                raise unavailable(error) from error
            raise
        if self._past is not Past.UNKNOWN:  # else it was given up: the ledger is another slot's
            self._past = past
        self._complaint = ""
        self._connection = connection
        self._used = time.monotonic()

    def _complain(self, error: BaseException) -> None:
        """The database can be reached, but not used: that is for an operator to mend. Once for each reason."""
        complaint = one_line(error)
        if complaint != self._complaint and isinstance(error, (asyncpg.PostgresError, Unavailable)):
            logger.warning("cannot write: %s", complaint)
        self._complaint = complaint

    async def close(self) -> None:
        """Disconnect at once."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def may_share(self, lane: Hashable, /) -> bool:
        """Whether a batch can be one of several statements."""
        return cast("Target", lane).is_shareable

    def serial(self, lane: Hashable, /) -> Hashable | None:
        """What batches of the lane must not be written to at once."""
        return cast("Target", lane).serial

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[object] | Exception]:
        """Store the batches; for each of them an outcome for each of its requests, or `Unavailable`.

        None is success, `Written` is success with what was asked for, `Stored` that of a request which brought an
        `Extra`; an exception is that request's own. `Unavailable`, for a request or in place of the outcomes of a
        batch, says that nothing of it was stored and that it is worth trying again; raised, that this is so for all.
        Raises `InDoubt` when it does not know: after the next `open`, call it again with the same batches.
        """
        work, self._unfinished = self._unfinished, None
        if work is None or not work.is_of(batches):
            if work is not None and work.is_doubtful:
                self._resolved("unknown")  # whoever had asked has stopped waiting
            self._past = Past.NOT_STORED
            work = Work(batches)
        elif work.is_doubtful:
            self._settle_doubt(work)
        if work.parts and work.is_all(work.parts[-1]) and not self._is_fit():
            await self.close()
            raise Unavailable("the connection to the database is closed")
        try:
            await self._work_off(work)
        except asyncio.CancelledError:
            self._begin_anew()  # nobody will ask what became of it, and a frozen backend may hold the row for long
            raise
        return work.results()

    async def _work_off(self, work: Work) -> None:
        """Write part after part. Raises what `write` raises."""
        while work.parts:
            part = work.next()
            try:
                if part.suspicion is None:
                    work.stored(part, await self._store(work, part))
                else:
                    await self._try_rows(work, part)
            except Exception as error:  # noqa: BLE001 - judged here, whatever it is
                await self._judge(error, work, part)

    # ---------------------------------------------------------------- one attempt

    async def _store(self, work: Work, part: Part) -> Sequence[Sequence[object]]:
        """Write a part in one transaction; what is returned to each of its requests. Raises what asyncpg raises."""
        results = await self._writer.write(self._open_connection(), self._ledger, work, part)
        self._used = time.monotonic()
        return results

    async def _try_rows(self, work: Work, part: Part) -> None:
        """Find the bad rows of a request that wants them kept."""
        (group,) = part.groups
        (request,) = work.requests(group)
        salvage = salvage_of(request)
        assert salvage is not None  # noqa: S101 - or it would not be tried
        raws = [raw for _, raw in salvage.rows()]
        inserts = group.target.each(cast("Payload", request.payload), raws)
        connection = self._open_connection()
        try:
            async with asyncio.timeout(min(_TRIAL_SECONDS, self._timeouts.answer_seconds)):
                faults = await records.try_each(connection, inserts, group.target.options.time_zone)
        except TimeoutError:
            logger.warning("the rows of a request for %s take too long to be tried", group.target.table.identifier)
            connection.terminate()
            work.tried(part, {})  # so that it fails as a whole
        else:
            work.tried(part, faults)

    @property
    def row(self) -> str | None:
        """By which its row in the ledger is found, if it has one."""
        return None if self._ledger is None else self._ledger.slot

    def _open_connection(self) -> Session:
        if self._connection is None or self._connection.is_closed():
            raise _NotSent
        return self._connection

    def _is_fit(self) -> bool:
        """Whether the connection can be written to."""
        connection = self._connection
        if connection is None or connection.is_closed():
            return False
        return self._ledger is None or time.monotonic() - self._used < _STALE_SECONDS

    # ---------------------------------------------------------------- the verdict

    async def _judge(self, error: Exception, work: Work, part: Part) -> None:
        """What a failed attempt means. Raises `InDoubt`, or `Unavailable` if nothing at all was tried."""
        error = as_error(error)
        if isinstance(error, (_NotSent, Unconfirmed)) or is_fenced(error) or self._is_demoted(error):
            # Unless it is merely not confirmed, nothing of this part was stored; others may be.
            await self._reopen(work, part, doubtful=isinstance(error, Unconfirmed))
        meaning = meaning_of(error)
        if isinstance(error, asyncpg.PostgresError) and meaning is not Meaning.AWAY:
            if part.suspicion is None and self._ledger is not None and self._writer.is_ours(error):
                await self._reopen(work, part, doubtful=False)
            try:
                await self._judge_error(error, meaning, work, part)
            except Unavailable as unavailable:
                work.unavailable(part, str(unavailable))
            except Exception as another:
                if isinstance(another, _NotSent) or meaning_of(another) is Meaning.AWAY:
                    await self._reopen(work, part, doubtful=False)
                logger.exception("the verdict on a failed write failed itself")
                work.settle_all(part, iter(lambda: SqlError("internal error"), None))
        elif isinstance(error, (RowsFiltered, NotSingular)):
            _judge_returned(error, work, part)
        elif isinstance(error, SqlError):
            logger.error("a write failed in a way that was not foreseen", exc_info=error)
            work.settle_all(part, iter(lambda: SqlError("internal error"), None))
        else:
            count = sum(len(group.places) for group in part.groups)
            if meaning is Meaning.AWAY:
                logger.warning("connection lost while writing %d requests: %s", count, one_line(error))
            else:
                logger.error("a write failed in a way that was not foreseen", exc_info=error)
                work.failure = error
            await self._reopen(work, part, doubtful=part.suspicion is None)

    def _is_demoted(self, error: Exception) -> bool:
        """Whether the server was the one of several that takes rows, and is so no more. Another one will be."""
        return (
            isinstance(error, asyncpg.ReadOnlySQLTransactionError)
            and self._connection is not None
            and self._connection.is_one_of_several
            and not isinstance(error.context, str)  # of a function that would fail on any server
        )

    async def _judge_error(self, error: asyncpg.PostgresError, meaning: Meaning, work: Work, part: Part) -> None:
        """What PostgreSQL's refusal means. Nothing of the part was stored, and the connection is usable."""
        if records.is_repeated(error):
            await self._answer_repeated(work, part)
        elif part.groups[0].target.options.time_zone and is_of_time_zone(error):
            work.reject(part, fault_of(error))
        elif len(part.groups) > 1 and (meaning is not Meaning.BUSY or _is_of_one(error)):
            work.leave_out(part, self._writer.suspect(error, part))
        elif meaning is Meaning.ROW or (meaning is Meaning.REQUEST and isinstance(error.context, str)):
            work.isolate(part, error)  # in a context there is a function, which may mean one row only
        elif meaning is Meaning.REQUEST:
            work.reject(part, fault_of(error))
        elif meaning is Meaning.TABLE_CHANGED:
            await self._look_again(error, work, part)
        else:
            self._wait(error, work, part)

    def _wait(self, error: asyncpg.PostgresError, work: Work, part: Part) -> None:
        """The database is busy. If it is so because of one row, the others need not wait for that."""
        group = part.groups[0]
        # Everybody in the batch will read this, and the words may be a trigger's about one of the rows.
        logger.info("%s cannot be written now: %s", group.target.table.identifier, one_line(error))
        reason = f"SQLSTATE {error.sqlstate}"
        is_locked = isinstance(error, asyncpg.LockNotAvailableError)
        # Whoever waits for the table itself has not begun with any row, so there is no context.
        of_a_row = isinstance(error.context, str) if is_locked else work.failures(part) > 0
        if of_a_row and not part.shared and (is_locked or _is_of_one(error)):
            work.wait_for_others(part, error, reason)
        else:
            work.unavailable(part, reason)

    async def _look_again(self, error: asyncpg.PostgresError, work: Work, part: Part) -> None:
        """The table is not as the target says: read the catalog, and judge by that."""
        target = part.groups[0].target
        if time.monotonic() - self._agreed.get(target, -math.inf) < _AGREED_SECONDS:
            work.looked_again.add(target)
        if target in work.looked_again and error.sqlstate == "42P10" and not isinstance(error.context, str):
            work.reject(part, fault_of(error))  # no unique key has the columns that `on_conflict` says
            return
        if target in work.looked_again:
            # The newest catalog agrees with the target, so the words are those of a trigger or function.
            work.isolate(part, error)
            return
        logger.info("%s is not as expected (%s): reading the catalog", target.table.identifier, one_line(error))
        work.looked_again.add(target)
        table = (await self._changed()).tables.get((target.table.schema, target.table.name))
        if table is None:
            work.reject(part, unknown_table(target.table.schema, target.table.name).fault)
            return
        gone = set(target.columns).difference(table.columns)
        if gone:
            work.reject(part, unknown_column(table.name, min(gone)).fault)
        elif table != target.table:
            work.settle_all(part, iter(lambda: TableChanged(one_line(error)), None))
        else:
            self._agreed[target] = time.monotonic()
            work.parts.append(part)

    async def _answer_repeated(self, work: Work, part: Part) -> None:
        """Some of the keys have been used: those requests get the first answer, the others are written."""
        keyed = [
            (group, group.places[number], extra.key)
            for group, number, _, extra in work.extras(part)
            if extra.key is not None
        ]
        keys = [key for _, _, key in keyed]
        connection = self._open_connection()
        async with asyncio.timeout(self._timeouts.answer_seconds):
            known = await records.first_answers(connection, keys, self._timeouts.key_seconds)
            if known and self._ledger is not None:
                await connection.execute(self._ledger.confirm)
        if connection.is_unconfirmed:
            raise _NotSent  # what was found may be lost with this server
        answered: set[tuple[int, int]] = set()
        for group, place, key in keyed:
            if key.text in known:
                fingerprint, stored = known[key.text]
                work.settle(group, place, stored if fingerprint == key.fingerprint else KeyReused())
                answered.add((group.batch, place))
        if answered:
            work.without(part, answered)
        else:
            work.repeat(part)

    # ---------------------------------------------------------------- lost connections

    async def _reopen(self, work: Work, part: Part, *, doubtful: bool) -> None:
        """Go on with a part on a new connection, `doubtful` if it may have been stored. Raises."""
        await self.close()
        work.parts.append(part)
        if not doubtful and work.is_all(part):
            raise Unavailable("the connection to the database was closed")
        work.is_doubtful = doubtful
        self._unfinished = work
        self._past = Past.NOT_STORED
        self._lost_at = time.monotonic()
        raise InDoubt("the connection to the database was lost")

    def _settle_doubt(self, work: Work) -> None:
        """By now it is known what became of the last part."""
        work.is_doubtful = False
        self._resolved(self._past.name.lower())
        logger.info("the write that was cut off %s", _PAST_WORDS[self._past])
        failure, work.failure = work.failure, None
        part = work.parts[-1]
        if self._past is Past.STORED:
            results = self._writer.returned or [[None] * len(group.places) for group in part.groups]
            work.stored(work.parts.pop(), results)
        elif self._past is Past.UNKNOWN:
            work.settle_all(work.parts.pop(), iter(OutcomeUnknown, None))
        elif failure is not None:
            work.settle_all(work.parts.pop(), iter(lambda: SqlError("internal error"), None))

    def _give_up_late(self) -> None:
        """If it cannot be found out for long, go on as another slot, for which a stopped backend bars no way."""
        work = self._unfinished
        if work is not None and time.monotonic() - self._lost_at > self._timeouts.doubt_seconds:
            self._past = Past.UNKNOWN
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Go on as another slot."""
        self._ledger = None if self._ledger is None else Ledger()


def _judge_returned(error: RowsFiltered | NotSingular, work: Work, part: Part) -> None:
    """What was written has been rolled back, because of what it returned."""
    if isinstance(error, NotSingular):
        work.not_singular(part, error.counts)
    else:
        work.one_by_one(part)


class _NotSent(Exception):
    """The connection was found to be closed."""


_PAST_WORDS = {
    Past.STORED: "was committed",
    Past.NOT_STORED: "was not committed: writing it again",
    Past.UNKNOWN: "may or may not have been committed: its row in the ledger is gone or locked",
}


def _is_of_one(error: asyncpg.PostgresError) -> bool:
    """Whether an error of several batches is likely that of one: bad rows, a changed, locked or slow table."""
    if isinstance(error, (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)):
        return True
    return error.sqlstate in ("40001", "40P01") or meaning_of(error) is not Meaning.BUSY
