"""All open connections, and how long each may take for what it is doing.

Owns the limits that uvicorn does not have, and the one timer that enforces those in time. Must not know HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import anyio


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may send and how long it may take. Sizes are bytes; the head is all before the body."""

    head_bytes_max: int
    url_bytes_max: int
    headers_max: int
    head_seconds_max: float
    keep_alive_seconds: float
    send_seconds_max: float


class Connection(Protocol):
    """What is asked at each tick."""

    @property
    def is_waiting(self) -> bool:
        """Whether a request may come, or the rest of one."""

    def tick(self, seconds: float) -> None:
        """So many seconds have passed since the last tick."""


class Connections:
    """Open connections. A timer for each request would cost 0.7 µs to arm and cancel."""

    _TICK_SECONDS_MAX = 0.25
    _TICK_SECONDS_AT_THE_END = 0.05

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: set[Connection] = set()
        shortest = min(limits.head_seconds_max, limits.keep_alive_seconds, limits.send_seconds_max)
        self._tick_seconds = min(self._TICK_SECONDS_MAX, shortest / 4)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """It is open."""
        self._open.add(connection)

    def discard(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)

    async def run(self) -> None:
        """Tick. Runs until it is cancelled."""
        while True:
            seconds = self._tick_seconds
            await anyio.sleep(seconds)
            for connection in tuple(self._open):
                connection.tick(seconds)

    async def quiet(self) -> None:
        """Wait until no connection may bring a request any more, after all were told that the service stops."""
        self._tick_seconds = min(self._tick_seconds, self._TICK_SECONDS_AT_THE_END)
        while any(connection.is_waiting for connection in self._open):  # noqa: ASYNC110 - ticks close them
            await anyio.sleep(self._tick_seconds)
        if self._open:  # what has come last may be on its way through FastAPI
            await anyio.sleep(self._tick_seconds)
