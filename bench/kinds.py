"""What does a row cost PostgreSQL, by what its table has? CPU and WAL per row, for COPY of 5,000 rows a transaction.

    .venv/bin/python -m bench.kinds         (a PostgreSQL of its own, or that of HEADRACE_BENCH_DSN on this machine)

One connection, without the service: what is measured is the database alone. docs/scaling.md has such numbers.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.measure import cpu_seconds, postmaster_of
from bench.processes import run, running
from bench.stage import DSN_VARIABLE

BATCH_ROWS = 5_000
BATCHES = 40
ROUNDS = 3
COLUMNS = """
    id bigint generated always as identity, device_id text not null, ts timestamptz not null,
    temperature double precision, humidity double precision, status text, attributes jsonb,
    received_at timestamptz default now()
"""
SENT = ["device_id", "ts", "temperature", "humidity", "status", "attributes"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A table: its keys, how it is partitioned, and what follows its making."""

    title: str
    keys: str = ", primary key (id)"
    partitioned: str = ""
    more: tuple[str, ...] = ()

    def statements(self) -> list[str]:
        """What makes the table `kind`."""
        return [f"create table kind ({COLUMNS}{self.keys}) {self.partitioned}", *self.more]


SEARCH = "create index on kind (device_id, ts)"
DAYS = tuple(
    f"create table kind_{day} partition of kind for values from ('2026-01-{day:02}') to ('2026-01-{day + 1:02}')"
    for day in range(1, 31)
)
HASHES = tuple(
    f"create table kind_{part} partition of kind for values with (modulus 8, remainder {part})" for part in range(8)
)
KINDS = (
    Kind("no index", keys=""),
    Kind("primary key", keys=", primary key (id)"),
    Kind("and an index on (device_id, ts)", more=(SEARCH,)),
    Kind("and a GIN index on jsonb", more=(SEARCH, "create index on kind using gin (attributes)")),
    Kind("30 partitions by day, rows of one", ", primary key (id, ts)", "partition by range (ts)", DAYS),
    Kind("8 partitions by hash, rows of all", ", primary key (id, device_id)", "partition by hash (device_id)", HASHES),
)


def lines(count: int) -> bytes:
    """Rows of 10,000 devices and one day in COPY's text format, the same ones each time."""
    chance = random.Random(1)
    row = 'device-%d\t2026-01-05 %02d:%02d:%02d.123+00\t%.2f\t%.3f\tok\t{"a": %d}\n'
    return "".join(
        [
            row % (chance.randrange(10_000), chance.randrange(24), chance.randrange(60), chance.randrange(60),
                   chance.random() * 30, chance.random(), chance.randrange(1_000))
            for _ in range(count)
        ]
    ).encode()  # fmt: skip


async def measure(dsn: str, kind: Kind, batches: list[bytes]) -> tuple[float, float]:
    """CPU of PostgreSQL in µs, and bytes of WAL, for a row of such a table."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("drop table if exists kind")
        for statement in kind.statements():
            await connection.execute(statement)
        await connection.execute("checkpoint")
        postmaster = postmaster_of(await connection.fetchval("select pg_backend_pid()"))
        if postmaster is None:
            sys.exit("the database must be on this machine")
        wal = await connection.fetchval("select pg_current_wal_insert_lsn()")
        cpu = cpu_seconds(postmaster)
        for batch in batches:
            await connection.copy_to_table("kind", source=_once(batch), columns=SENT)
        cpu = cpu_seconds(postmaster) - cpu
        wal_bytes = await connection.fetchval("select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)", wal)
        await connection.execute("drop table kind")
    finally:
        await connection.close()
    rows = BATCH_ROWS * len(batches)
    return cpu / rows * 1e6, float(wal_bytes) / rows


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _main() -> None:
    async with contextlib.AsyncExitStack() as stack:
        dsn = os.environ.get(DSN_VARIABLE)
        if dsn is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
            command = [sys.executable, "-m", "bench.baselines.postgres", str(folder / "postgres")]
            server = await stack.enter_async_context(running(command, folder / "postgres.log", piped=True))
            assert server.process.stdout is not None
            dsn = (await server.process.stdout.readline()).decode().strip()
        batches = [lines(BATCH_ROWS)] * BATCHES
        started = time.monotonic()
        print(f"{'table':36} {'CPU µs/row':>12} {'rows/s per core':>20} {'WAL bytes/row':>14}")
        for kind in KINDS:
            taken = sorted([await measure(dsn, kind, batches) for _ in range(ROUNDS)])
            (best, wal), (worst, _) = taken[0], taken[-1]
            rates = f"{1e6 / worst:,.0f}–{1e6 / best:,.0f}"
            print(f"{kind.title:36} {f'{best:.1f}–{worst:.1f}':>12} {rates:>20} {wal:14.0f}", flush=True)
        print(f"{time.monotonic() - started:.0f} s; best and worst of {ROUNDS} rounds")


if __name__ == "__main__":
    run(_main())
