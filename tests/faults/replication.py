"""Two servers, the second of which streams from the first and takes its place when it is told to."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from service import embedded
from tests.faults.server import Postgres


class Pair:
    """`first` begins as the primary. Each commit there waits for `second`."""

    def __init__(self, first: Postgres, second: Postgres) -> None:
        self.first = first
        self.second = second

    @property
    def dsn(self) -> str:
        """Both as hosts of one DSN, whichever is the primary."""
        folders = [str(Path(server.socket_path).parent) for server in (self.first, self.second)]
        return f"postgresql://postgres@/postgres?host={','.join(folders)}&port=5432"

    async def wait_for_standby(self, names: str | None = "*") -> None:
        """Have commits wait; return once there is somebody to wait for."""
        await self.first.reload(synchronous_standby_names=names)
        connection = await asyncpg.connect(self.first.dsn)
        in_step = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        while not await connection.fetchval(in_step):  # noqa: ASYNC110 - another process sends no event
            await asyncio.sleep(0.01)
        await connection.close()

    async def promote(self) -> None:
        """The second one is the primary from now on, and takes rows when this returns."""
        connection = await asyncpg.connect(self.second.dsn)
        assert await connection.fetchval("select pg_promote(wait => true)")
        await connection.close()


@asynccontextmanager
async def replicating(folder: Path) -> AsyncIterator[Pair]:
    """A pair in this folder. Skips the test where what is installed has no program to copy a server."""
    if not (embedded._binaries() / "pg_basebackup").exists():
        pytest.skip("the embedded PostgreSQL comes without pg_basebackup")
    first = Postgres(folder / "first")
    second = None
    try:
        await asyncio.to_thread(_copy, first, folder / "second")
        second = Postgres(folder / "second")
        pair = Pair(first, second)
        await pair.wait_for_standby()
        yield pair
    finally:
        if second is not None:
            second.close()
        first.close()


def _copy(server: Postgres, folder: Path) -> None:
    """A standby of the server."""
    folder.mkdir()
    source = server._embedded
    if source.user is not None:
        embedded._let_traverse(folder, source.user)
        os.chown(folder, pwd.getpwnam(source.user).pw_uid, -1)
    socket_folder = str(Path(server.socket_path).parent)
    to = ("--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", f"--pgdata={folder / 'postgres'}")
    source._run("pg_basebackup", f"--host={socket_folder}", "--port=5432", "--username=postgres", *to)
