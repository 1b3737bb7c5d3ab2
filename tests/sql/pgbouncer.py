"""PgBouncer as Debian ships it, in front of a server of the tests."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres

_PLACES = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"


class PgBouncer:
    """A pooler of transactions. `kill` is a crash of it, after which it is started again on the same port."""

    def __init__(self, server: EmbeddedPostgres, folder: Path, port: int, program: str) -> None:
        self._server = server
        self._folder = folder
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port

    def dsn(self, database: str, user: str = "postgres") -> str:
        """How to connect through it."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            [self._program, "--quiet", self._folder / "pgbouncer.ini"],
            user=self._server.user,  # it refuses to be root, and reaches the server's socket only as the server's user
            group=None if self._server.user is None else pwd.getpwnam(self._server.user).pw_gid,
            extra_groups=None if self._server.user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self._process.poll() is None, (self._folder / "pgbouncer.log").read_text()
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return

    def kill(self) -> None:
        """From one moment to the next."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@asynccontextmanager
async def pgbouncer(server: EmbeddedPostgres, *, pool: int = 2, clients: int = 100) -> AsyncIterator[PgBouncer]:
    """One that has so many connections to the server for each database. Skips the test where there is none."""
    program = shutil.which("pgbouncer", path=_PLACES)
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host = parse_qs(urlsplit(server.dsn).query)["host"][0]
    with tempfile.TemporaryDirectory(prefix="headrace-tests-") as name:
        folder = Path(name)
        (folder / "pgbouncer.ini").write_text(
            f"""
[databases]
* = host={host} port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder / "users.txt"}
pool_mode = transaction
default_pool_size = {pool}
max_client_conn = {clients}
server_round_robin = 1
logfile = {folder / "pgbouncer.log"}
"""
        )
        (folder / "users.txt").write_text('"postgres" ""\n')
        if server.user is not None:
            entry = pwd.getpwnam(server.user)
            for path in (folder, folder / "pgbouncer.ini", folder / "users.txt"):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        found = PgBouncer(server, folder, port, program)
        await found.start()
        try:
            yield found
        finally:
            found.kill()


async def settings_in_pool(dsn: str, name: str) -> set[str]:
    """What a setting is in the connections of the pool, as whoever comes next would find them."""
    found = set()
    connections = [await asyncpg.connect(dsn, statement_cache_size=0) for _ in range(2)]
    for connection in connections * 4:
        with suppress(asyncpg.InterfaceError):
            async with connection.transaction():
                found.add(await connection.fetchval("select current_setting($1)", name))
    for connection in connections:
        await connection.close()
    return found
