"""Bad rows that are kept: what their request is told, and that nothing is lost when nobody is left to be told."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest

from batching import QueueFull
from sql import Stored, TableChanged
from tests.harness import Connection, Running, Start, rows_by_outcome, rows_of, unbalanced
from tests.service.in_process import InProcess, catalog, chunked, in_process, post
from tests.service.test_health import numbers
from tests.sql.tables import column, table

KEEP = "bad-rows=quarantine"
ITEMS = "create table items (id int primary key, name text check (name <> ''), made date default '2026-01-01')"


@pytest.fixture
async def items(db: Connection) -> Connection:
    """A database with the table `items`."""
    await db.execute(ITEMS)
    return db


async def kept(db: Connection) -> list[tuple[Any, ...]]:
    """What is in quarantine: the row, its number, its code."""
    return await rows_of(db, "select row, row_number, code from headrace.quarantine order by id")


# ---------------------------------------------------------------- asked for


@pytest.mark.usefixtures("lane")
async def test_good_rows_are_stored_and_bad_ones_kept(items: Connection, headrace: Running) -> None:
    """One bad reading in a thousand should not cost the other 999; and the producer is told which one it was."""
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": ""}, {"id": 3, "name": "c"}, {"id": "four", "name": "d"}]
    answer = await headrace.post("items", rows, prefer=KEEP, x_request_id="r-1")
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == KEEP
    assert answer.headers["headrace-quarantined"] == "2"
    assert answer.headers["headrace-quarantined-rows"] == "2,4"
    told = answer.json()
    assert (told["stored"], told["request_id"]) == (2, "r-1")
    assert [(bad["row"], bad["code"], bad["column"]) for bad in told["quarantined"]] == [
        (2, "23514", None),
        (4, "22P02", "id"),
    ]
    assert "violates check constraint" in told["quarantined"][0]["message"]
    assert "Failing row contains (2, , 2026-01-01)" in told["quarantined"][0]["details"]
    assert await rows_of(items, "select id from items order by id") == [(1,), (3,)]
    assert await kept(items) == [('{"id":2,"name":""}', 2, "23514"), ('{"id":"four","name":"d"}', 4, "22P02")]
    names = "schema_name, table_name, request_id, column_name"
    assert await rows_of(items, f"select distinct {names} from headrace.quarantine where column_name <> ''") == [
        ("public", "items", "r-1", "id")
    ]


@pytest.mark.usefixtures("lane")
async def test_nothing_bad_is_an_ordinary_success(items: Connection, headrace: Running) -> None:
    """The wish costs nothing then; that it was heard stands in the answer."""
    answer = await headrace.post("items", [{"id": 1}, {"id": 2}], prefer=KEEP)
    assert (answer.status_code, answer.content) == (201, b"")
    assert answer.headers["preference-applied"] == KEEP
    assert "headrace-quarantined" not in answer.headers
    assert await items.fetchval("select count(*) from items") == 2


@pytest.mark.usefixtures("lane")
async def test_returned_rows_are_the_stored_ones(items: Connection, headrace: Running) -> None:
    """The body is taken by them, so the bad ones are named in the headers alone."""
    await items.execute("alter table items add note text default 'new'")
    rows = [{"id": 1}, {"id": None}, {"id": 3}]
    answer = await headrace.post("items", rows, prefer=f"return=representation, {KEEP}, wait=5")
    assert answer.status_code == 201
    assert answer.headers["preference-applied"] == f"return=representation, {KEEP}, wait=5"
    assert answer.headers["headrace-quarantined-rows"] == "2"
    assert [(row["id"], row["note"]) for row in answer.json()] == [(1, "new"), (3, "new")]


@pytest.mark.usefixtures("lane")
async def test_what_the_codec_refuses_is_kept_as_it_came(items: Connection, headrace: Running) -> None:
    """A line that is no JSON, one that is cut short, and one with a column that nobody knows."""
    body = b'{"id":1}\n{"id":\n\nnonsense\n{"id":4,"nope":true}\n{"id":5,"name":"e"}'
    answer = await headrace.lines("items", body, prefer=KEEP)
    assert (answer.status_code, answer.headers["headrace-quarantined-rows"]) == (201, "2,3,4")
    assert answer.json()["stored"] == 2
    assert await rows_of(items, "select id, made::text from items order by id") == [
        (1, "2026-01-01"),
        (5, "2026-01-01"),
    ]
    assert await kept(items) == [
        ('{"id":', 2, "PGRST102"),
        ("nonsense", 3, "PGRST102"),
        ('{"id":4,"nope":true}', 4, "PGRST204"),
    ]


async def test_bodies_of_any_size_are_taken_apart(items: Connection, headrace: Running) -> None:
    """A large body is not kept for its own sake, but for this; by both ways of writing."""
    lines = [b'{"id":%d,"name":"%d"}' % (n, n) for n in range(20_000)]
    lines[7] = b'{"id":7,"name":""}'
    lines[15_000] = b'{"id":15000,'
    for prefer in (KEEP, f"{KEEP}, return=representation"):
        answer = await headrace.lines("items", b"\n".join(lines), prefer=prefer)
        assert (answer.status_code, answer.headers["headrace-quarantined-rows"]) == (201, "8,15001")
        assert await items.fetchval("select count(*) from items") == 19_998
        assert await kept(items) == [('{"id":15000,', 15_001, "PGRST102"), ('{"id":7,"name":""}', 8, "23514")] or (
            await kept(items) == [('{"id":7,"name":""}', 8, "23514"), ('{"id":15000,', 15_001, "PGRST102")]
        )
        await items.execute("truncate items; truncate headrace.quarantine")


@pytest.mark.usefixtures("lane")
async def test_a_request_of_nothing_but_bad_rows(items: Connection, headrace: Running) -> None:
    """They are all kept, which is what was asked for; the first hundred are named, and all are counted."""
    answer = await headrace.post("items", [{"nope": n} for n in range(150)], prefer=KEEP)
    assert (answer.status_code, answer.headers["headrace-quarantined"]) == (201, "150")
    assert answer.headers["headrace-quarantined-rows"] == ",".join(map(str, range(1, 101)))
    told = answer.json()
    assert (told["stored"], len(told["quarantined"])) == (0, 100)
    assert len(told["request_id"]) == 32
    assert await items.fetchval("select count(*) from headrace.quarantine") == 150
    found = await numbers(headrace)
    assert found['headrace_requests_total{outcome="quarantined",table="public.items"}'] == 1
    assert found['headrace_rows_total{outcome="quarantined",table="public.items"}'] == 150
    assert found["headrace_received_rows_total"] == 150
    assert found["headrace_unbalanced_requests"] == found["headrace_unbalanced_rows"] == 0


@pytest.mark.usefixtures("lane")
async def test_a_new_column_is_looked_for_first(items: Connection, headrace: Running) -> None:
    """Rows for a column that was added a moment ago are not bad; not even beside one that is."""
    assert (await headrace.post("items", {"id": 1}, prefer=KEEP)).status_code == 201
    await items.execute("alter table items add extra int")
    answer = await headrace.post("items", {"id": 2, "extra": 2}, prefer=KEEP)
    assert (answer.status_code, answer.content) == (201, b"")
    await items.execute("alter table items add more int")
    answer = await headrace.lines("items", b'{"id":\n{"id":3,"more":3}\n', prefer=KEEP)
    assert (answer.status_code, answer.headers["headrace-quarantined-rows"]) == (201, "1")
    assert await items.fetchval("select more from items where id = 3") == 3


@pytest.mark.usefixtures("lane")
async def test_what_is_no_row_fault_is_refused_as_ever(items: Connection, headrace: Running) -> None:
    """A body that cannot be divided, a table that is not there: nothing is kept of those."""
    for body, name, code in (
        (b'[{"id":1},', "items", "PGRST102"),
        (b'{"id":1}', "nothing", "PGRST205"),
    ):
        answer = await headrace.post(name, body, prefer=KEEP)
        assert (answer.status_code // 100, answer.json()["code"]) == (4, code)
    assert await kept(items) == []


@pytest.mark.usefixtures("lane")
async def test_a_repeated_request_is_told_the_same(items: Connection, headrace: Running) -> None:
    """With a key: the bad rows are kept once, and named again, under the same request id."""
    rows = [{"id": 1}, {"id": 1}]
    first, second = [await headrace.post("items", rows, prefer=KEEP, idempotency_key="k") for _ in range(2)]
    assert first.status_code == second.status_code == 201
    assert second.headers["idempotency-replayed"] == "true"
    assert first.json() == second.json()
    assert first.json()["stored"] == 1
    assert await items.fetchval("select count(*) from headrace.quarantine") == 1


@pytest.mark.usefixtures("lane")
async def test_without_tables_of_its_own_a_service_has_no_quarantine(items: Connection, dsn: str, start: Start) -> None:
    """The preference is not applied, and the answer does not say that it was."""
    async with start(dsn=dsn, at_least_once=True) as headrace:
        answer = await headrace.post("items", [{"id": 1}, {"id": "x"}], prefer=KEEP)
        assert (answer.status_code, answer.json()["code"]) == (400, "22P02")
        answer = await headrace.post("items", {"id": 1}, prefer=KEEP)
        assert (answer.status_code, "preference-applied" in answer.headers) == (201, False)
    assert await items.fetchval("select to_regnamespace('headrace') is null")


# ---------------------------------------------------------------- after a 202


@pytest.mark.usefixtures("lane")
async def test_rows_of_a_202_that_turn_out_bad_are_kept(
    items: Connection, headrace: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else is left to be told; the log says where they are."""
    rows = [{"id": 1}, {"id": 1}, {"id": "x"}]
    answer = await headrace.post("items", rows, prefer="respond-async", x_request_id="r")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
    await headrace.eventually(lambda: headrace.service.postings.pending() == (0, 0))
    assert await rows_of(items, "select id from items") == [(1,)]
    assert sorted(await kept(items)) == [('{"id":"x"}', 3, "22P02"), ('{"id":1}', 2, "23505")]
    assert '2 of 3 rows for "public"."items" that were accepted with 202 are in quarantine (request r)' in caplog.text
    found = await numbers(headrace)
    assert found['headrace_rows_total{outcome="committed",table="public.items"}'] == 1
    assert found['headrace_rows_total{outcome="quarantined",table="public.items"}'] == 2
    assert found['headrace_requests_total{outcome="committed",table="public.items"}'] == 1


@pytest.mark.usefixtures("lane")
async def test_what_cannot_be_read_is_refused_before_the_202(items: Connection, headrace: Running) -> None:
    """As long as somebody is there who can mend it; unless he would rather not."""
    answer = await headrace.post("items", {"nope": 1}, prefer="respond-async")
    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST204")
    answer = await headrace.post("items", {"nope": 1}, prefer=f"respond-async, {KEEP}")
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, f"respond-async, {KEEP}")
    await headrace.eventually(lambda: headrace.service.postings.pending() == (0, 0))
    assert await kept(items) == [('{"nope":1}', 1, "PGRST204")]


@pytest.mark.parametrize("change", ["drop table items", "alter table items drop name", "alter table items add x int"])
@pytest.mark.usefixtures("lane")
async def test_a_table_that_changes_after_the_202(
    change: str, items: Connection, headrace: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that do not fit any more are kept, those that do are stored."""
    assert (await headrace.post("items", {"id": 1, "name": "a"})).status_code == 201
    async with items.transaction():
        await items.execute("lock table items in access exclusive mode")
        answer = await headrace.lines(
            "items", b'{"id":2,"name":"b"}\n{"id":3,"name":"c"}\n', prefer="respond-async", x_request_id="r"
        )
        assert answer.status_code == 202
        await items.execute(change)
    await headrace.eventually(lambda: headrace.service.postings.pending() == (0, 0))
    if "add" in change:
        assert await items.fetchval("select count(*) from items") == 3
        assert await kept(items) == []
    else:
        code = "PGRST205" if change == "drop table items" else "PGRST204"
        assert await kept(items) == [('{"id":2,"name":"b"}', 1, code), ('{"id":3,"name":"c"}', 2, code)]
        assert "are in quarantine (request r)" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_rows_of_a_202_wait_as_long_as_it_takes(items: Connection, dsn: str, start: Start) -> None:
    """A lock that is held longer than any deadline is no reason to lose rows that were accepted."""
    async with start(dsn=dsn, request_seconds_max=0.2, lock_seconds_max=0.1, retry_seconds_max=0.1) as headrace:
        async with items.transaction():
            await items.execute("lock table items in access exclusive mode")
            assert (await headrace.post("items", {"id": 1}, prefer="respond-async, wait=1")).status_code == 202
            late = await headrace.post("items", {"id": 2})
            assert (late.status_code, late.json()["code"]) == (503, "HR503")
        await headrace.eventually(lambda: headrace.service.postings.pending() == (0, 0))
    assert await rows_of(items, "select id from items") == [(1,)]


# ---------------------------------------------------------------- without a database


async def _accepted(server: InProcess, body: bytes) -> None:
    """Have rows accepted with 202, and leave."""
    client = server.connect()
    await client.send(post(body, b"Prefer: respond-async"))
    assert [reply.status for reply in await client.answered(1)] == [202]
    await client.hang_up()
    await client.quiet()


async def test_promised_rows_wait_for_room(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has changed, they are read again, and the queue is full by now: they come later, not never."""
    monkeypatch.setattr("service.postings.Postings._SWEEP_SECONDS_MAX", 0.01)
    async with in_process(fast_lane=lane == "fast", pending_rows_max=2) as server:
        postings, sink = server.service.postings, server.sink
        sweeping = asyncio.create_task(postings.run())
        sink.gate.clear()
        changed = [TableChanged("changed")]
        store = sink._store
        sink._store = lambda batch: [changed.pop()] if changed else store(batch)  # type: ignore[method-assign]
        await _accepted(server, b'[{"a":"1"},{"a":"2"}]')
        submit = server.service.batcher.submit
        attempts = []

        def refuse_once(lane: Any, submission: Any) -> None:
            attempts.append(submission)
            if len(attempts) == 1:
                raise QueueFull(retry_seconds=1)
            submit(lane, submission)

        monkeypatch.setattr(server.service.batcher, "submit", refuse_once)
        sink.gate.set()
        while postings.pending() != (0, 0):
            assert unbalanced(server.service) == (0, 0)
            await asyncio.sleep(0.001)
        sweeping.cancel()
        assert len(attempts) == 2
    assert sink.rows == ["1", "2"]


async def test_promised_rows_that_still_wait_at_the_end_are_counted(
    lane: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of the process is the one thing that loses them, and the log says which."""
    monkeypatch.setattr("tests.service.in_process._Errors.emit", lambda _handler, _record: None)
    async with in_process(fast_lane=lane == "fast") as server:
        server.sink.gate.clear()
        await _accepted(server, b'{"a":"1"}')
        await _accepted(server, b'{"a":"2"}')
        assert server.service.postings.pending() == (2, 2)
    assert server.service.postings.pending() == (0, 0)
    rows = rows_by_outcome(server.service)
    assert (rows["shed"], rows["unknown"]) == (1, 1)
    assert "HR505" in caplog.text


async def test_a_catalog_without_the_table(lane: str) -> None:
    """Nothing of the body means anything any more, and all of it is kept, row by row."""
    async with in_process(fast_lane=lane == "fast") as server:
        sink = server.sink
        seen: list[Any] = []

        def store(batch: Any) -> list[object]:
            if batch.submissions[0].payload:
                server.service.ingest.publish(type(catalog())(("public",), {}))
                return [TableChanged("gone")]
            seen.extend(batch.submissions[0].extra.salvage.bad)
            return [Stored(None, seen)]

        sink._store = store  # type: ignore[method-assign]
        await _accepted(server, b'[{"a":"1"}, {"a": "2"}]')
        assert [(bad.row, bad.raw, bad.fault.code) for bad in seen] == [
            (1, b'{"a":"1"}', "PGRST205"),
            (2, b'{"a": "2"}', "PGRST205"),
        ]
        assert rows_by_outcome(server.service)["quarantined"] == 2


async def test_rows_that_are_good_by_the_next_catalog(lane: str) -> None:
    """What was bad by the last one is forgotten with it."""
    async with in_process(fast_lane=lane == "fast") as server:
        sink = server.sink
        kept_rows: list[int] = []

        def store(batch: Any) -> list[object]:
            (request,) = batch.submissions
            kept_rows.append(len(request.extra.salvage.bad))
            if len(kept_rows) == 1:
                server.service.ingest.publish(catalog("a", "b"))
                return [TableChanged("changed")]
            return [Stored(None, request.extra.salvage.bad)]

        sink._store = store  # type: ignore[method-assign]
        strict = catalog("a", "b")
        columns = {"a": column("a", generated=True), "b": column("b")}
        server.service.ingest.publish(replace(strict, tables={("public", "t"): table(*columns.values())}))
        client = server.connect()
        body = b'{"b":"1"}\n{"a":"2","b":"2"}\n'
        await client.send(post(body, b"Prefer: bad-rows=quarantine", b"Content-Type: application/x-ndjson"))
        (reply,) = await client.answered(1)
        assert (reply.status, reply.body, kept_rows) == (201, b"", [1, 0])


async def test_pieces_of_a_body_with_bad_rows(lane: str) -> None:
    """A bad line is found while others are still to come; wherever the pieces are cut, the outcome is the same."""
    body = b'{"a":"1"}\n{"a":\n{"a":"3"}\n{"b":"4","nope":1}\n'
    head = b"POST /rest/v1/t HTTP/1.1\r\nContent-Type: application/x-ndjson\r\nPrefer: bad-rows=quarantine"
    async with in_process(fast_lane=lane == "fast") as server:
        sink, answers = server.sink, set()

        def store(batch: Any) -> list[object]:
            return [Stored(None, each.extra.salvage.bad) for each in batch.submissions]

        sink._store = store  # type: ignore[method-assign]
        for size in range(1, len(body) + 1):
            client = server.connect()
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
            request = chunked(*pieces, line=head + b"\r\nX-Request-Id: r")
            half = len(request) // 2
            await client.send(request[:half])
            await client.quiet()
            await client.send(request[half:])
            (reply,) = await client.answered(1)
            answers.add((reply.status, dict(reply.headers)[b"headrace-quarantined-rows"], reply.body))
            await client.hang_up()
        ((status, rows, told),) = answers
        assert (status, rows) == (201, b"2,4")
        assert told.startswith(b'{"stored":2,"quarantined":[{"row":2,"code":"PGRST102",')
        assert told.endswith(b'"request_id":"r"}')
        assert server.service.postings._held == 0


async def test_what_request_ids_may_be(lane: str) -> None:
    """They are shown to operators, so that nobody may put anything else there."""
    async with in_process(fast_lane=lane == "fast") as server:
        sink = server.sink
        seen: list[Any] = []

        def store(batch: Any) -> list[object]:
            seen.extend(each.extra.salvage.request_id for each in batch.submissions)
            return [Stored(None, [])]

        sink._store = store  # type: ignore[method-assign]
        for name in (b"r 1", b"x" * 128, b"x" * 129, b"\xfc", b""):
            client = server.connect()
            await client.send(post(b'{"a":"x"}', b"Prefer: bad-rows=quarantine", b"X-Request-Id: " + name))
            await client.answered(1)
            await client.hang_up()
        assert seen[:2] == ["r 1", "x" * 128]
        assert len(set(seen)) == 5
        assert {len(name) for name in seen[2:]} == {32}
