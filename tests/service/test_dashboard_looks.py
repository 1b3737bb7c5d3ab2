"""The dashboard for everybody: any name, any window, either theme, with a screen reader; on a feed that is made up."""

from __future__ import annotations

import re
import time

import msgspec
import pytest
from playwright.async_api import Browser
from starlette.responses import Response

from tests.browser import Window, window
from tests.service.fake_feed import FakeFeed
from tests.service.fake_glances import FULL, HOSTILE, LONG_NAME, Lively, glance, hostile, table


async def test_names_are_only_ever_text(feed: FakeFeed, browser: Browser) -> None:
    """Who may create a table, or send a request, must not run anything in the browser of who looks at it."""
    column = {"name": HOSTILE, "type": HOSTILE, "required": False, "default": HOSTILE, "comment": HOSTILE}
    feed.tables = [table(HOSTILE, HOSTILE, comment=HOSTILE, columns=[column], example={HOSTILE: HOSTILE})]
    feed.answer = Response(msgspec.json.encode(dict.fromkeys(("code", "message", "details", "hint"), HOSTILE)), 400)
    feed.show(hostile())
    async with window(browser, feed.page) as page:
        page.expected.append("status of 400")
        await page.shows("#status-title", HOSTILE)
        await page.page.locator("#try").scroll_into_view_if_needed()
        await page.page.click("#try-reload")
        await page.shows("#try-about", HOSTILE)
        await page.page.evaluate(
            "document.getElementById('try-form').dispatchEvent(new Event('submit', {cancelable: true}))"
        )
        for place in (
            *("#problems", "[data-show=database]", "[data-show=databaseVersion]", "#tables", "#refusals", "#slow"),
            *("#quarantine", "#try-columns", "#try-table", "#try-problem"),
        ):
            await page.shows(place, HOSTILE)
        assert await page.page.locator("img").count() == 0
        assert await page.page.title() == "The service is busy · Headrace"


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
async def test_nothing_sticks_out(feed: FakeFeed, browser: Browser, width: int) -> None:
    """On a phone, too, and with names of any length: lists scroll, the page does not."""
    feed.tables = [table("public", LONG_NAME, comment=LONG_NAME * 3)]
    feed.show(hostile())
    async with window(browser, feed.page, viewport={"width": width, "height": 844}) as page:
        await page.shows("#tables", LONG_NAME)
        await page.page.click("#try-reload")
        await page.shows("#try-about", LONG_NAME)
        assert await page.page.evaluate("document.documentElement.scrollWidth") == width
        outside = await page.page.evaluate(
            """(width) => [...document.querySelectorAll("main *")]
                .filter((one) => !one.closest(".scroll, .unseen, .uplot, option") && one.getClientRects().length > 0)
                .filter((one) => one.getBoundingClientRect().right > width)
                .map((one) => one.outerHTML.slice(0, 80))""",
            width,
        )
        assert outside == []


# -------------------------------------------------------------------- themes, and who cannot see or click


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


async def test_the_theme_is_the_systems_until_another_is_chosen(feed: FakeFeed, browser: Browser) -> None:
    """And the choice is remembered."""
    feed.show(glance())
    async with window(browser, feed.page, color_scheme="dark") as page:
        await page.shows("#theme", "Light")
        dark = await page.page.evaluate(BACKGROUND)
        await page.page.click("#theme")
        await page.shows("#theme", "Dark")
        light = await page.page.evaluate(BACKGROUND)
        assert sum(map(int, re.findall(r"\d+", light))) > 600
        assert sum(map(int, re.findall(r"\d+", dark))) < 150
        await page.page.reload()
        await page.shows("#theme", "Dark")
        assert await page.page.evaluate(BACKGROUND) == light
        await page.page.emulate_media(color_scheme="light")
        await page.page.click("#theme")
        await page.page.click("#theme")
        await page.page.emulate_media(color_scheme="dark")
        await page.shows("#theme", "Light")  # the system's was chosen, so the system is followed again


async def test_a_browser_without_storage(feed: FakeFeed, browser: Browser) -> None:
    """Then the choice is not remembered, and nothing else is different."""
    feed.show(glance())
    script = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied'); } })"
    async with window(browser, feed.page, script=script) as page:
        await page.shows("#status-title", "All is well")
        await page.page.click("#theme")
        await page.shows("#theme", "Light")


CONTRASTS = """() => {
    const parsed = (colour) => {
        const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((value, n) => a * value + (1 - a) * below[n]);
    const behind = (one) => {
        const layers = [];
        for (; one; one = one.parentElement) {
            const { backgroundColor, backgroundImage } = getComputedStyle(one);
            const wash = backgroundImage.match(/rgba?\\([^)]*\\)/);
            if (wash) layers.push(parsed(wash[0]));
            layers.push(parsed(backgroundColor));
        }
        return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
    };
    const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => [0.2126 * r, 0.7152 * g, 0.0722 * b].reduce((sum, part) => sum + part);
    const light = (colour) => luminance(colour.map((value) => linear(value / 255)));
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const text = walker.currentNode.data.trim();
        const one = walker.currentNode.parentElement;
        if (!text || !one.checkVisibility() || one.closest(".unseen, option, noscript, :disabled")) continue;
        const back = behind(one);
        const front = over(parsed(getComputedStyle(one).color), back);
        const [least, most] = [light(front), light(back)].sort((a, b) => a - b);
        found.push([(most + 0.05) / (least + 0.05), text.slice(0, 40)]);
    }
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_text_can_be_read(feed: FakeFeed, browser: Browser, theme: str) -> None:
    """A contrast of 4.5 to 1 for every text, in both themes (WCAG 2.2, 1.4.3), with trouble and without."""
    async with window(browser, feed.page, color_scheme=theme) as page:
        for shown in (Lively().glance(time.time()), FULL, hostile()):
            feed.show(msgspec.structs.replace(shown, retries=1, uptime_seconds=shown.uptime_seconds + 60))
            await page.shows(".service", "up 3 h")
            await page.until("document.querySelectorAll('#tables tr').length > 0")
            found = await page.page.evaluate(CONTRASTS)
            assert len(found) > 80
            assert [one for one in found if one[0] < 4.5] == []


async def test_everything_has_a_name(page: Window) -> None:
    """For those who hear the page: fields, buttons, charts and meters say what they are, and the state is read out."""
    nameless = await page.page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button, a, [role]:not([role=status])")]
            .filter((one) => {
                const by = document.getElementById(one.getAttribute("aria-labelledby"));
                const label = by?.textContent || one.ariaLabel || one.labels?.[0]?.textContent;
                return !(label || (one.matches("a, button") && one.textContent))?.trim();
            })
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert await page.page.get_by_role("status").filter(has_text="All is well").count() == 1


async def test_nothing_moves_for_who_does_not_like_it(feed: FakeFeed, browser: Browser) -> None:
    """`prefers-reduced-motion` is honoured."""
    feed.show(FULL)
    async with window(browser, feed.page, reduced_motion="reduce") as page:
        await page.shows("#status-title", "The queue is full.")
        all_elements = "[...document.querySelectorAll('*')]"
        moving = f"{all_elements}.filter((one) => getComputedStyle(one).transitionDuration !== '0s').length"
        assert await page.page.evaluate(moving) == 0
        await page.page.emulate_media(reduced_motion="no-preference")
        assert await page.page.evaluate(moving) == 3  # the meters
