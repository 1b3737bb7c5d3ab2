"""What processes used: CPU time and memory, from the operating system.

CPU is user and system time of a process and all its descendants, those that have ended included as soon as their parent
has waited for them. A measurement ends when the work has ended, not when the driver stopped asking.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Sequence

import psutil

_QUIET_SECONDS = 0.1
_QUIET_CPU_SECONDS = 0.011
"""A process is idle if it used no more than one tick of the kernel's clock (10 ms) in `_QUIET_SECONDS`."""
_QUIET_SECONDS_MAX = 15


def cpu_seconds(pid: int) -> float:
    """User and system time of the process tree so far."""
    total = 0.0
    for process in _tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # it ended this moment: its parent has its time
        total += times.user + times.system + times.children_user + times.children_system
    return total


class Meter:
    """The CPU that a service, and PostgreSQL if it runs here, use from its making on."""

    def __init__(self, pid: int, postmaster: int | None) -> None:
        self._pid, self._postmaster = pid, postmaster
        self._begin = cpu_seconds(pid), cpu_seconds(postmaster) if postmaster is not None else 0.0

    def read(self) -> tuple[float, float | None]:
        """Seconds so far: the service's, PostgreSQL's."""
        postgres = None if self._postmaster is None else cpu_seconds(self._postmaster) - self._begin[1]
        return cpu_seconds(self._pid) - self._begin[0], postgres


def rss_bytes(pid: int) -> int:
    """Memory that the process tree holds now."""
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def postmaster_of(backend: int) -> int | None:
    """The process above a backend of PostgreSQL, if it runs on this machine."""
    try:
        process = psutil.Process(backend)
        if "postgres" not in process.name():
            return None
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


async def idle(pid: int) -> None:
    """Wait until the process has nothing left to do: requests whose driver has gone are worked off too."""
    before = cpu_seconds(pid)
    for _ in range(round(_QUIET_SECONDS_MAX / _QUIET_SECONDS)):
        await asyncio.sleep(_QUIET_SECONDS)
        now = cpu_seconds(pid)
        if now - before <= _QUIET_CPU_SECONDS:
            return
        before = now


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed; 0 without values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def median(values: Sequence[float | None]) -> float | None:
    """The median of what was measured, None if nothing was."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
