"""A service that stops: every accepted request has its true answer in time, and none that is on its way is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.harness import Connection, RawConnection, Running, Start
from tests.service.in_process import GET, chunked, post

pytestmark = pytest.mark.usefixtures("lane")


@contextlib.asynccontextmanager
async def stopping(headrace: Running) -> AsyncIterator[None]:
    """SIGTERM before, the end of the service after the block."""
    headrace.server.should_exit = True
    yield
    await headrace.eventually(lambda: not headrace.server.server_state.connections)


def row(number: int, *headers: bytes) -> bytes:
    """A request to store this number."""
    return post(b'{"n":%d}' % number, *headers)


def address_of(headrace: Running) -> tuple[str, int]:
    """Where it listens, or did."""
    host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
    return host, port


@pytest.fixture
async def table(db: Connection) -> Connection:
    """The database, with a table t of numbers."""
    await db.execute("create table t (n int)")
    return db


async def test_an_idle_service_stops_at_once(dsn: str, start: Start) -> None:
    """Also with connections that have long been idle: nobody is waited for who has nothing to say."""
    async with start(dsn=dsn) as headrace, headrace.connect() as silent, headrace.connect() as used:
        await used.send(GET)
        await used.next()
        await asyncio.sleep(0.7)
        began = asyncio.get_running_loop().time()
        async with stopping(headrace):
            await silent.closed()
            await used.closed()
        assert asyncio.get_running_loop().time() - began < 1


async def test_a_request_that_was_on_its_way_is_stored(table: Connection, dsn: str, start: Start) -> None:
    """A client that did not know of the stop when it sent is answered, and told with the answer to go elsewhere."""
    async with start(dsn=dsn) as headrace:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(headrace.connect()) for _ in range(20)]
            used = clients[::2]  # all at once, for who is idle for half a second need not be waited for
            for client in used:
                await client.send(row(1))
            for client in used:
                assert (await client.next()).status == 201
            address = address_of(headrace)
            headrace.server.should_exit = True
            await headrace.eventually(lambda: not headrace.server.servers[0].is_serving())
            for number, client in enumerate(clients, 100):
                await client.send(row(number))
                if number % 4 == 0:  # a busy machine adds its own time to each
                    await asyncio.sleep(0.04)
            for client in clients:
                reply = await client.next()
                assert (reply.status, reply.closes) == (201, True)
                await client.closed()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
    assert await table.fetchval("select count(*) from t") == 30


async def test_requests_without_end_do_not_hold_up_the_stop(table: Connection, dsn: str, start: Start) -> None:
    """Each connection has one more, however fast they come."""
    async with start(dsn=dsn) as headrace:
        answers: list[int] = []

        async def client() -> None:
            async with headrace.connect() as connection:
                reply = None
                while reply is None or not reply.closes:
                    await connection.send(row(1))
                    reply = await connection.next()
                    answers.append(reply.status)

        clients = [asyncio.create_task(client()) for _ in range(10)]
        await headrace.eventually(lambda: len(answers) > 200)
        began = asyncio.get_running_loop().time()
        async with stopping(headrace):
            await asyncio.wait(clients)
        assert asyncio.get_running_loop().time() - began < 1.5
        for each in clients:
            each.result()
    assert set(answers) == {201}
    assert await table.fetchval("select count(*) from t") == len(answers)


async def test_pipelined_requests_behind_the_last_do_not_take_its_answer_away(
    table: Connection, dsn: str, start: Start
) -> None:
    """Closing with something unread in the kernel would be a reset, and the client might never read the 201."""
    async with start(dsn=dsn) as headrace, headrace.connect() as client:
        async with headrace.gathering(table, "t", requests=1):
            await client.send(row(1))
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
            headrace.server.should_exit = True
            await headrace.eventually(lambda: not headrace.server.servers[0].is_serving())
            for number in range(2, 200):
                await client.send(row(number) + b"\r\n" * 500)
        (reply,) = await client.all()
        assert (reply.status, reply.closes) == (201, True)
    assert await table.fetchval("select count(*) from t") == 1


async def test_half_a_body_may_arrive_or_is_refused(table: Connection, dsn: str, start: Start) -> None:
    """What comes within a moment is stored; nobody is waited for longer."""
    async with (
        start(dsn=dsn) as headrace,
        headrace.connect() as quick,
        headrace.connect() as slow,
        headrace.connect() as chunks,
    ):
        await quick.send(row(1)[:-3])
        await slow.send(row(2)[:-3])
        await chunks.send(chunked(b'{"n":3}')[:-5])
        headrace.server.should_exit = True
        await headrace.eventually(lambda: not headrace.server.servers[0].is_serving())
        await quick.send(row(1)[-3:])
        assert ((reply := await quick.next()).status, reply.closes) == (201, True)
        for client in (slow, chunks):
            reply = await client.next()
            assert (reply.status, reply.code, reply.closes) == (503, "HR505", True)
            client.writer.close()
    assert await table.fetchval("select array_agg(n) from t") == [1]


async def test_rows_that_were_promised_are_stored(table: Connection, dsn: str, start: Start) -> None:
    """A 202 is a promise; the stop waits for it although no connection does."""
    async with start(dsn=dsn) as headrace, table.transaction():
        await table.execute("lock table t in exclusive mode")
        async with headrace.connect() as client:
            for number in range(50):
                await client.send(row(number, b"Prefer: respond-async"))
                assert (await client.next()).status == 202
        headrace.server.should_exit = True
        await headrace.eventually(lambda: headrace.service.batcher.closed)
        assert headrace.service.batcher.statistics().pending_rows == 50
    assert await table.fetchval("select count(*) from t") == 50


async def test_a_lock_that_is_not_given_up(table: Connection, dsn: str, start: Start) -> None:
    """The drain time ends the wait: each is told that its rows are not stored, or that nobody knows; then it is so."""
    async with start(dsn=dsn, drain_seconds_max=1, lock_seconds_max=0.3) as headrace:
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(headrace.connect()) for _ in range(10)]
            async with table.transaction():
                await table.execute("lock table t in exclusive mode")
                for number, client in enumerate(clients):
                    await client.send(row(number))
                await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 10)
                began = loop.time()
                headrace.server.should_exit = True
                replies = [await client.next() for client in clients]
                assert loop.time() - began < 2
                assert all(reply.closes for reply in replies)
                codes = {reply.code for reply in replies}
                assert codes <= {"HR503", "HR505", "HR506", "PGRST000"}, codes
    refused = sum(reply.code != "HR506" for reply in replies)
    assert await table.fetchval("select count(*) from t") <= 10 - refused


async def test_told_twice_it_stops_once(table: Connection, dsn: str, start: Start) -> None:
    """An operator who is impatient, or an orchestrator that repeats itself, loses nothing."""
    async with start(dsn=dsn) as headrace, headrace.connect() as client:
        async with headrace.gathering(table, "t", requests=1):
            await client.send(row(1))
            await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
            for _ in range(5):
                headrace.server.handle_exit(15, None)
                await asyncio.sleep(0.1)
        reply = await client.next()
        assert (reply.status, reply.closes) == (201, True)
    assert await table.fetchval("select count(*) from t") == 1


@contextlib.asynccontextmanager
async def busy_for_ever(headrace: Running) -> AsyncIterator[asyncio.Task[None]]:
    """A request of FastAPI's that has no end; the task that waits for it."""
    headrace.server.config.app.add_api_route("/forever", asyncio.Event().wait)  # type: ignore[union-attr]
    async with headrace.connect() as client:
        await client.send(GET.replace(b"/livez", b"/forever"))
        await headrace.eventually(lambda: bool(headrace.server.server_state.tasks))
        (task,) = headrace.server.server_state.tasks
        yield task


async def test_what_has_no_end_is_given_up(dsn: str, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for the process to end would kill it otherwise, and with it what could still be finished."""
    async with contextlib.AsyncExitStack() as outlives:
        async with start(dsn=dsn) as headrace:
            headrace.server.config.timeout_graceful_shutdown = 0.2  # type: ignore[assignment] # a float will do
            endless = await outlives.enter_async_context(busy_for_ever(headrace))
        await asyncio.wait([endless])
    assert "the time to stop is over: 1 connections are given up" in caplog.messages


async def test_ctrl_c_a_second_time_waits_for_no_connection(dsn: str, start: Start) -> None:
    """Who is at the terminal has seen that it takes too long."""
    async with contextlib.AsyncExitStack() as outlives:
        async with start(dsn=dsn) as headrace:
            endless = await outlives.enter_async_context(busy_for_ever(headrace))
            headrace.server.handle_exit(signal.SIGINT, None)
            await headrace.eventually(lambda: not headrace.server.servers[0].is_serving())
            headrace.server.handle_exit(signal.SIGINT, None)
        assert not endless.done()
        endless.cancel()


class _Load:
    """Clients that send rows without end, until they are told to stop or find nobody, and what they were told."""

    def __init__(self, headrace: Running) -> None:
        self._address = address_of(headrace)
        self.acknowledged: list[int] = []
        self.ends: Counter[object] = Counter()

    async def keeps(self, first: int) -> None:
        """On one connection."""
        connection = RawConnection(*await asyncio.open_connection(*self._address))
        for number in range(first, first + 100_000):
            await connection.send(row(number))
            if await self._last(connection, number):
                connection.writer.close()
                return

    async def fresh(self, first: int) -> None:
        """On a new connection for each. What the kernel had not handed over yet when the service stopped is reset."""
        for number in range(first, first + 100_000):
            try:
                connection = RawConnection(*await asyncio.open_connection(*self._address))
            except ConnectionRefusedError:
                return
            try:
                await connection.send(row(number, b"Connection: close"))
                await self._last(connection, number)
            except (AssertionError, ConnectionError):
                self.ends["cut"] += 1
            finally:
                connection.writer.close()

    async def _last(self, connection: RawConnection, number: int) -> bool:
        reply = await connection.next()
        if reply.status == 201:
            self.acknowledged.append(number)
        self.ends[reply.status if reply.status == 201 else reply.code] += 1
        return reply.closes


async def test_a_stop_under_full_load(
    table: Connection, dsn: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Keep-alive and fresh connections: whoever was connected is answered, and what was acknowledged is there, once."""
    caplog.set_level(logging.WARNING)
    async with start(dsn=dsn) as headrace:
        load = _Load(headrace)
        kept = [asyncio.create_task(load.keeps(n * 100_000)) for n in range(20)]
        fresh = [asyncio.create_task(load.fresh(n * 100_000)) for n in range(20, 25)]
        await headrace.eventually(lambda: len(load.acknowledged) > 500)
        headrace.server.should_exit = True
        await asyncio.gather(*kept, *fresh)  # on kept connections there is always an answer that says the last
    assert set(load.ends) <= {201, "cut"}, load.ends
    assert load.ends["cut"] <= len(fresh)
    stored = [record[0] for record in await table.fetch("select n from t")]
    assert len(stored) == len(set(stored))
    assert set(stored) == set(load.acknowledged)
    assert not caplog.records
