"""Does memory stay flat? Sends rows in bulk requests to `headrace serve` and prints its memory as it goes.

    .venv/bin/python bench/memory.py [ROWS]        (10,000,000 without an argument; Linux, for /proc)

An HTTP client of a service that it starts itself, with a database in a temporary folder; ends both when it is done.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

REQUEST_ROWS = 5_000
IN_FLIGHT = 4
REPORTS = 10


def memory_mib(pid: int, field: str) -> float:
    """A line of /proc/PID/status in MiB: VmRSS is the memory held now, VmHWM the most it ever held."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def body(first: int) -> bytes:
    """One request's rows as NDJSON, no two alike."""
    line = '{"device_id":"pump-%d","ts":"2026-11-21T10:00:00Z","temperature":%d.5,"humidity":40.25,"status":"ok"}\n'
    return "".join([line % (n, n % 40) for n in range(first, first + REQUEST_ROWS)]).encode()


async def send(url: str, pid: int, rows: int) -> None:
    """Keep some requests in flight until all rows are stored; print the memory now and then."""
    started = time.monotonic()
    sent = stored = 0

    async def producer(client: httpx2.AsyncClient) -> None:
        nonlocal sent, stored
        while sent < rows:
            first = sent
            sent += REQUEST_ROWS
            response = await client.post(url, content=body(first), headers={"content-type": "application/x-ndjson"})
            response.raise_for_status()
            before, stored = stored, stored + REQUEST_ROWS
            if stored * REPORTS // rows > before * REPORTS // rows:
                rate = stored / (time.monotonic() - started)
                print(f"{stored:>11,} rows   {memory_mib(pid, 'VmRSS'):6.1f} MiB   {rate:>8,.0f} rows/s", flush=True)

    async with httpx2.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as producers:
        for _ in range(IN_FLIGHT):
            producers.create_task(producer(client))
    print(f"the most it held at any time: {memory_mib(pid, 'VmHWM'):.1f} MiB")


def main() -> None:
    """Start the service, send, stop it."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    headrace = Path(sys.executable).parent / "headrace"
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        service = subprocess.Popen(
            [headrace, "serve", "--port", "0"],
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert service.stdout is not None
            url = next(line.split()[-1] for line in service.stdout if "listens on" in line)
            print(f"{0:>11,} rows   {memory_mib(service.pid, 'VmRSS'):6.1f} MiB", flush=True)
            asyncio.run(send(f"{url}/rest/v1/events", service.pid, rows))
            count = subprocess.run(
                [headrace, "psql", "-At", "-c", "select count(*) from events"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"in the table: {int(count.stdout):,} rows")
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait()


if __name__ == "__main__":
    main()
