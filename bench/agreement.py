"""Whether what a service says of itself agrees with what its clients saw, and with what is in its tables.

Reads `/metrics`, the dashboard's feed and `headrace top`, as an operator would. The judging is pure.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.client import Client, get
from bench.processes import BIN, output_of
from bench.stage import Server

_LOOK_SECONDS = 0.25
_COMMAND_SECONDS = 20


_SAMPLE = re.compile(r"^headrace_(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Account:
    """What a service has counted: requests and rows by outcome, those that it received, and those that are missing in
    the balance. `buckets` are those of the times of committed requests: (upper bound in seconds, how many up to it).
    """

    requests: Mapping[str, float]
    rows: Mapping[str, float]
    received: float
    unbalanced: tuple[float, float]
    buckets: tuple[tuple[float, float], ...] = ()


def read_metrics(text: str) -> Account:
    """The account in Prometheus' text format."""
    requests: defaultdict[str, float] = defaultdict(float)
    rows: defaultdict[str, float] = defaultdict(float)
    found: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        label = dict(_LABEL.findall(labels))
        if name == "requests_total":
            requests[label["outcome"]] += float(value)
        elif name == "rows_total":
            rows[label["outcome"]] += float(value)
        elif name == "request_seconds_bucket" and label["outcome"] == "committed":
            buckets[float(label["le"])] = float(value)
        elif not label:
            found[name] = float(value)
    unbalanced = found["unbalanced_requests"], found["unbalanced_rows"]
    return Account(requests, rows, found["received_requests_total"], unbalanced, tuple(sorted(buckets.items())))


def read_glance(text: str) -> Account:
    """The account in a glance, which is what the dashboard and `headrace top` show."""
    glance = json.loads(text)
    totals: dict[str, tuple[float, float]] = glance["totals"]
    return Account(
        {outcome: requests for outcome, (requests, _) in totals.items()},
        {outcome: rows for outcome, (_, rows) in totals.items()},
        glance["received_requests"],
        (glance["unbalanced_requests"], glance["unbalanced_rows"]),
    )


@dataclass(slots=True)
class Witness:
    """Asks a service for its numbers: before a run, all the time, and after it."""

    server: Server
    client: Client
    looks: int = 0
    unbalanced_looks: int = 0
    before: Account = field(default_factory=lambda: Account({}, {}, 0, (0, 0)))

    async def begin(self) -> None:
        """Before the first request."""
        self.before = await self.metrics()

    async def watch(self) -> None:
        """Look at the balance again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            account = await self.glance()
            self.looks += 1
            self.unbalanced_looks += account.unbalanced != (0, 0)

    async def metrics(self) -> Account:
        """By `/metrics`."""
        return read_metrics(await self._get("/metrics"))

    async def glance(self) -> Account:
        """By the feed of the dashboard."""
        return read_glance(await self._get("/dashboard/glance"))

    async def top(self) -> Account:
        """By `headrace top`."""
        url = f"http://127.0.0.1:{self.server.port}"
        command = [str(BIN / "headrace"), "top", "--url", url, "--once", "--json"]
        return read_glance(await output_of(command, _COMMAND_SECONDS))

    async def _get(self, path: str) -> str:
        answer, _ = await self.client.send(get(path), _COMMAND_SECONDS)
        return answer.body.decode()

    async def testify(self, answers: Counter[str], stored_rows: int) -> dict[str, float]:
        """The details of a run whose clients saw these answers, by status or kind of failure."""
        metrics, glance, top = await self.metrics(), await self.glance(), await self.top()
        details = compared(self.before, metrics, answers, stored_rows)
        details["views_differ"] = float(not _is_same(metrics, glance) or not _is_same(metrics, top))
        details["looks"] = float(self.looks)
        details["unbalanced_looks"] = float(self.unbalanced_looks + (metrics.unbalanced != (0, 0)))
        return details


def compared(before: Account, after: Account, answers: Mapping[str, int], stored_rows: int) -> dict[str, float]:
    """How far the numbers are from what the clients saw and the tables hold: 0 is agreement.

    A client that leaves without an answer was counted with any outcome, so there may be so many more of each.
    """
    left = answers.get("timeout", 0) + answers.get("connection", 0)
    seen: Counter[str] = Counter()
    for status, count in answers.items():
        if status.isdigit():
            seen[_outcome(int(status))] += count
    counted = {name: after.requests[name] - before.requests.get(name, 0) for name in after.requests}
    received = after.received - before.received
    off = sum([_outside(counted.get(name, 0), seen[name], left) for name in {*counted, *seen}])
    off += _outside(received, sum(seen.values()), left)
    committed = after.rows.get("committed", 0) - before.rows.get("committed", 0)
    times = [
        (bound, count - old)
        for (bound, count), (_, old) in zip(after.buckets, before.buckets or [(0, 0)] * len(after.buckets), strict=True)
    ]
    found = {f"counted_{name}": counted.get(name, 0) for name in ("committed", "rejected", "shed")}
    found |= {"counted_off": off, "counted_rows_off": abs(committed - stored_rows), "clients_left": float(left)}
    return found | {f"counted_p{part * 100:.0f}_ms": _percentile(times, part) * 1e3 for part in (0.5, 0.99)}


def _outcome(status: int) -> str:
    if status in (429, 503):
        return "shed"
    return "committed" if status < 300 else "rejected" if status < 500 else "failed"


def _outside(value: float, least: float, more: float) -> float:
    """By how much a value is outside of `least` to `least + more`."""
    return max(0.0, least - value, value - least - more)


def _percentile(buckets: list[tuple[float, float]], part: float) -> float:
    """The upper bound of the bucket that has it; 0 if there is nothing."""
    total = buckets[-1][1] if buckets else 0
    return next((bound for bound, count in buckets if total and count >= part * total), 0.0)


def _is_same(one: Account, other: Account) -> bool:
    """Whether two views show the same."""
    names = {*one.requests, *other.requests}
    return one.received == other.received and all(
        one.requests.get(name, 0) == other.requests.get(name, 0) and one.rows.get(name, 0) == other.rows.get(name, 0)
        for name in names
    )


FAULTS = {
    "counted_off": "requests by outcome are not those that the clients saw",
    "counted_rows_off": "rows are counted that are not in the tables, or the other way round",
    "views_differ": "/metrics, the dashboard and `headrace top` differ",
    "unbalanced_looks": "looks at the balance found requests or rows that somebody has lost",
}
"""Details that must be 0."""
