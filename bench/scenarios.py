"""The scenarios, as data. `bench/suite.py`, `bench/overload.py` and `bench/realistic.py` carry them out.

`contenders` are names in `bench/contenders.py`. A scenario with `full` is left out of the short run.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.bodies import ONE_ROW, Body

HTTP = ("story", "fastapi-asyncpg", "library", "headrace-fastapi", "headrace", "floor")
OURS = ("headrace-fastapi", "headrace")
BULK = Body("ndjson", 1_000)
TABLES = 1_000
"""How many tables a scenario has at most, beside `events`: events_0001 to events_1000."""


@dataclass(frozen=True, slots=True)
class Maximum:
    """Closed loop: each connection sends its next request when it has the answer to the last one.

    Scenarios of the same `group` are compared with each other, so their turns alternate as well.
    """

    name: str
    title: str
    contenders: tuple[str, ...]
    connections: int = 64
    body: Body = ONE_ROW
    tables: int = 0
    prefer: str = ""
    credential: bool = False
    seconds: int = 3
    rounds: int = 3
    group: str = ""
    full: bool = False

    @property
    def table_names(self) -> tuple[str, ...]:
        """The tables that the requests are spread over."""
        return tables(self.tables)


@dataclass(frozen=True, slots=True)
class Steady:
    """Open loop at a part of the maximum that the same driver reached just before."""

    name: str
    title: str
    contenders: tuple[str, ...]
    connections: int = 64
    part: float = 0.5
    seconds: int = 5
    rounds: int = 2
    full: bool = False


@dataclass(frozen=True, slots=True)
class Overload:
    """Open loop at a multiple of the maximum that the same client reached just before, with bulk requests."""

    name: str
    title: str
    contenders: tuple[str, ...]
    body: Body = BULK
    times: float = 2.0
    peak_connections: int = 64
    connections: int = 800
    timeout_seconds: float = 5.0
    seconds: int = 8
    rounds: int = 1
    full: bool = False


@dataclass(frozen=True, slots=True)
class Realistic:
    """Many tables, all kinds of bodies, bad rows, impatient clients, and a database that stalls in the middle."""

    name: str
    title: str
    contenders: tuple[str, ...]
    tables: int = 50
    requests_per_second: int = 300
    bad_share: float = 0.02
    timeout_seconds: float = 1.0
    attempts_max: int = 8
    stall_seconds: float = 2.0
    seconds: int = 10
    rounds: int = 1
    full: bool = False


Scenario = Maximum | Steady | Overload | Realistic


def tables(number: int) -> tuple[str, ...]:
    """The names of the tables of a scenario; 0 is the one table of most scenarios."""
    return tuple(f"events_{index:04}" for index in range(1, number + 1)) or ("events",)


SCENARIOS: tuple[Scenario, ...] = (
    Maximum("one-1", "one row, 1 connection", HTTP, connections=1, seconds=1),
    Maximum("one-64", "one row, 64 connections", HTTP, seconds=2),
    Maximum("one-512", "one row, 512 connections", HTTP, connections=512, seconds=3),
    Maximum("one-8", "one row, 8 connections", OURS, connections=8, full=True),
    Maximum("one-256", "one row, 256 connections", OURS, connections=256, full=True),
    Maximum("one-1024", "one row, 1,024 connections", OURS, connections=1024, full=True),
    Maximum(
        "ndjson-1000",
        "NDJSON of 1,000 rows, 64 connections",
        ("headrace", "psql-copy"),
        body=BULK,
    ),
    Maximum("array-100", "array of 100 rows", OURS, connections=16, body=Body("array", 100), seconds=2, rounds=2),
    Maximum("minimal", "nothing returned", ("headrace",), seconds=2, group="answers"),
    Maximum(
        "representation",
        "return=representation",
        ("headrace",),
        prefer="return=representation",
        seconds=2,
        group="answers",
    ),
    Maximum("body-100", "body of 100 B", ("headrace",), body=Body(bytes_min=100), seconds=1, group="body"),
    Maximum("body-1000", "body of 1 kB", ("headrace",), body=Body(bytes_min=1_000), seconds=1, group="body"),
    Maximum("body-10000", "body of 10 kB", ("headrace",), body=Body(bytes_min=10_000), seconds=1, group="body"),
    Maximum("tables-1", "1 table", ("headrace",), tables=1, seconds=2, group="tables"),
    Maximum("tables-50", "50 tables", ("headrace",), tables=50, seconds=2, group="tables"),
    Maximum("tables-1000", "1,000 tables", ("headrace",), tables=TABLES, seconds=2, group="tables"),
    Maximum("counting", "one row, counted or not", ("headrace", "uncounted"), seconds=2, rounds=5),
    Maximum("anonymous", "one row, anonymous", ("headrace",), seconds=2, rounds=5, group="credential"),
    Maximum(
        "credential",
        "one row, with an API key",
        ("headrace",),
        credential=True,
        seconds=2,
        rounds=5,
        group="credential",
    ),
    Maximum("workers", "one row, 128 connections, two workers", ("headrace", "two-workers"), connections=128, rounds=3),
    Steady("half", "half of the maximum, 64 connections", ("headrace",)),
    Overload("overload", "twice the maximum, NDJSON of 1,000 rows", ("headrace",)),
    Realistic("realistic", "50 tables, mixed bodies, 2 % bad rows, a stall of 2 s", ("headrace",)),
    Realistic("realistic-fastapi", "the same in the FastAPI lane", ("headrace-fastapi",), full=True),
)
