"""The judge is put to the test: services that do it wrong, in the two ways that come to mind, must be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from sql import Unavailable, slot
from sql.ledger import Ledger, Past
from tests.faults.checker import Expected, Report
from tests.faults.conftest import Scene
from tests.faults.proxy import Fault
from tests.faults.traffic import Mix

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
    Log = asyncpg.PostgresLogMessage

_TIMES = 5


async def test_blind_retries_store_rows_twice(scene: Scene) -> None:
    """`HEADRACE_AT_LEAST_ONCE` accepts just that, so it is what the judge must see of it: nothing lost, many twice."""
    async with scene.under_load(at_least_once=True) as (headrace, traffic):
        scene.proxy.arm(Fault.CUT_AFTER_COMMIT, _TIMES)
        await headrace.eventually(lambda: not scene.proxy.armed)
        await traffic.acknowledged(100)
    report = await scene.report(Expected(unknown_max=0, ambiguous_min=_TIMES))
    assert report.rows_twice >= _TIMES
    assert report.lost_rows == 0
    assert all("stored twice" in violation for violation in report.violations), report


class Numbers(Ledger):
    """Instead of the ledger: the number of the write's transaction, whose fate PostgreSQL is asked for.

    The number is heard of at once, by a notice, as any client could that asks for it first.
    """

    number: int | None = None

    @property
    def advance(self) -> str:
        """Say the number."""
        return "do $$ begin raise warning 'number %', pg_current_xact_id(); end $$"

    def advanced(self) -> None:
        """The write is committed, so nobody will ask."""
        self.number = None

    async def sign_in(self, connection: Connection, application_name: str) -> Past:  # noqa: ARG002 - as in `Ledger`
        """Ask. A number that PostgreSQL has not given out yet, as it says, is asked for again later."""
        connection.add_log_listener(self._hear)
        if self.number is None:
            return Past.NOT_STORED
        try:
            status = await connection.fetchval(f"select pg_xact_status('{self.number}')")
        except asyncpg.InvalidParameterValueError as error:
            raise Unavailable(str(error)) from error
        if status == "in progress":
            raise Unavailable("the transaction is in progress")
        self.number = None
        return Past.STORED if status == "committed" else Past.NOT_STORED

    def _hear(self, _connection: object, message: Log) -> None:
        text = message.message or ""
        if text.startswith("number "):
            self.number = int(text.removeprefix("number "))


async def _crash(scene: Scene) -> Report:
    """A write waits for a lock when its backend is killed; after the recovery somebody else writes something first."""
    await scene.sql("create table others (n int)")
    async with scene.under_load(Mix(clients=1, kinds=["array"], tables=["t0"]), flush_slots=1) as (_, traffic):
        async with scene.connection() as holder:
            await holder.execute("begin; lock table t0 in exclusive mode")
            (pid,) = await scene.own.slots_that("wait_event_type = 'Lock'", scene.database)
            await scene.own.kill_backends([pid])
        async with scene.connection() as other:
            for n in range(3):
                await other.execute("insert into others values ($1)", n)
        await traffic.acknowledged(1)
    return await scene.report(Expected(unknown_max=0))


async def test_the_fate_of_a_transaction_may_be_that_of_another(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash forgets the numbers of transactions of which nothing was written yet, and gives them to others: rows are
    acknowledged that are nowhere.
    """
    monkeypatch.setattr(slot, "Ledger", Numbers)
    report = await _crash(scene)
    assert report.lost_rows > 0
    assert all("acknowledged, but not all" in violation for violation in report.violations), report


async def test_the_ledger_is_not_taken_in(scene: Scene) -> None:
    """The same crash again, with the service as it is."""
    report = await _crash(scene)
    assert report.ok, report
