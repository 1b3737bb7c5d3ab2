"""`headrace serve` as a process of its own, which may be frozen, killed and started again on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx2

from tests.faults.proxy import HOST

HEADRACE = Path(sys.executable).parent / "headrace"
GUNICORN = Path(sys.executable).parent / "gunicorn"
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
        self.command: tuple[str, ...] = (str(HEADRACE), "serve")
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether it does not run."""
        return self._child is None or self._child.poll() is not None

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
                self.command,
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


class Master(Process):
    """Gunicorn with several workers."""

    def __init__(self, folder: Path, dsn: str, **settings: object) -> None:
        super().__init__(folder, dsn, **settings)
        self.command = (str(GUNICORN), "-c", "python:service.gunicorn", "service.app:app")
        self._own: set[int] = set()

    def workers(self) -> set[int]:
        """Its children, by their process ids; those that it had when it was last looked at, if it is gone."""
        if not self.is_stopped:
            self._own = {pid for pid, parent in parents().items() if parent == self.pid}
        return self._own

    async def settled(self, count: int, without: Iterable[int] = ()) -> None:
        """Wait until there are so many workers, and none of those."""
        gone = set(without)
        await self.until(lambda: len(self.workers()) == count and not self.workers() & gone)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(_STOP_SECONDS):
            while not condition():  # noqa: ASYNC110 - processes send no event
                await asyncio.sleep(0.02)

    def close(self) -> None:
        """End it for good, and its workers."""
        workers = self.workers()
        super().close()
        for pid in workers & parents().keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as end:
        end.bind((HOST, 0))
        port: int = end.getsockname()[1]
        return port


def parents() -> dict[int, int]:
    """The parent of each process; those that are dead and not buried yet are left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found
