"""Rows 23 and 24 of the matrix: clients that go away, and more of them than the database can serve."""

from __future__ import annotations

import asyncio
import random

from tests.faults.checker import Expected
from tests.faults.conftest import Scene
from tests.faults.history import ROWS_MAX
from tests.faults.traffic import Mix
from tests.harness import Running


async def _leaves(headrace: Running, scene: Scene, chance: random.Random) -> None:
    """A client that is gone from one moment to the next: after a part of its request, or while it waits."""
    rows = chance.randint(1, 20)
    entry = scene.history.begin("t0", rows, 10)
    keys = range(entry.number * ROWS_MAX, entry.number * ROWS_MAX + rows)
    body = "\n".join(f'{{"key":{key},"value":"v{key}"}}' for key in keys).encode()
    head = f"POST /rest/v1/t0 HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-ndjson\r\ncontent-length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    async with headrace.connect() as connection:
        whole = chance.random() < 0.7
        await connection.send(request if whole else request[: chance.randrange(len(request))])
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.003, 0.01]))
        if chance.random() < 0.5:
            connection.reset()
    scene.history.end(entry, 0)


async def test_clients_that_go_away(scene: Scene) -> None:
    """Row 23: a request is stored as a whole or not at all, and nobody else notices."""
    chance = random.Random(23)
    async with scene.under_load() as (headrace, traffic):
        for _ in range(40):
            await asyncio.gather(*(_leaves(headrace, scene, chance) for _ in range(5)))
        await traffic.acknowledged(100)
        await traffic.stop()
        await headrace.eventually(lambda: not headrace.service.batcher.statistics().pending_submissions)
    report = await scene.judge(Expected(unknown_max=0, answers_may_be_lost=True))
    assert report.unanswered_requests == 200
    assert report.answers.keys() == {"201", "no answer"}


async def test_more_than_the_database_can_take(scene: Scene) -> None:
    """Row 24: what cannot be written in time is refused, and soon; what was accepted is written. Later all is well."""
    mix = Mix(kinds=["array"], rows=(20, 60), clients=96, deadline_seconds=2)
    async with scene.under_load(mix, pending_rows_max=1_000, request_seconds_max=2) as (headrace, traffic):
        scene.proxy.hold_seconds = 0.15
        await headrace.eventually(lambda: _refused(scene) >= 100)
        scene.proxy.hold_seconds = 0
        await traffic.acknowledged(2_000)
    await scene.judge(Expected(unknown_max=0))
    times = sorted(entry.ended - entry.sent for entry in scene.history.entries if entry.status == 429)
    assert times[int(len(times) * 0.99)] < 1


def _refused(scene: Scene) -> int:
    return sum(entry.status == 429 for entry in scene.history.entries)
