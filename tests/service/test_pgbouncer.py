"""The service behind PgBouncer in transaction mode: everything it does works, and it leaves no traces in the pool."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest

from service.doctor import examination as doctor
from service.doctor.findings import Level
from service.embedded import EmbeddedPostgres
from service.settings import Settings
from sql import Timeouts
from sql.connect import connect
from tests.harness import Connection, Running, metrics_text, rows_of, run_service
from tests.service.command import headrace as command
from tests.sql.pgbouncer import PgBouncer, pgbouncer, settings_in_pool

_TABLES = """
create table t (n int primary key, text text, id int generated always as identity, check (n >= 0));
create table u (n int);
"""


@pytest.fixture
async def bouncer(postgres: EmbeddedPostgres) -> AsyncIterator[PgBouncer]:
    """A pool of two connections, which is fewer than those who want them."""
    async with pgbouncer(postgres) as bouncer:
        yield bouncer
        bouncer.kill()  # so that the test's database can be dropped


@pytest.fixture
async def pooled(db: Connection, bouncer: PgBouncer) -> str:
    """How to connect to the test's database through it."""
    await db.execute(_TABLES)
    return bouncer.dsn(await db.fetchval("select current_database()"))


@pytest.fixture
async def headrace(pooled: str) -> AsyncIterator[Running]:
    """A service with more slots than the pool has connections, so that each is lent to all of them."""
    async with run_service(dsn=pooled, flush_slots=4, tx_override=True) as running:
        yield running


@asynccontextmanager
async def others(dsn: str) -> AsyncIterator[None]:
    """Somebody else who uses the pool, with statements that are prepared and settings that are not the default."""

    async def work() -> None:
        connection = await asyncpg.connect(dsn, statement_cache_size=0)
        try:
            while True:
                async with connection.transaction():
                    await connection.execute("set local lock_timeout = '1234ms'")
                    assert await connection.fetchval("select $1::int", 7) == 7
                    assert await connection.fetchval("show statement_timeout") == "0"
        finally:
            connection.terminate()

    tasks = [asyncio.create_task(work()) for _ in range(2)]
    try:
        yield
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_every_way_to_write(headrace: Running, pooled: str, db: Connection) -> None:
    """Each of them many times at once: a statement that met another backend would fail, or be somebody else's."""
    merge = "resolution=merge-duplicates"

    async def one(n: int) -> None:
        responses = await asyncio.gather(
            headrace.post("t", {"n": n, "text": "a"}),
            headrace.lines("u", b'{"n": %d}\n{"n": %d}' % (n, n)),
            headrace.post("t", {"n": n + 1000, "text": "b"}, prefer="return=representation"),
            headrace.post("t", [{"n": n + 2000}], idempotency_key=f"k{n}"),
            headrace.post("t", [{"n": n + 3000}, {"n": -1}], prefer="bad-rows=quarantine"),
            headrace.post("t", {"n": n + 4000}, prefer="tx=rollback"),
        )
        assert [response.status_code for response in responses] == [201, 201, 201, 201, 201, 201], [
            response.text for response in responses
        ]
        assert responses[2].json()[0]["n"] == n + 1000
        again = await headrace.post("t", [{"n": n + 2000}], idempotency_key=f"k{n}")
        assert again.status_code == 201, again.text
        upserts = await asyncio.gather(
            headrace.post("t", {"n": n, "text": "c"}, prefer=merge),
            headrace.post("t", {"n": n + 1000, "text": "d"}, prefer=f"{merge},return=representation"),
            headrace.post("t", {"n": -2}),
            headrace.post("t", {"n": n}),
        )
        assert [response.status_code for response in upserts] == [200, 200, 400, 409], [r.text for r in upserts]

    async with others(pooled):
        for start in range(0, 100, 20):
            await asyncio.gather(*(one(n) for n in range(start, start + 20)))
    assert await rows_of(db, "select n / 1000, count(*), min(text) from t group by 1 order by 1") == [
        (0, 100, "c"), (1, 100, "d"), (2, 100, None), (3, 100, None),
    ]  # fmt: skip
    assert await rows_of(db, "select count(*), count(distinct n) from u") == [(200, 100)]
    assert await db.fetchval("select count(*) from headrace.quarantine") == 100
    for name in ("statement_timeout", "lock_timeout", "client_connection_check_interval"):
        assert await settings_in_pool(pooled, name) == {"0"}


async def test_time_outs_hold_there(pooled: str, db: Connection) -> None:
    """They are set in each transaction; without, a locked table would hold a slot for as long as it is locked."""
    async with run_service(dsn=pooled, lock_seconds_max=0.1, request_seconds_max=20) as headrace:
        async with db.transaction():
            await db.execute("lock table t in exclusive mode")
            sent = [asyncio.create_task(headrace.post("t", {"n": n})) for n in range(2)]
            await headrace.eventually(lambda: headrace.service.batcher.retries > 0)
            assert (await headrace.post("u", {"n": 1})).status_code == 201
        assert [response.status_code for response in await asyncio.gather(*sent)] == [201, 201]


async def test_time_outs_hold_for_single_statements(pooled: str) -> None:
    """Signing in waits for a lock, and must not do so for ever. Whoever comes next has none of that."""
    session = await connect(pooled, Timeouts(lock_seconds=0.1), "test")
    assert session.is_pooled
    assert await session.fetchval("select current_setting('lock_timeout')") == "100ms"
    with pytest.raises(asyncpg.DivisionByZeroError):
        await session.fetch("select 1 / $1::int", 0)
    assert not session.is_in_transaction()
    session.terminate()
    assert await settings_in_pool(pooled, "lock_timeout") == {"0"}


async def acknowledge(headrace: Running, stop: asyncio.Event) -> tuple[set[int], Counter[int]]:
    """Clients that write until they are stopped: which numbers they were told are stored, and all answers."""
    acknowledged: set[int] = set()
    answers: Counter[int] = Counter()

    async def client(number: int) -> None:
        n = number * 1_000_000
        while not stop.is_set():
            n += 1
            how = {"prefer": "return=representation"} if n % 2 else {}
            response = await headrace.post("u", {"n": n}, **how)
            answers[response.status_code] += 1
            if response.status_code == 201:
                acknowledged.add(n)

    await asyncio.gather(*(client(number) for number in range(12)))
    return acknowledged, answers


@pytest.mark.parametrize("what", ["backends", "pooler"])
async def test_what_is_cut_off_is_stored_once(what: str, headrace: Running, bouncer: PgBouncer, db: Connection) -> None:
    """Doubt is resolved through the pooler too; and those who are none of our slots are left alone."""
    stop = asyncio.Event()
    writing = asyncio.create_task(acknowledge(headrace, stop))
    for round_ in range(1, 5):
        seen = headrace.service.counts.numbers.totals().requests[0]
        await headrace.eventually(lambda: headrace.service.counts.numbers.totals().requests[0] > seen + 20)  # noqa: B023
        if what == "backends":
            await db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        elif round_ % 2:
            bouncer.kill()
            await bouncer.start()
    stop.set()
    acknowledged, answers = await writing
    assert set(answers) <= {201, 503}, answers
    stored = Counter(record[0] for record in await db.fetch("select n from u"))
    assert acknowledged <= set(stored)
    assert max(stored.values()) == 1
    assert await db.fetchval("select count(*) from headrace.ledger where flush is null") == 0


async def test_a_new_column_is_noticed(headrace: Running, db: Connection) -> None:
    """There is no LISTEN, but somebody looks."""
    before = headrace.service.watch.catalog
    await db.execute("alter table u add column more text")
    await headrace.eventually(lambda: headrace.service.watch.catalog is not before)
    assert (await headrace.post("u", {"n": 1, "more": "x"})).status_code == 201
    assert await rows_of(db, "select n, more from u") == [(1, "x")]


async def test_what_operators_see(headrace: Running, pooled: str) -> None:
    """The state of the database is known; and the doctor says how large the pool should be."""
    await headrace.eventually(lambda: headrace.service.live.vitals is not None)
    assert "headrace_database_up 1.0" in metrics_text(headrace.service)
    found = await doctor.findings_of(Settings(dsn=pooled, port=0, flush_slots=4, workers=2), [])
    (said,) = [each for each in found if "pooler" in each.text]
    assert said.level is Level.OK
    assert "its pool should hold 8 connections" in said.text
    assert not [each for each in found if each.group == "Connections"]


async def test_commands(headrace: Running, pooled: str) -> None:
    """Those of operators take the same DSN."""
    assert (await headrace.post("t", [{"n": 1}, {"n": -1}], prefer="bad-rows=quarantine")).status_code == 201
    for arguments in (("tables",), ("tables", "t"), ("quarantine", "list"), ("quarantine", "drop", "--all")):
        ended = await command(*arguments, "--json", "--dsn", pooled)
        assert (ended.status, ended.complaint) == (0, "")
        assert ended.said


async def test_no_room_in_the_pooler(
    postgres: EmbeddedPostgres, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses further clients in words of its own; the slots that have got in do the work."""
    await db.execute(_TABLES)
    caplog.set_level(logging.INFO)
    async with pgbouncer(postgres, clients=4) as bouncer:
        dsn = bouncer.dsn(await db.fetchval("select current_database()"))
        with suppress(TimeoutError):
            async with run_service(dsn=dsn, flush_slots=6) as headrace:
                await headrace.eventually(lambda: any("no room for more" in r.getMessage() for r in caplog.records))
                assert (await headrace.post("u", {"n": 1})).status_code == 201
                assert headrace.service.batcher.slots().away >= 1
        bouncer.kill()
    assert any("is its affair" in record.getMessage() for record in caplog.records)
