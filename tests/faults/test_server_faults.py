"""Rows 5 to 12 of the matrix: what happens to PostgreSQL's processes and to its sessions."""

from __future__ import annotations

import asyncio
import signal
import time
from statistics import median

import pytest

from sql import Timeouts
from tests.faults.checker import Expected, Recovery
from tests.faults.conftest import Scene
from tests.faults.traffic import Mix


async def test_a_session_that_is_terminated_in_its_copy(scene: Scene) -> None:
    """Row 5: it was waiting for a lock, so nothing is stored; it is written again."""
    async with scene.under_load(Mix(kinds=["array"])) as (_, traffic):
        for _ in range(3):
            async with scene.connection() as holder, holder.transaction():
                await holder.execute("lock table t0 in exclusive mode")
                for pid in await scene.own.slots_that("wait_event_type = 'Lock'", scene.database):
                    await holder.execute("select pg_terminate_backend($1)", pid)
            await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


async def test_backends_that_are_killed(scene: Scene) -> None:
    """Row 6: PostgreSQL ends everybody's session for one that was killed, and recovers what was committed."""
    async with scene.under_load() as (_, traffic):
        for _ in range(4):
            await scene.own.kill_backends(await scene.own.slots_that("true", scene.database))
            await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


async def test_a_server_that_is_killed(scene: Scene) -> None:
    """Row 7: all its processes at once; it recovers when it is started again."""
    async with scene.under_load() as (_, traffic):
        for _ in range(2):
            await scene.own.kill()
            await scene.own.start()
            await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


@pytest.mark.parametrize("seconds", [1.5, pytest.param(30.0, marks=pytest.mark.soak)])
async def test_a_server_that_is_down(scene: Scene, seconds: float) -> None:
    """Row 8: refused at once while it lasts, told when to come back, and stored as before soon after it."""
    async with scene.under_load(Mix(pause_seconds=0.02)) as (headrace, _):
        begun = time.monotonic()
        await asyncio.sleep(1)
        faults_from = time.monotonic()
        await scene.own.stop()
        await headrace.eventually(lambda: headrace.service.batcher.away() is not None)
        known = time.monotonic()
        times = []
        while time.monotonic() < known + seconds:
            asked = time.monotonic()
            response = await headrace.post("t0", {"key": 0, "value": "v0"})
            times.append(time.monotonic() - asked)
            assert (response.status_code, response.json()["code"]) == (503, "PGRST000")
            assert 1 <= int(response.headers["retry-after"]) <= 2
            await asyncio.sleep(0.1)
        await scene.own.start()
        recovery = Recovery(begun, faults_from, time.monotonic())
        await scene.recovers(recovery)
    # What was in doubt when it went down is cleared up unless that lasts longer than HEADRACE_DOUBT_SECONDS_MAX.
    unknown_max = 0 if seconds < 10 else Mix().clients
    await scene.judge(Expected(unknown_max=unknown_max, flush_seconds=30, recovery=recovery))
    assert median(times) < 0.2


@pytest.fixture
async def ghost(scene: Scene) -> Ghost:
    """A standby that does not exist, and that commits can be made to wait for."""
    return Ghost(scene)


class Ghost:
    """While it is waited for, rows are committed on the disk, but nobody sees them, and nobody is told."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    async def __aenter__(self) -> None:
        await self.scene.own.reload(synchronous_standby_names="ghost")

    async def __aexit__(self, *_: object) -> None:
        await self.scene.own.reload(synchronous_standby_names=None)


async def test_a_commit_that_hangs(scene: Scene, ghost: Ghost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 9: no time-out of the server ends this wait. What is not known is not called a failure."""
    monkeypatch.setattr(Timeouts, "answer_seconds", 0.5)
    async with scene.under_load(statement_seconds_max=0.4) as (_, traffic):
        async with ghost:
            await scene.own.slots_that("wait_event = 'SyncRep'", scene.database)
            await asyncio.sleep(1.2)
        await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_commit_that_hangs_and_is_ended(scene: Scene, ghost: Ghost, how: str) -> None:
    """Row 10: the rows are stored all the same, so they must not be written again."""
    async with scene.under_load() as (_, traffic):
        async with ghost:
            for _ in range(3):
                for pid in await scene.own.slots_that("wait_event = 'SyncRep'", scene.database):
                    async with scene.connection() as admin:
                        await admin.execute(f"select {how}($1)", pid)
        await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


@pytest.mark.parametrize("state", ["active", "idle"])
async def test_a_backend_that_is_frozen(scene: Scene, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 11: its slot gives it up. When it thaws it may still want to commit, or even begin, what has been written
    again since.
    """
    monkeypatch.setattr(Timeouts, "answer_seconds", 0.5)
    async with scene.under_load(statement_seconds_max=0.4) as (_, traffic):
        for _ in range(2):
            frozen = await scene.own.slots_that(f"state = '{state}'", scene.database)
            for pid in frozen:
                scene.own.signal(pid, signal.SIGSTOP)
            await asyncio.sleep(1)
            for pid in frozen:
                scene.own.signal(pid, signal.SIGCONT)
            await traffic.acknowledged(50)
    await scene.judge(Expected(unknown_max=0))


async def test_a_write_that_outlives_its_connection(scene: Scene) -> None:
    """Row 12: its session waits for another transaction and does not notice that nobody is there any more. It must not
    commit after the rows have been written again, nor after they were refused.
    """
    await scene.sql("create table zombie (key bigint primary key, value text)")
    async with scene.service() as headrace, scene.connection() as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("insert into zombie values (1000, 'in the way')")
        entry = scene.history.begin("zombie", 1, 10)
        sent = asyncio.create_task(headrace.post("zombie", {"key": 1000, "value": "v1000"}))
        first = await scene.own.slots_that("wait_event = 'transactionid'", scene.database)
        scene.proxy.cut_all()
        await asyncio.sleep(0.3)
        await transaction.rollback()
        response = await sent
        code = response.json()["code"] if response.content else ""
        scene.history.end(entry, response.status_code, code)
        while set(first) & set(await scene.own.slots("true", scene.database)):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.01)
    assert (entry.number, entry.outcome) == (1, "ok")
    await scene.judge(Expected(unknown_max=0))
