"""A sink that is as slow, broken, absent or unsure as a test wants, and a batcher on it in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import cast

from batching import Batch, Batcher, Limits, Observe, Outcome, Results, Retry


class InDoubt(Exception):
    """Nobody knows what was stored."""


class FakeSink:
    """Stores payloads in `stored`; `fail`, `doubts` and `seconds` say how the next calls go.

    Each of the next writes takes one of `doubts`: it is in doubt after it has stored "all", a "part" or "none". Each
    payload in `trouble` cannot be written so many times, though the rest of its batch can.
    """

    def __init__(self) -> None:
        self.stored: list[tuple[Hashable, bytes]] = []
        self.batches: list[tuple[float, Hashable, int]] = []
        self.seconds = 0.0
        self.fail: Callable[[], Awaitable[None]] | None = None
        self.fail_open = False
        self.bad: frozenset[bytes] = frozenset()
        self.is_open = False
        self.shares = False
        self.busy: frozenset[Hashable] = frozenset()
        self.doubts: list[str] = []
        self.trouble: Counter[bytes] = Counter()
        # What was in doubt the last time, and what of it was stored: what a ledger knows.
        self._unsure: Sequence[Batch] | None = None
        self._done: set[bytes] = set()

    async def open(self) -> None:
        if self.fail_open:
            raise ConnectionError("no database")
        self.is_open = True

    def may_share(self, _lane: Hashable, /) -> bool:
        return self.shares

    def serial(self, _lane: Hashable, /) -> None:
        return None

    async def write(self, batches: Sequence[Batch], /) -> Results:
        """All or nothing, as in one transaction, but for lanes in `busy` and what is in doubt or trouble."""
        assert self.is_open, "opened before it is used, and again after a failure"
        assert self.shares or len(batches) == 1
        if batches is not self._unsure:
            self._unsure, self._done = None, set()
        now = asyncio.get_running_loop().time()
        self.batches += [(now, batch.lane, len(batch.submissions)) for batch in batches]
        # Taken now: whoever answers a submission meanwhile takes its payload away.
        payloads = [[cast("bytes", submission.payload) for submission in batch.submissions] for batch in batches]
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.fail is not None:
            self.is_open = False
            if self._done:
                raise InDoubt  # it must not say that nothing was stored
            await self.fail()
        if self.doubts:
            self._doubt(self.doubts.pop(0), batches, payloads)
        return [self._store(batch.lane, rows) for batch, rows in zip(batches, payloads, strict=True)]

    def _doubt(self, what: str, batches: Sequence[Batch], payloads: list[list[bytes]]) -> None:
        for batch, rows in zip(batches, payloads, strict=True):
            self._store(batch.lane, rows[: {"all": len(rows), "part": (len(rows) + 1) // 2, "none": 0}[what]])
        self._unsure = batches
        self.is_open = False
        raise InDoubt

    def _store(self, lane: Hashable, payloads: list[bytes]) -> Sequence[Outcome] | Exception:
        if lane in self.busy and self._done.isdisjoint(payloads):
            return ConnectionError("busy")
        return [self._store_one(lane, payload) for payload in payloads]

    def _store_one(self, lane: Hashable, payload: bytes) -> Outcome:
        if payload in self._done:
            return payload
        if payload in self.bad:
            return ValueError(payload)
        if self.trouble[payload]:
            self.trouble[payload] -= 1
            return ConnectionError("row locked")
        self.stored.append((lane, payload))
        self._done.add(payload)
        return payload

    async def close(self) -> None:
        self.is_open = False


def batcher_of(
    *sinks: FakeSink,
    limits: Limits | None = None,
    observe: Observe = lambda _flush, _batches, _failure: None,
    doubt_seconds: float = 20.0,
) -> Batcher:
    """A batcher on the running loop's clock."""
    clock = asyncio.get_running_loop().time
    retry = Retry(on=OSError, doubt=InDoubt)
    return Batcher(sinks, limits or Limits(), retry, doubt_seconds=doubt_seconds, observe=observe, clock=clock)


async def refuse() -> None:
    """A sink's failure: none was stored."""
    raise ConnectionError("no database")
