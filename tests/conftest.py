"""What all tests share: one PostgreSQL for the session, a database for each test, a service in its event loop."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from functools import partial

import asyncpg
import pytest
from hypothesis import settings

from service.embedded import EmbeddedPostgres
from sql import CatalogWatch
from tests.harness import Connection, Running, Start, database_folder, empty_database, run_service

# Durability is not what the tests are about, and a commit is ten times faster without it.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}

# How long an example of Hypothesis takes is a matter of what else the machine does: a test's time limit is for that.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The event loop of production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell that runs the tests must not decide how they end."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def miss_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests make their tables when the service runs already: it misses each of them once.

    Then it waits as long as it has needed to read the catalog, and not 19 times as long (a second, on a busy machine).
    Who tests that this is seldom has a fixture of this name that changes nothing.
    """
    monkeypatch.setattr(CatalogWatch, "_MISS_PAUSE", 1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The embedded PostgreSQL, with its data in a folder of the session."""
    with database_folder() as folder:
        server = EmbeddedPostgres.start(folder, _FAST)
        yield server
        server.stop()


@pytest.fixture
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """An empty database of the test's own."""
    async with empty_database(postgres.dsn) as dsn:
        yield dsn


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[Connection]:
    """A connection to the test's database."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture(params=["fast", "fastapi"])
def lane(request: pytest.FixtureRequest) -> str:
    """The way that requests with rows take. Who uses it runs twice, and must find no difference."""
    name: str = request.param
    return name


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Start:
    """Starts a service with the settings given, in the test's lane if it has one."""
    if "lane" not in request.fixturenames:
        return run_service
    return partial(run_service, fast_lane=request.getfixturevalue("lane") == "fast")


@pytest.fixture
async def headrace(dsn: str, start: Start) -> AsyncIterator[Running]:
    """A service on the test's database. Tables that a test makes are found when they are first used."""
    async with start(dsn=dsn) as running:
        yield running
