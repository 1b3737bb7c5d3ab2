"""The counters balance: what is received is committed, rejected, quarantined, shed, unknown, failed or pending."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from batching import Batch, Outcome
from service.posting import Posting
from sql import BadRow, Fault, OutcomeUnknown, Rejected, Stored, TableChanged
from tests.harness import requests_by_outcome, rows_by_outcome, unbalanced
from tests.service.in_process import Client, InProcess, chunked, in_process, post

_ROWS = b"[" + b",".join([b'{"a":"x"}'] * 4) + b"]"
_LINES = b'{"a":"1"}\n{"a":\n{"a":"3"}\n'
_NDJSON = b"Content-Type: application/x-ndjson"
_KEEP = b"Prefer: bad-rows=quarantine"

REQUESTS = [
    post(_ROWS),
    post(b"[]"),
    post(b"{"),
    post(b'{"nope":1}'),
    post(_ROWS, line=b"POST /rest/v1/none HTTP/1.1"),
    post(_ROWS, b"Content-Type: text/xml"),
    post(_ROWS, b"Prefer: respond-async"),
    post(_ROWS, b"Prefer: return=representation"),
    post(_ROWS, b"Idempotency-Key: same"),
    post(b'{"a":"other"}', b"Idempotency-Key: same"),
    post(_ROWS, b"Idempotency-Key:"),
    post(_LINES, _NDJSON, _KEEP),
    post(_LINES, _NDJSON, b"Prefer: bad-rows=quarantine, respond-async"),
    post(b'{"nope":1}', _KEEP),
    post(b"[{}, 5]", _KEEP),
    post(b"{}" + b" " * 30_000, _KEEP),
    post(b'{"a":"' + b"x" * 70_000 + b'"}'),
    post(b" " * 200_000),
    chunked(_LINES, line=b"POST /rest/v1/t HTTP/1.1\r\n" + _NDJSON + b"\r\n" + _KEEP),
    chunked(b'{"a":', b'"x"}'),
]
"""One of each kind, and more rows at once than may wait."""


class _Moody:
    """What a database may say, by turns: all sorts of outcomes, for any request."""

    def __init__(self, server: InProcess, seed: int) -> None:
        self._random = random.Random(seed)
        self._gate = server.sink.gate

    async def write(self, batches: Sequence[Batch], /) -> Sequence[Sequence[Outcome] | Exception]:
        await self._gate.wait()
        for _ in range(self._random.randrange(5)):
            await asyncio.sleep(0)
        return [[self._outcome(cast("Posting", each)) for each in batch.submissions] for batch in batches]

    def _outcome(self, posting: Posting) -> Outcome:
        fault = Fault("22000", "bad")
        outcomes: list[Outcome] = [Rejected(fault), TableChanged("changed"), OutcomeUnknown()]
        if posting.extra is None:
            outcomes += [None] * 3
        else:
            outcomes += [Stored(None), Stored(None, [BadRow(1, b"x", fault)]), Stored(None, (), replayed=True)]
        return self._random.choice(outcomes)


@pytest.mark.parametrize("seed", range(20))
async def test_the_counters_balance_at_every_moment(seed: int, lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is sent, cut, left alone and refused, whatever the database says: nobody is lost or counted twice."""
    monkeypatch.setattr(logging.getLogger("service.extras"), "propagate", False)  # rows of a 202 that are lost here
    choose = random.Random(seed)
    turns = 0
    async with in_process(fast_lane=lane == "fast", pending_rows_max=40, body_bytes_max=100_000) as server:
        service, postings = server.service, server.service.postings
        server.service.batcher._slots[0].sink.write = _Moody(server, seed).write  # type: ignore[method-assign]

        async def watch() -> None:
            nonlocal turns
            while True:
                turns += 1
                assert unbalanced(service) == (0, 0)
                await asyncio.sleep(0)

        async def producer() -> None:
            client = server.connect()
            for _ in range(12):
                request = choose.choice(REQUESTS)
                place = choose.randrange(len(request))
                await _send(client, request[:place], request[place:], leaves=choose.random() < 0.1)
                if client.is_over():
                    client = server.connect()
            await client.hang_up()

        watching = asyncio.create_task(watch())
        producing = [asyncio.create_task(producer()) for _ in range(8)]
        for _ in range(20):
            server.sink.gate.clear() if choose.random() < 0.3 else server.sink.gate.set()
            for _ in range(30):
                await asyncio.sleep(0)
        server.sink.gate.set()
        await asyncio.gather(*producing)
        for _ in range(2000):
            if postings.pending() == (0, 0):
                break
            await asyncio.sleep(0)
        assert postings.pending() == (0, 0)
        assert turns > 500
        assert not watching.done(), watching.exception()
        watching.cancel()
        used = {outcome for outcome, requests in requests_by_outcome(service).items() if requests}
        assert used >= {"committed", "rejected"}
        assert postings.received_requests == sum(requests_by_outcome(service).values()) > 60
        assert postings.received_rows == sum(rows_by_outcome(service).values()) > 0
        assert postings.keys is not None
        assert not postings.keys._under_way
        assert postings.rows_aside == 0


async def _send(client: Client, *pieces: bytes, leaves: bool) -> None:
    before = len(client.transport.written)
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0)
        if leaves and len(pieces[0]) % 2:
            await client.hang_up()
            return
    if leaves:
        await client.hang_up()
        return
    for _ in range(3000):
        if client.is_over() or len(client.transport.written) > before:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"no answer to {pieces!r}")


@pytest.mark.parametrize("wish", [b"Prefer: return=representation", b"Idempotency-Key: k"])
async def test_an_answer_that_cannot_be_made_is_an_error(
    wish: bytes, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence would hold the client up for as long as it has patience. The rows are stored, so they count as such."""
    async with in_process(fast_lane=lane == "fast") as server:
        monkeypatch.setattr("tests.service.in_process._outcome", lambda *_: Stored(cast("Any", "nonsense")))
        complaints: list[str] = []
        monkeypatch.setattr(
            logging.getLogger("service.observing.unforeseen"), "error", lambda what, **_: complaints.append(what)
        )
        monkeypatch.setattr("service.dialect.success.Success.answer", lambda *_: 1 / 0)
        client = server.connect()
        await client.send(post(_ROWS, wish))
        (reply,) = await client.quiet()
        assert (reply.status, reply.code) == (500, "HR500")
        assert complaints == ["the answer to a request whose rows are stored could not be made"]
        assert server.sink.rows
        await client.hang_up()
