"""What stands on the screen of `headrace top`."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from service.commands.topview import Picture, duration, milliseconds, rate, size, sparkline
from service.observing.glance import Problem, Quarantine, Reason, Refusal
from service.observing.numbers import SlowFlush
from tests.service.glances import FULL, GLANCE, NOTHING, NOW, PAST, URL, drawn, point, table

# -------------------------------------------------------------------- the picture


def test_everything_is_on_a_screen_of_80_by_24() -> None:
    """That is what a terminal opens with."""
    lines = drawn(Picture(URL, GLANCE, PAST))
    assert len(lines) == 24
    assert lines[0] == "headrace 0.2.0  ok  http://127.0.0.1:8000                  2 workers, up 1 d 2 h"
    screen = " ".join("\n".join(lines).split())
    for shown in (
        "requests/s 1,234",
        "rows/s 5,678",
        "rows/batch 43",
        "request 1.25 4.50 20.5",
        "queue 0.25 0.50 1.75",
        "write 0.75 3.50 17.2",
        "loop late 0.75",
        "50,000 of 200,000 pending 25%",
        "64 MiB of 256 MiB pending 25%",
        "12 of 100 connections 12%",
        "7 rows, 2 KiB, the oldest for 1.50 ms",
        "1 busy, 1 idle, 0 away; 64 connections of clients",
        "up, PostgreSQL 18.1",
        "5 rows; 2 h 1 min ago public.t1.n: not null violation (23502)",
        "20,000 committed, 12 rejected, 100,000 rows stored",
        "busiest 4 of 23 tables",
        "public.t0 617 2,839 2.5 22 2.25",
        "400 HR400 1.5 100 public.t1, public.t2 1.8 4,321 1 min 1 s",
    ):
        assert shown in screen


@settings(deadline=None, max_examples=50)
@example(80, 24, 10, 8, 6)
@given(st.integers(50, 200), st.integers(1, 80), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_a_picture_fits_whatever_the_size(width: int, height: int, tables: int, refusals: int, slow: int) -> None:
    """A line too long or one too many would push the head off the screen; where there is room, nothing is left out."""
    glance = replace(
        FULL,
        tables=[table("schema.table_with_a_long_name")] * tables,
        refusals=[Refusal(503, "HR503", 0.5, 7)] * refusals,
        slow=GLANCE.slow[:1] * slow,
    )
    lines = drawn(Picture(URL, glance, PAST), width, height)
    assert all(len(line) <= width for line in lines)
    whole = drawn(Picture(URL, glance, PAST), width, None)
    if len(whole) <= height:
        assert lines == whole
    fixed = len(whole) - tables - max(refusals, slow) - 2
    if height >= fixed:
        assert len(lines) <= height
        if height - fixed >= 4:
            assert len(lines) == min(height, len(whole))


@pytest.mark.parametrize("width", [1, 10, 20, 30, 40])
def test_a_terminal_that_is_far_too_small_gets_what_fits(width: int) -> None:
    """Somebody drags its border to nothing and back."""
    assert all(len(line) <= width for line in drawn(Picture(URL, FULL, PAST), width, 3))


def test_a_picture_fits_whatever_the_height() -> None:
    """Lists get shorter, and are left out where not even their heads have room; the rest stays."""
    whole = drawn(Picture(URL, GLANCE, PAST), height=None)
    fixed = whole.index(next(line for line in whole if line.startswith("busiest")))
    for height in range(fixed, len(whole) + 2):
        lines = drawn(Picture(URL, GLANCE, PAST), height=height)
        room = height - fixed
        assert len(lines) == (fixed if room < 4 else min(height, len(whole)))
        assert lines[:fixed] == whole[:fixed]


def test_where_it_is_narrow_the_past_is_worth_more_than_a_place_at_its_side() -> None:
    """Times go below, instead of leaving a few seconds of the past."""
    assert any("last 37 s" in line for line in drawn(Picture(URL, GLANCE, PAST), 60))
    assert any("last 12 s" in line and "p99" in line for line in drawn(Picture(URL, GLANCE, PAST), 66))


def test_more_room_shows_more() -> None:
    """Who has a large terminal wants to see more of the tables and of the past."""
    small, large = (drawn(Picture(URL, GLANCE, PAST), *size_) for size_ in ((80, 24), (160, 50)))
    assert sum("public.t" in line and "617" in line for line in small) == 4
    assert sum("public.t" in line and "617" in line for line in large) == 10
    assert "last 26 s" in small[1]
    assert "last 106 s" in large[1]
    assert sum("HR4" in line for line in small) == 2
    assert sum("HR4" in line for line in large) == 8


def test_the_past_has_the_newest_second_at_the_right() -> None:
    """A chart that leads to some other second than now says the opposite of what is going on."""
    rising = tuple(point(NOW + n, requests=float(n)) for n in range(8))
    line = next(line for line in drawn(Picture(URL, GLANCE, rising)) if line.startswith("requests/s"))
    assert " ▂▃▄▅▆▇█" in line
    line = next(line for line in drawn(Picture(URL, GLANCE, PAST)) if line.startswith("requests/s"))
    assert "█▇" in line, "it falls"
    assert "▂▁▁▁  request" in line


def test_problems_come_with_their_advice() -> None:
    """Three on a screen, whose numbers are wanted too; all of them where there is no end."""
    problems = [Problem("warning", f"Trouble {n}", f"Do this {n}") for n in range(5)]
    picture = Picture(URL, replace(GLANCE, status="busy", problems=problems))
    screen, whole = drawn(picture), drawn(picture, height=None)
    assert screen[1:5] == [
        "warning: Trouble 0  Do this 0",
        "warning: Trouble 1  Do this 1",
        "warning: Trouble 2  Do this 2",
        "and 2 more: headrace top --once shows all",
    ]
    assert whole[5] == "warning: Trouble 4  Do this 4"
    assert not any("more:" in line for line in whole)
    assert len(screen) == 24


def test_what_is_not_known_is_not_shown_as_zero() -> None:
    """No request in the last seconds is something else than requests that took no time."""
    screen = " ".join("\n".join(drawn(Picture(URL, NOTHING))).split())
    for shown in (
        "request - - -",
        "rows/batch - ",
        "database away: no reason known",
        "quarantine not known yet",
        "no requests, 0 rows stored",
        "no tables yet",
    ):
        assert shown in screen
    assert "connections 0%" not in screen


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"up": False, "reason": "OSError: refused"}, "away: OSError: refused"),
        ({"read_only": True}, "up, PostgreSQL 18.1, read-only"),
        ({"skew_seconds": -2.5}, "its clock is 2.5 s behind"),
        ({"skew_seconds": 2.5}, "its clock is 2.5 s ahead"),
    ],
)
def test_what_is_wrong_with_the_database_is_said(change: dict[str, object], shown: str) -> None:
    """These are what an operator can do something about."""
    database = replace(GLANCE.database, **change)
    assert any(shown in line for line in drawn(Picture(URL, replace(GLANCE, database=database))))


def test_when_nothing_waits_nothing_is_old() -> None:
    """An age of 0 ms would be that of a row."""
    queue = replace(GLANCE.queue, queued_rows=0, queued_bytes=0)
    assert "waiting     0 rows, 0 B" in drawn(Picture(URL, replace(GLANCE, queue=queue)))


def test_requests_that_nobody_answered_are_said() -> None:
    """That number is a bug in Headrace, and somebody should report it."""
    lines = drawn(Picture(URL, replace(GLANCE, unbalanced_requests=2)))
    assert any("2 requests, 0 rows without an outcome" in line for line in lines)


def test_a_quarantine_that_was_not_counted_to_the_end_says_so() -> None:
    """A thousand that are a million would be taken for a thousand."""
    lines = drawn(Picture(URL, replace(GLANCE, quarantine=Quarantine(1_000, 1_000, []))))
    assert "quarantine  1,000 rows or more" in lines


def test_names_from_outside_do_not_control_the_terminal() -> None:
    """Anybody who may create a table could otherwise write on the operator's screen; and brackets are no markup."""
    hostile = "a\x1b]0;title\x07[red]b\nc"
    glance = replace(
        GLANCE,
        version=hostile,
        status="away",
        problems=[Problem("error", hostile, hostile)],
        database=replace(GLANCE.database, up=False, reason=hostile),
        tables=[table(hostile)],
        refusals=[Refusal(400, hostile, 1, 1)],
        slow=[SlowFlush(NOW, 1.0, [hostile], 1, 1, 1, hostile)],
        quarantine=Quarantine(1, 10, [Reason(1, NOW, hostile, hostile, hostile, hostile)]),
        totals={hostile: (1, 1)},
    )
    lines = drawn(Picture(hostile, glance, lost=hostile), 1_000, None) + drawn(Picture(URL, glance), 1_000, None)
    assert all(line.isprintable() for line in lines)
    escaped = r"a\x1b]0;title\x07[red]b\nc"
    assert lines[0].count(escaped) == 2
    assert sum(line.count(escaped) for line in lines) >= 12


def test_a_service_that_is_away_is_not_shown_as_alive() -> None:
    """Old numbers without a word about their age would be taken for new ones."""
    lines = drawn(Picture(URL, GLANCE, PAST, lost="no connection", old_seconds=75.0))
    assert lines[0].startswith("headrace 0.2.0  no connection  ")
    assert lines[1] == "http://127.0.0.1:8000: no connection. Trying again until it comes back."
    assert lines[2] == "What is below is 1 min 15 s old."
    assert len(lines) == 24
    assert drawn(Picture(URL, lost="x"))[1:] == ["http://127.0.0.1:8000: x. Trying again until it comes back."]
    assert drawn(Picture(URL)) == ["headrace  connecting  http://127.0.0.1:8000"]


# -------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (rate(0), "0"),
        (rate(0.04), "0.0"),
        (rate(9.94), "9.9"),
        (rate(9.96), "10"),
        (rate(12_345.6), "12,346"),
        (rate(None), "-"),
        (milliseconds(0), "0.00"),
        (milliseconds(9.994), "9.99"),
        (milliseconds(9.996), "10.0"),
        (milliseconds(99.96), "100"),
        (milliseconds(12_345.6), "12,346"),
        (milliseconds(None), "-"),
        (size(0), "0 B"),
        (size(1_023), "1023 B"),
        (size(1_536), "1.5 KiB"),
        (size(256 * 1024 * 1024), "256 MiB"),
        (duration(-1), "0 s"),
        (duration(59.9), "59 s"),
        (duration(60), "1 min 0 s"),
        (duration(3_599), "59 min 59 s"),
        (duration(86_399), "23 h 59 min"),
        (duration(180_000), "2 d 2 h"),
    ],
)
def test_numbers_are_as_short_as_they_can_be(written: str, expected: str) -> None:
    """Columns are narrow, and decimals that say nothing hide those that do."""
    assert written == expected


@given(st.lists(st.none() | st.floats(0, 1e12)))
def test_a_sparkline_has_a_block_for_each_value(values: list[float | None]) -> None:
    """Nothing looks like nothing, the least that there is looks like something, and the largest is the highest."""
    line = sparkline(values)
    assert len(line) == len(values)
    assert [char == " " for char in line] == [not value for value in values]
    top = max((value for value in values if value), default=None)
    assert [char == "█" for char, value in zip(line, values, strict=True) if value == top and top] == [True] * (
        values.count(top) if top else 0
    )
