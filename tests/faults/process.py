"""`headrace serve` as a process of its own, which may be frozen, killed and started again on the same port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2

from tests.faults.proxy import HOST

HEADRACE = Path(sys.executable).parent / "headrace"
_START_SECONDS = 30
_STOP_SECONDS = 60


class Process:
    """A service on a port that stays the same; `settings` are those of its environment, without `HEADRACE_`."""

    def __init__(self, folder: Path, dsn: str, **settings: object) -> None:
        self.port = _free_port()
        self.log = folder / f"serve-{self.port}.log"
        self._environment = {
            **os.environ,
            "HEADRACE_DSN": dsn,
            "HEADRACE_PORT": str(self.port),
            **{f"HEADRACE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._child is not None
        return self._child.pid

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond, and is waited for elsewhere
                [HEADRACE, "serve"],
                cwd=self.log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_START_SECONDS), httpx2.AsyncClient() as client:
            while not await self._answers(client):
                assert self._child.poll() is None, self.log.read_text()
                await asyncio.sleep(0.02)

    async def end(self, number: int) -> int:
        """Send it a signal that ends it, and wait; the exit status."""
        self.signal(number)
        assert self._child is not None
        return await asyncio.to_thread(self._child.wait, _STOP_SECONDS)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._child is not None
        self._child.send_signal(number)

    def close(self) -> None:
        """End it for good, whatever state it is in."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait(_STOP_SECONDS)

    async def metric(self, name: str) -> float:
        """The value of a metric without labels, or with them as they are written."""
        async with httpx2.AsyncClient() as client:
            lines = (await client.get(f"{self.url}/metrics")).text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).rpartition(" ")[2])

    def rss_bytes(self) -> int:
        """Its memory now."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except OSError:
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def freeze(self, seconds: float) -> None:
        """Stop it for this long, as a machine without any time for it does."""
        self.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.signal(signal.SIGCONT)

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.url}/livez")).status_code == 200
        except httpx2.TransportError:
            return False


def _free_port() -> int:
    with socket.socket() as end:
        end.bind((HOST, 0))
        port: int = end.getsockname()[1]
        return port
