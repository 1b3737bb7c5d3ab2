"""The live catalog: one connection that reads it, listens for changes of it, and notices when the database goes away.

Owns when the catalog is read. Must not know what anyone does with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg

from sql import budget
from sql.catalog import SERVER_VERSION_MIN, Catalog, fingerprint, load
from sql.connect import Session, Timeouts, connect
from sql.dsn import BadDsn, route_of
from sql.errors import Unavailable, one_line
from sql.vitals import Vitals, vitals

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

CHANNEL = "headrace"
"""`NOTIFY headrace, 'reload'` makes every service that is connected read the catalog."""


class CatalogWatch:
    """Keeps the newest catalog. `published` is called with each one that is read, from the event loop.

    `retry_seconds` says how long to wait after so many failures in a row.
    """

    # A producer of unknown names must not keep the database busy with reading its catalog: after a reading, misses
    # wait for this many times its duration, so that it takes 5 % of one connection's time at most.
    _MISS_PAUSE = 19
    _DEBOUNCE_SECONDS = 0.1  # a migration notifies once per statement; one reading serves them all
    # How often it is looked whether anything was changed. Most changes are noticed by the first write that fails for
    # them; but a string for a column that has turned from jsonb into text would be stored with its quotes.
    _LOOK_SECONDS = 1.0

    def __init__(
        self,
        dsn: str,
        schemas: Sequence[str],
        timeouts: Timeouts,
        published: Callable[[Catalog], None],
        retry_seconds: Callable[[int], float],
    ) -> None:
        self.catalog: Catalog | None = None
        self.problem: str | None = "not connected yet"
        self._dsn = dsn
        self._where = _where(dsn)
        self._schemas = tuple(schemas)
        self._timeouts = timeouts
        self._published = published
        self._retry_seconds = retry_seconds
        self._demand: budget.Demand | None = None
        self._first: Session | Exception | None = None
        """How the first attempt to connect has ended."""
        self._connection: Session | None = None
        self._tried = asyncio.Event()
        self._wanted = asyncio.Event()
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._read_took = 0.0
        self._fingerprint = 0
        self._look_took = 0.0

    async def begin(self, demand: budget.Demand) -> None:
        """Connect for the first time, before anybody else does. Raises `BudgetExceeded` if there may not be so many
        connections. If the database cannot be reached, that is judged later, and `run` says why.
        """
        self._demand = demand
        try:
            self._first = await self._judged()
        except budget.BudgetExceeded:
            raise
        except Exception as error:  # noqa: BLE001 - `run` raises it again
            self._first = error

    async def run(self) -> None:
        """Connect, read, listen; again whenever the connection is lost. Runs until it is cancelled."""
        failures = 0
        while True:
            try:
                await self._connect()
                if failures:
                    logger.info("connected to the database")
                failures = 0
                await self._serve()
            except Exception as error:
                failures += 1
                reason = one_line(error)
                if reason != self.problem:  # once per reason, not once per attempt
                    known = isinstance(error, (Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError))
                    trace = None if known else error
                    what = f"cannot reach the database {self._where}: {reason} (trying again)"
                    logger.warning(what, exc_info=trace)
                self.problem = reason
            finally:
                self._disconnect()
                self._tried.set()
            await asyncio.sleep(self._retry_seconds(failures))

    @property
    def is_connected(self) -> bool:
        """Whether it has its connection."""
        return self._connection is not None

    async def tried(self) -> None:
        """Wait until the first attempt to read the catalog has ended, well or not."""
        await self._tried.wait()

    def request_reload(self) -> None:
        """Read the catalog soon (SIGHUP, NOTIFY)."""
        self._wanted.set()

    async def reload(self) -> Catalog:
        """Read the catalog now and return it. Raises `Unavailable` while the database is away."""
        asked_at = asyncio.get_running_loop().time()
        async with self._reading:
            # Whoever waited while another reading began and ended after it had asked is served by that one.
            if self.catalog is None or self._read_at < asked_at:
                await self._read()
        assert self.catalog is not None  # noqa: S101 - _read sets it or raises
        return self.catalog

    async def after_miss(self) -> Catalog:
        """The catalog for a second look at a name that was not in it: read after the call, but not all the time.

        Raises `Unavailable` while it cannot be read, for then nobody can say that there is no such name.
        """
        now = asyncio.get_running_loop().time()
        pause = self._read_at + self._read_took * (1 + self._MISS_PAUSE) - now
        if pause > 0:
            await asyncio.sleep(pause)
        async with self._reading:
            if self.catalog is None or self._read_at < now:  # else another miss has had it read meanwhile
                await self._read()
        assert self.catalog is not None  # noqa: S101 - _read sets it or raises
        return self.catalog

    async def vitals(self) -> Vitals:
        """The state of the database now. Raises `Unavailable`, and what asyncpg raises."""
        return await self.ask(vitals)

    async def ask(self, question: Callable[[Session], Awaitable[_Answer]]) -> _Answer:
        """What this connection answers to something else that has to be known from time to time, and is known soon.

        Raises `Unavailable`, and what asyncpg raises.
        """
        connection = self._connection
        if connection is None:
            raise Unavailable(self.problem or "the connection was closed")
        async with self._reading, asyncio.timeout(self._timeouts.answer_seconds):
            return await question(connection)

    async def _judged(self) -> Session:
        """A connection. Raises `BudgetExceeded` if there may not be as many as the whole service needs."""
        connection = await connect(self._dsn, self._timeouts, budget.CATALOG_NAME)
        demand, self._demand = self._demand, None
        try:
            if connection.is_pooled:
                logger.info("a pooler is in front of the database: how many connections there are is its affair")
            elif demand is not None:
                async with asyncio.timeout(self._timeouts.answer_seconds):
                    budget.check(demand, await budget.room_of(connection))
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connect(self) -> None:
        first, self._first = self._first, None
        if isinstance(first, Exception):
            raise first
        try:
            connection = first or await self._judged()
        except budget.BudgetExceeded as error:
            logger.error("%s", error)  # noqa: TRY400 - it has run for a while, and goes on as well as it can
            connection = await self._judged()
        self._connection = connection
        self._wanted.clear()
        if not connection.is_pooled:  # there nobody would hear; it is looked once a second anyway
            await connection.add_listener(CHANNEL, self._notified)
        connection.add_termination_listener(self._terminated)
        await self.reload()
        self._tried.set()

    async def _serve(self) -> None:
        """Read the catalog whenever it is wanted or something was changed, until the connection is lost."""
        while True:
            if not self._wanted.is_set() and not await self._is_changed():
                continue
            if self._connection is None:
                raise Unavailable("the connection was closed")
            await asyncio.sleep(self._DEBOUNCE_SECONDS)
            self._wanted.clear()
            await self.reload()
            logger.info("read the catalog again: %d tables", len(self.catalog.tables) if self.catalog else 0)

    async def _is_changed(self) -> bool:
        """Wait until the catalog is wanted, or it is time to look; whether the definition of anything has changed.

        Neither looking nor reading takes more than a twentieth of this connection's time, however often tables come and
        go.
        """
        pause = max(self._LOOK_SECONDS, self._look_took * self._MISS_PAUSE, self._read_took * self._MISS_PAUSE)
        try:
            async with asyncio.timeout(pause):
                await self._wanted.wait()
        except TimeoutError:
            pass
        connection = self._connection
        if self._wanted.is_set() or connection is None:
            return True
        started = asyncio.get_running_loop().time()
        async with self._reading, asyncio.timeout(self._timeouts.answer_seconds):
            found = await fingerprint(connection)
        self._look_took = asyncio.get_running_loop().time() - started
        return found != self._fingerprint

    async def _read(self) -> None:
        connection = self._connection
        if connection is None or connection.is_closed():
            raise Unavailable(self.problem or "the connection was closed")
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._timeouts.answer_seconds):
                found = await fingerprint(connection)
                catalog = await load(connection, self._schemas)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            connection.terminate()  # whoever waits for this reading sees at once that there is none to be had
            raise Unavailable(one_line(error)) from error
        if catalog.server_version < SERVER_VERSION_MIN:
            version, needed = catalog.server_version // 10_000, SERVER_VERSION_MIN // 10_000
            raise Unavailable(f"PostgreSQL {version} is too old: {needed} or newer is needed")
        self._fingerprint = found
        self._read_at = started
        self._read_took = asyncio.get_running_loop().time() - started
        if self.catalog is None:
            for schema in set(self._schemas).difference(schema for schema, _ in catalog.tables):
                logger.warning("there is no table in schema %s, or no such schema", schema)
        self.catalog = catalog
        self.problem = None
        self._published(catalog)

    def _notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == "reload":
            self.request_reload()

    def _terminated(self, connection: object) -> None:
        if connection is self._connection:
            self.problem = "the connection was closed"
            self._connection = None
            self._wanted.set()  # wakes `_serve`, which then notices

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()


def _where(dsn: str) -> str:
    """Which database a DSN means, for the log. Nothing, if it might show a part of a password."""
    try:
        return str(route_of(dsn))
    except BadDsn:
        return "of the DSN"
