"""Rows 25 to 28 of the matrix: what happens to the service's own process."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.faults.checker import Expected
from tests.faults.conftest import Scene
from tests.faults.process import Process
from tests.faults.proxy import Fault
from tests.faults.traffic import Mix, Traffic

_DRAIN_SECONDS = 3


@pytest.fixture
def process(scene: Scene, tmp_path: Path) -> Iterator[Process]:
    """`headrace serve` behind the proxy, not started yet."""
    dsn = scene.proxy.dsn_of(scene.database)
    process = Process(tmp_path, dsn, drain_seconds_max=_DRAIN_SECONDS, retry_seconds_max=0.2)
    yield process
    process.close()
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
async def traffic(scene: Scene, process: Process) -> AsyncIterator[Traffic]:
    """Clients of it, once it runs."""
    await process.start()
    async with Traffic(process.port, scene.history, Mix()).running() as traffic:
        await traffic.acknowledged(20)
        yield traffic


async def test_signals_under_load(scene: Scene, process: Process, traffic: Traffic) -> None:
    """Row 25: SIGHUP disturbs nobody; SIGTERM lets everything that has arrived be answered, and ends with status 0."""
    for _ in range(5):
        process.signal(signal.SIGHUP)
        await traffic.acknowledged(20)
    assert all(entry.outcome == "ok" for entry in scene.history.entries)
    for _ in range(2):
        assert await process.end(signal.SIGTERM) == 0
        await process.start()
        await traffic.acknowledged(20)
    await traffic.stop()
    # A request may be on its way to a connection that is being closed.
    report = await scene.judge(Expected(unknown_max=0, answers_may_be_lost=True))
    assert set(report.answers) <= {"201", "503 HR505", "no answer"}


async def test_a_service_that_is_killed(scene: Scene, process: Process, traffic: Traffic) -> None:
    """Row 26: what it had acknowledged is there, what it had not may be; nothing of it goes on to serve."""
    for _ in range(3):
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(httpx2.TransportError):
            await asyncio.to_thread(httpx2.get, f"{process.url}/livez")
        await process.start()
        await traffic.acknowledged(50)
    await traffic.stop()
    await scene.judge(Expected(unknown_max=0, answers_may_be_lost=True))


async def test_clients_that_try_again_with_a_key(scene: Scene, process: Process) -> None:
    """They send a request until they are told what became of it, whoever has died meanwhile; it is stored once."""
    await process.start()
    mix = Mix(kinds=["keyed"], deadline_seconds=30)
    async with Traffic(process.port, scene.history, mix).running() as traffic:
        for _ in range(3):
            await traffic.acknowledged(50)
            scene.proxy.arm(Fault.CUT_AFTER_COMMIT, 1)
            assert await process.end(signal.SIGKILL) == -signal.SIGKILL
            await process.start()
        await traffic.acknowledged(50)
    report = await scene.judge(Expected(unknown_max=0))
    assert set(report.answers) == {"201"}


async def test_stopping_while_the_database_is_down(scene: Scene, process: Process, traffic: Traffic) -> None:
    """Row 27: there is nothing to wait for, and everybody is told so before the time for draining is over."""
    await scene.own.stop()
    started = time.monotonic()
    assert await process.end(signal.SIGTERM) == 0
    assert time.monotonic() - started < _DRAIN_SECONDS + 5
    await traffic.stop()
    await scene.own.start()
    await scene.judge(Expected(answers_may_be_lost=True))


async def test_a_service_that_stands_still(scene: Scene, process: Process, traffic: Traffic) -> None:
    """Row 28: for as long as its process gets no time, nothing happens; then everything goes on."""
    for _ in range(2):
        await process.freeze(1)
        await traffic.acknowledged(50)
    await traffic.stop()
    report = await scene.judge(Expected(unknown_max=0))
    assert set(report.answers) == {"201"}
