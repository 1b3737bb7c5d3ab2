"""How evenly connections and work are spread between the workers of a contender, as the operating system has them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import psutil

from bench.measure import cpu_seconds

_HALF = 0.5
"""Of a turn, after which connections are counted: all are open by then."""


class Spread:
    """Between the workers of this master, from now on until it is asked for its details.

    Requests are not told apart by worker, but each costs about the same CPU.
    """

    def __init__(self, master: int, port: int) -> None:
        self._workers = psutil.Process(master).children()
        self._port = port
        self._before = [cpu_seconds(worker.pid) for worker in self._workers]
        self._connections: Sequence[float] = ()

    async def watch(self, seconds: float) -> None:
        """Count connections, in the middle of so many seconds."""
        await asyncio.sleep(seconds * _HALF)
        self._connections = [_connections(worker, self._port) for worker in self._workers]

    def details(self) -> dict[str, float]:
        """The least and the largest part of any worker; of two, both are a half if all is even."""
        cpu = [cpu_seconds(worker.pid) - before for worker, before in zip(self._workers, self._before, strict=True)]
        return {**_parts("cpu", cpu), **_parts("connections", self._connections)}


def _connections(worker: psutil.Process, port: int) -> int:
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        for connection in worker.net_connections("tcp")
    )


def _parts(what: str, counts: Sequence[float]) -> Mapping[str, float]:
    whole = sum(counts) or 1
    return {f"{what}_least": min(counts, default=0) / whole, f"{what}_most": max(counts, default=0) / whole}
