"""Several hosts: which of them is taken, and that one which does not answer hides no other."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from sql import Timeouts, Unavailable
from sql.connect import connect
from sql.dsn import BadDsn, Host, route_of
from tests.harness import Connection

ROUTES = {
    "postgresql://u:p@a/d": ([("a", 5432)], "any"),
    "postgresql://u:p@a:1,b:2/d": ([("a", 1), ("b", 2)], "read-write"),
    "postgresql://u:p@a,b:2/d": ([("a", 5432), ("b", 2)], "read-write"),
    "postgresql://a,b/d?target_session_attrs=any": ([("a", 5432), ("b", 5432)], "any"),
    "postgresql://[::1]:3,[fe80::1]/d": ([("::1", 3), ("fe80::1", 5432)], "read-write"),
    "postgresql://%2Ftmp:1,b/d": ([("/tmp", 1), ("b", 5432)], "read-write"),
    "postgresql://u@/d?host=/tmp/a,/tmp/b&port=7": ([("/tmp/a", 7), ("/tmp/b", 7)], "read-write"),
    "postgresql://u@/d?host=a,b&port=7,8": ([("a", 7), ("b", 8)], "read-write"),
    "postgresql:///d": ([], "any"),
}


@pytest.mark.parametrize("dsn", ROUTES)
def test_hosts_of_a_dsn(dsn: str) -> None:
    """As asyncpg reads them, which does not tell."""
    route = route_of(dsn, {})
    assert ([(host.name, host.port) for host in route.hosts], route.attributes) == ROUTES[dsn]


def test_hosts_of_the_environment() -> None:
    """They count where the DSN says none."""
    environ = {"PGHOST": "a,b", "PGPORT": "1,2", "PGTARGETSESSIONATTRS": "primary"}
    assert route_of("postgresql:///d", environ).hosts == (Host("a", 1), Host("b", 2))
    assert route_of("postgresql:///d", environ).attributes == "primary"
    assert route_of("postgresql://c:3/d", {"PGHOST": "a", "PGPORT": "1"}).hosts == (Host("c", 3),)
    assert str(route_of("postgresql://u:secret@a:1,b:2/d", {})) == "a:1,b:2/d"


@pytest.mark.parametrize(
    "dsn", ["postgresql://u:p@ss@a/d", "postgresql://u:se/cret@a/d", "postgresql://a:1,:2/d", "postgresql://a:x/d"]
)
def test_what_cannot_be_read_is_not_quoted(dsn: str) -> None:
    """It may be a part of the password."""
    with pytest.raises(BadDsn, match=r"^the DSN is not a connection URL that can be read$"):
        route_of(dsn, {})


@asynccontextmanager
async def hole() -> AsyncIterator[int]:
    """The port of a host that swallows what it is sent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield silent.getsockname()[1]


def behind(dsn: str, *ports: int) -> str:
    """The DSN of the test's server as the last of several hosts."""
    parts = urlsplit(dsn)
    folder = quote(parse_qs(parts.query)["host"][0], safe="")
    return f"postgresql://postgres@{','.join(f'127.0.0.1:{port}' for port in ports)},{folder}:5432{parts.path}"


async def test_a_host_that_does_not_answer(db: Connection, dsn: str) -> None:
    """Each has its share of the time; all together have no more than one would."""
    del db
    async with hole() as first, hole() as second:
        started = time.monotonic()
        connection = await connect(behind(dsn, first, second), Timeouts(connect_seconds=1.2), "test")
        assert 0.7 < time.monotonic() - started < 1.2 + 1
        assert connection.is_one_of_several
        connection.terminate()


async def test_a_host_that_refuses(dsn: str) -> None:
    """It costs no time."""
    connection = await connect(behind(dsn, 1), Timeouts(), "test")
    assert await connection.fetchval("select 1") == 1
    connection.terminate()


async def test_no_host_will_do() -> None:
    """Each is named with its reason, in one line without the password."""
    async with hole() as silent:
        with pytest.raises(Unavailable) as refused:
            await connect(f"postgresql://u:hunter@127.0.0.1:1,127.0.0.1:{silent}/d", Timeouts(connect_seconds=0.2), "t")
    first, second = str(refused.value).split("; ")
    assert first.startswith("127.0.0.1:1: ")
    assert "refused" in first
    assert second == f"127.0.0.1:{silent}: no answer in time"
    assert "hunter" not in str(refused.value)


async def test_a_server_that_takes_no_rows_is_passed_over(db: Connection, dsn: str) -> None:
    """Of several hosts, that is; and unless whoever wrote the DSN wants it so."""
    database = await db.fetchval("select current_database()")
    await db.execute(f"alter database {database} set default_transaction_read_only = on")
    (await connect(dsn, Timeouts(), "test")).terminate()
    several = behind(dsn, 1)
    with pytest.raises(Unavailable, match="it takes no rows"):
        await connect(several, Timeouts(), "test")
    for attributes in ("any", "primary"):
        (await connect(f"{several}?target_session_attrs={attributes}", Timeouts(), "test")).terminate()
    with pytest.raises(Unavailable, match="target_session_attrs"):
        await connect(f"{several}?target_session_attrs=writable", Timeouts(), "test")


async def test_a_wait_that_is_cancelled_leaves_no_connection(db: Connection, dsn: str) -> None:
    """The test fails by the warning of a connection that was not closed."""
    del db
    async with hole() as silent:
        connecting = asyncio.create_task(connect(behind(dsn, silent), Timeouts(), "test"))
        await asyncio.sleep(0.05)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
