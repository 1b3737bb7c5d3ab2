"""`headrace top`: what it makes of the feed, that it outlives whatever the service does, and its manners."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import anyio
import httpx2
import msgspec
import pytest
from httpx2 import ServerSentEvent
from msgspec.structs import replace

from service.commands import top
from service.commands.top import Lost, developed, follow
from service.commands.topview import Picture
from service.observing.glance import Glance
from tests.harness import Connection, Running, Start
from tests.service.glances import FULL, GLANCE, NOTHING, PAST, URL, WRONG, drawn

# -------------------------------------------------------------------- the feed


def event(name: str, data: object) -> bytes:
    """An event as the service sends it."""
    return f"event: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
CHUNKED = STREAM.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")
GLANCE_EVENT = event("glance", GLANCE)
LIVE = STREAM + event("history", PAST) + GLANCE_EVENT


def answer(status: str, content: bytes, kind: str = "application/json") -> bytes:
    """A whole answer."""
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


class FakeService:
    """Answers each connection with the next of these bytes, the last ones for ever. If they `stay`, it stays open."""

    def __init__(self, *answers: bytes, stay: bool = False) -> None:
        self._answers = list(answers)
        self._stay = stay
        self.heads: list[str] = []
        self._open: set[asyncio.StreamWriter] = set()
        self.url = ""

    @property
    def paths(self) -> list[str]:
        """What was asked for."""
        return [head.split()[1] for head in self.heads]

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[FakeService]:
        """Listen on the port, or on a free one; what is still open is cut at the end."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in self._open:
                writer.transport.abort()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])
            await writer.drain()
            if self._stay:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "_AGAIN_SECONDS", 0.001)


async def told_by(url: str, enough: Callable[[list[ServerSentEvent | Lost]], bool]) -> list[ServerSentEvent | Lost]:
    """What `follow` tells of a service until it is enough."""
    told: list[ServerSentEvent | Lost] = []
    with anyio.CancelScope() as scope:

        def tell(news: ServerSentEvent | Lost) -> None:
            told.append(news)
            if enough(told):
                scope.cancel()

        async with httpx2.AsyncClient(base_url=url, timeout=0.2) as client:
            await follow(client, tell)
    return told


def lost(count: int = 1) -> Callable[[list[ServerSentEvent | Lost]], bool]:
    """Enough is when the connection was lost so often."""
    return lambda told: sum(isinstance(news, Lost) for news in told) >= count


async def test_a_stream_that_ends_in_good_order_goes_on_where_it_was() -> None:
    """The service ends each stream after a while; nobody is to be told that there is no connection."""
    first = STREAM + event("history", PAST) + b"id: 41\nretry: 1\n" + GLANCE_EVENT
    async with FakeService(first, STREAM + b"id: 42\n" + GLANCE_EVENT, b"").listening() as service:
        told = await told_by(service.url, lost())
    assert [news.event for news in told if isinstance(news, ServerSentEvent)] == ["history", "glance", "glance"]
    assert [isinstance(news, Lost) for news in told] == [False, False, False, True]
    assert service.paths == ["/dashboard/events"] * 3
    assert [sent.partition("last-event-id: ")[2].partition("\r\n")[0] for sent in service.heads] == ["", "41", "42"]


async def test_after_a_loss_it_asks_for_everything() -> None:
    """It may be another service by then, or the same one with another history."""
    async with FakeService(
        CHUNKED + b"6\r\nid: 41", STREAM + b"id: 41\n" + GLANCE_EVENT, b"", LIVE
    ).listening() as service:
        await told_by(service.url, lambda told: isinstance(told[-1], ServerSentEvent) and told[-1].event == "history")
    assert ["last-event-id: 41" in head for head in service.heads] == [False, False, True, False]


async def test_half_an_event_is_not_told() -> None:
    """A stream can be cut at each byte; JSON that was cut might even be whole JSON."""
    events = b"event: a\ndata: 1\n\nevent: b\ndata: 22\n\n"
    cuts = [CHUNKED + b"%x\r\n" % len(events) + events[:cut] for cut in range(len(events))]
    async with FakeService(*cuts).listening() as service:
        told = await told_by(service.url, lost(len(cuts)))
    connections: list[list[str]] = [[]]
    for news in told:
        if isinstance(news, Lost):
            connections.append([])
        else:
            connections[-1].append(news.data)
    first = events.index(b"\n\n") + 2
    assert connections[:-1] == [["1"] if cut >= first else [] for cut in range(len(events))]


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        (answer("404 Not Found", b"{}"), "it answers 404 Not Found at /dashboard/events"),
        (answer("503 Service Unavailable", b"{}"), "it answers 503 Service Unavailable at /dashboard/events"),
        (answer("200 OK", b"<html>", "text/html"), "not of this version of Headrace"),
        (STREAM + b"event: glance\ndata: {}\n\n", "not of this version of Headrace"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the connection was lost"),
        (b"", "the connection was lost"),
        (STREAM, "it has said nothing"),
        (CHUNKED + b"ff\r\n", "the connection was lost"),
    ],
)
async def test_whatever_comes_instead_is_said_and_tried_again(answered: bytes, reason: str) -> None:
    """The URL may be wrong, a proxy may stand before it, and a service that starts has other things to do."""
    pictures: list[Picture] = []

    def tell(news: ServerSentEvent | Lost) -> None:
        watched.told(news)
        if pictures and pictures[-1].glance is not None:
            scope.cancel()

    watched = top._Watched(URL, pictures.append)
    async with FakeService(answered, LIVE).listening() as service, httpx2.AsyncClient(base_url=service.url) as client:
        with anyio.CancelScope() as scope:
            await follow(client, tell)
    assert [picture.glance for picture in pictures[:2]] == [None, GLANCE]
    assert reason in (pictures[0].lost or "")
    assert (pictures[1].lost, pictures[1].points) == (None, (*PAST[1:], GLANCE.point))


async def test_a_service_that_says_nothing_any_more_is_left() -> None:
    """A connection whose other end is gone without a word stays open for hours."""
    async with FakeService(LIVE, stay=True).listening() as service:
        told = await told_by(service.url, lost())
        assert told[-1] == Lost("it has said nothing for 5 s")


async def test_a_service_is_found_again_after_its_restart() -> None:
    """Whoever deploys it looks at it just then."""
    first, second = FakeService(LIVE, stay=True), FakeService(LIVE, stay=True)
    told: asyncio.Queue[ServerSentEvent | Lost] = asyncio.Queue()

    async def until(words: str) -> None:
        while words not in str(await told.get()):
            pass

    async with first.listening():
        port = int(first.url.rpartition(":")[2])
    async with httpx2.AsyncClient(base_url=first.url) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(follow, client, told.put_nowait)
        await until("no connection")
        async with first.listening(port):
            await until("glance")
        await until("no connection")
        async with second.listening(port):
            await until("glance")
        tasks.cancel_scope.cancel()


def sse(name: str, data: object) -> ServerSentEvent:
    """An event, as it is told."""
    return ServerSentEvent(name, msgspec.json.encode(data).decode())


def test_the_past_grows_by_a_second_at_a_time_up_to_its_limit() -> None:
    """The glance after the history may be of its last second, which must not count twice."""
    picture = developed(Picture(URL), sse("history", PAST[:299]))
    picture = developed(picture, sse("glance", replace(GLANCE, point=PAST[298])))
    assert picture.points == PAST[:299]
    picture = developed(picture, sse("glance", replace(GLANCE, point=PAST[299])))
    picture = developed(picture, sse("glance", GLANCE))
    assert picture.points == (*PAST[1:], GLANCE.point)
    assert developed(picture, sse("history", PAST[:2])).points == PAST[:2]
    assert developed(picture, sse("news", "of a later version")) == picture


def test_the_age_of_what_is_shown_counts_from_the_last_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the loss of the connection, which may be noticed late."""
    clock = iter([100.0, 105.5, 110.0])
    monkeypatch.setattr(anyio, "current_time", lambda: next(clock))
    pictures: list[Picture] = []
    watched = top._Watched(URL, pictures.append)
    for news in (sse("glance", GLANCE), Lost("silent"), Lost("no connection")):
        watched.told(news)
    assert [picture.old_seconds for picture in pictures] == [0.0, 5.5, 10.0]


# -------------------------------------------------------------------- the command

COMMAND = (
    "import sys; from service.commands.top import run;"
    "sys.exit(run(sys.argv[1], once='--once' in sys.argv, as_json='--json' in sys.argv))"
)


@asynccontextmanager
async def started(url: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command in a process of its own, its output in pipes."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, url, *options, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(url: str, *options: str) -> tuple[int | None, bytes, str]:
    """The command's exit status, stdout and stderr."""
    async with started(url, *options) as process:
        out, err = await process.communicate()
        return process.returncode, out, err.decode()


def trimmed(text: bytes) -> list[str]:
    """The lines of a text, without spaces at their ends and empty ones at its own."""
    return [line.rstrip() for line in text.decode().rstrip().splitlines()]


@pytest.mark.parametrize(("glance", "status"), [(GLANCE, 0), (FULL, 1), (NOTHING, 0), (WRONG, 1)])
async def test_once_is_a_look_whose_status_says_whether_all_is_well(glance: Glance, status: int) -> None:
    """For people in a hurry, and for checks."""
    body = msgspec.json.format(msgspec.json.encode(glance), indent=3)
    async with FakeService(answer("200 OK", body)).listening() as service:
        ended_with, out, err = await ended(service.url, "--once")
        assert (ended_with, err) == (status, "")
        assert trimmed(out) == drawn(Picture(service.url, glance), height=None)
        assert await ended(service.url, "--once", "--json") == (status, body + b"\n", "")
    assert service.paths == ["/dashboard/glance"] * 2


@pytest.mark.parametrize("options", [["--once"], ["--once", "--json"]])
async def test_once_fails_in_a_line_where_there_is_no_service(options: list[str]) -> None:
    """A traceback is nothing to put into an alert."""
    async with FakeService(answer("404 Not Found", b"{}"), answer("200 OK", b"{}")).listening() as service:
        status, out, err = await ended(service.url, *options)
        assert (status, out) == (1, b"")
        assert err == f"{service.url}: it answers 404 Not Found at /dashboard/glance\n"
        status, out, err = await ended(service.url, *options)
        assert (status, out) == (1, b"")
        assert "not of this version of Headrace" in err
    status, out, err = await ended(service.url, *options)
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith(f"{service.url}: no connection (")


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"]])
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[]", "http://x:y"])
async def test_a_url_that_cannot_be_is_refused(url: str, options: list[str]) -> None:
    """To try it again for ever would help nobody."""
    status, out, err = await ended(url, *options)
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith(f"{url}: ")


async def test_the_password_of_a_url_is_not_shown() -> None:
    """Somebody else may look at the screen."""
    async with FakeService(answer("200 OK", msgspec.json.encode(GLANCE))).listening() as service:
        _, out, _ = await ended(service.url.replace("//", "//me:secret@"), "--once")
        assert service.url.encode() in out
        assert b"secret" not in out


async def test_json_is_a_line_for_each_glance_as_it_came() -> None:
    """For whatever reads lines; what it says to people goes to stderr."""
    pretty = msgspec.json.format(msgspec.json.encode(GLANCE), indent=1).replace(b"\n", b"\ndata: ")
    stream = event("history", PAST) + b"event: glance\ndata: " + pretty + b"\n\n"
    cut = CHUNKED + b"%x\r\n" % (len(stream) + 1) + stream
    async with FakeService(cut).listening() as service, started(service.url, "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [await process.stdout.readline() for _ in range(2)]
        assert [msgspec.json.decode(line, type=Glance) for line in lines] == [GLANCE] * 2
        assert (await process.stderr.readline()).decode().startswith(f"{service.url}: the connection was lost (")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert b"Traceback" not in await process.stderr.read()


async def test_without_a_terminal_it_prints_one_picture_after_the_other() -> None:
    """Redrawing a screen would fill a file with escapes."""
    async with FakeService(LIVE, stay=True).listening() as service, started(service.url) as process:
        assert process.stdout is not None
        text = await process.stdout.readuntil(b"\n\n")
        assert trimmed(text) == drawn(Picture(service.url, GLANCE), height=None)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize("options", [[], ["--json"], ["--once"]])
async def test_a_reader_who_leaves_ends_it_without_a_word(options: list[str]) -> None:
    """`headrace top --json | head -1` is no error."""
    reading, writing = os.pipe()
    answered = answer("200 OK", msgspec.json.encode(GLANCE)) if "--once" in options else LIVE + GLANCE_EVENT * 100
    async with FakeService(answered).listening() as service:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", COMMAND, service.url, *options, stdin=DEVNULL, stdout=writing, stderr=PIPE
        )
        os.close(writing)
        os.close(reading)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert b"Exception" not in err


# -------------------------------------------------------------------- a terminal

ON_A_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {COMMAND}"
ENTER, LEAVE, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """A terminal with the command in it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen = ""
        self._end, self._other = pty.openpty()
        self._came = asyncio.Event()
        self.modes = termios.tcgetattr(self._other)

    async def __aenter__(self) -> Self:
        self.resize(80, 24)
        os.set_blocking(self._end, False)
        asyncio.get_running_loop().add_reader(self._end, self._read)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ON_A_TERMINAL, self._url),
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            env=environment | {"TERM": "xterm-256color"},
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self._end)
        os.close(self._end)
        os.close(self._other)

    def _read(self) -> None:
        self._seen += os.read(self._end, 1 << 16).decode(errors="replace")
        self._came.set()

    def resize(self, width: int, height: int) -> None:
        """Make the window another one."""
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._end, keys.encode())

    async def until(self, text: str) -> str:
        """Wait for a text, and return what came before it."""
        while text not in self._seen:
            self._came.clear()
            await self._came.wait()
        before, _, self._seen = self._seen.partition(text)
        return before

    async def left_in_order(self) -> bool:
        """Whether the command ends with status 0, the terminal as it was before."""
        await self.until(LEAVE)
        status = await self.process.wait()
        return status == 0 and termios.tcgetattr(self._other) == self.modes


@pytest.mark.parametrize("keys", ["q", "Q", "\x1b[Axyq", "\x03"])
async def test_on_a_terminal_it_takes_the_screen_and_gives_it_back(keys: str) -> None:
    """`q` and Ctrl-C leave a terminal in which one can go on working."""
    async with FakeService(LIVE, stay=True).listening() as service, Terminal(service.url) as terminal:
        await terminal.until(ENTER)
        await terminal.until("requests/s")
        await terminal.until("slow flushes")
        assert termios.tcgetattr(terminal._other)[3] & (termios.ECHO | termios.ICANON) == 0
        terminal.type(keys)
        assert await terminal.left_in_order()


async def test_other_keys_do_nothing() -> None:
    """Ctrl-Z would leave the shell with a screen that is not its own."""
    async with FakeService(LIVE, stay=True).listening() as service, Terminal(service.url) as terminal:
        await terminal.until("requests/s")
        assert termios.tcgetattr(terminal._other)[6][termios.VSUSP] == b"\0"  # no signal comes of it
        terminal.type("\x1axyz \x1b")
        terminal.resize(100, 30)
        await terminal.until("requests/s")
        terminal.type("q")
        assert await terminal.left_in_order()


async def test_a_window_that_is_resized_is_drawn_anew_at_once() -> None:
    """Half a picture until the next second looks broken."""
    async with FakeService(LIVE, stay=True).listening() as service, Terminal(service.url) as terminal:
        await terminal.until("last 26 s")
        terminal.resize(120, 24)
        with anyio.fail_after(4):  # before it notices that the service says nothing more
            await terminal.until("last 66 s")
        terminal.type("q")
        assert await terminal.left_in_order()


async def test_on_a_terminal_a_service_that_goes_away_comes_back() -> None:
    """Whoever has it open during a restart sees both."""
    service = FakeService(LIVE, stay=True)
    async with service.listening():
        pass
    async with Terminal(service.url) as terminal:
        await terminal.until("no connection")
        async with service.listening(int(service.url.rpartition(":")[2])):
            await terminal.until("requests/s")
        await terminal.until("no connection")
        await terminal.until(" old.")
        await terminal.until("requests/s")
        terminal.type("q")
        assert await terminal.left_in_order()


# -------------------------------------------------------------------- a real service


async def test_once_agrees_with_what_was_sent(db: Connection, headrace: Running) -> None:
    """Every request and every row is in it, in its place."""
    await db.execute("create table t (n int); create table u (n int)")
    for body in ([{"n": 1}, {"n": 2}], {"n": 3}, {"n": "x"}):
        await headrace.post("t", body)
    await headrace.post("u", {"n": 1})
    await headrace.post("t", [{"n": 4}, {"n": "x"}], prefer="bad-rows=quarantine")
    await headrace.post("nope", {"n": 1})
    url = str(headrace.client.base_url)
    _, out, _ = await ended(url, "--once", "--json")
    glance = msgspec.json.decode(out, type=Glance)
    assert {outcome: amounts for outcome, amounts in glance.totals.items() if any(amounts)} == {
        "committed": (4, 5),
        "quarantined": (0, 1),
        "rejected": (2, 1),  # the rows for a table that there is not were not read
    }
    assert {(table.table, table.requests_total, table.rows_total, table.refused_total) for table in glance.tables} == {
        ("public.t", 4, 4, 1),
        ("public.u", 1, 1, 0),
        ("", 1, 0, 1),
    }
    _, out, _ = await ended(url, "--once")
    screen = " ".join(out.decode().split())
    for shown in (
        "since start 4 committed, 2 rejected, 5 rows stored",
        "busiest 2 of 2 tables",
        "public.t ",
        "public.u ",
        "(table not known) ",
        "400 22P02 ",
        "404 PGRST205 ",
        "0 busy, 2 idle, 0 away",
    ):
        assert shown in screen


async def test_a_service_that_stops_says_so_before_it_is_gone(dsn: str, start: Start) -> None:
    """Whoever watches a deployment is not left with a guess."""
    told: asyncio.Queue[ServerSentEvent | Lost] = asyncio.Queue()
    async with anyio.create_task_group() as tasks:
        async with start(dsn=dsn) as headrace, httpx2.AsyncClient(base_url=headrace.client.base_url) as client:
            tasks.start_soon(follow, client, told.put_nowait)
            assert isinstance(await told.get(), ServerSentEvent)
            headrace.server.should_exit = True
            news = [await told.get()]
            while isinstance(news[-1], ServerSentEvent):
                news.append(await told.get())
        tasks.cancel_scope.cancel()
    statuses = [
        msgspec.json.decode(each.data, type=Glance).status for each in news if isinstance(each, ServerSentEvent)
    ]
    assert (statuses[0], statuses[-1]) == ("ok", "draining")
    assert isinstance(news[-1], Lost)
    assert news[-1].reason.startswith("no connection")
