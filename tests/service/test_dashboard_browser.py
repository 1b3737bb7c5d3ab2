"""The dashboard of a real service, in a real browser: it opens, its numbers move, its form stores rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata
from itertools import pairwise

import asyncpg
import pytest
from playwright.async_api import Browser

from service.embedded import EmbeddedPostgres
from service.pages import dashboard
from tests.browser import Window, window
from tests.harness import Connection, Running, Start, rows_of

EVENTS = """
create table events (
    id bigint generated always as identity primary key,
    device_id text not null check (device_id <> 'bad'),
    temperature double precision
)
"""


def page_of(headrace: Running) -> str:
    """Where the page is."""
    return f"{str(headrace.client.base_url).rstrip('/')}/dashboard"


@asynccontextmanager
async def load(headrace: Running) -> AsyncIterator[None]:
    """Producers that send rows one after the other, as long as it is needed."""

    async def produce() -> None:
        while True:
            response = await headrace.post("events", [{"device_id": "pump"}] * 10)
            assert response.status_code == 201

    async with asyncio.TaskGroup() as tasks:
        producers = [tasks.create_task(produce()) for _ in range(4)]
        yield
        for producer in producers:
            producer.cancel()


async def choose(page: Window, table: str) -> None:
    """Go to the form, and choose a table there; one that is new is found out about within a second."""
    await page.page.locator("#try").scroll_into_view_if_needed()
    while table not in await page.texts("#try-table option"):
        await page.page.click("#try-reload")
    await page.page.select_option("#try-table", label=table)
    await page.shows("#try-curl", "curl")


async def test_it_opens(headrace: Running, browser: Browser) -> None:
    """Nothing but the service is needed, and the browser has nothing to complain about."""
    response = await headrace.client.get("/dashboard")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    async with window(browser, page_of(headrace)) as page:
        await page.shows("#status-title", "All is well")
        assert await page.text("[data-show=version]") == metadata.version("headrace")
        assert await page.text("[data-show=database]") == "up"
        await page.shows("[data-show=writable]", "yes")
        assert await page.text("[data-show=slots]") == "0 busy, 2 idle"
        assert await page.text("#tables-empty") == "No rows have come yet. Send one."
        await page.until("uPlot.sync('headrace').plots.every((plot) => plot.data[0].length > 1)")


async def test_numbers_move_under_load(db: Connection, headrace: Running, browser: Browser) -> None:
    """Rates while rows come, totals that are true when they have come."""
    await db.execute(EVENTS)
    async with window(browser, page_of(headrace)) as page:
        await page.shows("#status-title", "All is well")
        assert await page.text("[data-number=rows]") == "0"
        async with load(headrace):
            await page.until(
                "Number(document.querySelector('[data-number=rows] b').textContent.replace(',', '')) > 100"
            )
            await page.until("document.querySelector('[data-number=p99] small').textContent !== ''")
            await page.shows("#tables", "public.events")
        await page.until("document.querySelector('[data-number=rows] b').textContent === '0'")
        stored = await db.fetchval("select count(*) from events")
        assert await page.text("#tables td:nth-child(7)") == f"{stored:,}"
        assert await page.text("[data-show=committed]") == f"{stored:,} rows committed since the start"
        assert await page.page.evaluate("Math.max(...uPlot.sync('headrace').plots[0].data[1])") > 100


async def test_a_feed_that_the_service_ends_is_followed_by_another(
    headrace: Running, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again and again, for days; the page must not call that an outage, nor lose a second."""
    monkeypatch.setattr(dashboard, "_STREAM_SECONDS", 0.1)
    async with window(browser, page_of(headrace)) as page:
        await page.shows("#status-title", "All is well")
        await page.page.evaluate(
            """() => {
                window.states = [];
                const status = document.getElementById("status");
                new MutationObserver(() => states.push(status.dataset.level)).observe(status, { attributes: true });
            }"""
        )
        await page.until("uPlot.sync('headrace').plots[0].data[0].length > 4")
        times = await page.page.evaluate("[...uPlot.sync('headrace').plots[0].data[0]]")
        assert all(0.5 <= after - before < 2.5 for before, after in pairwise(times)), times
        assert set(await page.page.evaluate("states")) <= {"ok"}


async def test_the_database_goes_away_and_comes_back(own: EmbeddedPostgres, start: Start, browser: Browser) -> None:
    """It is said in words, what to do as well, and it ends by itself."""
    async with start(dsn=own.dsn) as headrace, window(browser, page_of(headrace)) as page:
        await page.shows("#status-title", "All is well")
        await asyncio.to_thread(own._control, "stop", "--mode=immediate", "--wait")
        await page.shows("#status-title", "The database is away")
        assert await page.page.get_attribute("#status", "data-level") == "error"
        assert (await page.text("[data-show=database]")).startswith("away: ")
        assert await page.text("#problems") != ""
        again = await asyncio.to_thread(EmbeddedPostgres.start, own.folder)
        await page.shows("#status-title", "All is well")
        assert await page.text("[data-show=database]") == "up"
    again.stop()


async def test_the_form_stores_a_row(db: Connection, headrace: Running, browser: Browser) -> None:
    """The example is right as it stands, and what was stored is shown as PostgreSQL has it."""
    await db.execute(EVENTS)
    async with window(browser, page_of(headrace)) as page:
        await choose(page, "events")
        await page.page.click("#try-send")
        await page.shows("#try-status", "201 Created")
        await page.page.fill("#try-body", '{"device_id": "pump-7", "temperature": 21.5}')
        await page.page.press("#try-body", "Control+Enter")
        await page.shows("#try-answer-body", '"device_id": "pump-7"')
        assert '"id": 2,' in await page.text("#try-answer-body")
        await page.shows("#tables", "public.events")
    assert (await rows_of(db, "select device_id, temperature from events order by id"))[1] == ("pump-7", 21.5)


async def test_the_form_knows_every_schema_and_name(db: Connection, dsn: str, start: Start, browser: Browser) -> None:
    """Of a table in another schema, with a name that no URL has as it is."""
    await db.execute('create schema audit; create table audit."Order Items/50 %?" ("the text" text)')
    async with start(dsn=dsn, schemas="public,audit") as headrace, window(browser, page_of(headrace)) as page:
        await choose(page, "audit.Order Items/50 %?")
        await page.page.fill("#try-body", '{"the text": "it is \'here\'"}')
        await page.page.click("#try-send")
        await page.shows("#try-status", "201 Created")
    assert await rows_of(db, 'select * from audit."Order Items/50 %?"') == [("it is 'here'",)]


async def test_a_refused_row_shows_its_reason(db: Connection, headrace: Running, browser: Browser) -> None:
    """In the form for who has sent it, and in the list of refusals for the operator."""
    await db.execute(EVENTS)
    async with window(browser, page_of(headrace)) as page:
        page.expected.append("status of 400")
        await choose(page, "events")
        await page.page.fill("#try-body", '{"device_id": "bad"}')
        await page.page.click("#try-send")
        await page.shows("#try-status", "400 Bad Request")
        await page.shows("#try-problem", "23514")
        await page.shows("#try-problem", "violates check constraint")
        await page.shows("#refusals", "23514")
        assert (await page.text("#refusals")).split("\t")[2] == "a check fails"


async def test_rows_in_quarantine_are_shown(db: Connection, headrace: Running, browser: Browser) -> None:
    """How many, why, and the command to look at one."""
    await db.execute(EVENTS)
    response = await headrace.post("events", {"device_id": "bad"}, prefer="bad-rows=quarantine")
    assert response.headers["headrace-quarantined"] == "1"
    async with window(browser, page_of(headrace)) as page:
        await page.shows("#quarantine", "check violation")
        assert await page.text("#quarantine-count") == "1 row"
        assert await page.text("#quarantine-show code") == "headrace quarantine show 1"


async def test_a_service_that_stops_says_so(dsn: str, start: Start, browser: Browser) -> None:
    """The open page must not hold it up, either."""
    async with start(dsn=dsn) as headrace:
        opened = window(browser, page_of(headrace))
        page = await opened.__aenter__()
        await page.shows("#status-title", "All is well")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 2
    page.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]
    await page.shows("#status-title", "The service stopped at ")
    await opened.__aexit__(None, None, None)


async def test_a_locked_table_shows_as_a_wait(db: Connection, dsn: str, headrace: Running, browser: Browser) -> None:
    """The oldest row's age and the rows pending grow, and the page says what that may be."""
    await db.execute(EVENTS)
    locker = await asyncpg.connect(dsn)
    async with window(browser, page_of(headrace)) as page:
        await page.shows("#status-title", "All is well")
        async with locker.transaction():
            await locker.execute("lock table events in exclusive mode")
            sent = asyncio.create_task(headrace.post("events", [{"device_id": "pump"}] * 3))
            await page.shows("[data-show=pendingRows]", "3 of ")
        assert (await sent).status_code == 201
        await page.shows("[data-show=pendingRows]", "0 of ")
    await locker.close()
