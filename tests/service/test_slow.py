"""What took long is in the log, with its parts; and an outage does not fill the disk with such lines."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from batching import Batch, Flush
from headrace import Headrace
from service.observing.slow import SlowLog
from service.posting import Posting
from tests.harness import Connection, Running, Start
from tests.service.in_process import in_process, post

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _lines(caplog: pytest.LogCaptureFixture, beginning: str = "") -> list[dict[str, Any]]:
    """The fields of each line that begins so, with its text as `text`."""
    return [
        {"text": record.getMessage()} | {name: value for name, value in vars(record).items() if name not in _USUAL}
        for record in caplog.records
        if record.name == "service.observing.slow" and record.getMessage().startswith(beginning)
    ]


async def _locked(running: Running, db: Connection, seconds: float, *bodies: object, **headers: str) -> list[int]:
    """The statuses of requests that were sent while the table was locked for so long."""
    async with asyncio.TaskGroup() as tasks, running.gathering(db, "notes", len(bodies)):
        sent = [tasks.create_task(running.post("notes", body, **headers)) for body in bodies]
        await asyncio.sleep(seconds)
    return [(await task).status_code for task in sent]


# -------------------------------------------------------------------- requests


@pytest.mark.usefixtures("notes", "lane")
async def test_a_slow_request_is_logged_with_its_parts(
    dsn: str, db: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Was it the queue or the database, and had it company? Then the reader knows which knob to turn."""
    async with start(dsn=dsn, slow_request_seconds=0.2, flush_slots=1) as running:
        bodies = [[{"text": "a"}], [{"text": "b"}, {"text": "c"}]]
        assert await _locked(running, db, 0.3, *bodies, x_request_id="r-1") == [201, 201]
        await running.post("notes", {"text": "quick"})
    lines = _lines(caplog)
    assert len(lines) == 2
    for line in lines:
        seconds = line.pop("seconds")
        read, queue, write = line.pop("read_seconds"), line.pop("queue_seconds"), line.pop("write_seconds")
        assert 0.2 <= seconds < 10
        assert min(read, queue, write) >= 0
        assert 0.2 < read + queue + write <= seconds + 1e-5
        parts = f"{read:.3f} s to be read, {queue:.3f} s in the queue, {write:.3f} s for the write"
        assert line.pop("text") == f"a request took {seconds:.3f} s: {parts}"
    first, second = sorted(lines, key=lambda line: cast("int", line["rows"]))
    assert (first["rows"], second["rows"]) == (1, 2)
    for line in lines:
        assert line["batch_rows"] >= line.pop("rows")
        assert line.pop("batch_rows") >= line.pop("batch_requests") >= 1
        assert line == {
            "table": "public.notes",
            "outcome": "committed",
            "request_id": "r-1",
            "slots_busy": 1,
            "slots_idle": 0,
        }


@pytest.mark.usefixtures("notes", "lane")
async def test_a_request_that_was_given_up_is_slow_as_well(
    dsn: str, db: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """All of its time went into waiting, and no flush that ended had it."""
    async with start(dsn=dsn, slow_request_seconds=0.5, lock_seconds_max=0.1) as running, db.transaction():
        await db.execute("lock table notes in exclusive mode")
        answer = await running.post("notes", {"text": "a"}, prefer="wait=1", traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    assert answer.json()["code"] == "HR503"
    (line,) = _lines(caplog)
    seconds, read, queue = line["seconds"], line["read_seconds"], line["queue_seconds"]
    assert line["text"] == f"a request took {seconds:.3f} s: {read:.3f} s to be read, {queue:.3f} s in the queue"
    assert 0.9 <= queue <= seconds
    assert (line["outcome"], line["rows"], line["request_id"]) == ("shed", 1, "a" * 32)
    assert "write_seconds" not in line
    assert "batch_rows" not in line


@pytest.mark.usefixtures("notes")
async def test_a_bad_row_is_no_reason_to_say_less(
    dsn: str, db: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused request has waited like any other."""
    async with start(dsn=dsn, slow_request_seconds=0.2) as running:
        assert await _locked(running, db, 0.3, {"text": "bad"}) == [400]
        assert await _locked(running, db, 0.3, {"text": "bad"}, prefer="bad-rows=quarantine") == [201]
        assert await _locked(running, db, 0.3, {"text": "a"}, idempotency_key="k") == [201]
    lines = _lines(caplog)
    assert [line["outcome"] for line in lines] == ["rejected", "quarantined", "committed"]
    for line in lines:
        assert line["rows"] == line["batch_requests"] == 1
        assert line["write_seconds"] >= 0.2


async def test_a_slow_body_is_slow(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """The database had no part in it, so nothing of it is in the line."""
    settings: dict[str, Any] = {"slow_request_seconds": 0.01, "body_seconds_max": 0.05, "fast_lane": lane == "fast"}
    async with in_process(**settings) as server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.service.postings.run)
        client = server.connect()
        await client.send(post(b'{"a":"x"}', b"X-Request-Id: r-1")[:-1])
        while not client.replies:  # noqa: ASYNC110 - the clock decides when
            await asyncio.sleep(0.001)
        await client.hang_up()
        tasks.cancel_scope.cancel()
    (line,) = _lines(caplog)
    seconds = line.pop("seconds")
    assert line.pop("text") == f"a request took {seconds:.3f} s"
    assert line == {"table": "public.t", "request_id": "r-1", "outcome": "rejected", "rows": 0}


async def test_the_time_that_a_body_took_is_told_apart(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """A slow client is the most frequent reason of all, and no database is to blame for it."""
    async with in_process(slow_request_seconds=0.03, fast_lane=lane == "fast") as server:
        client = server.connect()
        request = post(b'{"a":"x"}')
        await client.send(request[:-1])
        await client.quiet()
        await asyncio.sleep(0.05)
        await client.send(request[-1:])
        await client.answered(1)
    (line,) = _lines(caplog)
    assert 0.04 <= line["read_seconds"] <= line["seconds"]
    assert line["outcome"] == "committed"


@pytest.mark.usefixtures("notes")
async def test_an_insert_of_the_library_is_a_request(
    dsn: str, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The program that waits for it is as slow as any client."""
    async with Headrace(dsn, slow_request_seconds=0.2) as headrace:
        async with db.transaction():
            await db.execute("lock table notes in exclusive mode")
            task = asyncio.create_task(headrace.insert("notes", {"text": "a"}))
            await asyncio.sleep(0.3)
        await task
    (line,) = _lines(caplog)
    assert (line["table"], line["outcome"], line["rows"]) == ("public.notes", "committed", 1)


# -------------------------------------------------------------------- flushes


@pytest.mark.usefixtures("notes")
async def test_a_slow_flush_is_logged_with_its_parts(
    dsn: str, db: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """One that stored nothing says of what kind the reason was, but not its words: they may be about a row."""
    async with start(dsn=dsn, slow_flush_seconds=0.2, lock_seconds_max=0.25) as running:
        assert await _locked(running, db, 0.3, [{"text": "a"}, {"text": "b"}]) == [201]
        await running.post("notes", {"text": "quick"})
    line = _lines(caplog, "a flush")[0]
    seconds = line.pop("seconds")
    assert 0.2 <= seconds < 10
    assert line.pop("text") == f"a flush took {seconds:.3f} s: 2 rows for public.notes"
    assert line.pop("bytes") > 0
    assert line == {
        "tables": ["public.notes"],
        "lanes": 1,
        "requests": 1,
        "rows": 2,
        "slots_busy": 1,
        "slots_idle": 1,
        "failure": "Unavailable",
    }


def _batches(*names: str) -> list[Batch]:
    targets = [SimpleNamespace(table=SimpleNamespace(schema="public", name=name)) for name in names]
    return [Batch(cast("Any", target), (), 1, 1, 0.0, 0, cast("Any", target), True) for target in targets]


_SLOW = Flush(2, 3, 4, 5, 10.0, 12.0, 1, 2)


def test_many_tables_are_counted_after_the_first_few(caplog: pytest.LogCaptureFixture) -> None:
    """A flush can be for hundreds, and two lanes for the same one."""
    SlowLog(1, 1).flush(_SLOW, _batches("a", "b", "a", "c", "d", "e", "f", "g"), None)
    (line,) = _lines(caplog)
    assert line["text"].endswith("4 rows for public.a, public.b, public.c, public.d, public.e and 2 others")
    assert line["tables"] == [f"public.{name}" for name in "abcde"]
    assert "failure" not in line


# -------------------------------------------------------------------- not too many


def _posting() -> Posting:
    return cast(
        "Posting",
        SimpleNamespace(
            flush=None,
            is_submitted=False,
            began=1.0,
            span=None,
            account=None,
            table_name="",
            marks=SimpleNamespace(name=""),
            rows=1,
        ),
    )


def test_there_are_only_so_many_lines_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """Of requests and of flushes apart: those of a slow flush come first, and it must not be one of "17 more"."""
    slow = SlowLog(1, 1)
    for _ in range(9):
        slow.request(_posting(), "committed", 2.0)
    for _ in range(6):
        slow.flush(_SLOW, _batches("t"), None)
    assert len(_lines(caplog, "a request took")) == len(_lines(caplog, "a flush took")) == 5
    slow.next_second()
    assert [line["text"] for line in _lines(caplog)[10:]] == ["more slow requests: 4", "more slow flushes: 1"]
    caplog.clear()
    slow.next_second()
    assert _lines(caplog) == [], "nothing is left out, so nothing is said"
    slow.request(_posting(), "committed", 2.0)
    assert len(_lines(caplog)) == 1, "in another second there is room again"


async def test_what_was_left_out_is_said_although_nothing_follows(caplog: pytest.LogCaptureFixture) -> None:
    """An outage ends, and its last second would never be told of."""
    slow = SlowLog(1, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slow.run)
        for _ in range(6):
            slow.request(_posting(), "committed", 2.0)
        while len(_lines(caplog)) < 6:  # noqa: ASYNC110 - `logging` has no event for it
            await asyncio.sleep(0.01)
        assert _lines(caplog)[-1]["text"] == "more slow requests: 1"
        for _ in range(7):
            slow.request(_posting(), "committed", 2.0)
        tasks.cancel_scope.cancel()  # as the service stops
    assert _lines(caplog)[-1]["text"] == "more slow requests: 2"


@pytest.mark.usefixtures("notes")
async def test_the_service_tells_what_it_left_out_when_it_stops(
    dsn: str, db: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """All of this is worth nothing if nobody runs it."""
    async with start(dsn=dsn, slow_request_seconds=0.1) as running:
        assert await _locked(running, db, 0.2, *[{"text": "a"}] * 8) == [201] * 8
    texts = [line["text"] for line in _lines(caplog)]
    assert len([text for text in texts if text.startswith("a request took")]) == 5
    assert "more slow requests: 3" in texts
