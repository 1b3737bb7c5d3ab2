"""What all tests share: one PostgreSQL for the session, a database for each test, a service in its event loop."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from tests.harness import Connection, Running, Start, empty_database, run_service

# Durability is not what the tests are about, and a commit is ten times faster without it.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The event loop of production."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell that runs the tests must not decide how they end."""
    for name in [name for name in os.environ if name.startswith("HEADRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The embedded PostgreSQL, with its data in a folder of the session.

    Not pytest's own: it closes the folders above to other users when it starts, and PostgreSQL is one if we are root.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-tests-") as folder:
        server = EmbeddedPostgres.start(Path(folder), _FAST)
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
