"""Carries out scenarios: who has a turn when, what is measured around a turn, and whether the table is right after it.

Contenders that are compared take turns, round by round, each beginning with another, so that a machine that slows down
slows all of them down.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from bench import overload, realistic
from bench.bodies import copy_lines
from bench.contenders import CONTENDERS
from bench.drivers import DriverError, Drivers, Latency, Load, Shot
from bench.measure import Meter, cpu_seconds, idle, rss_bytes
from bench.processes import ProcessError, output_of
from bench.runs import Run, lost_or_invented
from bench.scenarios import Maximum, Overload, Realistic, Scenario, Steady
from bench.spread import Spread
from bench.stage import Server, Stage

MIB = 1024 * 1024
COPY_ROWS = 200_000
"""For each second of a bulk turn: about half of what `\\copy` writes in it, so that its turn is not much shorter."""
_COPY_SECONDS_MAX = 120


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender in one round of one scenario."""

    scenario: Maximum
    contender: str
    number: int


def turns(group: Sequence[Maximum]) -> Iterator[Turn]:
    """Every contender of every scenario of the group once in each round."""
    entries = [(scenario, contender) for scenario in group for contender in scenario.contenders]
    for number in range(group[0].rounds if group else 0):
        first = number % len(entries)
        for scenario, contender in entries[first:] + entries[:first]:
            yield Turn(scenario, contender, number + 1)


def chosen(
    scenarios: Sequence[Scenario], only: Sequence[str], rounds: int | None, seconds: int | None, *, full: bool
) -> list[Scenario]:
    """The scenarios of this run, with the rounds and seconds that were asked for."""
    found: list[Scenario] = []
    for scenario in scenarios:
        if scenario.name not in only if only else scenario.full and not full:
            continue
        more = 2 if full and not isinstance(scenario, Realistic) else 1
        found.append(
            replace(
                scenario,
                rounds=rounds or scenario.rounds + (2 if full else 0),
                seconds=seconds or scenario.seconds * more,
            )
        )
    return found


@dataclass(slots=True)
class Suite:
    """The state of a run of the benchmark: `runs`, `violations` and `notes` grow."""

    stage: Stage
    drivers: Drivers
    say: Callable[[str], None]
    runs: list[Run] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _warm: set[tuple[object, ...]] = field(default_factory=set)

    async def play(self, scenarios: Sequence[Scenario]) -> None:
        """All of them, in their order."""
        for _, members in groupby(scenarios, key=lambda one: getattr(one, "group", "") or one.name):
            group = list(members)
            self.say(", ".join(scenario.title for scenario in group))
            maxima = [scenario for scenario in group if isinstance(scenario, Maximum)]
            for turn in turns(maxima):
                self._keep(await self._maximum(turn), turn.scenario.connections)
            for scenario in group:
                if not isinstance(scenario, Maximum):
                    await self._others(scenario)

    async def _others(self, scenario: Steady | Overload | Realistic) -> None:
        """The scenarios that are more than load between two looks at the clock."""
        for number in range(1, scenario.rounds + 1):
            for server in map(self._server, scenario.contenders):
                await self._quiet(server)
                match scenario:
                    case Steady():
                        try:
                            run = await self._steady(scenario, server, number)
                        except DriverError as error:
                            self.say(f"  skipped: {error}")
                            self.notes.append(f"{scenario.title} was skipped: {error}")
                            return
                        self._keep(run, scenario.connections)
                    case Overload():
                        self._keep(await overload.run(scenario, self.stage, server, number), scenario.connections)
                    case Realistic():
                        run = await realistic.run(scenario, self.stage, server, number)
                        self._keep(run, 0)
                        self.violations += realistic.violations(run)

    def _keep(self, run: Run, in_flight: int) -> None:
        self.runs.append(run)
        violation = lost_or_invented(run, in_flight)
        if violation is not None:
            self.violations.append(violation)
            self.say(f"  WRONG: {violation}")
        load = run.load
        each = run.quantities()
        line = f"  {run.contender:<17} {load.per_second * run.rows_per_request:>9,.0f} rows/s"
        line += f"   {each['cpu_us']:>9,.1f} µs/request   p99 {load.latency.p99:>8,.1f} ms"
        self.say(line + (f"   {load.errors}" if load.errors else ""))

    # ---------------------------------------------------------------- one turn

    async def _maximum(self, turn: Turn) -> Run:
        scenario, contender = turn.scenario, CONTENDERS[turn.contender]
        if not contender.serves:
            return await self._copy(turn)
        server = self._server(turn.contender)
        shot = self._shot(scenario, server)
        warm = (turn.contender, scenario.body, scenario.prefer, scenario.tables, scenario.credential)
        if warm not in self._warm:
            self._warm.add(warm)
            await self.drivers.maximum(replace(shot, seconds=1))
            await self._quiet(server)
        return await self._measured(turn, server, shot)

    async def _measured(self, turn: Turn, server: Server, shot: Shot) -> Run:
        """Load between two looks at the clocks of all processes."""
        scenario, database = turn.scenario, self.stage.database
        await database.truncate(scenario.table_names)
        batches = await server.batches()
        meter = Meter(server.pid, database.postmaster if server.contender.stores else None)
        spread = Spread(server.pid, server.port) if server.contender.workers > 1 else None
        async with asyncio.TaskGroup() as tasks:
            if spread is not None:
                tasks.create_task(spread.watch(shot.seconds))
            load = await self.drivers.constant(shot) if shot.per_second else await self.drivers.maximum(shot)
        await self._quiet(server)
        cpu, postgres_cpu = meter.read()
        spread_details = {} if spread is None else spread.details()
        rows, number = (now - then for now, then in zip(await server.batches(), batches, strict=True))
        stored = await database.count(scenario.table_names) if server.contender.stores else None
        answered = load.ok + sum(load.errors.values())
        return Run(
            scenario=scenario.name,
            contender=turn.contender,
            number=turn.number,
            load=load,
            rows_per_request=scenario.body.rows,
            served=max(answered, (stored or 0) // scenario.body.rows),
            cpu=cpu,
            postgres_cpu=postgres_cpu,
            rss_mib=rss_bytes(server.pid) / MIB,
            stored=stored,
            batch_rows=rows / number if number else None,
            details=spread_details,
        )

    async def _copy(self, turn: Turn) -> Run:
        r"""`psql \copy`: one request that holds all rows."""
        rows = COPY_ROWS * turn.scenario.seconds
        file = self.stage.folder / f"copy-{rows}.txt"
        if not file.exists():
            file.write_bytes(copy_lines(rows))
        contender = CONTENDERS[turn.contender]
        await self.stage.database.truncate(["events"])
        postmaster = self.stage.database.postmaster
        before = None if postmaster is None else cpu_seconds(postmaster)
        output = await output_of(
            [*contender.arguments(0), str(file)], _COPY_SECONDS_MAX, contender.variables(self.stage.dsn)
        )
        await self.stage.database.idle()
        postgres_cpu = None if before is None or postmaster is None else cpu_seconds(postmaster) - before
        used = json.loads(output)
        milliseconds = used["seconds"] * 1e3
        latency = Latency(milliseconds, milliseconds, milliseconds, milliseconds, milliseconds)
        return Run(
            scenario=turn.scenario.name,
            contender=turn.contender,
            number=turn.number,
            load=Load("psql", used["seconds"], 1, {}, latency),
            rows_per_request=rows,
            served=1,
            cpu=used["cpu_seconds"],
            postgres_cpu=postgres_cpu,
            rss_mib=0.0,
            stored=await self.stage.database.count(["events"]),
        )

    async def _steady(self, scenario: Steady, server: Server, number: int) -> Run:
        """The maximum of the driver for constant rates, then a part of it."""
        like = Maximum(scenario.name, scenario.title, scenario.contenders, scenario.connections)
        shot = replace(self._shot(like, server), seconds=max(2, scenario.seconds // 2))
        most = await self.drivers.constant(shot)
        await self._quiet(server)
        rate = max(1.0, most.per_second * scenario.part)
        steady = replace(shot, seconds=scenario.seconds, per_second=rate)
        run = await self._measured(Turn(like, server.contender.name, number), server, steady)
        details = {"maximum_rps": most.per_second, "offered_rps": rate}
        return replace(run, details=details)

    # ---------------------------------------------------------------- parts

    def _server(self, name: str) -> Server:
        """The contender's server. Raises `ProcessError` if it is no longer there."""
        server = self.stage.servers[name]
        if server.running.process.returncode is not None:
            raise ProcessError(f"{name} has ended; the end of its messages:\n{server.running.said()}")
        return server

    def _shot(self, scenario: Maximum, server: Server) -> Shot:
        body = self.stage.folder / f"{scenario.name}-{server.contender.name}.body"
        if not body.exists():
            body.write_bytes(scenario.body.encode())
        return Shot(
            urls=tuple(server.url(table) for table in scenario.table_names),
            body=body,
            content_type=scenario.body.content_type,
            connections=scenario.connections,
            seconds=scenario.seconds,
            prefer=scenario.prefer,
            authorization=self.stage.authorization if scenario.credential else "",
        )

    async def _quiet(self, server: Server) -> None:
        await idle(server.pid)
        await self.stage.database.idle()


def complain(text: str) -> None:
    """A line for people, where results do not go."""
    print(text, file=sys.stderr, flush=True)
