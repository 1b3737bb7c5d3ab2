"""The database goes away and comes back: truthful answers meanwhile, no restart of the service needed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from sql import Slot
from tests.harness import Connection, Running, Start


@pytest.fixture
async def own_db(own: EmbeddedPostgres) -> AsyncIterator[Connection]:
    """A connection to it."""
    connection = await asyncpg.connect(own.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def headrace(own: EmbeddedPostgres, own_db: Connection, start: Start) -> AsyncIterator[Running]:
    """A service on it, with a table t."""
    await own_db.execute("create table t (n int)")
    async with start(dsn=own.dsn, request_seconds_max=1) as running:
        yield running


async def stop(server: EmbeddedPostgres) -> None:
    """As a crash stops it."""
    await asyncio.to_thread(server._control, "stop", "--mode=immediate", "--wait")


async def restart(server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Start it again."""
    return await asyncio.to_thread(EmbeddedPostgres.start, server.folder)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until the condition holds; the test's time limit ends the wait."""
    while not await condition():  # noqa: ASYNC110 - the condition lies in another process, which sends no event
        await asyncio.sleep(0.005)


async def status(headrace: Running) -> tuple[int, str]:
    """What /readyz says."""
    response = await headrace.client.get("/readyz")
    return response.status_code, response.json()["status"]


async def is_status(headrace: Running, *expected: object) -> bool:
    """Whether /readyz says this."""
    return await status(headrace) == expected


async def is_stored(headrace: Running, n: int) -> bool:
    """Whether a row is accepted."""
    return (await headrace.post("t", {"n": n})).status_code == 201


async def test_an_outage(own: EmbeddedPostgres, headrace: Running) -> None:
    """503 with Retry-After while it lasts, 201 afterwards, /readyz in step, every acknowledged row stored once."""
    assert await status(headrace) == (200, "ready")
    acknowledged = [n for n in range(5) if (await headrace.post("t", {"n": n})).status_code == 201]
    assert len(acknowledged) == 5
    await stop(own)
    await until(lambda: is_status(headrace, 503, "unavailable"))
    assert (await headrace.client.get("/livez")).status_code == 200
    await headrace.post("t", {"n": 100})  # the first may have to find out
    response = await headrace.post("t", {"n": 101})
    assert (response.status_code, response.json()["code"]) == (503, "PGRST000")
    assert 1 <= int(response.headers["retry-after"]) <= 2
    assert "headrace_database_up 0.0" in (await headrace.client.get("/metrics")).text

    again = await restart(own)
    await until(lambda: is_stored(headrace, 1000))
    acknowledged.append(1000)
    await until(lambda: is_status(headrace, 200, "ready"))
    connection = await asyncpg.connect(again.dsn)
    assert [r[0] for r in await connection.fetch("select n from t order by n")] == acknowledged
    await connection.close()
    again.stop()


async def test_connections_that_were_cut_while_idle(own_db: Connection, headrace: Running) -> None:
    """Nothing was on its way, so producers notice nothing but a moment's delay."""
    slots = [cast("Slot", slot.sink) for slot in headrace.service.batcher._slots]
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == len(slots))
    await own_db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'headrace slot%'"
    )
    await headrace.eventually(lambda: all(slot._connection is None or slot._connection.is_closed() for slot in slots))
    responses = await asyncio.gather(*(headrace.post("t", {"n": n}) for n in range(20)))
    assert {response.status_code for response in responses} == {201}
    assert await own_db.fetchval("select count(*) from t") == 20


async def terminate_waiting(connection: Connection, wait_event: str) -> None:
    """Terminate the slot's backend once it waits for this."""
    slots = f"from pg_stat_activity where application_name like 'headrace slot%' and wait_event = '{wait_event}'"
    await until(lambda: connection.fetchval(f"select exists (select {slots})"))
    await connection.execute(f"select pg_terminate_backend(pid) {slots}")


SLOW = """
create table pace (seconds int);
insert into pace values (60);
create function slow() returns trigger language plpgsql as $$
begin
    perform pg_sleep(seconds) from pace;
    return new;
end $$;
create trigger slow before insert on t for each row execute function slow();
"""


async def test_a_connection_that_is_lost_while_writing(own_db: Connection, headrace: Running) -> None:
    """Whether the rows are stored is found out, and they are written again if not: the producer notices nothing."""
    await own_db.execute(SLOW)
    sent = asyncio.create_task(headrace.post("t", {"n": 2}))
    await until(lambda: own_db.fetchval("select exists (select from pg_stat_activity where wait_event = 'PgSleep')"))
    await own_db.execute("update pace set seconds = 0")
    await terminate_waiting(own_db, "PgSleep")
    assert (await sent).status_code == 201
    assert await own_db.fetchval("select array_agg(n) from t") == [2]


async def test_a_doubt_that_lasts_too_long(own: EmbeddedPostgres, own_db: Connection, start: Start) -> None:
    """Then nobody knows whether the rows are stored, and the answer says so: without an invitation to try again."""
    await own_db.execute("create table t (n int)")
    await own_db.execute(SLOW)
    async with start(dsn=own.dsn, doubt_seconds_max=0.3) as headrace:
        sent = asyncio.create_task(headrace.post("t", {"n": 2}))
        await until(
            lambda: own_db.fetchval("select exists (select from pg_stat_activity where wait_event = 'PgSleep')")
        )
        await stop(own)
        response = await sent
        assert (response.status_code, response.json()["code"]) == (503, "HR506")
        assert "retry-after" not in response.headers
        (await restart(own)).stop()


async def test_a_service_that_starts_without_its_database(
    own: EmbeddedPostgres, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts, says in one line why it cannot write, and begins to when it can."""
    await stop(own)
    async with start(dsn=own.dsn) as headrace:
        assert await status(headrace) == (503, "unavailable")
        response = await headrace.post("t", {"n": 1})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("sql")]
        assert len(lines) == 1
        assert lines[0].startswith(f"cannot reach the database {own.socket_folder}/postgres: ")
        assert "Traceback" not in caplog.text
        again = await restart(own)
        connection: Connection = await asyncpg.connect(again.dsn)
        await connection.execute("create table if not exists t (n int)")
        await connection.close()
        await until(lambda: is_stored(headrace, 2))
    again.stop()


async def test_a_locked_table_does_not_stop_the_others(db: Connection, dsn: str, start: Start) -> None:
    """lock_timeout ends the wait, the rows go back to the queue, and other tables keep flowing."""
    await db.execute("create table locked (n int); create table open (n int)")
    async with start(dsn=dsn, lock_seconds_max=0.1, request_seconds_max=20) as headrace:
        async with db.transaction():
            await db.execute("lock table locked in exclusive mode")
            sent = asyncio.create_task(headrace.post("locked", {"n": 1}))
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
            for n in range(5):
                assert (await headrace.post("open", {"n": n})).status_code == 201
            assert not sent.done()
        assert (await sent).status_code == 201
    assert await db.fetchval("select count(*) from locked") == 1


async def test_secrets_of_a_dsn_go_nowhere(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Parsers quote what they cannot read, and that may be a part of the password."""
    async with start(dsn="postgresql://user:se/cret@127.0.0.1:1/db") as headrace:
        said = (await headrace.client.get("/readyz")).text + (await headrace.post("t", {"n": 1})).text + caplog.text
    for part in ("user", "cret", ":se"):
        assert part not in said
    assert "not a connection URL" in said


async def test_connections_that_are_cut_under_load(own_db: Connection, headrace: Running) -> None:
    """Every request is stored, refused with Retry-After, or told that nobody knows; none is called a bug of ours."""
    stop = asyncio.Event()
    answers: Counter[tuple[int, str | None]] = Counter()
    acknowledged: list[int] = []

    async def client(n: int) -> None:
        while not stop.is_set():
            n += 1000
            response = await headrace.post("t", {"n": n})
            if response.status_code == 201:
                acknowledged.append(n)
            answers[response.status_code, response.json()["code"] if response.content else None] += 1

    clients = [asyncio.create_task(client(n)) for n in range(20)]
    for round_ in range(1, 11):
        await headrace.eventually(lambda: len(acknowledged) > 50 * round_)  # noqa: B023 - awaited in this round
        await own_db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'headrace slot%'"
        )
    stop.set()
    await asyncio.gather(*clients)
    assert set(answers) <= {(201, None), (503, "HR506"), (503, "HR503"), (503, "PGRST000")}, answers
    stored = Counter(record[0] for record in await own_db.fetch("select n from t"))
    assert set(acknowledged) <= set(stored)
    assert max(stored.values()) == 1
