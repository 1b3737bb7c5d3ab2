"""The feeds behind the dashboard and `headrace top`: what comes when, for how long, for how many."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
import httpx2
import msgspec
import pytest

from service.embedded import EmbeddedPostgres
from service.observing.glance import Glance, Point
from service.pages import dashboard
from tests.harness import Connection, Running, Start
from tests.service.test_health import numbers


class Event(NamedTuple):
    """A server-sent event."""

    name: str
    id: str
    data: bytes


async def _events(response: httpx2.Response) -> AsyncIterator[Event]:
    """The events of a stream, one by one."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields["event"], fields["id"], fields["data"].encode())
            fields = {}


@asynccontextmanager
async def _watching(headrace: Running, last: str = "") -> AsyncIterator[AsyncIterator[Event]]:
    headers = {"last-event-id": last} if last else {}
    async with headrace.client.stream("GET", "/dashboard/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response)


def _glance(event: Event) -> Glance:
    assert event.name == "glance"
    return msgspec.json.decode(event.data, type=Glance)


async def test_the_history_comes_first_and_then_each_second(db: Connection, headrace: Running) -> None:
    """A page that is opened shows the last minutes at once."""
    await db.execute("create table t (n int)")
    await headrace.eventually(lambda: len(headrace.service.live.history) > 0)
    async with _watching(headrace) as events:
        first = await anext(events)
        assert first.name == "history"
        assert len(msgspec.json.decode(first.data, type=list[Point])) >= 1
        assert _glance(await anext(events)).totals["committed"] == (0, 0)
        assert (await headrace.post("t", [{"n": 1}, {"n": 2}])).status_code == 201
        async for event in events:
            glance = _glance(event)
            if glance.point.rows:
                break
        assert glance.totals["committed"] == (1, 2)
        assert glance.status == "ok"
        assert [(table.table, table.rows_total) for table in glance.tables] == [("public.t", 2)]
        assert glance.latency.p50_ms is not None
        assert glance.database.version is not None
        assert glance.slots.idle == 2
        assert (glance.unbalanced_requests, glance.unbalanced_rows) == (0, 0)


async def test_who_comes_back_at_once_is_sent_no_history_again(headrace: Running) -> None:
    """A stream ends now and then by itself; the page asks for the next with the id of the last event."""
    await headrace.eventually(lambda: len(headrace.service.live.history) >= 2)
    async with _watching(headrace) as events:
        await anext(events)
        while not int((last := await anext(events)).id):
            pass
    async with _watching(headrace, last.id) as events:
        assert (await anext(events)).name == "glance"
    async with _watching(headrace, str(int(last.id) - 60)) as events:
        assert (await anext(events)).name == "history", "it has missed a part"


@pytest.mark.parametrize("last", ["9" * 400, "-1", "1e5", "x"])
async def test_an_id_that_is_none_of_ours_is_nothing(last: str, headrace: Running) -> None:
    """Anybody may send one."""
    async with _watching(headrace, last) as events:
        assert (await anext(events)).name == "history"
        assert (await anext(events)).name == "glance"


async def test_all_watchers_are_told_the_same_look(headrace: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes up to 20 ms, where there are 1,000 tables, in which nobody else is served."""
    looks = 0
    glance = headrace.service.live.glance

    def counted() -> Glance:
        nonlocal looks
        looks += 1
        return glance()

    monkeypatch.setattr(headrace.service.live, "glance", counted)
    first, second = await asyncio.gather(*[headrace.service.live.next() for _ in range(2)])
    assert first is not None
    assert first == second
    assert looks == 1


async def test_a_stream_ends_by_itself(headrace: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are not ours wait for the end of every answer when they stop."""
    monkeypatch.setattr(dashboard, "_STREAM_SECONDS", 0.0)
    async with _watching(headrace) as events:
        assert [event.name async for event in events] == ["history", "glance"]


async def test_a_stopping_service_says_so_and_ends_its_streams(dsn: str, start: Start) -> None:
    """It must not wait for dashboards, which never go by themselves."""
    async with start(dsn=dsn) as headrace, _watching(headrace) as events:
        await anext(events)
        await anext(events)
        headrace.server.should_exit = True
        seen = [_glance(event) async for event in events]
        assert seen[-1].status == "draining"


async def test_there_are_only_so_many_watchers(headrace: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a connection, and some kilobytes a second."""
    monkeypatch.setattr(dashboard, "_WATCHERS_MAX", 1)
    async with _watching(headrace) as events:
        await anext(events)
        answer = await headrace.client.get("/dashboard/events")
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "HR508", "10")
        assert headrace.service.counts.numbers.refusals["503 HR508"] == 1
        assert (await headrace.client.head("/dashboard/events")).status_code == 503
    while (answer := await headrace.client.head("/dashboard/events")).status_code != 200:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_watchers_that_leave_are_not_counted_for_ever(headrace: Running) -> None:
    """A browser does not say goodbye."""
    for _ in range(5):
        async with _watching(headrace) as events:
            await anext(events)
    app: Any = headrace.server.config.app
    assert app is not None
    await headrace.eventually(lambda: len(headrace.service.connections) <= 6)


async def test_the_database_goes_away_and_comes_back(
    dsn: str, postgres: EmbeddedPostgres, db: Connection, headrace: Running
) -> None:
    """With the reason, and without a restart."""
    assert dsn
    await headrace.eventually(lambda: headrace.service.live.vitals is not None)
    live = headrace.service.live
    name = await db.fetchval("select current_database()")
    admin = await asyncpg.connect(postgres.dsn)
    try:
        await admin.execute(f'alter database "{name}" allow_connections false')
        await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        reason = "The database is away: database .* is not currently accepting connections"
        await headrace.eventually(lambda: any(re.match(reason, problem.text) for problem in live.glance().problems))
        assert live.glance().status == "away"
        assert not live.glance().database.up
        assert (await numbers(headrace))["headrace_database_up"] == 0
        await admin.execute(f'alter database "{name}" allow_connections true')
        await headrace.eventually(lambda: live.glance().status == "ok")
        assert live.glance().database.up
    finally:
        await admin.close()


async def test_the_tables_of_the_form(db: Connection, dsn: str, start: Start) -> None:
    """Where to send a row, and an example of one that is taken."""
    await db.execute("""
        create schema other;
        create table other."a/b" (id int generated always as identity, name text not null, at date default now());
        create view v as select 1 as one;
        create table t (n int);
        comment on table t is 'numbers';
    """)
    async with start(dsn=dsn, schemas=("public", "other")) as headrace:
        found = (await headrace.client.get("/dashboard/tables")).json()
        assert [(table["schema"], table["table"]) for table in found] == [("other", "a/b"), ("public", "t")]
        other, plain = found
        assert (other["path"], other["profile"], other["way"]) == ("/rest/v1/a%2Fb", "other", "copy")
        assert other["columns"][0]["default"] == "identity"
        assert [column["required"] for column in other["columns"]] == [False, True, False]
        assert (plain["profile"], plain["comment"]) == ("", "numbers")
        for table in found:
            headers = {"content-profile": table["profile"]} if table["profile"] else {}
            answer = await headrace.client.post(table["path"], json=table["example"], headers=headers)
            assert answer.status_code == 201, answer.text


async def test_the_form_has_no_tables_while_none_are_known(start: Start) -> None:
    """503, as for everything that needs them."""
    async with start(dsn="postgresql://nobody@127.0.0.1:1/none") as headrace:
        answer = await headrace.client.get("/dashboard/tables")
        assert (answer.status_code, answer.json()["code"]) == (503, "PGRST002")


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/dashboard.js", "/dashboard/uplot.js", "/dashboard/glance"])
async def test_the_page_and_what_it_loads(path: str, headrace: Running) -> None:
    """From the service itself; nothing from elsewhere may be loaded by it."""
    answer = await headrace.client.get(path)
    assert answer.status_code == 200
    if path == "/dashboard":
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text) == []
    assert (await headrace.client.get("/dashboard/nothing.js")).status_code == 404


async def test_a_file_that_the_browser_has_is_not_sent_again(headrace: Running) -> None:
    """But it is asked each time: an old file beside a new page would be a page that does not work."""
    answer = await headrace.client.get("/dashboard/dashboard.js")
    assert answer.headers["cache-control"] == "no-cache"
    headers = {"if-none-match": answer.headers["etag"]}
    again = await headrace.client.get("/dashboard/dashboard.js", headers=headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    other = await headrace.client.get("/dashboard/dashboard.css", headers=headers)
    assert other.status_code == 200


async def test_the_feeds_are_not_for_other_origins(headrace: Running) -> None:
    """They tell more about the service than a web page elsewhere should read."""
    for path in ("/dashboard/glance", "/dashboard/tables"):
        answer = await headrace.client.get(path, headers={"origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in answer.headers
