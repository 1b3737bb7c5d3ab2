"""Twice the maximum: does the service still do its work, refuse the rest at once, and keep its memory?

An open loop of bulk requests at a multiple of what a closed loop of the same client reached a moment before. Bulk,
because on a small machine no driver can offer twice the maximum of single rows. The client is our own, to tell the time
of a refusal from that of a success. The service has its default limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

from bench.client import Client, closed_loop, open_loop, post
from bench.drivers import Latency, Load
from bench.measure import Meter, idle, percentile
from bench.runs import Run
from bench.scenarios import Overload
from bench.stage import Server, Stage

MIB = 1024 * 1024
REFUSALS = (429, 503)
_SAMPLE_SECONDS = 0.2
_RAMP_SECONDS = 1.0
"""The first second of the overload fills the queue; goodput is counted from then on."""


@dataclass(slots=True)
class Record:
    """What became of each request: (status or 0, seconds from its writing to its answer, when it was answered)."""

    answers: list[tuple[int, float, float]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def seconds(self, *statuses: int) -> list[float]:
        """The latencies of the answers with these statuses."""
        return [seconds for status, seconds, _ in self.answers if status in statuses]

    def successes(self, since: float, until: float) -> int:
        """How many were answered with a success in this time."""
        return sum(200 <= status < 300 and since <= at < until for status, _, at in self.answers)

    def load(self, seconds: float) -> Load:
        """As a driver would have counted it, with the latency of the successes."""
        statuses = Counter(status for status, _, _ in self.answers)
        ok = {status: count for status, count in statuses.items() if 200 <= status < 300}
        errors = {str(status): count for status, count in statuses.items() if status not in ok}
        times = [value * 1e3 for value in self.seconds(*ok)]
        latency = Latency(*(percentile(times, part) for part in (0.5, 0.9, 0.99, 0.999, 1.0)))
        return Load("bench/client.py", seconds, sum(ok.values()), errors | dict(self.failures), latency)


@dataclass(slots=True)
class Sender:
    """Sends the same request again and again and records what comes of it."""

    client: Client
    request: bytes
    timeout_seconds: float
    record: Record = field(default_factory=Record)
    late: list[float] = field(default_factory=list)
    """Seconds by which the open loop sent later than it was to: what this client could not offer."""

    async def send(self) -> None:
        """Once."""
        try:
            answer, seconds = await self.client.send(self.request, self.timeout_seconds)
        except TimeoutError:
            self.record.failures["timeout"] += 1
        except OSError:
            self.record.failures["connection"] += 1
        else:
            self.record.answers.append((answer.status, seconds, asyncio.get_running_loop().time()))

    async def send_due(self, _number: int, due: float) -> None:
        """The same, for the open loop."""
        self.late.append(asyncio.get_running_loop().time() - due)
        await self.send()


async def run(scenario: Overload, stage: Stage, server: Server, number: int) -> Run:
    """First the peak, then the overload; both on an empty table."""
    request = post("/rest/v1/events", scenario.body.encode(), scenario.body.content_type)
    rows = scenario.body.rows
    await stage.database.truncate(["events"])
    peak = await _peak(scenario, server, request)
    await stage.database.truncate(["events"])
    meter = Meter(server.pid, stage.database.postmaster)
    pressed = await _press(scenario, server, request, peak * scenario.times)
    await idle(server.pid)
    await stage.database.idle()
    cpu, postgres_cpu = meter.read()

    record, memory = pressed.sender.record, pressed.memory
    load = record.load(scenario.seconds)
    ramp = min(_RAMP_SECONDS, scenario.seconds / 4)
    goodput = record.successes(pressed.started + ramp, pressed.started + scenario.seconds) / (scenario.seconds - ramp)
    refusals = record.seconds(*REFUSALS)
    half = max(1, len(memory) // 2)
    return Run(
        scenario=scenario.name,
        contender=server.contender.name,
        number=number,
        load=load,
        rows_per_request=rows,
        served=load.ok + sum(load.errors.values()),
        cpu=cpu,
        postgres_cpu=postgres_cpu,
        rss_mib=max(memory, default=0) / MIB,
        stored=await stage.database.count(["events"]),
        details={
            "peak_rows_per_second": peak * rows,
            "offered_rows_per_second": peak * scenario.times * rows,
            "goodput_rows_per_second": goodput * rows,
            "late_p99_ms": percentile(pressed.sender.late, 0.99) * 1e3,
            "client_cores": pressed.client_cpu / scenario.seconds,
            "refusals": float(len(refusals)),
            **({"refusal_p99_ms": percentile(refusals, 0.99) * 1e3} if refusals else {}),
            "rss_first_mib": max(memory[:half], default=0) / MIB,
            "rss_second_mib": max(memory[half:], default=0) / MIB,
        },
    )


async def _peak(scenario: Overload, server: Server, request: bytes) -> float:
    """Successes per second in a closed loop."""
    client = Client(server.port, scenario.peak_connections)
    sender = Sender(client, request, scenario.timeout_seconds)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await closed_loop(scenario.peak_connections, scenario.seconds / 2, sender.send)
    seconds = loop.time() - started
    client.close()
    await idle(server.pid)
    return sender.record.successes(started, started + seconds) / seconds


@dataclass(frozen=True, slots=True)
class Pressed:
    """The overload as it went: `memory` is the service's RSS in bytes, time after time."""

    sender: Sender
    memory: list[int]
    started: float
    client_cpu: float


async def _press(scenario: Overload, server: Server, request: bytes, per_second: float) -> Pressed:
    """The open loop, while the service's memory is looked at."""
    client = Client(server.port, scenario.connections)
    sender = Sender(client, request, scenario.timeout_seconds)
    memory: list[int] = []
    sampler = asyncio.create_task(sample(server.pid, memory))
    started, cpu = asyncio.get_running_loop().time(), time.process_time()
    try:
        await open_loop(max(1.0, per_second), scenario.seconds, sender.send_due)
    finally:
        sampler.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sampler
        client.close()
    return Pressed(sender, memory, started, time.process_time() - cpu)


async def sample(pid: int, memory: list[int]) -> None:
    """Append the memory of the service every now and then."""
    process = psutil.Process(pid)
    while True:
        memory.append(process.memory_info().rss)
        await asyncio.sleep(_SAMPLE_SECONDS)
