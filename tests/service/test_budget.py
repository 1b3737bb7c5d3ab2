"""The connection budget at the start of the service, and what happens when there is no room all the same."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import pytest

from batching import Retry
from service.embedded import EmbeddedPostgres
from service.lifespan import StartRefused
from tests.harness import Connection, database_folder, run_service
from tests.roles import Role, role_in
from tests.service.command import headrace as command


async def allow(db: Connection, role: Role) -> None:
    """What a role needs to write to t."""
    await db.execute("create table t (n int)")
    database = await db.fetchval("select current_database()")
    await db.execute(f"grant insert, select on t to {role.name}; grant create on database {database} to {role.name}")


async def test_a_budget_that_cannot_be_met_ends_the_start(db: Connection, dsn: str) -> None:
    """With the arithmetic, in one line and without a traceback. That nothing is in use does not matter: the first of
    several workers to start judges for all of them.
    """
    async with role_in(db, dsn) as role:
        await db.execute(f"alter role {role.name} connection limit 15")
        settings = {"HEADRACE_PORT": "0", "HEADRACE_WORKERS": "4"}
        ended = await command("serve", "--dsn", role.dsn, **settings)
    assert ended.status == 3, "that of a worker that cannot start"
    assert "1 pod * 4 workers * (2 flush slots + 2) = 16 connections, but the role may have 15" in ended.complaint
    assert "Traceback" not in ended.complaint
    assert ended.complaint.count("16 connections") == 1


async def test_a_budget_that_can_just_be_met(db: Connection, dsn: str) -> None:
    """All connections that it counts there are, at the same time."""
    async with role_in(db, dsn) as role:
        await allow(db, role)
        await db.execute(f"alter role {role.name} connection limit 5")
        async with run_service(dsn=role.dsn, flush_slots=3) as headrace:
            await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 3)
            mine = "select count(*) from pg_stat_activity where usename = $1"
            assert await db.fetchval(mine, role.name) == 4
        with pytest.raises(StartRefused):
            async with run_service(dsn=role.dsn, flush_slots=4):
                pass
        async with run_service(dsn=role.dsn, flush_slots=4, at_least_once=True):
            pass


async def test_a_budget_is_judged_when_the_database_comes_up(caplog: pytest.LogCaptureFixture) -> None:
    """By then the service serves, and goes on as well as it can; but the log has an error."""
    with database_folder() as folder:
        server = EmbeddedPostgres.start(folder, {"fsync": "off", "max_connections": "10"})
        await asyncio.to_thread(server._control, "stop", "--mode=immediate", "--wait")
        async with run_service(dsn=server.dsn, flush_slots=6) as headrace:
            assert (await headrace.client.get("/readyz")).status_code == 503
            again = await asyncio.to_thread(EmbeddedPostgres.start, folder)
            await headrace.eventually(lambda: headrace.service.watch.problem is None)
        again.stop()
        server.stop()
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "= 8 connections, but max_connections 10 - superuser_reserved_connections 3" in said


async def test_no_room_at_run_time(
    db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others have taken what was free. The slots that are left do the work, the log says how many, /metrics too; and
    the one that rests comes back.
    """
    monkeypatch.setattr(Retry, "rest", lambda _self: 0.2)
    caplog.set_level(logging.INFO)

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if line.startswith("no room for more")]

    async with role_in(db, dsn) as role:
        await allow(db, role)
        await db.execute(f"alter role {role.name} connection limit 5")
        others = [await asyncpg.connect(role.dsn) for _ in range(2)]
        async with run_service(dsn=role.dsn, flush_slots=3) as headrace:
            await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2 and said() != [])
            failed = headrace.service.batcher.slots().failed
            await headrace.eventually(lambda: headrace.service.batcher.slots().failed >= failed + 2)
            assert said() == [
                f'no room for more: going on with 2 of 3 slots (too many connections for role "{role.name}")'
            ]
            assert (await headrace.post("t", {"n": 4})).status_code == 201
            assert 'headrace_flush_slots{state="away"} 1.0' in (await headrace.client.get("/metrics")).text
            assert (await headrace.client.get("/readyz")).status_code == 200
            for other in others:
                await other.close()
            await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 3)


@pytest.mark.parametrize("words", ["remaining connection slots are reserved", "too many clients"])
async def test_a_full_server(words: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the limit is called."""
    with database_folder() as folder:
        server = EmbeddedPostgres.start(folder, {"fsync": "off", "max_connections": "8"})
        admin = await asyncpg.connect(server.dsn)
        await admin.execute(
            "create table t (n int); create role plain login; grant create on database postgres to plain"
        )
        await admin.execute("grant insert on t to plain")
        dsn = server.dsn.replace("postgres@", "plain@" if words.startswith("remaining") else "postgres@", 1)
        others = [await asyncpg.connect(server.dsn) for _ in range(2 if words.startswith("remaining") else 5)]
        async with run_service(dsn=dsn, flush_slots=3, connections_reserve=0) as headrace:
            await headrace.eventually(lambda: any("no room for more" in r.getMessage() for r in caplog.records))
            assert (await headrace.post("t", {"n": 1})).status_code == 201
        for other in (admin, *others):
            await other.close()
        server.stop()
    assert any(words in record.getMessage() for record in caplog.records)
