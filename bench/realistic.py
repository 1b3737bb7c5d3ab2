"""What the case studies ask for: many tables, mixed bodies, bad rows, impatient clients, and a database that stalls.

Each row has a device_id of its own, so that it is known of every single one whether it is stored. The stall is an
EXCLUSIVE lock on all tables, taken by the bench's own connection, because that works with any database.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from bench.agreement import FAULTS, Witness
from bench.bodies import CONTENT_TYPES, TIMESTAMP, join, json_row
from bench.client import Client, open_loop, post
from bench.drivers import Latency, Load
from bench.measure import Meter, idle, percentile, rss_bytes
from bench.runs import Run
from bench.scenarios import Realistic, tables
from bench.stage import Server, Stage

SEED = 7
KINDS = (("object", 1, 0.7), ("array", 20, 0.2), ("ndjson", 200, 0.1))
"""The bodies: kind, rows, share of the requests."""
SPOILT = (
    (b'"humidity":40.25', b'"humidity":"hot"'),
    (f'"ts":"{TIMESTAMP}"'.encode(), b'"ts":null'),
    (b'"pump', b'"pump\\u0000'),
)
"""Ways to make a row bad: a word for a number, null where there must be a value, a NUL in a text."""
_CONNECTIONS = 1_000
_BACKOFF_SECONDS, _BACKOFF_SECONDS_MAX = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that somebody wants to have stored."""

    ids: tuple[str, ...]
    bad: bool
    request: bytes


def planned(number: int, names: tuple[str, ...], bad_share: float) -> Plan:
    """The request of this number; the same in each run."""
    chance = random.Random(f"{SEED}-{number}")
    kind, count = "object", 1
    point = chance.random()
    for kind, count, share in KINDS:  # noqa: B007 - the last one is used
        point -= share
        if point < 0:
            break
    ids = tuple(f"pump-{number}-{index}" for index in range(count))
    rows = [json_row(device_id, index) for index, device_id in enumerate(ids)]
    bad = chance.random() < bad_share
    if bad:
        place = chance.randrange(count)
        rows[place] = rows[place].replace(*chance.choice(SPOILT), 1)
    return Plan(ids, bad, post(f"/rest/v1/{chance.choice(names)}", join(kind, rows), CONTENT_TYPES[kind]))


@dataclass(frozen=True, slots=True)
class Ending:
    """How it went for one client: when it began, how long it took with all attempts, and the last status (0: none)."""

    plan: Plan
    due: float
    seconds: float
    status: int
    attempts: int

    @property
    def acknowledged(self) -> bool:
        """Whether it was told that its rows are stored."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class Crowd:
    """The clients. A client that got no answer in time, or was told to come back, tries again after a pause."""

    scenario: Realistic
    client: Client
    names: tuple[str, ...]
    endings: list[Ending] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    async def send(self, number: int, due: float) -> None:
        """One client's request, from its first attempt to its end."""
        plan = planned(number, self.names, self.scenario.bad_share)
        loop = asyncio.get_running_loop()
        chance = random.Random(number)
        for attempt in range(1, self.scenario.attempts_max + 1):
            status, pause = await self._attempt(plan)
            if status and status not in (408, 429) and status < 500:
                break
            backoff = min(_BACKOFF_SECONDS * 2 ** (attempt - 1), _BACKOFF_SECONDS_MAX)
            if attempt < self.scenario.attempts_max:
                await asyncio.sleep(max(pause, backoff) * chance.uniform(1.0, 1.5))
        self.endings.append(Ending(plan, due, loop.time() - due, status, attempt))

    async def _attempt(self, plan: Plan) -> tuple[int, float]:
        """The status (0 if there was none) and how long the service asks to wait."""
        try:
            answer, _ = await self.client.send(plan.request, self.scenario.timeout_seconds)
        except TimeoutError:
            self.answers["timeout"] += 1
            return 0, 0.0
        except OSError:
            self.answers["connection"] += 1
            return 0, 0.0
        self.answers[str(answer.status)] += 1
        asked = answer.headers.get("retry-after", "0")
        return answer.status, float(asked) if asked.isdigit() else 0.0


def percentiles(endings: list[Ending], stall: tuple[float, float]) -> dict[str, float]:
    """Latency of what was acknowledged, by whether the request began before, during or after the stall."""
    times: dict[str, list[float]] = {"before": [], "during": [], "after": []}
    for ending in endings:
        if ending.acknowledged:
            phase = "before" if ending.due < stall[0] else "during" if ending.due < stall[1] else "after"
            times[phase].append(ending.seconds * 1e3)
    return {
        f"{phase}_{name}_ms": percentile(values, part)
        for phase, values in times.items()
        if values
        for name, part in (("p50", 0.5), ("p99", 0.99))
    }


def judged(endings: list[Ending], stored: list[str]) -> dict[str, float]:
    """What the tables hold against what the clients were told."""
    there = Counter(stored)
    good = [ending for ending in endings if not ending.plan.bad]
    bad = [ending for ending in endings if ending.plan.bad]
    acknowledged = [device_id for ending in good if ending.acknowledged for device_id in ending.plan.ids]
    return {
        "acknowledged_rows": float(len(acknowledged)),
        "missing_rows": float(sum(not there[device_id] for device_id in acknowledged)),
        "bad_requests": float(len(bad)),
        "bad_acknowledged": float(sum(ending.acknowledged for ending in bad)),
        "bad_rows_stored": float(sum(there[device_id] for ending in bad for device_id in ending.plan.ids)),
        "given_up": float(sum(not ending.acknowledged for ending in good)),
        "stored_twice_rows": float(sum(count - 1 for count in there.values())),
        "retries": float(sum(ending.attempts - 1 for ending in endings)),
    }


def violations(run: Run) -> list[str]:
    """What must not happen, and did."""
    never = {
        "missing_rows": "acknowledged rows are not in their tables",
        "bad_acknowledged": "requests with a bad row were acknowledged",
        "bad_rows_stored": "rows of requests with a bad row are stored",
        **FAULTS,
    }
    name = f"{run.scenario}, {run.contender}, round {run.number}"
    return [f"{name}: {run.details[key]:,.0f} {text}" for key, text in never.items() if run.details.get(key)]


async def run(scenario: Realistic, stage: Stage, server: Server, number: int) -> Run:
    """Let the crowd loose and stall the database in the middle; then look at every row."""
    names = tables(scenario.tables)
    await stage.database.truncate(names)
    client = Client(server.port, _CONNECTIONS)
    crowd = Crowd(scenario, client, names)
    loop = asyncio.get_running_loop()
    witness = Witness(server, Client(server.port, 1))
    await witness.begin()
    meter = Meter(server.pid, stage.database.postmaster)
    stalled: list[float] = []

    async def stall() -> None:
        await asyncio.sleep((scenario.seconds - scenario.stall_seconds) / 2)
        stalled.append(loop.time())
        await stage.database.stall(names, scenario.stall_seconds)
        stalled.append(loop.time())

    started = loop.time()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(witness.watch())
        tasks.create_task(stall())
        await open_loop(scenario.requests_per_second, scenario.seconds, crowd.send)
        watching.cancel()
    seconds = loop.time() - started
    client.close()
    await idle(server.pid)
    await stage.database.idle()
    cpu, postgres_cpu = meter.read()

    stored = await stage.database.device_ids(names)
    details = judged(crowd.endings, stored) | await witness.testify(crowd.answers, len(stored))
    witness.client.close()
    details |= percentiles(crowd.endings, (stalled[0], stalled[1]))
    details["goodput_rows_per_second"] = details["acknowledged_rows"] / seconds
    details["answered_seconds"] = seconds
    good = [ending for ending in crowd.endings if ending.acknowledged]
    times = [ending.seconds * 1e3 for ending in good]
    latency = Latency(*(percentile(times, part) for part in (0.5, 0.9, 0.99, 0.999, 1.0)))
    errors = {status: count for status, count in sorted(crowd.answers.items()) if not status.startswith("2")}
    return Run(
        scenario=scenario.name,
        contender=server.contender.name,
        number=number,
        load=Load("bench/realistic.py", seconds, len(good), errors, latency),
        rows_per_request=details["acknowledged_rows"] / max(1, len(good)),
        served=sum(crowd.answers.values()),
        cpu=cpu,
        postgres_cpu=postgres_cpu,
        rss_mib=rss_bytes(server.pid) / (1024 * 1024),
        details=details,
    )
