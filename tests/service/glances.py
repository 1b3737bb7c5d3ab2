"""Glances for tests, and how they look in a terminal."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace
from rich.console import Console

from service.commands.topview import Picture, View
from service.observing.glance import (
    Database,
    Glance,
    Percentiles,
    Point,
    Problem,
    Quarantine,
    Queue,
    Reason,
    Refusal,
    Slots,
    TableRates,
)
from service.observing.numbers import SlowFlush

URL = "http://127.0.0.1:8000"
NOW = 1_800_000_000.0


def point(at: float = NOW, **fields: float | None) -> Point:
    """A second of a service that is at work."""
    numbers = {"requests": 1234.0, "rows": 5678.0, "refused": 0.0, "failed": 0.0, "p50_ms": 1.25, "p99_ms": 20.5}
    waiting = {"batch_rows": 43.2, "queued_rows": 7, "queued_bytes": 2048, "oldest_ms": 1.5, "lag_ms": 0.75}
    return msgspec.convert({"at": at} | numbers | waiting | fields, Point)


def table(name: str) -> TableRates:
    """A table that is written to."""
    return TableRates(name, 617.0, 2839.0, 2.5, 10_000, 50_000, 12, 21.6, 2.25)


GLANCE = Glance(
    version="0.2.0",
    workers=2,
    uptime_seconds=93_600.0,
    status="ok",
    problems=[],
    point=point(),
    received_requests=20_012,
    received_rows=100_012,
    totals={"committed": (20_000, 100_000), "rejected": (12, 12), "unknown": (0, 0)},
    latency=Percentiles(1.25, 4.5, 20.5),
    queue_time=Percentiles(0.25, 0.5, 1.75),
    write_time=Percentiles(0.75, 3.5, 17.25),
    queue=Queue(7, 2048, 9, 50_000, 200_000, 64 * 1024 * 1024, 256 * 1024 * 1024, 1.5),
    slots=Slots(1, 1, 0),
    connections=64,
    database=Database(
        up=True, reason=None, version="18.1", connections=12, connections_max=100, read_only=False, skew_seconds=0.0
    ),
    tables=[table(f"public.t{n}") for n in range(10)],
    tables_total=23,
    refusals=[Refusal(400 + n, f"HR4{n:02}", 1.5, 100 + n) for n in range(8)],
    retries=3,
    doubts={"stored": 1, "not_stored": 1, "unknown": 0},
    unbalanced_requests=0,
    unbalanced_rows=0,
    slow=[SlowFlush(NOW - 61, 1.75, ["public.t1", "public.t2"], 10, 4_321, 65_536, None)] * 6,
    quarantine=Quarantine(5, 1_000, [Reason(5, NOW - 7_260, "public.t1", "n", "23502", "not null violation")]),
)

NOTHING = replace(
    GLANCE,
    point=point(p50_ms=None, p99_ms=None, batch_rows=None, requests=0.0, rows=0.0),
    totals={},
    latency=Percentiles(None, None, None),
    database=Database(
        up=False, reason=None, version=None, connections=None, connections_max=None, read_only=None, skew_seconds=None
    ),
    tables=[],
    tables_total=0,
    refusals=[],
    slow=[],
    quarantine=None,
)
"""A service that has just begun, without its database."""

PAST = tuple(point(NOW - seconds, requests=float(seconds)) for seconds in range(300, 0, -1))

FULL = replace(
    GLANCE, status="full", problems=[Problem("error", "The queue is full", "Send less, or give it more slots")]
)


WRONG = replace(GLANCE, problems=[Problem("error", "Requests fail", "The service's log has the reasons.")])
"""It does its work, but not as it should."""


def drawn(picture: Picture, width: int = 80, height: int | None = 24) -> list[str]:
    """The lines of a picture: on a screen of this size, or as long as it is."""
    console = Console(width=width, height=height or 25, force_terminal=True, color_system=None, _environ={})
    with console.capture() as capture:
        console.print(View(picture, fit=height is not None))
    return [line.rstrip() for line in capture.get().splitlines()]
