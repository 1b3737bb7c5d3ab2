"""What the dashboard says of each state, on a feed that is made up: words, numbers, lists."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
import pytest

from service.observing.glance import Quarantine, Reason, Refusal
from service.observing.numbers import SlowFlush
from tests.browser import Window
from tests.service.fake_feed import FakeFeed
from tests.service.fake_glances import AWAY, FULL, glance, rates

DASH = "\N{EN DASH}"
README = Path(__file__).parents[2] / "README.md"


async def test_a_service_that_is_well(page: Window) -> None:
    """Calm, with the numbers that everybody asks for, each with its unit."""
    assert await page.text("#status-title") == "All is well"
    assert await page.page.title() == "Headrace"
    numbers = await page.page.eval_on_selector_all(
        "[data-number]", "all => Object.fromEntries(all.map((one) => [one.dataset.number, one.innerText.trim()]))"
    )
    assert numbers == {
        "rows": "24,310",
        "requests": "12,480",
        "batchRows": "312",
        "p50": "2.1 ms",
        "p99": "8.3 ms",
        "queued": "410",
        "oldest": "3.4 ms",
        "refused": "0",
        "failed": "0",
    }
    assert (await page.text(".service")).split("\n") == ["2 workers", "up 3 h 12 min", "128 connections"]
    assert await page.text("[data-show=version]") == "0.1.0"
    assert await page.text("[data-show=pendingBytes]") == "94 KiB of 64 MiB"
    assert await page.text("[data-show=slots]") == "3 busy, 1 idle"
    assert await page.text("[data-show=connections]") == "23 of 100"
    assert await page.text("[data-show=skew]") == "in step with ours"


async def test_problems_are_said_with_advice_worst_first(feed: FakeFeed, page: Window) -> None:
    """Whoever looks at it at night must not have to look for what is wrong, nor for what to do."""
    feed.show(FULL)
    await page.shows("#status-title", "The queue is full.")
    assert await page.page.get_attribute("#status", "data-level") == "error"
    assert (await page.text("#problems")).split("\n") == [
        "Send less, or raise HEADRACE_PENDING_ROWS_MAX.",
        "Few connections are left. Raise max_connections.",
    ]
    assert await page.page.title() == "The queue is full · Headrace"
    meters = await page.page.eval_on_selector_all(
        "[role=meter]", "all => all.map((one) => [one.ariaValueNow, one.ariaValueText.replaceAll('\u00a0', ' ')])"
    )
    assert meters == [["100", "100,000 of 100,000"], ["50", "32 MiB of 64 MiB"], ["23", "23 of 100"]]


async def test_a_database_that_is_away(feed: FakeFeed, page: Window) -> None:
    """What is not known is a dash, and never a zero, which would be a claim."""
    feed.show(AWAY)
    await page.shows("[data-show=database]", "away: connection refused")
    assert await page.text("[data-show=databaseVersion]") == DASH
    assert await page.text("[data-show=connections]") == f"{DASH} of {DASH}"
    assert await page.text("[data-show=slots]") == "0 busy, 0 idle, 4 away"
    assert await page.page.locator("#slots .away").count() == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [("draining", "The service is stopping"), ("busy", "The service is busy"), ("new", "new"), ("ok", "All is well")],
)
async def test_a_status_without_problems(feed: FakeFeed, page: Window, status: str, said: str) -> None:
    """It has a name of its own; one that the page does not know is better than none."""
    feed.show(glance(status=status, workers=3))
    await page.shows(".service", "3 workers")
    assert await page.text("#status-title") == said
    assert await page.page.get_attribute("#status", "data-level") == ("ok" if status == "ok" else "warning")


async def test_what_is_out_of_the_ordinary_is_said_only_if_it_happened(feed: FakeFeed, page: Window) -> None:
    """Retries, doubts, and the balance that only a bug can upset."""
    assert await page.text("#troubles") == ""
    feed.show(
        glance(
            retries=1,
            doubts={"stored": 2, "not_stored": 1, "unknown": 3},
            unbalanced_requests=1,
            unbalanced_rows=3,
        )
    )
    await page.shows("#troubles", "Bug: 1 request with 3 rows")
    lines = (await page.text("#troubles")).split("\n")
    assert [line.split(" in doubt")[0].split(" written")[0] for line in lines[:4]] == [
        "1 batch was",
        "2 writes",
        "1 write",
        "3 writes stayed",
    ]
    feed.show(glance(workers=3))
    await page.shows(".service", "3 workers")
    assert await page.page.locator("#troubles li").count() == 0


async def test_refusals_slow_writes_and_quarantine(feed: FakeFeed, page: Window) -> None:
    """Each with what it takes to look further."""
    assert await page.text("#refusals-empty") == "Nothing was refused."
    assert await page.text("#quarantine-empty") == "No row is in quarantine."
    at = time.time()
    tables = [f"public.t{n}" for n in range(5)]
    feed.show(
        glance(
            refusals=[Refusal(400, "22012", 0, 9), Refusal(429, "HR429", 1.5, 20), Refusal(404, "PGRST205", 0, 1)],
            slow=[
                SlowFlush(at, 1.42, tables, 1_204, 2_611, 99, None),
                SlowFlush(at, 5, ["public.t"], 1, 1, 9, "lock timeout"),
            ],
            quarantine=Quarantine(
                rows=10_000,
                counted_max=10_000,
                newest=[Reason(41, at, "public.orders", "quantity", "23514", "check violation")],
            ),
        )
    )
    await page.shows("#refusals", "HR429")
    rows = await page.texts("#refusals tr")
    assert [row.split("\t") for row in rows] == [
        ["429", "HR429", "queue full: try again later", "1.5", "20"],
        ["400", "22012", "SQLSTATE", "0", "9"],
        ["404", "PGRST205", "no such table", "0", "1"],
    ]
    slow = [row.split("\t")[1:] for row in await page.texts("#slow tr")]
    assert slow == [
        ["1.4 s", "1,204", "2,611", "public.t0, public.t1, public.t2 and 2 more"],
        ["5.0 s", "1", "1", "public.t: lock timeout"],
    ]
    assert await page.text("#quarantine-count") == "10,000 rows or more"
    assert await page.text("#quarantine-show code") == "headrace quarantine show 41"
    assert not await page.page.locator("#refusals-empty, #slow-empty, #quarantine-empty").filter(visible=True).count()


async def test_every_code_has_words(page: Window) -> None:
    """A code that the README explains must not be bare here."""
    codes = sorted(set(re.findall(r"^\| \d{3} \| `((?:HR|PGRST)\w+)` \|", README.read_text("utf-8"), re.MULTILINE)))
    assert len(codes) > 25
    meanings = await page.page.evaluate(
        """async (codes) => {
            const { meaning } = await import(new URL("dashboard/dashboard-format.js", document.baseURI));
            return codes.map(meaning);
        }""",
        [*codes, "40001", "HR299", "PT402"],
    )
    assert [code for code, said in zip(codes, meanings[:-3], strict=True) if not said] == []
    assert meanings[-3:] == ["SQLSTATE", "", "SQLSTATE"]


async def test_how_numbers_are_written(page: Window) -> None:
    """Short, with as many digits as mean something."""
    wanted = {
        ("milliseconds", 0.421): "0.42 ms",
        ("milliseconds", 4.04): "4.0 ms",
        ("milliseconds", 42.4): "42 ms",
        ("milliseconds", 999.7): "1.0 s",
        ("milliseconds", 150_000): "2 min",
        ("milliseconds", None): DASH,
        ("rate", 0.34): "0.3",
        ("rate", 0.01): "< 0.1",
        ("rate", 0): "0",
        ("rate", 12.4): "12",
        ("rate", 445_000): "445,000",
        ("bytes", 0): "0 B",
        ("bytes", 1_536): "1.5 KiB",
        ("bytes", 67_108_864): "64 MiB",
        ("duration", 59.9): "59 s",
        ("duration", 90_000): "1 d 1 h",
        ("short", 1_500_000): "1.5M",
        ("indented", '{"a":[1,{}],"b":"x,{y"}'): '{\n  "a": [\n    1,\n    {}\n  ],\n  "b": "x,{y"\n}',
        ("compact", '{ "a b" : 12345678901234567890 }'): '{"a b":12345678901234567890}',
        ("compact", "{ no json"): "{ no json",
    }
    written = await page.page.evaluate(
        """async (calls) => {
            const formats = await import(new URL("dashboard/dashboard-format.js", document.baseURI));
            return calls.map(([name, given]) => formats[name](given).replaceAll("\u00a0", " "));
        }""",
        list(wanted),
    )
    assert dict(zip(wanted, written, strict=True)) == wanted


# -------------------------------------------------------------------- tables


async def shown_tables(page: Window) -> list[str]:
    """Their names, in the order of the list."""
    return await page.texts("#tables td:first-child")


async def test_tables_are_sorted_as_one_likes(feed: FakeFeed, page: Window) -> None:
    """By what is asked for, with the keyboard, too; and what one points at does not run away."""
    tables = [rates(f"public.t{n}", rows=n, requests=9 - n, batch_rows=None) for n in range(3)]
    feed.show(glance(tables=tables, tables_total=3))
    await page.shows("#tables", "public.t2")
    assert await shown_tables(page) == ["public.t2", "public.t1", "public.t0"]
    await page.page.focus("[data-sort=requests] button")
    await page.page.keyboard.press("Enter")
    assert await shown_tables(page) == ["public.t0", "public.t1", "public.t2"]
    assert await page.page.get_attribute("[data-sort=requests]", "aria-sort") == "descending"
    assert await page.page.get_attribute("[data-sort=rows]", "aria-sort") is None
    await page.page.keyboard.press("Enter")
    assert await shown_tables(page) == ["public.t2", "public.t1", "public.t0"]
    await page.page.click("[data-sort=table] button")
    assert await page.page.get_attribute("[data-sort=table]", "aria-sort") == "ascending"
    assert await shown_tables(page) == ["public.t0", "public.t1", "public.t2"]

    await page.page.click("[data-sort=rows] button")
    await page.page.hover("#tables tr:nth-child(2)")
    feed.show(glance(tables=[rates("public.t0", rows=50, requests=1), *tables[1:]], tables_total=3))
    await page.shows("#tables", "50")
    assert await shown_tables(page) == ["public.t2", "public.t1", "public.t0"]
    await page.page.hover("h1")
    feed.show(glance(tables=[rates("public.t0", rows=51, requests=1), *tables[1:]], tables_total=3))
    await page.shows("#tables", "51")
    assert await shown_tables(page) == ["public.t0", "public.t2", "public.t1"]


async def test_many_tables(feed: FakeFeed, page: Window) -> None:
    """A filter finds one; and a second changes texts, it does not build the list anew."""
    assert not await page.page.is_visible("#tables-filter")
    tables = [rates(f"public.table_{n:02}", rows=n, requests=n) for n in range(50)]
    feed.show(glance(tables=tables, tables_total=312))
    await page.shows("#tables-count", "the busiest 50 of 312")
    await page.page.evaluate("for (const row of document.querySelectorAll('#tables tr')) row.isOld = true")
    feed.show(glance(tables=[msgspec.structs.replace(one, rows=one.rows + 100) for one in tables], tables_total=312))
    await page.shows("#tables", "149")
    assert (
        await page.page.evaluate("[...document.querySelectorAll('#tables tr')].filter((row) => row.isOld).length") == 50
    )
    await page.page.fill("#tables-filter input", "TABLE_1")
    await page.shows("#tables-count", "10 of 50 tables")
    assert await shown_tables(page) == [f"public.table_{n}" for n in range(19, 9, -1)]
