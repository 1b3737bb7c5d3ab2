"""What a run plays on: PostgreSQL with its tables, and every contender that takes part, all up from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.client import Client, get
from bench.contenders import CONTENDERS, Contender
from bench.database import Database
from bench.processes import BIN, ProcessError, Running, free_port, listens, output_of, running
from bench.scenarios import TABLES, tables

_KEY_SECONDS = 3.0

DSN_VARIABLE = "HEADRACE_BENCH_DSN"


@dataclass(frozen=True, slots=True)
class Server:
    """A contender that runs."""

    contender: Contender
    running: Running
    port: int

    @property
    def pid(self) -> int:
        """The root of its process tree."""
        return self.running.pid

    def url(self, table: str) -> str:
        """Where rows of this table go."""
        return f"http://127.0.0.1:{self.port}/rest/v1/{table}"

    async def batches(self) -> tuple[float, float]:
        """Rows in batches and number of batches so far, by its own metrics; zeros if it has none."""
        if not self.contender.metrics:
            return 0.0, 0.0
        client = Client(self.port, 1)
        answer, _ = await client.send(get("/metrics"), 5)
        client.close()
        return read_batches(answer.body.decode())


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that runs, and a folder for files that the run needs. `authorization` is a header that all take."""

    folder: Path
    dsn: str
    database: Database
    servers: dict[str, Server]
    authorization: str


def read_batches(metrics: str) -> tuple[float, float]:
    """Sum and count of the histogram `headrace_batch_rows` in Prometheus' text format."""
    found = {
        kind: float(value)
        for kind, value in re.findall(r"^headrace_batch_rows_(sum|count) (\S+)$", metrics, re.MULTILINE)
    }
    return found.get("sum", 0.0), found.get("count", 0.0)


@contextlib.asynccontextmanager
async def set_up(names: Iterable[str], *, many_tables: bool) -> AsyncIterator[Stage]:
    """Start the database and the contenders of these names; end them all and remove the folder at the end."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        dsn = os.environ.get(DSN_VARIABLE) or await _postgres(stack, folder)
        made = ("events", *(tables(TABLES) if many_tables else ()))
        database = await stack.enter_async_context(Database.with_tables(dsn, made))
        servers = {}
        for contender in (CONTENDERS[name] for name in names):
            if contender.serves:
                port = free_port()
                log = folder / f"{contender.name}.log"
                process = await stack.enter_async_context(
                    running(contender.arguments(port), log, contender.variables(dsn))
                )
                servers[contender.name] = Server(contender, process, port)
        for server in servers.values():
            await listens(server.running, server.port)
        yield Stage(folder, dsn, database, servers, f"Bearer {await _api_key(dsn)}")


async def _api_key(dsn: str) -> str:
    """A key for all tables. Looked for each second by those who serve, so it is good in a moment."""
    command = [str(BIN / "headrace"), "keys", "create", f"bench-{os.getpid()}", "--table", "*", "--queue-share", "1"]
    key = (await output_of([*command, "--dsn", dsn], seconds=30)).strip()
    await asyncio.sleep(_KEY_SECONDS)
    return key


async def _postgres(stack: contextlib.AsyncExitStack, folder: Path) -> str:
    command = [sys.executable, "-m", "bench.baselines.postgres", str(folder / "postgres")]
    server = await stack.enter_async_context(running(command, folder / "postgres.log", piped=True))
    assert server.process.stdout is not None
    line = await server.process.stdout.readline()
    if not line:
        raise ProcessError(f"PostgreSQL did not start:\n{server.said()}")
    return line.decode().strip()
