"""The service as a process that is told to stop, with its database down, under load, or with clients that are slow."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from tests.harness import Connection, RawConnection
from tests.service.in_process import post

_LINES = b"Content-Type: application/x-ndjson"


class Process:
    """A running `headrace serve` on a database of the test's."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.child = subprocess.Popen(
            [str(Path(sys.executable).parent / "headrace"), "serve", "--port", "0"],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self.connections: list[RawConnection] = []
        self._listens = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.output += line
            if "listens on" in line:
                self._listens.set()
        self._listens.set()
        self.child.stdout.close()

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        self._listens.wait()
        match = re.search(r"listens on http://\S+:(\d+)", self.output)
        assert match is not None, self.output
        return int(match[1])

    async def connect(self) -> RawConnection:
        """A connection to it."""
        connection = RawConnection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        return connection

    async def ended(self) -> int:
        """Its exit status, when it has ended."""
        status = await asyncio.to_thread(self.child.wait, 30)
        self._reader.join(30)
        return status

    def memory(self, name: str) -> int:
        """`VmRSS` is what it takes now, `VmHWM` the most that it ever took; in bytes."""
        text = Path(f"/proc/{self.child.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024


class Serving(NamedTuple):
    """A process, its database, and a connection to that."""

    process: Process
    postgres: EmbeddedPostgres
    db: Connection


@pytest.fixture
async def serving(own: EmbeddedPostgres, tmp_path: Path) -> AsyncIterator[Serving]:
    """A service on it, with a table t of numbers and texts."""
    connection = await asyncpg.connect(own.dsn)
    await connection.execute("create table t (n int, a text)")
    process = Process(tmp_path, HEADRACE_DSN=own.dsn, HEADRACE_DRAIN_SECONDS_MAX="3", HEADRACE_LOCK_SECONDS_MAX="1")
    yield Serving(process, own, connection)
    for client in process.connections:
        client.writer.close()
    if process.child.poll() is None:
        process.child.kill()
        await process.ended()
    await connection.close()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition lies in another process
        await asyncio.sleep(0.01)


async def test_sigterm_while_the_database_is_down(serving: Serving) -> None:
    """Requests that wait for it are refused with the truth, idle connections end, and the process ends in time."""
    process, postgres, _ = serving
    idle, busy = await process.connect(), [await process.connect() for _ in range(10)]
    for number, client in enumerate(busy):
        await client.send(post(b'{"n":%d}' % number))
        assert (await client.next()).status == 201
    await asyncio.to_thread(postgres._control, "stop", "--mode=immediate", "--wait")
    for number, client in enumerate(busy):
        await client.send(post(b'{"n":%d}' % (100 + number)))
    process.child.send_signal(signal.SIGTERM)
    began = time.monotonic()
    replies = [await client.next() for client in busy]
    assert {reply.status for reply in replies} == {503}
    assert {reply.code for reply in replies} <= {"PGRST000", "HR503", "HR505", "HR506"}
    await idle.closed()
    for client in busy:
        client.writer.close()
    assert await process.ended() == 0
    assert time.monotonic() - began < 5
    assert "Traceback" not in process.output
    again = await asyncio.to_thread(EmbeddedPostgres.start, postgres.folder)
    connection = await asyncpg.connect(again.dsn)
    assert await connection.fetchval("select count(*) from t") == 10
    await connection.close()
    again.stop()


async def test_sigterm_under_load_and_once_more(serving: Serving) -> None:
    """No kept connection is cut without an answer that says it is the last, and what was acknowledged is there."""
    process, _, db = serving
    acknowledged: list[int] = []
    dropped: list[int] = []

    async def client(first: int) -> None:
        connection = await process.connect()
        for number in range(first, first + 1_000_000):
            try:
                await connection.send(post(b'{"n":%d}' % number))
                reply = await connection.next()
            except (AssertionError, ConnectionError):
                dropped.append(number)
                return
            if reply.status == 201:
                acknowledged.append(number)
            if reply.closes:
                connection.writer.close()
                return

    clients = [asyncio.create_task(client(n * 1_000_000)) for n in range(32)]
    await _until(lambda: len(acknowledged) > 500)
    for _ in range(2):
        process.child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
    await asyncio.wait(clients)
    assert await process.ended() == 0
    assert dropped == []
    stored = [record[0] for record in await db.fetch("select n from t")]
    assert sorted(stored) == sorted(acknowledged)
    assert "Traceback" not in process.output


async def test_sigterm_with_a_batch_that_waits_for_a_lock(serving: Serving) -> None:
    """The lock is given up in time: 201. And rows that were only promised are stored as well."""
    process, _, db = serving
    waiting, promised = await process.connect(), await process.connect()
    async with db.transaction():
        await db.execute("lock table t in exclusive mode")
        await promised.send(post(b'{"n":1}', b"Prefer: respond-async"))
        assert (await promised.next()).status == 202
        await waiting.send(post(b'{"n":2}'))
        await asyncio.sleep(0.2)
        process.child.send_signal(signal.SIGTERM)
        await asyncio.sleep(1.5)
    reply = await waiting.next()
    assert (reply.status, reply.closes) == (201, True)
    waiting.writer.close()
    assert await process.ended() == 0
    assert await db.fetchval("select array_agg(n order by n) from t") == [1, 2]


_UNIT = b'{"n":1}'
LARGE: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "rows of nothing": (b"[" + b"{}," * 3_000_000 + b"{}]", ()),
    "short rows": (b"[" + (_UNIT + b",") * 1_200_000 + _UNIT + b"]", ()),
    "short rows, returned": (b"[" + (_UNIT + b",") * 1_200_000 + _UNIT + b"]", (b"Prefer: return=representation",)),
    "lines of two kinds": (b'{"n":1}\n{"a":1}\n' * 600_000, (_LINES,)),
    "lines, returned": (b"{}\n" * 3_000_000, (_LINES, b"Prefer: return=representation")),
    "empty lines": (b"\n" * 10_000_000, (_LINES,)),
    "a nested value": (b'{"a":[' + b"[]," * 3_000_000 + b"[]]}", ()),
}


@pytest.mark.timeout(120)
async def test_large_hostile_bodies_take_little_memory(serving: Serving) -> None:
    """Taken apart in one go, 10 MB of tiny rows would be millions of objects, and nobody else served meanwhile."""
    process, _, _ = serving
    client = await process.connect()
    await client.send(post(b'{"n":1}'))
    await client.next()
    for case, (body, headers) in LARGE.items():
        sender, slowest = await process.connect(), 0.0
        sending = asyncio.create_task(sender.send(post(body, *headers)))
        answered = asyncio.create_task(sender.next())
        while not answered.done():
            began = time.monotonic()
            await client.send(post(b'{"n":1}'))
            assert (await client.next()).status == 201
            slowest = max(slowest, time.monotonic() - began)
        await sending
        assert answered.result().status in (201, 413), (case, answered.result())

        assert slowest < 1.5, case
        sender.writer.close()

    assert process.memory("VmHWM") < 400_000_000, process.memory("VmHWM")
