"""`headrace top`: a running service, looked at from a terminal.

The thin shell around `topview`: reads the live feed, keeps the last minutes, puts pictures on the terminal, hears the
keyboard. Knows the service by its HTTP interface only, and outlives it: what is away is tried again.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn

import anyio
import httpx2
import msgspec
from httpx2 import ServerSentEvent
from rich.console import Console
from rich.live import Live

from service.commands.topview import Picture, View
from service.observing.glance import Glance, Point

_POINTS_MAX = 300
"""What the service keeps, too: five minutes, of which a terminal has room for one or two."""

_CONNECT_SECONDS_MAX = 5.0

_SILENT_SECONDS_MAX = 5.0
"""The feed says something each second, even of a service that is full."""

_AGAIN_SECONDS = 1.0
"""A refused connection costs next to nothing; a service that restarts is found soon."""

_TIMEOUT = httpx2.Timeout(_SILENT_SECONDS_MAX, connect=_CONNECT_SECONDS_MAX)


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no connection, and why."""

    reason: str


Told = Callable[[ServerSentEvent | Lost], None]
"""What is called with whatever comes, in order. Raises `msgspec.MsgspecError` for what it does not understand."""


def run(url: str, *, once: bool, as_json: bool) -> int:
    """Show the service at this URL, without its prefix, until somebody has seen enough. Returns the exit status.

    `once`: a single look, whose status is 1 if there is something wrong with the service or it cannot be reached.
    `as_json`: what the service says, as it says it, one line a second.
    """
    status = 0
    try:
        base = _base(url)
        if once:
            status = _look_once(base, as_json=as_json)
        else:
            anyio.run(partial(_watch, base, as_json=as_json), backend_options={"use_uvloop": True})
    except* httpx2.InvalidURL as errors:
        _complain(f"{url}: {errors.exceptions[0]}")
        status = 1
    except* BrokenPipeError:
        # Whoever read this has seen enough. What is still in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _base(url: str) -> httpx2.URL:
    base = httpx2.URL(url)
    if base.scheme not in ("http", "https") or not base.host:
        raise httpx2.InvalidURL("the URL must begin with http:// or https:// and name a host")
    return base


# -------------------------------------------------------------------- one look


def _look_once(base: httpx2.URL, *, as_json: bool) -> int:
    try:
        with httpx2.Client(base_url=base, timeout=_TIMEOUT) as client:
            answer = client.get("dashboard/glance").raise_for_status()
        glance = msgspec.json.decode(answer.content, type=Glance)
    except (httpx2.HTTPError, msgspec.MsgspecError) as error:
        _complain(f"{_shown(base)}: {_reason(error)}")
        return 1
    _write(answer.content + b"\n" if as_json else _text(_shown(base), answer.content))
    is_well = glance.status == "ok" and all(problem.level != "error" for problem in glance.problems)
    return 0 if is_well else 1


# -------------------------------------------------------------------- the feed


async def follow(client: httpx2.AsyncClient, told: Told) -> NoReturn:
    """Tell each event of the live feed and, when there is none to be had, why; then try again, for ever.

    A stream may end in good order, and says itself how soon to ask for the next (`retry`) and since when (`id`):
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    pause_seconds = _AGAIN_SECONDS
    last = ""
    while True:
        news: Lost | None = Lost("it has said nothing")
        try:
            async with client.sse("dashboard/events", headers={"last-event-id": last} if last else None) as source:
                source.response.raise_for_status()
                async for event in source:
                    told(event)
                    news, last = None, event.id
                    if event.retry is not None:
                        pause_seconds = event.retry / 1_000
        except (httpx2.HTTPError, msgspec.MsgspecError) as error:
            news, last, pause_seconds = Lost(_reason(error)), "", _AGAIN_SECONDS
        if news is not None:
            told(news)
        await anyio.sleep(pause_seconds)


def _reason(error: Exception) -> str:
    """Why there is nothing to show, for people."""
    match error:
        case httpx2.HTTPStatusError(response=response):
            return f"it answers {response.status_code} {response.reason_phrase} at {response.url.path}".rstrip()
        case httpx2.SSEError() | msgspec.MsgspecError():
            return f"what comes from there is not of this version of Headrace ({error})"
        case httpx2.ConnectTimeout():
            return f"no connection within {_CONNECT_SECONDS_MAX:g} s"
        case httpx2.ConnectError():
            return f"no connection ({error})"
        case httpx2.TimeoutException():
            return f"it has said nothing for {_SILENT_SECONDS_MAX:g} s"
        case _:
            return f"the connection was lost ({str(error) or type(error).__name__})"


def developed(picture: Picture, event: ServerSentEvent) -> Picture:
    """The picture after an event. Raises `msgspec.MsgspecError` if it is not what it should be."""
    match event.event:
        case "history":
            points = msgspec.json.decode(event.data, type=tuple[Point, ...])
            return replace(picture, points=points[-_POINTS_MAX:])
        case "glance":
            glance = msgspec.json.decode(event.data, type=Glance)
            # The first glance of a stream is of the second that is just passing; the next one is better.
            past = [point for point in picture.points if int(point.at) != int(glance.point.at)]
            return Picture(picture.url, glance, (*past, glance.point)[-_POINTS_MAX:])
        case _:
            return picture


# -------------------------------------------------------------------- watching


async def _watch(base: httpx2.URL, *, as_json: bool) -> None:
    """Until `q`, Ctrl-C or SIGTERM."""
    async with httpx2.AsyncClient(base_url=base, timeout=_TIMEOUT) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(_leave_on_signal, tasks.cancel_scope)
        console, url = Console(), _shown(base)
        if as_json:
            await follow(client, partial(_print, url, _json))
        if not console.is_terminal or console.is_dumb_terminal:
            await follow(client, partial(_print, url, partial(_text, url)))
        with _screen(console) as live:
            watched = _Watched(url, lambda picture: live.update(View(picture, fit=True), refresh=True))
            watched.show()
            tasks.start_soon(_redraw_on_resize, live)
            tasks.start_soon(_leave_on_key, tasks.cancel_scope)
            await follow(client, watched.told)


def _print(url: str, written: Callable[[str], bytes], event: ServerSentEvent | Lost) -> None:
    """For pipes and files: each glance by itself."""
    if isinstance(event, Lost):
        _complain(f"{url}: {event.reason}")
    elif event.event == "glance":
        _write(written(event.data))


def _json(data: str) -> bytes:
    return data.replace("\n", " ").encode() + b"\n"  # JSON has line ends between its tokens only


def _text(url: str, data: str | bytes) -> bytes:
    """A glance as lines as wide as the terminal, or 80 columns, and an empty one at the end."""
    console = Console()
    with console.capture() as capture:
        console.print(View(Picture(url, msgspec.json.decode(data, type=Glance)), fit=False))
    return capture.get().encode(console.encoding, "replace") + b"\n"


class _Watched:
    """The picture as it develops, shown after each change of it."""

    def __init__(self, url: str, show: Callable[[Picture], None]) -> None:
        self._picture = Picture(url)
        self._show = show
        self._glanced_at = 0.0

    def told(self, event: ServerSentEvent | Lost) -> None:
        """Something has come, or nothing comes any more."""
        now = anyio.current_time()
        if isinstance(event, Lost):
            self._picture = replace(self._picture, lost=event.reason, old_seconds=now - self._glanced_at)
        else:
            self._picture = developed(self._picture, event)
            if event.event != "glance":
                return
            self._glanced_at = now
        self.show()

    def show(self) -> None:
        """Show what there is."""
        self._show(self._picture)


async def _leave_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


# -------------------------------------------------------------------- the terminal


@contextmanager
def _screen(console: Console) -> Iterator[Live]:
    """The whole terminal to draw on, and as it was before afterwards."""
    with _keys_as_they_come(), Live(console=console, screen=True, auto_refresh=False) as live:
        yield live


@contextmanager
def _keys_as_they_come() -> Iterator[None]:
    """Keys are not echoed, nor held back until the line ends. Ctrl-Z, which leaves the screen as it is, rests."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        now = termios.tcgetattr(sys.stdin)
        now[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(sys.stdin, termios.TCSANOW, now)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _leave_on_key(scope: anyio.CancelScope) -> None:
    if not sys.stdin.isatty():
        return
    keys = b" "
    while keys and b"q" not in keys.lower():  # none at all: the terminal is gone
        await anyio.wait_readable(sys.stdin)
        keys = os.read(sys.stdin.fileno(), 64)
    scope.cancel()


async def _redraw_on_resize(live: Live) -> None:
    with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            live.refresh()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _shown(base: httpx2.URL) -> str:
    """The URL without the password that it may have."""
    return str(base.copy_with(userinfo=b""))
