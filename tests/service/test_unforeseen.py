"""Bugs of ours, and what becomes of rows after a 202: the log line has the name by which its reader looks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import Connection, Running, Start
from tests.service.in_process import in_process, post

_BODY = b'{"a":"x"}'


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What is logged about bugs, which does not fail the test."""
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    logger = logging.getLogger("service.observing.unforeseen")
    logger.addFilter(keep)
    yield records
    logger.removeFilter(keep)


@pytest.fixture
def bug(logged: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """The same, and no row can be read."""
    monkeypatch.setattr("service.plan.Plan.encode", lambda *_: 1 / 0)
    monkeypatch.setattr("service.plan.Plan.encoding", lambda *_: 1 / 0)
    return logged


@pytest.mark.parametrize("timing", [[], [b"Prefer: server-timing"]])
@pytest.mark.parametrize("given", ["", "r-1"])
async def test_a_bug_has_a_name(given: str, timing: list[bytes], lane: str, bug: list[logging.LogRecord]) -> None:
    """In the answer and in the log: whoever reports it has seen nothing but the answer."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        names = [b"X-Request-Id: " + given.encode()] if given else []
        await client.send(post(_BODY, *names, *timing))
        (reply,) = await client.answered(1)
    (record,) = bug
    (name,) = [value.decode() for name, value in reply.headers if name == b"x-request-id"]
    assert (reply.status, reply.code) == (500, "HR500")
    assert name == vars(record)["request_id"] == (given or name)
    assert len(name) == (3 if given else 32)
    assert vars(record)["table"] == "public.t"
    assert record.exc_info is not None


async def test_each_bug_has_a_name_of_its_own(bug: list[logging.LogRecord]) -> None:
    """Two answers with the same name would both lead to the first line."""
    async with in_process() as server:
        client = server.connect()
        await client.send(post(_BODY), post(_BODY))
        await client.answered(2)
    first, second = bug
    assert vars(first)["request_id"] != vars(second)["request_id"]


async def test_an_answer_that_cannot_be_made_has_a_name(
    lane: str, monkeypatch: pytest.MonkeyPatch, logged: list[logging.LogRecord]
) -> None:
    """The rows are stored; all the more must the line be found."""
    async with in_process(fast_lane=lane == "fast") as server:
        monkeypatch.setattr("service.dialect.success.Success.answer", lambda *_: 1 / 0)
        client = server.connect()
        await client.send(post(_BODY))
        (reply,) = await client.answered(1)
    (record,) = logged
    assert (b"x-request-id", str(vars(record)["request_id"]).encode()) in reply.headers


def _of(caplog: pytest.LogCaptureFixture, logger: str) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.name == logger]


@pytest.mark.usefixtures("notes", "lane")
async def test_bad_rows_after_a_202_have_the_name_that_they_have_in_quarantine(
    headrace: Running, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is all that anybody hears of them; by its name they are found there."""
    await headrace.post("notes", {"text": "bad"}, prefer="respond-async", x_request_id="r-1")
    await headrace.post("notes", {"text": "bad"}, prefer="respond-async")
    await headrace.eventually(lambda: len(_of(caplog, "service.extras")) == 2)
    first, second = _of(caplog, "service.extras")
    assert (first["request_id"], first["table"]) == ("r-1", "public.notes")
    kept = await db.fetch("select request_id from headrace.quarantine order by 1")
    assert sorted([first["request_id"], second["request_id"]]) == sorted(row["request_id"] for row in kept)


@pytest.mark.usefixtures("notes")
async def test_rows_that_were_promised_and_are_lost_have_a_name(
    dsn: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a place for bad rows, the log is where they end."""
    async with start(dsn=dsn, at_least_once=True) as running:
        await running.post("notes", {"text": "bad"}, prefer="respond-async", x_request_id="r-1")
        await running.post("notes", {"text": "bad"}, prefer="respond-async")
        await running.eventually(lambda: len(_of(caplog, "service.extras")) == 2)
    first, second = _of(caplog, "service.extras")
    assert (first["request_id"], first["table"]) == ("r-1", "public.notes")
    assert "request_id" not in second, "one that nothing else has helps nobody"
