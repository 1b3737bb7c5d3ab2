"""What `headrace top` shows: a `Picture` → lines of a terminal of any size. Pure.

Owns what stands where, what is left out where there is no room, and how numbers are written. Must not know where a
picture comes from, nor the clock: ages are counted back from the second that the picture is of.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.filesize import pick_unit_and_suffix
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.observing.glance import Database, Glance, Percentiles, Point, Problem, Quarantine, Slots

_STATUS_STYLES = {"ok": "bold green", "busy": "bold yellow", "draining": "bold yellow"}
_ALARM = "bold red"
_QUIET = "dim"

_BLOCKS = "▁▂▃▄▅▆▇█"

_PROBLEMS_SHOWN = 3
"""On a screen; there are never many, and the numbers below tell more than the fourth."""

_CROWDED = 0.7, 0.9
"""From which share of a limit on a bar is yellow, and red."""

_RATES_WIDTH = 23
"""What names and numbers take, and a space at the end; the rest of a line is for the past."""

_TIMES_WIDTH = 31

_SECONDS_MIN = 12
"""Of a past that is worth a look; with less room, the times go below."""

_LABEL_WIDTH = 11

_SKEW_SECONDS_SHOWN = 0.1
"""Less is the time that the question takes."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known at a moment: the last glance, and seconds before it, oldest first.

    `lost` says why there is no connection; the glance is then `old_seconds` old.
    """

    url: str
    glance: Glance | None = None
    points: tuple[Point, ...] = ()
    lost: str | None = None
    old_seconds: float = 0.0


class View:
    """A picture for Rich to draw. If it is to `fit` on a screen, lists are only as long as there is room."""

    def __init__(self, picture: Picture, *, fit: bool) -> None:
        self._picture = picture
        self._fit = fit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines, from the top."""
        picture, glance = self._picture, self._picture.glance
        parts = [_header(picture), *_news(picture, most=_PROBLEMS_SHOWN if self._fit else None)]
        if glance is not None:
            parts += [*_numbers(glance, picture.points, options.max_width), *_state(glance)]
            used = sum(len(console.render_lines(part, options)) for part in parts)
            parts += _lists(glance, options.max_height - used if self._fit else None)
        yield from parts


# -------------------------------------------------------------------- the parts, from the top


def _header(picture: Picture) -> RenderableType:
    glance = picture.glance
    if picture.lost is not None:
        status = Text("no connection", _ALARM)
    elif glance is None:
        status = Text("connecting", "bold")
    else:
        status = Text(glance.status, _STATUS_STYLES.get(glance.status, _ALARM))
    line = Table.grid(expand=True, padding=(0, 2))
    line.add_column(no_wrap=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(no_wrap=True, justify="right")
    facts = "" if glance is None else f"{count(glance.workers, 'worker')}, up {duration(glance.uptime_seconds)}"
    version = "" if glance is None else f" {glance.version}"
    line.add_row(Text.assemble((plain(f"headrace{version}"), "bold"), "  ", status), Text(plain(picture.url)), facts)
    return line


def _news(picture: Picture, most: int | None) -> Iterable[RenderableType]:
    """What is wrong, and what to do about it; at most so much of it."""
    if picture.lost is not None:
        yield Text(plain(f"{picture.url}: {picture.lost}. Trying again until it comes back."), "red")
        if picture.glance is not None:
            yield Text(f"What is below is {duration(picture.old_seconds)} old.", "yellow")
        return
    problems = [] if picture.glance is None else picture.glance.problems
    for problem in problems[:most]:
        yield _problem(problem)
    if most is not None and len(problems) > most:
        yield Text(f"and {len(problems) - most} more: headrace top --once shows all", "yellow")


def _problem(problem: Problem) -> Text:
    style = "red" if problem.level == "error" else "yellow"
    return Text.assemble(
        (f"{plain(problem.level)}: {plain(problem.text)}", f"bold {style}"), f"  {plain(problem.advice)}"
    )


def _numbers(glance: Glance, points: Sequence[Point], width: int) -> Iterable[RenderableType]:
    """Rates with their last seconds, and times beside them, or below where it is narrow."""
    seconds = width - _RATES_WIDTH - _TIMES_WIDTH
    if seconds < _SECONDS_MIN:
        yield _rates(glance, points, max(0, width - _RATES_WIDTH))
        yield _times(glance)
        return
    both = Table.grid(expand=True)
    both.add_column(ratio=1)
    both.add_column(width=_TIMES_WIDTH)
    both.add_row(_rates(glance, points, seconds), _times(glance))
    yield both


def _rates(glance: Glance, points: Sequence[Point], seconds_max: int) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="bold", min_width=10)
    table.add_column(no_wrap=True, justify="right", min_width=9)
    table.add_column(no_wrap=True)
    seconds = min(len(points), seconds_max)
    shown = points[len(points) - seconds :]
    now = glance.point
    table.add_row("", Text("now", _QUIET), Text(f"last {seconds} s" if seconds else "", _QUIET))
    for name, value, past in (
        ("requests/s", rate(now.requests), [point.requests for point in shown]),
        ("rows/s", rate(now.rows), [point.rows for point in shown]),
        ("refused/s", rate(now.refused), [point.refused for point in shown]),
        ("failed/s", rate(now.failed), [point.failed for point in shown]),
        ("rows/batch", rate(now.batch_rows), [point.batch_rows for point in shown]),
        ("p99 ms", milliseconds(now.p99_ms), [point.p99_ms for point in shown]),
    ):
        alarming = name == "failed/s" and now.failed > 0
        table.add_row(name, Text(value, _ALARM if alarming else ""), Text(sparkline(past), "cyan"))
    return table


def _times(glance: Glance) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, style="bold", min_width=9)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right", min_width=6)
    table.add_row(Text("ms", _QUIET), *(Text(name, _QUIET) for name in ("p50", "p90", "p99")))
    for name, times in (("request", glance.latency), ("queue", glance.queue_time), ("write", glance.write_time)):
        table.add_row(name, *_three(times))
    table.add_row("loop late", milliseconds(glance.point.lag_ms))
    table.add_row("retries", whole(glance.retries))
    table.add_row("doubts", Text(whole(sum(glance.doubts.values())), _ALARM if glance.doubts.get("unknown") else ""))
    return table


def _three(times: Percentiles) -> list[str]:
    return [milliseconds(value) for value in (times.p50_ms, times.p90_ms, times.p99_ms)]


def _state(glance: Glance) -> Iterable[RenderableType]:
    """What fills up, as bars, and what there is to say about the rest."""
    queue, database, quarantine = glance.queue, glance.database, glance.quarantine
    bars = Table.grid(expand=True, padding=(0, 1))
    bars.add_column(no_wrap=True, style="bold", min_width=_LABEL_WIDTH)
    bars.add_column(ratio=1)
    bars.add_column(no_wrap=True, justify="right")
    bars.add_column(no_wrap=True, justify="right", min_width=5)
    for name, used, limit, written in (
        ("rows", queue.pending_rows, queue.pending_rows_max, whole),
        ("bytes", queue.pending_bytes, queue.pending_bytes_max, size),
        ("PostgreSQL", database.connections, database.connections_max, whole),
    ):
        if used is not None and limit:
            unit = " connections" if name == "PostgreSQL" else " pending"
            share = used / limit
            bar = ProgressBar(limit, used, complete_style=_bar_style(share), finished_style="red")
            bars.add_row(name, bar, f"{written(used)} of {written(limit)}{unit}", f"{share:.0%}")
    yield bars

    lines = Table.grid(expand=True, padding=(0, 1))
    lines.add_column(no_wrap=True, style="bold", min_width=_LABEL_WIDTH)
    lines.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    oldest = f", the oldest for {milliseconds(queue.oldest_ms)} ms" if queue.queued_rows else ""
    lines.add_row("waiting", f"{count(queue.queued_rows, 'row')}, {size(queue.queued_bytes)}{oldest}")
    lines.add_row("slots", _slots(glance.slots, glance.connections))
    lines.add_row("database", _database(database))
    lines.add_row("quarantine", _quarantine(quarantine, glance.point.at))
    lines.add_row("since start", _totals(glance))
    yield lines


def _bar_style(share: float) -> str:
    crowded, full = _CROWDED
    return "red" if share >= full else "yellow" if share >= crowded else "green"


def _slots(slots: Slots, connections: int) -> Text:
    away = (f"{slots.away} away", _ALARM if slots.away else "")
    return Text.assemble(
        f"{slots.busy} busy, {slots.idle} idle, ", away, f"; {count(connections, 'connection')} of clients"
    )


def _database(database: Database) -> Text:
    if not database.up:
        return Text(plain(f"away: {database.reason or 'no reason known'}"), _ALARM)
    words = Text("up")
    if database.version:
        words.append(plain(f", PostgreSQL {database.version.removeprefix('PostgreSQL ')}"))
    if database.read_only:
        words.append(", read-only", _ALARM)
    if database.skew_seconds is not None and abs(database.skew_seconds) >= _SKEW_SECONDS_SHOWN:
        direction = "ahead" if database.skew_seconds > 0 else "behind"
        words.append(f", its clock is {abs(database.skew_seconds):.1f} s {direction}", "yellow")
    return words


def _quarantine(quarantine: Quarantine | None, now: float) -> Text:
    if quarantine is None:
        return Text("not known yet", _QUIET)
    more = " or more" if quarantine.rows >= quarantine.counted_max else ""
    words = Text(f"{count(quarantine.rows, 'row')}{more}", "yellow" if quarantine.rows else "")
    if quarantine.newest:
        newest = quarantine.newest[0]
        place = newest.table if newest.column is None else f"{newest.table}.{newest.column}"
        words.append(plain(f"; {duration(now - newest.at)} ago {place}: {newest.condition} ({newest.code})"))
    return words


def _totals(glance: Glance) -> Text:
    """What should never be, then requests by outcome; what did not happen is left out."""
    text = Text()
    if glance.unbalanced_requests or glance.unbalanced_rows:
        lost = f"{count(glance.unbalanced_requests, 'request')}, {count(glance.unbalanced_rows, 'row')}"
        text.append(f"{lost} without an outcome; ", _ALARM)
    words = [f"{whole(requests)} {name}" for name, (requests, _) in glance.totals.items() if requests]
    _, stored = glance.totals.get("committed", (0, 0))
    return text.append(plain(", ".join([*(words or ["no requests"]), f"{count(stored, 'row')} stored"])))


# -------------------------------------------------------------------- lists


def _lists(glance: Glance, room: int | None) -> Iterable[RenderableType]:
    """Tables, then refusals beside slow flushes, in so many lines; None: however many they are."""
    tables = len(glance.tables)
    below = max(len(glance.refusals), len(glance.slow))
    if room is not None:
        entries = room - 2  # without the heads of both
        if entries < bool(tables) + bool(below):
            return
        tables = min(tables, max(entries * 2 // 3, entries - below))
        below = min(below, entries - tables)
    yield _tables(glance, tables)
    both = Table.grid(expand=True, padding=(0, 2))
    both.add_column(ratio=5)
    both.add_column(ratio=7)
    both.add_row(_refusals(glance, below), _slow(glance, below))
    yield both


def _tables(glance: Glance, room: int) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for _ in range(5):
        table.add_column(no_wrap=True, justify="right", min_width=9)
    shown = glance.tables[:room]
    known = sum(bool(each.table) for each in shown)
    title = f"busiest {known} of {count(glance.tables_total, 'table')}" if glance.tables_total else "no tables yet"
    heads = ("requests/s", "rows/s", "refused/s", "rows/batch", "write ms")
    table.add_row(Text(title, "bold"), *(Text(head, "bold") for head in heads))
    for each in shown:
        table.add_row(
            Text(plain(each.table) or "(table not known)"),
            rate(each.requests),
            rate(each.rows),
            Text(rate(each.refused), "yellow" if each.refused else ""),
            rate(each.batch_rows),
            milliseconds(each.write_ms),
        )
    return table


def _refusals(glance: Glance, room: int) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, justify="right", min_width=6)
    table.add_column(no_wrap=True, justify="right", min_width=8)
    table.add_row(*(Text(head, "bold") for head in ("refusals", "/s", "total")))
    for each in glance.refusals[:room]:
        style = "red" if each.status >= 500 else ""
        table.add_row(Text(plain(f"{each.status} {each.code}"), style), rate(each.per_second), whole(each.total))
    return table


def _slow(glance: Glance, room: int) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    table.add_row(*(Text(head, "bold") for head in ("slow flushes", "s", "rows", "ago")))
    for each in glance.slow[:room]:
        name = plain(", ".join(each.tables) + (f": {each.failure}" if each.failure else ""))
        table.add_row(
            Text(name, "red" if each.failure else ""),
            f"{each.seconds:.1f}",
            whole(each.rows),
            duration(glance.point.at - each.at),
        )
    return table


# -------------------------------------------------------------------- words and numbers


def plain(text: str) -> str:
    """The text with all that would control a terminal escaped: names and reasons come from strangers."""
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode() for char in text])


def whole(value: float) -> str:
    """A number of things."""
    return f"{value:,.0f}"


def count(number: int, what: str) -> str:
    """So many of something."""
    return f"{whole(number)} {what}{'' if number == 1 else 's'}"


def rate(value: float | None) -> str:
    """So many a second: with one decimal below ten, where it matters; nothing measured is "-"."""
    if value is None:
        return "-"
    return f"{value:.1f}" if 0 < value < 9.95 else whole(value)


def milliseconds(value: float | None) -> str:
    """A time with three digits that count, as far as there are decimals; nothing measured is "-"."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else whole(value)


def size(value: int) -> str:
    """Bytes, in the binary units in which the settings count."""
    unit, suffix = pick_unit_and_suffix(value, ["B", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{value / unit:.1f} {suffix}" if value % unit else f"{value // unit} {suffix}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    left = max(0, math.floor(seconds))
    minutes, hours, days = left // 60, left // 3_600, left // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {left % 60} s" if minutes else f"{left} s"


def sparkline(values: Sequence[float | None]) -> str:
    """One block for each value, the highest for the largest; where nothing was measured, and at zero, a space."""
    top = max((value for value in values if value is not None), default=0)
    if top <= 0:
        return " " * len(values)
    steps = len(_BLOCKS)
    return "".join([_BLOCKS[min(steps - 1, int(value / top * steps))] if value else " " for value in values])
