"""What the numbers were measured on: the machine and the versions of everything that takes part."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import psutil

from bench.processes import ROOT

_BUSY_LOAD = 0.3
"""Load per core from which on others take a share that shows in the numbers."""
PACKAGES = ("headrace", "uvicorn", "uvloop", "httptools", "asyncpg", "fastapi", "pydantic", "sqlalchemy", "msgspec")


def machine() -> dict[str, str]:
    """Cores, memory, processor, kernel."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
    }


def busy() -> str | None:
    """A warning if the machine has other things to do."""
    load, cores = psutil.getloadavg()[0], os.cpu_count() or 1
    if load < cores * _BUSY_LOAD:
        return None
    return f"the machine was busy before the benchmark began (load {load:.1f} on {cores} cores): expect noise"


def versions() -> dict[str, str]:
    """Python's, and those of the packages that are measured."""
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def commit() -> str:
    """The commit that is measured, with a + if files differ from it; `unknown` outside a repository."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return name + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
