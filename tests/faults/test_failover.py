"""The primary dies under load and its synchronous standby takes over: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from sql import Timeouts
from sql.connect import connect
from tests.faults.checker import Expected, check, stored_in
from tests.faults.history import History
from tests.faults.replication import Pair, replicating
from tests.faults.traffic import SCHEMA, TABLES, Mix, Traffic
from tests.harness import Running, database_folder, rows_of, run_service


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two servers, with the tables of `traffic`."""
    with database_folder() as folder:
        async with replicating(folder) as pair:
            connection = await asyncpg.connect(pair.first.dsn)
            await connection.execute(SCHEMA)
            await connection.close()
            yield pair


@pytest.fixture
async def headrace(pair: Pair) -> AsyncIterator[Running]:
    """A service that knows both."""
    async with run_service(dsn=pair.dsn, retry_seconds_max=0.2) as running:
        yield running


@pytest.fixture
async def history(tmp_path: Path) -> AsyncIterator[History]:
    """What clients were told."""
    history = History(tmp_path / "history.jsonl")
    yield history
    history.close()


def traffic(headrace: Running, history: History) -> Traffic:
    """Clients that write in all ways, among them those who try again with the same key."""
    mix = Mix(kinds=("object", "array", "lines", "returning", "keyed"))
    return Traffic(headrace.server.servers[0].sockets[0].getsockname()[1], history, mix)


async def judge(history: History, dsn: str, expected: Expected) -> None:
    """Hold what they were told against the tables of the server that is left."""
    connection = await asyncpg.connect(dsn)
    stored = await stored_in(connection, list(TABLES))
    await connection.close()
    report = check(history.entries, stored, expected)
    assert report.ok, f"{report}"


async def test_the_primary_dies_under_load(pair: Pair, headrace: Running, history: History) -> None:
    """All its processes at once. Requests go on with the other server, and doubt is judged there."""
    async with traffic(headrace, history).running() as clients:
        await clients.acknowledged(200)
        await pair.first.kill()
        await pair.promote()
        await clients.acknowledged(200)
    await judge(history, pair.second.dsn, Expected(unknown_max=0))


async def test_commits_that_no_standby_has_are_not_acknowledged(
    pair: Pair, headrace: Running, history: History
) -> None:
    """The standby gets nothing any more, and somebody ends the commits' waiting for it: PostgreSQL calls that a
    success, with a warning. Then the primary dies. What it had alone is lost: nobody may have been told otherwise.
    """
    async with traffic(headrace, history).running() as clients:
        await clients.acknowledged(100)
        pair.first.signal(await walsender(pair), signal.SIGSTOP)
        for how in ("pg_cancel_backend", "pg_cancel_backend", "pg_terminate_backend", "pg_cancel_backend"):
            await end_waits(pair, how)  # from the second time on, it is the slots' finding out that waits
        alone = await rows_on(pair.first.dsn)
        await pair.first.kill()
        assert alone > await rows_on(pair.second.dsn)
        await pair.promote()
        await clients.acknowledged(100)
    await judge(history, pair.second.dsn, Expected(unknown_max=0))


@pytest.mark.parametrize("way", ["plain", "returning"])
async def test_a_cancelled_wait_is_resolved_when_the_standby_is_back(way: str, pair: Pair, headrace: Running) -> None:
    """The rows are stored, and are not written again: once the standby has what came after them, it has them."""
    await headrace.eventually(lambda: headrace.service.batcher.slots().idle == 2)
    sender = await walsender(pair)
    pair.first.signal(sender, signal.SIGSTOP)
    headers = {"prefer": "return=representation"} if way == "returning" else {}
    sent = asyncio.create_task(headrace.post("t0", {"key": 1, "value": "v"}, **headers))
    (first,) = await end_waits(pair, "pg_cancel_backend")
    while first in await pair.first.slots_that("wait_event = 'SyncRep'"):  # noqa: ASYNC110 - another process sends no event
        await asyncio.sleep(0.01)
    assert not sent.done()
    pair.first.signal(sender, signal.SIGCONT)
    response = await sent
    assert response.status_code == 201
    assert not headers or response.json() == [{"key": 1, "value": "v"}]
    connection = await asyncpg.connect(pair.second.dsn)
    assert await rows_of(connection, "select key, value from t0") == [(1, "v")]
    await connection.close()
    assert headrace.service.counts.numbers.doubts["stored"] == 1


async def test_a_first_answer_is_not_repeated_before_it_is_safe(pair: Pair, headrace: Running) -> None:
    """A key that somebody sees after its commit was not waited for may be lost, and its rows with it."""
    connection = await asyncpg.connect(pair.first.dsn)
    async with run_service(dsn=pair.dsn) as another:
        for each in (headrace, another):
            await each.eventually(lambda: each.service.batcher.slots().idle == 2)  # noqa: B023 - awaited at once
        sender = await walsender(pair)
        pair.first.signal(sender, signal.SIGSTOP)
        first = asyncio.create_task(headrace.post("t0", {"key": 1}, idempotency_key="k"))
        await end_waits(pair, "pg_cancel_backend")
        while not await rows_of(connection, "select key from headrace.idempotency"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        again = asyncio.create_task(another.post("t0", {"key": 1}, idempotency_key="k"))
        await pair.first.slots_that("wait_event = 'SyncRep' and query like 'update headrace.ledger%'")
        assert not again.done()
        pair.first.signal(sender, signal.SIGCONT)
        assert [(await each).status_code for each in (first, again)] == [201, 201]
    assert await rows_of(connection, "select key from t0") == [(1,)]
    await connection.close()


async def test_the_standby_is_passed_over(pair: Pair) -> None:
    """Also where it is the first of the hosts."""
    folders = [str(Path(server.socket_path).parent) for server in (pair.second, pair.first)]
    dsn = f"postgresql://postgres@/postgres?host={','.join(folders)}&port=5432"
    for attributes, in_recovery in (
        ("", False),
        ("&target_session_attrs=primary", False),
        ("&target_session_attrs=any", True),
    ):
        connection = await connect(dsn + attributes, Timeouts(), "test")
        assert await connection.fetchval("select pg_is_in_recovery()") is in_recovery
        connection.terminate()


@pytest.mark.parametrize("hosts", ["several", "one"])
async def test_a_server_that_stops_taking_rows(hosts: str, pair: Pair) -> None:
    """Of several hosts another one will; of one it is an operator's will, and the request's answer."""
    several = hosts == "several"
    dsn = pair.dsn if several else pair.first.dsn
    async with run_service(dsn=dsn, retry_seconds_max=0.2, request_seconds_max=1) as headrace:
        assert (await headrace.post("t0", {"key": 1})).status_code == 201
        await pair.first.reload(default_transaction_read_only="on")
        if several:
            await headrace.post("t0", {"key": 2})
            await headrace.eventually(lambda: headrace.service.batcher.away() is not None)
            await pair.first.kill()
            await pair.promote()
            while (await headrace.post("t0", {"key": 3})).status_code != 201:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        else:
            while (refused := await headrace.post("t0", {"key": 2})).status_code == 201:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
            assert (refused.json()["code"], headrace.service.batcher.away()) == ("HR503", None)


async def walsender(pair: Pair) -> int:
    """The process of the primary that sends what it writes to the standby."""
    connection = await asyncpg.connect(pair.first.dsn)
    pid: int = await connection.fetchval("select pid from pg_stat_replication")
    await connection.close()
    return pid


async def end_waits(pair: Pair, how: str) -> list[int]:
    """End the waits of slots for the standby, once there are some."""
    connection = await asyncpg.connect(pair.first.dsn)
    pids = await pair.first.slots_that("wait_event = 'SyncRep'")
    for pid in pids:
        await connection.execute(f"select {how}($1)", pid)
    await connection.close()
    return pids


async def rows_on(dsn: str) -> int:
    """How many rows a server has."""
    connection = await asyncpg.connect(dsn)
    count: int = await connection.fetchval(
        "select (select count(*) from t0) + (select count(*) from t1) + (select count(*) from t2)"
    )
    await connection.close()
    return count
