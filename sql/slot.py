"""A slot: one connection that writes batches, and the verdict on each request in them.

Owns connecting, the isolation of bad rows (so that one request's rows never fail another's), and what an error means
for the requests of the batch. Satisfies `batching.Sink` without knowing it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import asyncpg

from sql.catalog import Catalog
from sql.codec import Payload
from sql.copy import copy
from sql.errors import (
    Fault,
    Meaning,
    OutcomeUnknown,
    Rejected,
    SqlError,
    TableChanged,
    Unavailable,
    fault_of,
    line_of,
    meaning_of,
    one_line,
    unknown_column,
    unknown_table,
)
from sql.recordset import RowsFiltered, insert
from sql.statements import values_of
from sql.target import Target, Way

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

logger = logging.getLogger(__name__)

_LOCATED_TOGETHER = 3
"""Bad requests of a batch after which the rest is written in parts: one more COPY for each of the first, then two."""


class Batch(Protocol):
    """What a slot must know of a batch. `lane` is a `Target`."""

    @property
    def lane(self) -> Hashable:
        """What it is written to."""

    @property
    def submissions(self) -> Sequence[Rows]:
        """The requests."""


class Rows(Protocol):
    """What a slot must know of a submission: the `Payload` of a codec for the batch's target, and how many rows it is.

    To whoever hands the batch over, the payload is opaque.
    """

    @property
    def payload(self) -> object:
        """What is written."""

    @property
    def rows(self) -> int:
        """How many rows that is."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the database may take. `statement_seconds` and `lock_seconds` are enforced by the server, so that their
    end is a clean one; `connect_seconds` is ours, and `answer_seconds` is when a silent connection is given up.
    """

    connect_seconds: float = 5.0
    statement_seconds: float = 20.0
    lock_seconds: float = 5.0

    @property
    def shared_lock_seconds(self) -> float:
        """How long a locked table may hold up the others that it is written with."""
        return min(self.lock_seconds, 0.1)

    @property
    def shared_statement_seconds(self) -> float:
        """How long a slow table may. A small batch takes some milliseconds; what takes longer is written alone."""
        return min(self.statement_seconds, 0.25)

    @property
    def answer_seconds(self) -> float:
        """After the server should have given up by itself."""
        return self.statement_seconds + 5.0


async def connect(dsn: str, timeouts: Timeouts, application_name: str) -> Connection:
    """A connection for writing. Raises `Unavailable` with one line that says why not."""
    connection = None
    try:
        async with asyncio.timeout(timeouts.connect_seconds):
            connection = await asyncpg.connect(dsn, server_settings={"application_name": application_name})
            await connection.execute(
                f"set statement_timeout = '{_milliseconds(timeouts.statement_seconds)}';"
                f"set lock_timeout = '{_milliseconds(timeouts.lock_seconds)}'"
            )
    except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
        # The words of these may quote a part of the password.
        raise Unavailable("the DSN is not a connection URL that can be read") from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        if connection is not None:
            connection.terminate()
        raise Unavailable(one_line(error)) from error
    return connection


def is_abandoned(context: Mapping[str, object]) -> bool:
    """Whether an event loop's complaint is about a future that asyncpg left behind when its connection was cut.

    The write that it belonged to has been judged by another exception, so nobody needs to hear of it again.
    """
    return "future" in context and isinstance(context.get("exception"), asyncpg.PostgresConnectionError)


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"  # 0 would mean: without limit


class Slot:
    """Writes one batch at a time. `changed` is awaited for the newest catalog when a table is not as expected."""

    def __init__(self, dsn: str, timeouts: Timeouts, changed: Callable[[], Awaitable[Catalog]]) -> None:
        self._dsn = dsn
        self._timeouts = timeouts
        self._changed = changed
        self._connection: Connection | None = None

    async def open(self) -> None:
        """Connect, if not connected. Raises `Unavailable`."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._dsn, self._timeouts, "headrace slot")

    async def close(self) -> None:
        """Disconnect at once."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def may_share(self, lane: Hashable, /) -> bool:
        """Whether a batch can be one of several statements."""
        return cast("Target", lane).is_shareable

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[object] | Exception]:
        """Store the batches; for each of them an outcome for each of its requests, or `Unavailable`.

        None is success, a list of JSON texts is success with the stored rows, an exception is that request's own.
        `Unavailable` in place of the outcomes says that none of that batch was stored and that it is worth trying
        again; raised, that this is so for all.
        """
        if len(batches) == 1:
            return [await self._write_one(batches[0])]
        results: dict[int, Sequence[object] | Exception] = {}
        # Parts of the batches that still have to be written, as indices; taken from the end.
        parts = [sorted(range(len(batches)), key=lambda index: cast("Target", batches[index].lane).order)]
        while parts:
            part = parts.pop()
            try:
                await self._store_together([batches[index] for index in part])
            except Exception as error:  # noqa: BLE001 - judged here, whatever it is
                if len(part) > 1 and _is_of_one(error):
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                else:
                    results.update(await self._judge_together(error, batches, part))
            else:
                results.update((index, [None] * len(batches[index].submissions)) for index in part)
        if self._connection is None and all(isinstance(result, Unavailable) for result in results.values()):
            raise Unavailable(str(results[0]))  # so that the connection is opened again
        return [results[index] for index in range(len(batches))]

    async def _judge_together(
        self, error: Exception, batches: Sequence[Batch], part: list[int]
    ) -> dict[int, Sequence[object] | Exception]:
        """The results of several batches after an error that is not one table's, or of one after any error."""
        if isinstance(error, Unavailable):
            return dict.fromkeys(part, error)
        meaning = meaning_of(error)
        if meaning is Meaning.BUSY:
            # A table that is locked or slow may be so for long. Its batch goes back to be written alone.
            logger.info("%d tables cannot be written together now: %s", len(part), one_line(error))
            return dict.fromkeys(part, Unavailable(f"SQLSTATE {getattr(error, 'sqlstate', None)}"))
        try:
            if len(part) == 1 and meaning not in (Meaning.AWAY, Meaning.BUG):
                return {part[0]: await self._write_one(batches[part[0]])}
            verdict = await self._give_up(error, sum(len(batches[index].submissions) for index in part))
        except Unavailable as unavailable:
            return dict.fromkeys(part, unavailable)
        return {index: [verdict() for _ in batches[index].submissions] for index in part}

    async def _write_one(self, batch: Batch) -> Sequence[object]:
        """The outcomes of one batch. Raises `Unavailable` if none of it was stored and it is worth trying again."""
        target = cast("Target", batch.lane)
        if target.way is not Way.RECORDSET_RETURNING or not target.table.filtering_triggers:
            try:
                return await self._store(target, batch.submissions)
            except Exception as error:  # noqa: BLE001 - judged by whoever goes on from here
                return await self._isolate(target, batch.submissions, error)
        return await self._isolate(target, batch.submissions, RowsFiltered())

    async def _isolate(self, target: Target, batch: Sequence[Rows], error: Exception) -> Sequence[object]:
        """The outcomes of a batch of which the first attempt failed."""
        attempt = _Attempt(target, batch)
        # Stretches of the batch that still have to be written, as indices; taken from the end.
        stretches = await self._what_is_left(error, target, attempt, list(range(len(batch))), [])
        while stretches:
            stretch = stretches.pop()
            if not stretch:
                continue
            try:
                results = await self._store(target, [batch[index] for index in stretch])
            except Exception as failure:  # noqa: BLE001 - judged like the first one
                stretches = await self._what_is_left(failure, target, attempt, stretch, stretches)
            else:
                attempt.outcomes.update(zip(stretch, results, strict=True))
        return [attempt.outcomes[index] for index in range(len(batch))]

    async def _what_is_left(
        self, error: Exception, target: Target, attempt: _Attempt, stretch: list[int], others: list[list[int]]
    ) -> list[list[int]]:
        """The stretches that have to be written after an attempt at `stretch` failed. Notes verdicts.

        Raises `Unavailable` if nothing of the batch is stored and nothing can be stored now.
        """
        if isinstance(error, RowsFiltered):
            return [*others, *_one_by_one(stretch)]
        try:
            return [*others, *await self._judge(error, target, attempt, stretch)]
        except Unavailable as unavailable:
            if not attempt.outcomes:
                raise
            # Others have their verdict or are stored, so the batch cannot go back to the queue as a whole.
            for index in [*stretch, *(index for other in others for index in other)]:
                attempt.outcomes[index] = Unavailable(str(unavailable))
            return []
        except Exception:
            logger.exception("the verdict on a failed write failed itself")
            attempt.outcomes.update((index, SqlError("internal error")) for index in stretch)
            return others

    # ---------------------------------------------------------------- one attempt

    async def _store_together(self, batches: Sequence[Batch]) -> None:
        """Write these batches in one transaction and one round trip. Raises what asyncpg raises."""
        connection = self._connection
        if connection is None or connection.is_closed():
            self._connection = None
            raise Unavailable("the connection to the database is closed")
        timeouts = self._timeouts
        statements = [
            f"set local lock_timeout = '{_milliseconds(timeouts.shared_lock_seconds)}'",
            f"set local statement_timeout = '{_milliseconds(timeouts.shared_statement_seconds)}'",
        ]
        for batch in batches:
            target = cast("Target", batch.lane)
            text = b"".join(cast("list[bytes]", [request.payload for request in batch.submissions])).decode()
            statements.append(target.values_statement + values_of(text))
        # Each statement has its own time-out, so that many slow ones together take longer than one may.
        patience = timeouts.answer_seconds + len(batches) * timeouts.shared_statement_seconds
        async with asyncio.timeout(patience):
            await connection.execute(";".join(statements))

    async def _store(self, target: Target, rows: Sequence[Rows]) -> Sequence[object]:
        """Write these requests in one transaction; their results. Raises what asyncpg raises."""
        connection = self._connection
        if connection is None or connection.is_closed():
            raise Unavailable("the connection to the database is closed")
        async with asyncio.timeout(self._timeouts.answer_seconds):
            if target.way is Way.COPY:
                await copy(connection, target, [cast("Payload", r.payload) for r in rows])
                return [None] * len(rows)
            payloads = [cast("bytes", r.payload) for r in rows]
            stored = await insert(connection, target, payloads, [r.rows for r in rows])
        return stored if target.way is Way.RECORDSET_RETURNING else [None] * len(rows)

    # ---------------------------------------------------------------- the verdict

    async def _judge(self, error: Exception, target: Target, attempt: _Attempt, stretch: list[int]) -> list[list[int]]:
        """What a failed attempt means: notes verdicts, returns what is to be written again.

        Raises `Unavailable` if nothing can be written now.
        """
        meaning = Meaning.BUSY if isinstance(error, Unavailable) else meaning_of(error)
        if isinstance(error, asyncpg.PostgresError):
            match meaning:
                case Meaning.ROW:
                    return attempt.isolate(error, stretch)
                case Meaning.REQUEST:
                    attempt.reject(stretch, fault_of(error))
                    return []
                case Meaning.TABLE_CHANGED:
                    return await self._look_again(error, target, attempt, stretch)
        if isinstance(error, Unavailable):
            raise error
        if meaning is Meaning.BUSY:
            # Everybody in the batch will read this, and the words may be a trigger's about one of the rows.
            logger.info("%s cannot be written now: %s", target.table.identifier, one_line(error))
            raise Unavailable(f"SQLSTATE {getattr(error, 'sqlstate', None)}") from error
        verdict = await self._give_up(error, len(stretch))
        attempt.outcomes.update((index, verdict()) for index in stretch)
        return []

    async def _give_up(self, error: Exception, requests: int) -> Callable[[], SqlError]:
        """Close a connection that is lost, or in a state that nobody foresaw; what to tell each of the requests.

        Raises `Unavailable` if nothing of them can be stored.
        """
        await self.close()
        if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error):
            # asyncpg says so before it sends what the step would send, be it the data of a COPY or an INSERT: the
            # server's last words came first, and nothing of this was stored.
            raise Unavailable("the connection to the database was closed") from error
        if meaning_of(error) is Meaning.AWAY:
            logger.warning("connection lost while writing %d requests: %s", requests, one_line(error))
            return OutcomeUnknown
        logger.error("a write failed in a way that was not foreseen", exc_info=error)
        return partial(SqlError, "internal error")

    async def _look_again(
        self, error: asyncpg.PostgresError, target: Target, attempt: _Attempt, stretch: list[int]
    ) -> list[list[int]]:
        """The table is not as the target says: read the catalog, and judge by that."""
        if attempt.looked_again:
            # The newest catalog agrees with the target, so the words are those of a trigger or function.
            return attempt.isolate(error, stretch)
        logger.info("%s is not as expected (%s): reading the catalog", target.table.identifier, one_line(error))
        attempt.looked_again = True
        table = (await self._changed()).tables.get((target.table.schema, target.table.name))
        if table is None:
            attempt.reject(stretch, unknown_table(target.table.schema, target.table.name).fault)
            return []
        gone = set(target.columns).difference(table.columns)
        if gone:
            attempt.reject(stretch, unknown_column(table.name, min(gone)).fault)
            return []
        if table != target.table:
            attempt.outcomes.update((index, TableChanged(one_line(error))) for index in stretch)
            return []
        return [stretch]


class _Attempt:
    """The verdicts on one batch as they come in."""

    def __init__(self, target: Target, batch: Sequence[Rows]) -> None:
        self.target = target
        self.batch = batch
        self.outcomes: dict[int, object] = {}
        self.looked_again = False
        self.located = 0

    def reject(self, stretch: Sequence[int], fault: Fault) -> None:
        """The same fault for every request of the stretch, each as an exception of its own."""
        self.outcomes.update((index, Rejected(fault)) for index in stretch)

    def isolate(self, error: asyncpg.PostgresError, stretch: list[int]) -> list[list[int]]:
        """A row of the stretch is bad: its request fails, found by the line that the error names or by halving.

        Returns what is to be written again.
        """
        fault = fault_of(error)
        located = line_of(error, self.target.table.name) if self.target.way is Way.COPY else None
        if located is not None:
            line, column = located
            before = 0
            for place, index in enumerate(stretch):
                rows = self.batch[index].rows
                if before < line <= before + rows:
                    self.reject([index], fault.at(line - before, column))
                    self.located += 1
                    return self._without(stretch, place)
                before += rows
        if len(stretch) == 1:
            self.reject(stretch, fault.at(1) if self.batch[stretch[0]].rows == 1 else fault)
            return []
        middle = len(stretch) // 2
        return [stretch[middle:], stretch[:middle]]

    def _without(self, stretch: list[int], place: int) -> list[list[int]]:
        """What is left of a stretch of which the request at `place` was found to be bad.

        At first all of it together, since bad rows are rare. When there are many, what stands before (all good so far)
        and the rest in halves: written as a whole, a batch of nothing but bad rows would be sent once for each of them.
        """
        before, after = stretch[:place], stretch[place + 1 :]
        if self.located <= _LOCATED_TOGETHER:
            return [before + after]
        middle = len(after) // 2
        return [after[middle:], after[:middle], before]


def _is_of_one(error: Exception) -> bool:
    """Whether an error of several batches is likely that of one: bad rows, a changed, locked or slow table."""
    if isinstance(error, (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)):
        return True
    return isinstance(error, asyncpg.PostgresError) and meaning_of(error) not in (Meaning.BUSY, Meaning.AWAY)


def _one_by_one(stretch: list[int]) -> list[list[int]]:
    """Each request by itself; where triggers drop rows, the returned ones could not be told apart otherwise."""
    return [[index] for index in reversed(stretch)]
