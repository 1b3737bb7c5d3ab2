"""All open connections, how many there may be, and how long each may take for what it is doing.

Owns the limits that uvicorn does not have, and the one timer that enforces those in time. Must not know HTTP.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol
from weakref import WeakKeyDictionary

import anyio

logger = logging.getLogger(__name__)

CONNECTIONS_MAX = 10_000
"""Far more than a worker can answer at once. So many that are idle take some 80 MB, and 320 MB over TLS."""

_FILES_SHARE = 3 / 4
"""Of the files that a process may open, for connections of clients. The rest is for those to the database, for clients
that are still agreeing on TLS, for operators, and for those who are told that there is no room. When all files are
open, uvloop closes new connections without a word."""

_TOLD_MAX = 100
"""So many of those beyond the limit are let in to be told so; those beyond that are closed at once."""

_ARRIVING_SECONDS = 1.0
"""When the service stops, so long is waited for clients that have connected and are agreeing on TLS."""

_COMPLAINT_SECONDS = 10.0
"""That the limit is reached is logged once in so long."""


def connections_that_fit(files: int | None = None) -> int:
    """The limit where none was chosen, if so many files may be open; by default, as many as this process may."""
    if files is None:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files < 0 else max(1, min(CONNECTIONS_MAX, int(files * _FILES_SHARE)))


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may send and how long it may take. Sizes are bytes; the head is all before the body.

    There may be `connections_max` of them at once.
    """

    head_bytes_max: int
    url_bytes_max: int
    headers_max: int
    head_seconds_max: float
    keep_alive_seconds: float
    send_seconds_max: float
    connections_max: int = CONNECTIONS_MAX


class Room(Enum):
    """What becomes of a new connection."""

    FREE = auto()  # it is served
    FULL = auto()  # it is told that there are too many
    NONE = auto()  # it is closed at once


class Connection(Protocol):
    """What is asked at each tick."""

    @property
    def is_waiting(self) -> bool:
        """Whether a request may come, or the rest of one."""

    def tick(self, seconds: float) -> None:
        """So many seconds have passed since the last tick."""


class Connections:
    """Open connections. A timer for each request would cost 0.7 µs to arm and cancel.

    Those to `admin_port` do not count for the limit, so that operators can see what is going on.
    """

    _TICK_SECONDS_MAX = 0.25
    _TICK_SECONDS_AT_THE_END = 0.05

    def __init__(self, limits: ConnectionLimits, admin_port: int | None = None) -> None:
        self.limits = limits
        self.admin_port = admin_port
        self.is_stopping = False
        """Whether those that come now are to be told that their next answer is the last."""
        self._arriving: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        self._open: set[Connection] = set()
        self._operators: set[Connection] = set()
        self._turned_away = 0
        self._quiet_seconds = _COMPLAINT_SECONDS  # since the last complaint
        shortest = min(limits.head_seconds_max, limits.keep_alive_seconds, limits.send_seconds_max)
        self._tick_seconds = min(self._TICK_SECONDS_MAX, shortest / 4)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def is_operators(self, port: int | None) -> bool:
        """Whether that is where operators connect to."""
        return port is not None and port == self.admin_port

    def add(self, connection: Connection, port: int | None = None) -> Room:
        """It has connected to that port of ours."""
        self._open.add(connection)
        if self.is_operators(port):
            self._operators.add(connection)
            return Room.FREE
        beyond = len(self._open) - len(self._operators) - self.limits.connections_max
        if beyond <= 0:
            return Room.FREE
        self._turned_away += 1
        return Room.FULL if beyond <= _TOLD_MAX else Room.NONE

    def arriving(self, connection: object) -> None:
        """A client has connected, and has yet to agree on TLS. If it fails to, nobody is told: the object just goes."""
        self._arriving[connection] = anyio.current_time()

    def arrived(self, connection: object) -> None:
        """It has agreed."""
        self._arriving.pop(connection, None)

    def discard(self, connection: Connection) -> None:
        """It is closed."""
        self._open.discard(connection)
        self._operators.discard(connection)

    def _is_awaited(self, ends: float) -> bool:
        """Whether somebody may still agree on TLS, before that time."""
        now = anyio.current_time()
        return now < ends and any(now - since < _ARRIVING_SECONDS for since in self._arriving.values())

    async def run(self) -> None:
        """Tick. Runs until it is cancelled."""
        while True:
            seconds = self._tick_seconds
            await anyio.sleep(seconds)
            for connection in tuple(self._open):
                connection.tick(seconds)
            self._complain(seconds)

    def _complain(self, seconds: float) -> None:
        self._quiet_seconds += seconds
        if self._turned_away and self._quiet_seconds >= _COMPLAINT_SECONDS:
            limit = self.limits.connections_max
            logger.warning("too many connections (HEADRACE_CONNECTIONS_MAX=%d): refused %d", limit, self._turned_away)
            self._turned_away = 0
            self._quiet_seconds = 0.0

    async def quiet(self) -> None:
        """Wait until no connection may bring a request any more, after all were told that the service stops."""
        self.is_stopping = True
        self._tick_seconds = min(self._tick_seconds, self._TICK_SECONDS_AT_THE_END)
        ends = anyio.current_time() + _ARRIVING_SECONDS
        # Ticks close them.
        while self._is_awaited(ends) or any(each.is_waiting for each in self._open):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(self._tick_seconds)
        if self._open:  # what has come last may be on its way through FastAPI
            await anyio.sleep(self._tick_seconds)
