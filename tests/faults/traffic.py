"""Clients that send rows and note what they are told. Seeded; only requests with an idempotency key are sent again.

Owns what is sent. Rows are (key, value), with keys by which every single one is known: see `history.ROWS_MAX`.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from bench.client import Client, post
from tests.faults.history import ROWS_MAX, History

TABLES = ("t0", "t1", "t2")
SCHEMA = ";".join(f"create table {table} (key bigint not null, value text)" for table in TABLES)
"""Nothing is unique in them, so that a row that is written twice is there twice."""

SPOILT = (
    '{"key":null,"value":"null"}',
    '{"key":"x","value":"a word for a number"}',
    '{"key":99999999999999999999,"value":"too large"}',
    r'{"key":KEY,"value":"a NUL: \u0000"}',
)
"""Rows that the tables cannot hold; KEY stands for the key that the row should have had."""

_PATIENCE_SECONDS = 60.0
"""A client that has waited so long for an answer goes away, and the checker hears of it."""
_PAUSE_SECONDS = 0.05
"""Between two attempts of a client that was refused: the fault may last, and the log be long."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What kinds of requests are sent, and by how many clients at what pace each (0: one after the other)."""

    kinds: Sequence[str] = ("object", "array", "lines", "returning")
    rows: tuple[int, int] = (2, 20)
    clients: int = 8
    pause_seconds: float = 0.0
    spoilt_share: float = 0.0
    spoilt: Sequence[str] = SPOILT
    tables: Sequence[str] = TABLES
    deadline_seconds: float = 10.0


_AGAIN = frozenset({0, 409, 429, 503})
"""The statuses after which a request with an idempotency key is sent again: no answer; the first one is under way; not
now, or nobody knows."""


class _Problem(msgspec.Struct):
    code: str = ""


class Traffic:
    """The clients of a service that listens on `port`. What they send depends on the seed and on nothing else."""

    def __init__(self, port: int, history: History, mix: Mix, seed: int = 1) -> None:
        self.history = history
        self.mix = mix
        self._port = port
        self._client = Client(port, mix.clients)
        self._random = random.Random(seed)
        self._name = uuid.uuid4().hex
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Traffic]:
        """Send as long as this lasts; then wait for the answers to what was sent."""
        self._tasks = [asyncio.create_task(self._one_client()) for _ in range(self.mix.clients)]
        try:
            yield self
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Send nothing more, and wait for the answers that are due."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._client.close()

    async def acknowledged(self, more_rows: int = 1) -> None:
        """Wait until so many more rows are acknowledged; the test's time limit ends the wait."""
        wanted = self.history.acknowledged_rows + more_rows
        while self.history.acknowledged_rows < wanted:  # noqa: ASYNC110 - the clients send no event
            await asyncio.sleep(0.005)

    async def send(self, table: str, kind: str, rows: int, *, spoilt: bool = False) -> None:
        """One request and its outcome."""
        entry = self.history.begin(table, rows, self.mix.deadline_seconds, spoilt=spoilt)
        keys = range(entry.number * ROWS_MAX, entry.number * ROWS_MAX + rows)
        texts = [f'{{"key":{key},"value":"v{key}"}}' for key in keys]
        if spoilt:
            place = self._random.randrange(rows)
            texts[place] = self._random.choice(self.mix.spoilt).replace("KEY", str(keys[place]))
        key = f"{self._name}-{entry.number}" if kind == "keyed" else ""
        try:
            client = Client(self._port, 1) if kind == "fresh" else self._client
            status, code = await self._told(_request(table, kind, texts, key), client)
            while key and status in _AGAIN and time.monotonic() < entry.deadline:
                await asyncio.sleep(_PAUSE_SECONDS)
                status, code = await self._told(_request(table, kind, texts, key), client)
        except TimeoutError:
            return  # it stays without an outcome, which the checker will not like
        self.history.end(entry, status, code)

    async def _told(self, request: bytes, client: Client) -> tuple[int, str]:
        """Status and code of the answer; status 0 if the connection ended without one. Raises `TimeoutError`."""
        try:
            answer, _ = await client.send(request, _PATIENCE_SECONDS)
        except TimeoutError:
            raise
        except OSError:
            return 0, ""
        return answer.status, msgspec.json.decode(answer.body, type=_Problem).code if answer.status >= 400 else ""

    async def _one_client(self) -> None:
        mix, chance = self.mix, self._random
        while not self._stopping:
            kind = chance.choice(mix.kinds)
            rows = 1 if kind == "object" else chance.randint(*mix.rows)
            before = len(self.history.entries)
            await self.send(chance.choice(mix.tables), kind, rows, spoilt=chance.random() < mix.spoilt_share)
            was_refused = len(self.history.entries) > before and self.history.entries[-1].outcome != "ok"
            await asyncio.sleep(_PAUSE_SECONDS if was_refused else mix.pause_seconds * chance.uniform(0.5, 1.5))


def _request(table: str, kind: str, texts: list[str], key: str) -> bytes:
    path = f"/rest/v1/{table}"
    if kind == "object":
        return post(path, texts[0].encode(), "application/json")
    if kind == "lines":
        return post(path, "\n".join(texts).encode(), "application/x-ndjson")
    body = f"[{','.join(texts)}]".encode()
    if key:
        return post(path, body, f"application/json\r\nIdempotency-Key: {key}")
    if kind == "fresh":  # on a connection of its own
        return post(path, body, "application/json\r\nConnection: close")
    if kind == "returning":
        return post(path, body, "application/json\r\nPrefer: return=representation")
    return post(path, body, "application/json")
