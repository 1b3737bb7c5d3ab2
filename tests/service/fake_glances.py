"""What a service may show of itself on the dashboard: ordinary seconds, bad ones, and names that are meant to harm."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import msgspec

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

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
"""A name that a page which trusts names would run."""


def glance(at: float | None = None, **changes: Any) -> Glance:
    """A service that is well, but for the changes."""
    return msgspec.structs.replace(
        Glance(
            version="0.1.0",
            workers=2,
            uptime_seconds=11_520,
            status="ok",
            problems=[],
            point=point(at if at is not None else time.time()),
            received_requests=1_204_310,
            received_rows=48_172_400,
            totals={"committed": (1_203_900, 48_171_100), "rejected": (405, 1_290), "shed": (5, 10)},
            latency=Percentiles(2.1, 5.2, 8.3),
            queue_time=Percentiles(0.7, 2.2, 3.1),
            write_time=Percentiles(1.2, 2.6, 4.4),
            queue=Queue(
                queued_rows=410,
                queued_bytes=38_000,
                pending_requests=620,
                pending_rows=1_030,
                pending_rows_max=100_000,
                pending_bytes=96_000,
                pending_bytes_max=67_108_864,
                oldest_ms=3.4,
            ),
            slots=Slots(busy=3, idle=1, away=0),
            connections=128,
            database=Database(
                up=True,
                reason=None,
                version="18.1",
                connections=23,
                connections_max=100,
                read_only=False,
                skew_seconds=0.004,
            ),
            tables=[rates("public.events", rows=21_340, requests=11_210)],
            tables_total=1,
            refusals=[],
            retries=0,
            doubts={"stored": 0, "not_stored": 0, "unknown": 0},
            unbalanced_requests=0,
            unbalanced_rows=0,
            slow=[],
            quarantine=Quarantine(rows=0, counted_max=10_000, newest=[]),
        ),
        **changes,
    )


def point(at: float, **changes: Any) -> Point:
    """An ordinary second."""
    return msgspec.structs.replace(
        Point(
            at=at,
            requests=12_480,
            rows=24_310,
            refused=0,
            failed=0,
            p50_ms=2.1,
            p99_ms=8.3,
            batch_rows=312,
            queued_rows=410,
            queued_bytes=38_000,
            oldest_ms=3.4,
            lag_ms=0.6,
        ),
        **changes,
    )


def rates(name: str, *, rows: float, requests: float, **changes: Any) -> TableRates:
    """A table with so much to do."""
    return msgspec.structs.replace(
        TableRates(
            table=name,
            requests=requests,
            rows=rows,
            refused=0,
            requests_total=int(requests * 1_800),
            rows_total=int(rows * 1_800),
            refused_total=0,
            batch_rows=312,
            write_ms=2.4,
        ),
        **changes,
    )


def table(schema: str, name: str, **changes: Any) -> dict[str, Any]:
    """A table of the catalog."""
    columns = [
        {"name": "id", "type": "bigint", "required": False, "default": "identity", "comment": None},
        {"name": "device_id", "type": "text", "required": True, "default": None, "comment": "Who has measured"},
        {"name": "ts", "type": "timestamp with time zone", "required": True, "default": None, "comment": None},
        {"name": "temperature", "type": "double precision", "required": False, "default": None, "comment": "in °C"},
        {"name": "attributes", "type": "jsonb", "required": False, "default": None, "comment": None},
        {
            "name": "received_at",
            "type": "timestamp with time zone",
            "required": False,
            "default": "now()",
            "comment": None,
        },
    ]
    return {
        "schema": schema,
        "table": name,
        "path": f"/rest/v1/{name}",
        "profile": "" if schema == "public" else schema,
        "kind": "table",
        "way": "copy",
        "comment": None,
        "columns": columns,
        "example": {
            "device_id": "pump-7",
            "ts": "2026-11-21T14:03:22Z",
            "temperature": 21.5,
            "attributes": {"site": "north"},
        },
        **changes,
    }


FULL = glance(
    status="full",
    problems=[
        Problem("warning", "Few connections are left.", "Raise max_connections."),
        Problem("error", "The queue is full.", "Send less, or raise HEADRACE_PENDING_ROWS_MAX."),
    ],
    queue=Queue(
        queued_rows=92_000,
        queued_bytes=9_000_000,
        pending_requests=50_000,
        pending_rows=100_000,
        pending_rows_max=100_000,
        pending_bytes=33_554_432,
        pending_bytes_max=67_108_864,
        oldest_ms=5_400,
    ),
)
AWAY = glance(
    status="away",
    problems=[Problem("error", "The database cannot be reached.", "Look whether it runs.")],
    slots=Slots(busy=0, idle=0, away=4),
    database=Database(
        up=False,
        reason="connection refused",
        version=None,
        connections=None,
        connections_max=None,
        read_only=None,
        skew_seconds=None,
    ),
)
LONG_NAME = "telemetry." + "a_name_that_was_made_of_the_name_of_a_class_" * 3


def hostile() -> Any:
    """A glance with a tag wherever somebody else chooses the words."""
    return glance(
        status="busy",
        problems=[Problem("warning", HOSTILE, HOSTILE)],
        database=Database(
            up=False,
            reason=HOSTILE,
            version=HOSTILE,
            connections=1,
            connections_max=2,
            read_only=True,
            skew_seconds=-90,
        ),
        tables=[rates(HOSTILE, rows=1, requests=1), rates(LONG_NAME, rows=0, requests=0)],
        tables_total=2,
        refusals=[Refusal(400, HOSTILE, 1, 1)],
        slow=[SlowFlush(time.time(), 2, [HOSTILE, LONG_NAME], 1, 1, 1, HOSTILE)],
        quarantine=Quarantine(
            rows=10_000,
            counted_max=10_000,
            newest=[Reason(7, time.time(), HOSTILE, HOSTILE, "22P02", HOSTILE)],
        ),
    )


class Lively:
    """A busy service: five minutes of history with ups and downs, and the seconds after it. The same for each seed."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._load = 0.7

    def history(self, until: float) -> list[Point]:
        """The seconds before; for a while the service was away, and a database was slow."""
        return [self.point(until - ago, ago) for ago in range(300, 0, -1) if not 212 < ago < 228]

    def point(self, at: float, ago: int = 0) -> Point:
        """One second."""
        noise = self._random.gauss
        self._load += 0.08 * (0.75 + 0.2 * math.sin(at / 37) - self._load) + noise(0, 0.02)
        slow = 6 * math.exp(-(((ago - 95) / 9) ** 2))
        rows = max(0.0, 31_000 * self._load * (1 + noise(0, 0.03)) / (1 + slow / 5))
        p50 = 1.9 * (1 + 0.4 * self._load + slow) * math.exp(noise(0, 0.07))
        return point(
            at,
            requests=rows / 2.1 * (1 + noise(0, 0.02)),
            rows=rows,
            refused=max(0.0, 90 * slow + noise(0, 6) - 4) if slow > 1 else float(self._random.random() < 0.12),
            failed=float(self._random.random() < 0.02),
            p50_ms=p50,
            p99_ms=p50 * 3.4 * math.exp(noise(0, 0.16)),
            batch_rows=280 * self._load * (1 + slow) * (1 + noise(0, 0.05)),
            queued_rows=int(420 * self._load * (1 + 4 * slow) * (1 + abs(noise(0, 0.2)))),
            oldest_ms=3.1 * (1 + 3 * slow) * (1 + abs(noise(0, 0.25))),
        )

    def glance(self, at: float) -> Glance:
        """The present, with all there is to see."""
        now = self.point(at)
        return glance(
            point=now,
            uptime_seconds=11_520 + at % 1_000,
            latency=Percentiles(now.p50_ms, (now.p50_ms or 0) * 2.2, now.p99_ms),
            queue=Queue(
                queued_rows=now.queued_rows,
                queued_bytes=now.queued_rows * 92,
                pending_requests=now.queued_rows,
                pending_rows=now.queued_rows * 3,
                pending_rows_max=100_000,
                pending_bytes=now.queued_rows * 276,
                pending_bytes_max=67_108_864,
                oldest_ms=now.oldest_ms,
            ),
            slots=Slots(busy=self._random.choice((2, 3, 3, 4)), idle=0, away=0),
            tables=[
                rates(f"public.{name}", rows=now.rows * share, requests=now.requests * share, **more)
                for name, share, more in (
                    ("events", 0.52, {"refused": 0.4, "refused_total": 371}),
                    ("measurements", 0.27, {"batch_rows": 164.0, "write_ms": 1.8}),
                    ("page_views", 0.13, {"batch_rows": 82.0, "write_ms": 1.6}),
                    ("orders", 0.05, {"batch_rows": 21.0, "write_ms": 3.9, "refused": 0.1, "refused_total": 44}),
                    ("audit_log", 0.02, {"batch_rows": 9.0, "write_ms": 1.1}),
                    ("devices", 0.00001, {"batch_rows": None, "write_ms": None}),
                )
            ],
            tables_total=6,
            refusals=[
                Refusal(409, "23505", 0.4, 371),
                Refusal(400, "22P02", 0.1, 44),
                Refusal(429, "HR429", 0, 5),
                Refusal(404, "PGRST205", 0, 3),
            ],
            retries=2,
            slow=[
                SlowFlush(at - 93, 1.42, ["public.events"], 1_204, 2_611, 240_212, None),
                SlowFlush(at - 97, 1.13, ["public.orders", "public.events"], 802, 1_733, 159_436, None),
                SlowFlush(at - 2_210, 5.02, ["public.devices"], 1, 1, 92, "Unavailable"),
            ],
            quarantine=Quarantine(
                rows=12,
                counted_max=10_000,
                newest=[
                    Reason(412, at - 340, "public.orders", "quantity", "22P02", "invalid text representation"),
                    Reason(411, at - 352, "public.orders", "customer_id", "23503", "foreign key violation"),
                    Reason(398, at - 4_020, "public.events", None, "23514", "check violation"),
                ],
            ),
        )
