"""The dashboard and its feed: interruptions, silence, what charts show of it, and what a page holds after days."""

from __future__ import annotations

import re
import time

import msgspec
from playwright.async_api import Browser

from service.observing.glance import Slots
from tests.browser import Window, window
from tests.service.fake_feed import FakeFeed
from tests.service.fake_glances import Lively, glance, point


async def charted(page: Window) -> list[list[float | None]]:
    """The columns of the chart of rows and requests: times, rows, requests."""
    columns: list[list[float | None]] = await page.page.evaluate(
        "uPlot.sync('headrace').plots[0].data.map((column) => [...column])"
    )
    return columns


async def test_a_service_that_is_gone_and_comes_back(browser: Browser) -> None:
    """It is said at once and since when, the page tries until it is there, and the time between is a gap."""
    feed = FakeFeed()
    feed.history = [point(time.time() - ago) for ago in (62, 61, 60)]
    feed.show(msgspec.structs.replace(glance(), point=feed.history[-1]))
    async with feed.serving():
        context = window(browser, feed.page)
        page = await context.__aenter__()
        await page.shows("#status-title", "All is well")
    page.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE"]
    await page.shows("#status-title", "The service has not answered since ")
    assert re.search(r"since \d\d:\d\d:\d\d$", await page.text("#status-title"))
    assert await page.page.title() == "No answer · Headrace"
    assert await page.page.get_attribute("main", "data-feed") == "gone"
    feed.show(glance(at=time.time()))
    async with feed.serving():
        await page.shows("#status-title", "All is well")
        assert await page.page.title() == "Headrace"
        assert (await charted(page))[1] == [24_310, 24_310, 24_310, None, 24_310]
        await context.__aexit__(None, None, None)


async def test_a_feed_that_ends_is_no_outage(feed: FakeFeed, page: Window) -> None:
    """The service ends each after a while, so that nothing waits for it when it stops; nobody should notice."""
    await page.page.evaluate(
        """() => {
            window.states = [];
            const status = document.getElementById("status");
            new MutationObserver(() => states.push(status.dataset.level)).observe(status, { attributes: true });
        }"""
    )
    for workers in range(3, 6):
        feed.hang_up()
        feed.show(glance(workers=workers))
        await page.shows(".service", f"{workers} workers")
    assert feed.opened == 4
    assert set(await page.page.evaluate("states")) <= {"ok"}


async def test_an_answer_that_is_no_feed_does_not_end_it(browser: Browser, feed: FakeFeed) -> None:
    """Browsers give up a feed that is answered 503 by a proxy; the page does not."""
    feed.refuses_feeds = True
    async with window(browser, feed.page) as page:
        page.expected.append("status of 503")
        await page.shows("#status-title", "The service has not answered yet")
        feed.refuses_feeds = False
        feed.show(glance())
        await page.shows("#status-title", "All is well")


async def test_a_service_that_stopped_in_good_order(feed: FakeFeed, page: Window) -> None:
    """Somebody wanted that, and the page should not call it an outage."""
    feed.refuses_feeds = True
    page.expected.append("status of 503")
    feed.show(glance(status="draining"))
    await page.shows("#status-title", "The service is stopping")
    feed.hang_up()
    await page.shows("#status-title", "The service stopped at ")


async def test_a_feed_that_falls_silent(browser: Browser, feed: FakeFeed) -> None:
    """A connection that a proxy or a sleeping laptop has lost says nothing; the page notices, and opens another one."""
    feed.show(glance())
    async with window(browser, feed.page) as page:
        await page.shows("#status-title", "All is well")
        await page.page.clock.install()
        await page.page.reload()
        await page.page.clock.run_for(100)
        await page.shows("#status-title", "All is well")
        first = feed.opened
        await page.page.clock.run_for(4_000)
        await page.shows("#status-title", "Nothing has come from the service since ")
        assert feed.opened == first
        while feed.opened == first:
            await page.page.clock.run_for(1_000)
        while await page.text("#status-title") != "All is well":
            await page.page.clock.run_for(20)


# -------------------------------------------------------------------- charts


async def test_charts_tell_what_was_at_the_cursor_all_at_once(feed: FakeFeed, browser: Browser) -> None:
    """One looks at a peak of the latency and wants to know what the queue was then."""
    now = time.time()
    feed.history = [point(now - ago, rows=float(ago)) for ago in range(299, 0, -1)]
    feed.show(glance(at=now))
    async with window(browser, feed.page) as page:
        await page.shows("#status-title", "All is well")
        await page.page.hover("#latency-chart .u-over", position={"x": 100, "y": 60})
        await page.shows("#flow-at", "rows ")
        said = await page.texts("figcaption")
        assert len({text.split(" · ")[0] for text in said}) == 1
        assert re.fullmatch(r"\d\d:\d\d:\d\d · p50 2.1 ms · p99 8.3 ms", said[1])
        assert re.fullmatch(r"\d\d:\d\d:\d\d · rows 410 · oldest 3.4 ms", said[2])
        await page.page.hover("h1")
        await page.until("document.getElementById('flow-at').textContent === ''")


async def test_history_comes_again_without_doubling(feed: FakeFeed, page: Window) -> None:
    """After each interruption the feed begins with five minutes that the page knows in part already."""
    now = time.time()
    feed.show(glance(at=now + 1))
    feed.history = [point(now - 1), point(now), point(now + 1)]
    feed.hang_up()
    feed.show(glance(at=now + 2))
    await page.until("uPlot.sync('headrace').plots[0].data[0].length === 4")
    assert (await charted(page))[0] == [now - 1, now, now + 1, now + 2]


# -------------------------------------------------------------------- a page that is open for days


async def test_a_page_that_is_open_for_long_does_not_grow(feed: FakeFeed, page: Window) -> None:
    """Five minutes of points and a list of this second are all that it holds."""
    lively = Lively()
    now = time.time()
    sizes = []
    for round_ in range(4):
        for second in range(200):
            feed.show(lively.glance(now + 200 * round_ + second))
        last = lively.glance(now + 200 * round_ + 200)
        feed.show(msgspec.structs.replace(last, workers=100 + round_, slots=Slots(busy=3, idle=0, away=0)))
        await page.shows(".service", f"{100 + round_} workers")
        points, elements = await page.page.evaluate(
            "[uPlot.sync('headrace').plots[0].data[0].length, document.querySelectorAll('*').length]"
        )
        sizes.append((points, elements))
    assert sizes[0][0] == 202
    assert sizes[1] == sizes[2] == sizes[3]
    assert sizes[3][0] <= 303


HIDEABLE = """
    Object.defineProperty(document, "hidden", { get: () => window.isAway === true });
    window.look = (away) => {
        window.isAway = away;
        document.dispatchEvent(new Event("visibilitychange"));
    };
"""


async def test_nothing_is_drawn_while_nobody_looks(feed: FakeFeed, browser: Browser) -> None:
    """A tab in the background costs nothing; and whoever comes back sees what was, without a gap."""
    now = time.time()
    feed.show(glance(at=now))
    async with window(browser, feed.page, script=HIDEABLE) as page:
        await page.shows("[data-number=rows]", "24,310")
        await page.page.evaluate("look(true)")
        await page.page.evaluate(
            "window.changes = []; new MutationObserver((all) => changes.push(...all)).observe("
            "document.body, {subtree: true, childList: true, characterData: true})"
        )
        for second in range(1, 6):
            feed.show(glance(point=point(now + second, rows=100.0 + second)))
        feed.show(glance(point=point(now + 6, rows=777)))
        await page.page.evaluate(
            "new Promise((done) => { const source = new EventSource('dashboard/events');"
            "source.addEventListener('glance', () => { source.close(); setTimeout(done, 50); }); })"
        )
        assert await page.page.evaluate("changes.length") == 0
        await page.page.evaluate("look(false)")
        await page.shows("[data-number=rows]", "777")
        assert (await charted(page))[1] == [24_310, 101, 102, 103, 104, 105, 777]
