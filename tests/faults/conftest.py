"""What the fault tests share: a PostgreSQL that may be killed, a proxy before it, a service, traffic, a judgement."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.faults.checker import Expected, Recovery, Report, check, stored_in
from tests.faults.history import History
from tests.faults.proxy import FaultProxy
from tests.faults.server import Postgres
from tests.faults.traffic import SCHEMA, Mix, Traffic
from tests.harness import Connection, Running, database_folder, run_service

_ANEW = """
select pg_terminate_backend(pid, 5000) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend';
drop schema if exists headrace cascade;
drop schema public cascade;
create schema public;
grant usage on schema public to public;
"""
_TABLES = "select table_name from information_schema.columns where table_schema = 'public' and column_name = 'key'"

# `Postgres` finds and kills its processes by way of /proc.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*"]


@pytest.fixture(scope="session")
def own() -> Iterator[Postgres]:
    """A PostgreSQL of the fault tests' own. A test that stops it starts it again."""
    with database_folder() as folder:
        server = Postgres(folder)
        yield server
        server.close()


@pytest.fixture
async def database(own: Postgres) -> str:
    """Its database as if it were new, with the tables of `traffic`. (A new one would take longer than most tests.)"""
    await own.ready()
    connection = await asyncpg.connect(own.dsn)
    await connection.execute(_ANEW)
    await connection.execute(SCHEMA)
    await connection.close()
    return "postgres"


@pytest.fixture
async def proxy(own: Postgres) -> AsyncIterator[FaultProxy]:
    """A proxy before it."""
    async with FaultProxy(own.socket_path).listening() as proxy:
        yield proxy


class Scene:
    """A service behind the proxy, and what its clients have seen."""

    def __init__(self, own: Postgres, proxy: FaultProxy, database: str, folder: Path) -> None:
        self.own = own
        self.proxy = proxy
        self.database = database
        self.history = History(folder / "history.jsonl")

    @property
    def dsn(self) -> str:
        """Past the proxy: for the test itself."""
        return self.own.dsn_of(self.database)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of the test's own to the database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            connection.terminate()

    async def sql(self, text: str) -> None:
        """Run statements."""
        async with self.connection() as connection:
            await connection.execute(text)

    @asynccontextmanager
    async def service(self, user: str = "postgres", **settings: Any) -> AsyncIterator[Running]:
        """A service that reaches the database through the proxy."""
        settings = {"retry_seconds_max": 0.2, **settings}
        async with run_service(dsn=self.proxy.dsn_of(self.database, user), **settings) as running:
            yield running

    def traffic(self, headrace: Running, mix: Mix) -> Traffic:
        """Clients of a service."""
        return Traffic(headrace.server.servers[0].sockets[0].getsockname()[1], self.history, mix)

    @asynccontextmanager
    async def under_load(self, mix: Mix | None = None, **settings: Any) -> AsyncIterator[tuple[Running, Traffic]]:
        """That, with clients. Everything is answered in the end."""
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(self.service(**settings))
            traffic = await stack.enter_async_context(self.traffic(running, mix or Mix()).running())
            await traffic.acknowledged(20)
            yield running, traffic

    async def recovers(self, recovery: Recovery) -> None:
        """Wait until throughput is back, or the time for that is over; the judgement comes later."""
        expected = Expected(recovery=recovery)
        while time.monotonic() < recovery.faults_until + recovery.within_seconds:
            if check(self.history.entries, {}, expected).recovered_seconds is not None:
                return
            await asyncio.sleep(0.1)

    async def judge(self, expected: Expected | None = None) -> Report:
        """Hold what the clients were told against the tables. Fails the test if a promise was broken."""
        report = await self.report(expected)
        assert report.ok, f"{report}\nhistory: {self.history.path}"
        return report

    async def report(self, expected: Expected | None = None) -> Report:
        """The same, without failing."""
        self.history.close()
        async with self.connection() as connection:
            stored = await stored_in(connection, [record[0] for record in await connection.fetch(_TABLES)])
        return check(self.history.entries, stored, expected or Expected(), ambiguous=self.proxy.ambiguous)


@pytest.fixture
async def scene(own: Postgres, proxy: FaultProxy, database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """Everything but the service, which the test starts with the settings that it needs."""
    scene = Scene(own, proxy, database, tmp_path)
    yield scene
    scene.history.close()
