"""A real browser for the tests of pages, and what must not happen in it: errors, and requests to anybody else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Error, Page, Request, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")

# Containers have no user namespaces to build a sandbox of, and mostly too little shared memory.
_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The Chromium of this machine. Where there is none, the test is skipped with the reason."""
    program = next((found for name in _NAMES if (found := shutil.which(name)) is not None), None)
    if program is None:
        pytest.skip("these tests look at a page, and there is no Chromium here: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


class Window:
    """A page, and what was wrong with it. What a test provokes it says in `expected`: a part of the message."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.expected: list[str] = []
        self._faults: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", self._failed)
        page.on("request", self._asked)

    def faults(self) -> list[str]:
        """What was not expected."""
        return [fault for fault in self._faults if not any(part in fault for part in self.expected)]

    async def text(self, selector: str) -> str:
        """What an element shows, without the white space around it; all spaces are ordinary ones."""
        (text,) = await self.texts(selector)
        return text

    async def texts(self, selector: str) -> list[str]:
        """The same of every element that is meant."""
        texts = await self.page.locator(selector).all_inner_texts()
        return [text.replace("\u00a0", " ").strip() for text in texts]

    async def shows(self, selector: str, text: str) -> None:
        """Wait until an element shows this as a part of its text; the test's time limit ends the wait."""
        await self.page.locator(selector).filter(has_text=text).first.wait_for()

    async def until(self, expression: str) -> None:
        """Wait until this JavaScript is true; the test's time limit ends the wait.

        Not by Playwright's `wait_for_function`, which needs `eval`, and that the page's policy forbids.
        """
        while not await self.page.evaluate(expression):  # noqa: ASYNC110 - a page has no events for us
            await asyncio.sleep(0.01)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._faults.append(f"console: {message.text}")

    def _failed(self, error: Error) -> None:
        self._faults.append(f"exception: {error}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self._faults.append(f"request to another origin: {request.url}")


@asynccontextmanager
async def window(browser: Browser, url: str, **context: Any) -> AsyncIterator[Window]:
    """A window of its own at this URL, for a browser that remembers nothing. Whatever goes wrong in it fails the test.

    `script` is run before those of the page; the rest says what the browser is like.
    """
    script = context.pop("script", None)
    parts = urlsplit(url)
    async with await browser.new_context(**context) as own:
        if script is not None:
            await own.add_init_script(script)
        window = Window(await own.new_page(), f"{parts.scheme}://{parts.netloc}")
        await window.page.goto(url)
        yield window
        assert window.faults() == []
