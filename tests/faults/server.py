"""A PostgreSQL of the tests' own, which they may stop, kill, freeze and start again.

Owns its processes: nothing but what it has started itself is ever sent a signal.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import asyncpg

from service.embedded import EmbeddedPostgres
from tests.faults.process import parents

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

SETTINGS = {"fsync": "off", "full_page_writes": "off", "restart_after_crash": "on", "log_min_messages": "log"}
"""Processes are killed, not machines: what was written to the kernel is still there. So commits need not reach the
disk, but they must be written, which is what `synchronous_commit` (on, as ever) sees to."""


class Postgres:
    """The server of one folder."""

    def __init__(self, folder: Path, settings: Mapping[str, str] = SETTINGS) -> None:
        self._embedded = EmbeddedPostgres.start(folder, settings)
        self.data = folder / "postgres"

    @property
    def dsn(self) -> str:
        """How to connect to the main database."""
        return self._embedded.dsn

    def dsn_of(self, database: str) -> str:
        """How to connect to this one."""
        return self.dsn.replace("/postgres?", f"/{database}?", 1)

    @property
    def socket_path(self) -> str:
        """Where it listens."""
        match = re.search(r"host=([^&]+)&port=(\d+)", self.dsn)
        assert match is not None
        return f"{unquote(match[1])}/.s.PGSQL.{match[2]}"

    @property
    def postmaster(self) -> int:
        """The process id of its main process."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def children(self) -> list[int]:
        """The other ones."""
        return [pid for pid, parent in parents().items() if parent == self.postmaster]

    # ---------------------------------------------------------------- as a whole

    async def stop(self) -> None:
        """As a crash of the server stops it: no checkpoint, and everybody is cut off."""
        await asyncio.to_thread(self._embedded._control, "stop", "--mode=immediate", "--wait")

    async def start(self) -> None:
        """Start it again, which recovers what was committed."""
        again = await asyncio.to_thread(EmbeddedPostgres.start, self._embedded.folder)
        os.close(again.lock)  # the first one still holds it

    async def kill(self) -> None:
        """`kill -9` for every process of it, and wait until they are gone."""
        pids = [self.postmaster, *self.children()]
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        while not _gone(pids):  # noqa: ASYNC110 - they are no children of ours, so nobody tells us
            await asyncio.sleep(0.005)
        # Until somebody buries the dead, which not every init does at once, PostgreSQL takes them for running.
        for path in (self.data / "postmaster.pid", Path(f"{self.socket_path}.lock")):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stop it for good, whatever state it is in."""
        if (self.data / "postmaster.pid").exists():
            for pid in self.children():
                _signal(pid, signal.SIGCONT)
            self._embedded._control("stop", "--mode=immediate", check=False)  # nobody needs what it would write now
        self._embedded.stop()

    async def reload(self, **settings: str | None) -> None:
        """Change settings of the running server; None resets one."""
        connection = await asyncpg.connect(self.dsn)
        for name, value in settings.items():
            await connection.execute(
                f"alter system reset {name}" if value is None else f"alter system set {name} = '{value}'"
            )
        await connection.execute("select pg_reload_conf()")
        await connection.close()

    async def ready(self) -> None:
        """Wait until it takes connections."""
        while True:
            try:
                connection = await asyncpg.connect(self.dsn, timeout=5)
            except (OSError, asyncpg.PostgresError, TimeoutError):
                await asyncio.sleep(0.01)
            else:
                await connection.close()
                return

    # ---------------------------------------------------------------- its sessions

    async def slots(self, condition: str = "true", database: str | None = None) -> list[int]:
        """The backends of flush slots (in this database), if the condition holds for their `pg_stat_activity`."""
        connection = await asyncpg.connect(self.dsn, timeout=5)
        records = await connection.fetch(
            "select pid from pg_stat_activity where application_name like 'headrace slot%'"
            f" and ($1::text is null or datname = $1) and {condition}",
            database,
        )
        await connection.close()
        return [record[0] for record in records]

    async def slots_that(self, condition: str, database: str | None = None) -> list[int]:
        """The same, once there is one."""
        while True:
            pids = await self.slots(condition, database)
            if pids:
                return pids
            await asyncio.sleep(0.005)

    async def kill_backends(self, pids: list[int]) -> None:
        """`kill -9`: the server ends all others for that, recovers and goes on; wait until it does."""
        before = set(self.children())
        if [pid for pid in pids if self.signal(pid, signal.SIGKILL)]:
            while before & set(self.children()):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)
        await self.ready()

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal to a backend; whether it was still there."""
        return pid in self.children() and _signal(pid, number)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _gone(pids: list[int]) -> bool:
    return not set(pids) & set(parents())
