"""What clients did and what they were told: each request with its outcome, as JSON Lines that can be judged later.

Owns what an answer says about the rows that were sent. The keys of a request's rows say which request they are of.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

Outcome = Literal["pending", "ok", "refused", "unknown", "none", "failed"]
"""What a client knows of its rows: nothing yet; stored; not stored; that the service does not know; no answer came;
an answer that says nothing about them."""

ROWS_MAX = 1_000
"""Rows in a request: the row of this index in the request of this number has the key number * ROWS_MAX + index."""

_NOT_STORED = {"PGRST000", "PGRST002", "HR503", "HR504", "HR505"}
"""The codes of a 503 that say that nothing is stored."""


class Entry(msgspec.Struct, omit_defaults=True):
    """A request. Times are seconds of the monotonic clock; `spoilt` says that one of its rows cannot be stored."""

    number: int
    table: str
    rows: int
    sent: float
    deadline: float
    ended: float = 0.0
    status: int = 0
    code: str = ""
    outcome: Outcome = "pending"
    spoilt: bool = False


def outcome_of(status: int, code: str) -> Outcome:
    """What an answer says about the rows."""
    if status == 201:
        return "ok"
    if 400 <= status < 500 or (status == 503 and code in _NOT_STORED):
        return "refused"
    if status == 503 and code == "HR506":
        return "unknown"
    return "failed"


class History:
    """All requests of a test, in order of their ends; written to a file while they end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self.acknowledged_rows = 0
        self._open: dict[int, Entry] = {}
        self._numbers = 0
        self._file = path.open("wb", buffering=1 << 16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def begin(self, table: str, rows: int, seconds: float, *, spoilt: bool = False) -> Entry:
        """A request that is sent now, and is to be answered within these seconds."""
        self._numbers += 1
        now = time.monotonic()
        entry = Entry(self._numbers, table, rows, now, now + seconds, spoilt=spoilt)
        self._open[entry.number] = entry
        return entry

    def end(self, entry: Entry, status: int, code: str = "") -> None:
        """Its answer, or status 0 if the connection ended without one."""
        entry.ended = time.monotonic()
        entry.status = status
        entry.code = code
        entry.outcome = "none" if status == 0 else outcome_of(status, code)
        if entry.outcome == "ok":
            self.acknowledged_rows += entry.rows
        del self._open[entry.number]
        self._keep(entry)

    def close(self) -> None:
        """Keep what has not ended, too."""
        for entry in self._open.values():
            self._keep(entry)
        self._open.clear()
        self._file.close()

    def outcomes(self) -> dict[tuple[str, int, str], int]:
        """How many requests there are of each outcome, status and code."""
        counts: dict[tuple[str, int, str], int] = {}
        for entry in self.entries:
            kind = (entry.outcome, entry.status, entry.code)
            counts[kind] = counts.get(kind, 0) + 1
        return counts

    def _keep(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._file.write(msgspec.json.encode(entry) + b"\n")


def read(path: Path) -> list[Entry]:
    """A history that was kept."""
    with path.open("rb") as lines:
        return [msgspec.json.decode(line, type=Entry) for line in lines]
