"""The live numbers: a look at them each second, the last minutes, and the waiting for the next look.

Owns the clockwork: the event loop's lag, the second, what other workers are told. Must not know what is shown of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING

import anyio
import msgspec

from service.observing.glance import Glance, Point
from service.observing.numbers import decode, encode
from service.observing.second import Moment, glance_of, point_of
from service.observing.trouble import Background

if TYPE_CHECKING:
    from service.observing.snapshots import Snapshots
    from sql import Vitals

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_TICKS = 10
"""In a second."""

_TOLD_TICKS = 2
"""So often other workers are told."""

_FRESH_SECONDS = 0.2
"""A look is as good for so long: each takes up to 20 ms, where there are 1,000 tables, and anybody may ask for one."""

_HISTORY_SECONDS = 300
_WINDOW_SECONDS = 5
"""Percentiles are of so long: a single second may have a handful of requests."""

_VITALS_SECONDS = 5.0
_VITALS_SECONDS_AT_ODDS = 1.0
"""How often it is looked after the database; the latter when it is away or read-only."""


class Live:
    """Looks at the numbers. `history` has a point for each of the last seconds."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self.history: deque[Point] = deque(maxlen=_HISTORY_SECONDS)
        self.vitals: Vitals | None = None
        """The database as it was when it was last seen; None while it is away."""
        self.ended = False
        self._since = time.time()
        first = self._moment()
        self._moments: deque[Moment] = deque([first, first], maxlen=_WINDOW_SECONDS + 1)
        self._looked = asyncio.Event()
        self._latest = 0.0, b""
        self._made = -math.inf
        self._complaint = ""

    # ---------------------------------------------------------------- for those who look

    @property
    def read_only(self) -> bool:
        """Whether the database takes no rows, as far as known."""
        return self.vitals is not None and self.vitals.read_only

    def glance(self) -> Glance:
        """The last whole second, with the state of this moment."""
        now = self._moment()
        *_, before, last = self._moments
        # Of the second that has just begun nothing can be said yet.
        return glance_of(before if now.clock - last.clock < 0.5 else last, self._moments[0], now, self._background())

    def latest(self) -> tuple[float, bytes]:
        """A glance that is a fraction of a second old at most: its time, in seconds since 1970, and itself as JSON.

        It is made once for all who ask.
        """
        now = time.monotonic()
        if now - self._made >= _FRESH_SECONDS:
            glance = self.glance()
            self._latest = glance.point.at, msgspec.json.encode(glance)
            self._made = now
        return self._latest

    async def next(self) -> tuple[float, bytes] | None:
        """Wait for the next look; None if there will be none."""
        if self.ended:
            return None
        await self._looked.wait()
        return self.latest()

    # ---------------------------------------------------------------- for the owner

    async def run(self) -> None:
        """Look each second. Runs until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._look_after_database)
            await self._tick()

    def end(self) -> None:
        """The service stops: whoever waits gets a last look."""
        self.ended = True
        self._wake()

    async def _tick(self) -> None:
        clock = time.monotonic
        counts = self._snapshots.counts
        ticks = 0
        due = clock() + _TICK_SECONDS
        while True:
            await anyio.sleep(max(0.0, due - clock()))
            now = clock()
            counts.late(max(0.0, now - due))
            due = max(due + _TICK_SECONDS, now)
            ticks += 1
            try:
                self._act(ticks)
            except Exception as error:
                if str(error) != self._complaint:  # once for each reason, not ten times a second
                    self._complaint = str(error)
                    logger.exception("the numbers could not be looked at; rows are stored all the same")

    def _act(self, ticks: int) -> None:
        workers = self._snapshots.workers
        if workers.are_several and ticks % _TOLD_TICKS == 0:
            workers.publish(self._snapshots.own())
        if ticks % _TICKS == 0:
            self._look()

    def _look(self) -> None:
        moment = self._moment()
        self._snapshots.counts.lag_seconds = 0.0
        self._moments.append(moment)
        before = self._moments[-2]
        self.history.append(point_of(before, self._moments[0], moment))
        self._wake()

    def _wake(self) -> None:
        self._made = -math.inf
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    def _moment(self) -> Moment:
        numbers = decode(encode(self._snapshots.all()))  # a copy: the lists go on counting
        return Moment(time.monotonic(), time.time(), numbers)

    def _background(self) -> Background:
        watch, batcher = self._snapshots.watch, self._snapshots.batcher
        away = batcher.away()
        return Background(str(away.reason) if away is not None else watch.problem, self.vitals, self._since)

    async def _look_after_database(self) -> None:
        watch = self._snapshots.watch
        await watch.tried()
        complaint = ""
        while True:
            try:
                self.vitals = await watch.vitals()
            except Exception as error:  # noqa: BLE001 - numbers are not worth the service
                self.vitals = None
                if watch.is_connected and repr(error) != complaint:
                    complaint = repr(error)
                    logger.warning("the state of the database could not be read: %s", complaint)
            at_odds = self.vitals is None or self.vitals.read_only
            await anyio.sleep(_VITALS_SECONDS_AT_ODDS if at_odds else _VITALS_SECONDS)
