"""How many connections there may be: those beyond are told so, and operators get in all the same."""

from __future__ import annotations

import resource
from contextlib import AsyncExitStack

import httpx2
import pytest

from service.http import connections
from service.http.connections import CONNECTIONS_MAX, connections_that_fit
from tests.harness import Connection, Running, Start, rows_of
from tests.service.in_process import GET, ROW, chunked, in_process


async def fill(headrace: Running, number: int, stack: AsyncExitStack) -> None:
    """Open so many connections, and keep them."""
    for _ in range(number):
        await stack.enter_async_context(headrace.connect())
    await headrace.eventually(lambda: len(headrace.service.connections) >= number)


@pytest.mark.usefixtures("lane")
async def test_one_too_many_is_told_so(dsn: str, db: Connection, start: Start) -> None:
    """With Retry-After and the end of the connection; those that are open go on, and one that ends makes room."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, connections_max=3) as headrace, AsyncExitStack() as stack:
        async with headrace.connect() as first:
            await first.send(ROW)  # so that this head is known, and the next one like it is answered without much ado
            assert (await first.next()).status == 201
            await fill(headrace, 3, stack)
            for request in (ROW, ROW[:20] + ROW[20:], chunked(b'{"a":"x"}'), GET.replace(b"/livez", b"/readyz")):
                [refused] = await headrace.exchange(request)
                assert (refused.status, refused.code, refused.closes) == (503, "HR507", True)
                assert (b"retry-after", b"1") in refused.headers
            await first.send(ROW, ROW)
            assert [(await first.next()).status for _ in range(2)] == [201, 201]
        await headrace.eventually(lambda: len(headrace.service.connections) == 3)
    assert await rows_of(db, "select count(*) from t") == [(3,)]


async def test_it_is_logged_once_for_all_of_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A line for each would fill the disk, and be the next problem."""
    monkeypatch.setattr(connections, "_COMPLAINT_SECONDS", 1.0)
    async with in_process(connections_max=2) as server:
        for _ in range(7):
            server.connect()
        server.service.connections._complain(1.0)
        server.service.connections._complain(0.5)
        server.connect()
        server.service.connections._complain(0.4)
        assert [record.message for record in caplog.records] == [
            "too many connections (HEADRACE_CONNECTIONS_MAX=2): refused 5"
        ]
        server.service.connections._complain(0.1)
        assert len(caplog.records) == 2


@pytest.mark.usefixtures("lane")
async def test_who_asks_whether_it_lives_is_told(dsn: str, start: Start) -> None:
    """A supervisor that hears nothing starts the service anew, and all its clients connect again at once."""
    async with start(dsn=dsn, connections_max=1) as headrace, AsyncExitStack() as stack:
        await fill(headrace, 2, stack)
        [alive] = await headrace.exchange(GET)
        assert (alive.status, alive.closes) == (200, True)


async def test_operators_get_in(dsn: str, start: Start) -> None:
    """They are who can do something about it. Nor do they take clients' places."""
    async with (
        start(dsn=dsn, connections_max=2, admin_port=0) as headrace,
        AsyncExitStack() as stack,
        httpx2.AsyncClient(base_url=headrace.server.operators_url) as operator,
    ):
        assert (await operator.get("/metrics")).status_code == 200
        for _ in range(2):
            client = await stack.enter_async_context(headrace.connect())
            await client.send(GET.replace(b"/livez", b"/readyz"))
            assert (await client.next()).status == 200
        assert [reply.status for reply in await headrace.exchange(ROW)] == [503]
        assert (await operator.get("/metrics")).status_code == 200


async def test_far_too_many_are_closed_at_once(dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling each of them would take as much as serving them."""
    monkeypatch.setattr(connections, "_TOLD_MAX", 3)
    async with start(dsn=dsn, connections_max=1) as headrace, AsyncExitStack() as stack:
        first = await stack.enter_async_context(headrace.connect())
        await headrace.eventually(lambda: len(headrace.service.connections) == 1)
        for _ in range(3):
            await stack.enter_async_context(headrace.connect())
        await headrace.eventually(lambda: len(headrace.service.connections) == 4)
        async with headrace.connect() as too_much:
            await too_much.closed()
        await headrace.eventually(lambda: len(headrace.service.connections) == 1)  # who says nothing has gone
        await first.send(GET)
        assert (await first.next()).status == 200


def test_the_limit_fits_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond those, connections are closed without a word; the database's would be among them."""
    for files, fits in ((1024, 768), (20_000, CONNECTIONS_MAX), (1_000_000, CONNECTIONS_MAX), (-1, CONNECTIONS_MAX)):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, files=files: (files, files))
        assert connections_that_fit() == fits
