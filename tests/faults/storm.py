"""A seeded random mix of faults, one after the other, and how long it takes each time until rows are stored again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

import asyncpg

from tests.faults.process import Process
from tests.faults.proxy import Fault, FaultProxy
from tests.faults.server import Postgres
from tests.faults.traffic import TABLES, Traffic

_PROGRESS_ROWS = 200
_PROGRESS_SECONDS = 60.0
"""After a fault, so many rows must be acknowledged within this time: an outage must not outlast its cause."""


class Storm:
    """The faults, by name, and what has become of them."""

    def __init__(
        self, own: Postgres, proxy: FaultProxy, processes: Sequence[Process], traffic: Sequence[Traffic], seed: int
    ) -> None:
        self.own = own
        self.proxy = proxy
        self.processes = processes
        self.traffic = traffic
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.recoveries: dict[str, list[float]] = defaultdict(list)
        self.rss_bytes: list[int] = []
        self._kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.cut_around_a_commit, 55),
            (self.cut_everything, 4),
            (self.kill_a_backend, 8),
            (self.terminate_sessions, 4),
            (self.freeze_a_backend, 4),
            (self.kill_the_server, 5),
            (self.stop_the_server, 2),
            (self.kill_a_service, 6),
            (self.freeze_a_service, 3),
            (self.lock_a_table, 4),
            (self.change_a_table, 4),
            (self.swallow_a_confirmation, 1),
        ]

    async def rage(self, until: float) -> None:
        """One fault after the other until this time. Everything is up and running again when it returns."""
        kinds, weights = zip(*self._kinds, strict=True)
        while time.monotonic() < until:
            (kind,) = self.chance.choices(kinds, weights)
            name = kind.__name__.replace("_", " ")
            self.counts[name] += 1
            await kind()
            self.proxy.disarm()
            self.recoveries[name].append(await self._progress(name))
            self.rss_bytes += [process.rss_bytes() for process in self.processes]
            await asyncio.sleep(self.chance.uniform(0.0, 0.5))

    def summary(self) -> str:
        """The faults and the recoveries, a line for each kind."""
        lines = [f"{sum(self.counts.values()):,} faults; median and longest time until rows were stored again:"]
        for name, count in self.counts.most_common():
            times = self.recoveries[name]
            lines.append(f"  {count:5,} times {name}: {median(times):.2f} s, {max(times):.2f} s")
        cuts = ", ".join(f"{count:,} of {fault.name.lower()}" for fault, count in self.proxy.fired.items())
        return "\n".join([*lines, f"  by the proxy: {cuts or 'none'}"])

    async def _progress(self, name: str) -> float:
        """The seconds until every service stores rows again."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(_PROGRESS_SECONDS):
                await asyncio.gather(*(traffic.acknowledged(_PROGRESS_ROWS) for traffic in self.traffic))
        except TimeoutError:
            raise AssertionError(f"no progress for {_PROGRESS_SECONDS:g} s after: {name}") from None
        return time.monotonic() - started

    async def _a_while(self, least: float, most: float) -> None:
        await asyncio.sleep(self.chance.uniform(least, most))

    # ---------------------------------------------------------------- connections

    async def cut_around_a_commit(self) -> None:
        """A few connections, each at the same point of a write."""
        points = [Fault.CUT_MID_COPY, Fault.CUT_BEFORE_COMMIT, Fault.CUT_AT_COMMIT, Fault.CUT_AFTER_COMMIT]
        (fault,) = self.chance.choices(points, [1, 1, 2, 2])
        self.proxy.arm(fault, self.chance.randint(1, 4))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while self.proxy.armed:  # noqa: ASYNC110 - the proxy sends no event
                    await asyncio.sleep(0.005)

    async def swallow_a_confirmation(self) -> None:
        """The slot waits for it as long as it waits for anything; the others go on."""
        self.proxy.arm(Fault.HOLE_AFTER_COMMIT)
        await asyncio.sleep(0.5)

    async def cut_everything(self) -> None:
        """Those of the catalog too; for a moment, new ones are refused."""
        self.proxy.refusing = True
        self.proxy.cut_all()
        await self._a_while(0.0, 1.0)
        self.proxy.refusing = False

    # ---------------------------------------------------------------- PostgreSQL

    async def kill_a_backend(self) -> None:
        """One of a slot, while it writes if possible; the server restarts all others."""
        pids = await self.own.slots("state = 'active'") or await self.own.slots()
        await self.own.kill_backends(pids[:1])

    async def terminate_sessions(self) -> None:
        """All of the slots."""
        for pid in await self.own.slots():
            self.own.signal(pid, signal.SIGTERM)

    async def freeze_a_backend(self) -> None:
        """One of a slot, while it writes if possible."""
        pids = await self.own.slots("state = 'active'") or await self.own.slots()
        if pids:
            pid = self.chance.choice(pids)
            self.own.signal(pid, signal.SIGSTOP)
            await self._a_while(0.1, 1.5)
            self.own.signal(pid, signal.SIGCONT)

    async def kill_the_server(self) -> None:
        """All its processes; it comes back after a while."""
        await self.own.kill()
        await self._a_while(0.0, 1.0)
        await self.own.start()

    async def stop_the_server(self) -> None:
        """For some seconds."""
        await self.own.stop()
        await self._a_while(1.0, 5.0)
        await self.own.start()

    async def lock_a_table(self) -> None:
        """For long enough that some requests are late."""
        connection = await asyncpg.connect(self.own.dsn)
        async with connection.transaction():
            mode = self.chance.choice(["exclusive", "access exclusive"])
            await connection.execute(f"lock table {self.chance.choice(TABLES)} in {mode} mode")
            await self._a_while(0.1, 3.0)
        await connection.close()

    async def change_a_table(self) -> None:
        """Something that is undone soon; a name that is gone meanwhile is an error of the request."""
        table = self.chance.choice(TABLES)
        there, back = self.chance.choice(
            [
                (f"alter table {table} add more int default 7", f"alter table {table} drop more"),
                (f"alter table {table} rename to gone", f"alter table gone rename to {table}"),
                (f"alter table {table} rename value to other", f"alter table {table} rename other to value"),
            ]
        )
        connection = await asyncpg.connect(self.own.dsn)
        await connection.execute(there)
        await self._a_while(0.1, 1.0)
        await connection.execute(back)
        await connection.close()

    # ---------------------------------------------------------------- the service

    async def kill_a_service(self) -> None:
        """And start it again."""
        process = self.chance.choice(self.processes)
        await process.end(signal.SIGKILL)
        await self._a_while(0.0, 0.5)
        await process.start()

    async def freeze_a_service(self) -> None:
        """As if the machine had no time for it."""
        await self.chance.choice(self.processes).freeze(self.chance.uniform(0.1, 2.0))
