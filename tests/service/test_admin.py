"""The address for operators: what is there, and no longer where clients are."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from service.http.listening import listen
from service.server import Server
from service.settings import Settings
from tests.harness import Connection, Start, rows_of
from tests.service.certificates import Authority

OPERATORS = ("/metrics", "/dashboard", "/dashboard/glance", "/dashboard/tables", "/dashboard/dashboard.js")
BOTH = ("/livez", "/readyz", "/openapi.json", "/docs")


@pytest.mark.usefixtures("lane")
async def test_operators_pages_are_at_their_own_address_alone(dsn: str, db: Connection, start: Start) -> None:
    """To everybody else it is as if there were nothing, so that nobody learns what is written how often."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, admin_port=0) as headrace:
        url = headrace.server.operators_url
        assert url != headrace.server.url
        async with httpx2.AsyncClient(base_url=url) as operator:
            for path in (*OPERATORS, *BOTH):
                assert (await operator.get(path)).status_code == 200, path
            assert (await operator.post("/rest/v1/t", json={"a": "from the dashboard"})).status_code == 201
        for path in BOTH:
            assert (await headrace.client.get(path)).status_code == 200, path
        for path in (*OPERATORS, "/dashboard/events"):
            for method in ("GET", "HEAD", "POST"):
                answer = await headrace.client.request(method, path, headers={"Host": url.removeprefix("http://")})
                assert answer.status_code == 404, (method, path)
                if method == "GET":
                    assert answer.json() == (await headrace.client.get("/nowhere")).json()
    assert await rows_of(db, "select a from t") == [("from the dashboard",)]


async def test_the_feed_is_there_too(dsn: str, start: Start) -> None:
    """`headrace top` and the dashboard live on it."""
    async with (
        start(dsn=dsn, admin_port=0) as headrace,
        httpx2.AsyncClient(base_url=headrace.server.operators_url) as operator,
        operator.stream("GET", "/dashboard/events") as feed,
    ):
        assert feed.status_code == 200
        assert "event:" in await anext(feed.aiter_lines())


async def test_a_table_may_have_the_name_of_a_page_elsewhere(dsn: str, db: Connection, start: Start) -> None:
    """Without a prefix, and with the pages at another address, `metrics` is a table like any other."""
    await db.execute("create table metrics (a text)")
    async with start(dsn=dsn, admin_port=0, prefix="", fast_lane=False) as headrace:
        assert (await headrace.client.post("/metrics", json={"a": "x"})).status_code == 201
        assert (await headrace.client.get("/metrics")).status_code == 405
        assert (await headrace.client.get("/metrics")).headers["allow"] == "POST"


async def test_it_speaks_plain_http_when_clients_speak_tls(dsn: str, start: Start, tmp_path: Path) -> None:
    """It is for the loopback address, or a network where Prometheus and kubelets ask without certificates."""
    pair = Authority(tmp_path).sign("service")
    async with start(dsn=dsn, admin_port=0, **pair.settings) as headrace:
        assert headrace.server.url.startswith("https://")
        assert headrace.server.operators_url.startswith("http://")
        async with httpx2.AsyncClient(base_url=headrace.server.operators_url) as operator:
            assert (await operator.get("/metrics")).status_code == 200
        assert (await headrace.client.get("/metrics")).status_code == 404


async def test_sockets_that_are_given(dsn: str) -> None:
    """Several workers have theirs from a master, which has opened both."""
    free = _free_port()
    main, theirs = listen("127.0.0.1", 0), listen("127.0.0.1", free)
    for sockets in ([main, theirs], [main]):  # in the second case the worker opens it by itself
        given = [each.dup() for each in sockets]
        server = Server(Settings(dsn=dsn, admin_port=free), operators=given[1:])
        serving = asyncio.create_task(server.serve(given))
        if sockets == [main]:
            theirs.close()
        while not server.started or not server.servers:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
        try:
            port = main.getsockname()[1]
            async with httpx2.AsyncClient() as client:
                assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 404
                assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
                assert (await client.get(f"http://127.0.0.1:{free}/metrics")).status_code == 200
        finally:
            server.should_exit = True
            await serving
    main.close()


async def test_an_address_that_is_taken_is_said(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """One line with the address, and no service."""
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        server = Server(Settings(dsn=dsn, port=0, admin_port=port))
        await asyncio.wait_for(server.serve(), 30)
    assert not server.started
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in caplog.text


def test_it_is_another_port() -> None:
    """The port is what tells the two apart."""
    with pytest.raises(ValidationError, match="must be another port"):
        Settings(port=8000, admin_port=8000)
    assert Settings(port=0, admin_port=0).admin_port == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
