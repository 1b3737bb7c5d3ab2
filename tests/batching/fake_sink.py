"""A sink that is as slow, broken or absent as a test wants, and a batcher on it in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import cast

from batching import Batch, Batcher, Flush, Limits, Outcome, Retry


class FakeSink:
    """Stores payloads in `stored`; `fail` and `seconds` say how the next calls go."""

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

    async def open(self) -> None:
        if self.fail_open:
            raise ConnectionError("no database")
        self.is_open = True

    def may_share(self, _lane: Hashable, /) -> bool:
        return self.shares

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome] | Exception]:
        """All or nothing, as in one transaction, but for lanes in `busy`."""
        assert self.is_open, "opened before it is used, and again after a failure"
        assert self.shares or len(batches) == 1
        now = asyncio.get_running_loop().time()
        self.batches += [(now, batch.lane, len(batch.submissions)) for batch in batches]
        # Taken now: whoever answers a submission meanwhile takes its payload away.
        payloads = [[cast("bytes", submission.payload) for submission in batch.submissions] for batch in batches]
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.fail is not None:
            self.is_open = False
            await self.fail()
        return [self._store(batch.lane, rows) for batch, rows in zip(batches, payloads, strict=True)]

    def _store(self, lane: Hashable, payloads: list[bytes]) -> Sequence[Outcome] | Exception:
        if lane in self.busy:
            return ConnectionError("busy")
        self.stored += [(lane, payload) for payload in payloads if payload not in self.bad]
        return [ValueError(payload) if payload in self.bad else payload for payload in payloads]

    async def close(self) -> None:
        self.is_open = False


def batcher_of(
    *sinks: FakeSink, limits: Limits | None = None, observe: Callable[[Flush], object] = lambda _: None
) -> Batcher:
    """A batcher on the running loop's clock."""
    clock = asyncio.get_running_loop().time
    return Batcher(sinks, limits or Limits(), Retry(on=OSError), observe=observe, clock=clock)


async def refuse() -> None:
    """A sink's failure: none was stored."""
    raise ConnectionError("no database")
