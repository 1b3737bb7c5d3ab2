"""The form of the dashboard that sends a row, on a service that is made up: what it sends, and what it shows."""

from __future__ import annotations

import re
import shlex

import msgspec
import pytest
from playwright.async_api import Browser
from starlette.responses import Response

from tests.browser import Window, window
from tests.service.fake_feed import FakeFeed
from tests.service.fake_glances import glance, table


async def test_the_form_sends_a_row_and_shows_the_answer(feed: FakeFeed, page: Window) -> None:
    """As a producer would send it; numbers of the answer keep all their digits."""
    feed.answer = Response(
        b'[{"id":12345678901234567890,"note":"<b>"}]',
        201,
        {"content-type": "application/json", "server-timing": "queue;dur=0.1", "location": "/events?id=eq.1"},
    )
    await page.page.locator("#try").scroll_into_view_if_needed()
    await page.shows("#try-about", "Table, 6 columns, written by COPY.")
    columns = [row.split("\t") for row in await page.texts("#try-columns tr")]
    assert columns[0] == ["id", "bigint", "identity"]
    assert columns[1] == ["device_id", "text", "required"]
    await page.page.fill("#try-body", '{"device_id": "it\'s"}')
    await page.page.press("#try-body", "Control+Enter")
    await page.shows("#try-status", "201 Created")
    assert await page.text("#try-answer-body") == '[\n  {\n    "id": 12345678901234567890,\n    "note": "<b>"\n  }\n]'
    assert (await page.text("#try-headers")).split("\n") == [
        "Location",
        "/events?id=eq.1",
        "Server-Timing",
        "queue;dur=0.1",
    ]
    assert re.match(r"after \d+(\.\d)?\sms", await page.text("#try-time"))
    (posted,) = feed.posted
    assert posted.path == "/rest/v1/events"
    assert posted.body == b'{"device_id": "it\'s"}'
    assert posted.headers["prefer"] == "return=representation"
    assert posted.headers["content-type"] == "application/json"
    assert "content-profile" not in posted.headers


async def test_the_command_says_the_same(feed: FakeFeed, page: Window) -> None:
    """Whatever is in the row: a shell must take the command as it is meant."""
    feed.tables = [table("audit", "it's", path="/rest/v1/it%27s")]
    await page.page.click("#try-reload")
    await page.shows("#try-table", "audit.it's")
    await page.page.fill("#try-body", '{ "a": "it\'s $HOME",\n "b": 1.0 }')
    assert shlex.split((await page.text("#try-curl")).replace("\\\n", "")) == [
        *("curl", "-i", f"{feed.url}/rest/v1/it%27s"),
        *(
            "-H",
            "Content-Type: application/json",
            "-H",
            "Prefer: return=representation",
            "-H",
            "Content-Profile: audit",
        ),
        *("--data-raw", '{"a":"it\'s $HOME","b":1.0}'),
    ]
    await page.page.click("#try-send")
    await page.shows("#try-status", "201 Created")
    assert feed.posted[0].path == "/rest/v1/it's"
    assert feed.posted[0].headers["content-profile"] == "audit"
    await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.page.click("#try-copy")
    await page.shows("#try-copy", "Copied")
    assert await page.page.evaluate("navigator.clipboard.readText()") == await page.text("#try-curl")


async def test_a_credential_is_sent_and_not_shown(feed: FakeFeed, page: Window) -> None:
    """Where writing takes one, the form must work; what it shows is copied into chats and tickets."""
    await page.page.locator("#try").scroll_into_view_if_needed()
    await page.shows("#try-about", "Table, 6 columns, written by COPY.")
    await page.page.fill("#try-key", " hr_secret ")
    await page.page.uncheck("#try-return")
    await page.page.click("#try-send")
    await page.shows("#try-status", "201 Created")
    (posted,) = feed.posted
    assert posted.headers["authorization"] == "Bearer hr_secret"
    assert "prefer" not in posted.headers, "to read rows back is another right"
    assert "hr_secret" not in await page.page.content()
    assert '"Authorization: Bearer $HEADRACE_API_KEY"' in await page.text("#try-curl")


async def test_a_refused_row_shows_why(feed: FakeFeed, page: Window) -> None:
    """All four fields of the error, and the headers that name row and column."""
    body = {"code": "23502", "message": "null value", "details": "Failing row", "hint": None}
    headers = {"headrace-row": "1", "headrace-column": "device_id", "retry-after": "2"}
    feed.answer = Response(msgspec.json.encode(body), 400, headers)
    page.expected.append("status of 400")
    await page.page.locator("#try").scroll_into_view_if_needed()
    await page.page.click("#try-send:enabled")
    await page.shows("#try-status", "400 Bad Request")
    assert (await page.text("#try-problem")).split("\n") == [
        *("code", "23502", "message", "null value", "details", "Failing row"),
    ]
    assert "device_id" in await page.text("#try-headers")
    assert not await page.page.is_visible("#try-answer-body")


async def test_many_tables_in_the_form(feed: FakeFeed, page: Window) -> None:
    """They are read only when somebody comes to the form, and found by a part of the name."""
    feed.tables = [table("public", f"t_{n:03}") for n in range(1_000)]
    await page.page.locator("#try").scroll_into_view_if_needed()
    await page.page.fill("#try-filter input", "T_77")
    assert await page.texts("#try-table option") == [f"t_{n}" for n in range(770, 780)]
    assert "/rest/v1/t_770" in await page.text("#try-curl")
    await page.page.fill("#try-filter input", "nothing like it")
    await page.shows("#try-about", "No table has this in its name.")
    assert await page.page.is_disabled("#try-send")


@pytest.mark.parametrize("path", ["//evil.example/x", "/javascript:alert(1)", "/https://evil.example/"])
async def test_no_table_leads_elsewhere(feed: FakeFeed, page: Window, path: str) -> None:
    """Names of tables are in the path; with an empty prefix there is nothing before them."""
    feed.tables = [table("public", "t", path=path)]
    await page.page.click("#try-reload")
    await page.shows("#try-curl", "curl")
    assert shlex.split(await page.text("#try-curl"))[2].startswith(f"{feed.url}/")


async def test_behind_a_proxy_that_adds_a_path(browser: Browser, feed: FakeFeed) -> None:
    """Everything that the page asks for is below that path, rows included."""
    feed.show(glance())
    async with window(browser, f"{feed.url}/behind/it/dashboard") as page:
        await page.shows("#status-title", "All is well")
        await page.page.locator("#try").scroll_into_view_if_needed()
        await page.page.click("#try-send:enabled")
        await page.shows("#try-status", "201 Created")
    assert [posted.path for posted in feed.posted] == ["/behind/it/rest/v1/events"]
