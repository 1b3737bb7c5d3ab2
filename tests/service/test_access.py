"""The access log: one line a request, the same whichever way it takes, and nothing in it that should not be."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import httpx2
import pytest

from service.app import create_app
from service.lifespan import STATE
from service.observing.access import AccessLog
from service.settings import Settings
from tests.harness import Connection, Start
from tests.service.in_process import GET, NOWHERE, ROW, InProcess, chunked, in_process, post

_BODY = b'{"a":"x"}'
_LINE = b"POST %b HTTP/1.1"

_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each line, with its text as `text`."""
    return [
        {"text": record.getMessage()} | {name: value for name, value in vars(record).items() if name not in _USUAL}
        for record in caplog.records
        if record.name == "headrace.access"
    ]


def _same(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what differs from one request to the next."""
    return {name: value for name, value in line.items() if not name.endswith("seconds")}


# -------------------------------------------------------------------- what a line has


@pytest.mark.usefixtures("notes")
async def test_a_line_tells_what_became_of_the_rows(
    dsn: str, start: Start, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks where a row has gone, or why it took so long, has nothing else."""
    async with start(dsn=dsn, access_log=True) as running:
        host, port = running.client.base_url.host, running.client.base_url.port
        await running.post("notes", b'[{"text":"a"},{"text":"b"}]', x_request_id="r-1")
        await running.post("notes", b'[{"text":"a"},{"text":"bad"}]')
        await running.post("nowhere", b"{}")
        await running.post("notes", b'[{"text":"a"},{"nope":1}]', prefer="bad-rows=quarantine")
        await running.post("notes", b'{"text":"a"}', prefer="respond-async")
        await running.post("notes", b"[]")
    stored, refused, unknown, kept, accepted, nothing = _lines(caplog)
    client = stored.pop("client")
    assert client.startswith(f"{host}:")
    assert client != f"{host}:{port}"
    times = {name: stored.pop(name) for name in ("seconds", "read_seconds", "queue_seconds", "write_seconds")}
    assert 0 <= times["read_seconds"] <= times["seconds"]
    assert 0 <= times["queue_seconds"] <= times["seconds"]
    assert 0 < times["write_seconds"] <= times["seconds"]
    assert stored == {
        "text": "POST /rest/v1/notes 201",
        "method": "POST",
        "path": "/rest/v1/notes",
        "http_version": "1.1",
        "status": 201,
        "body_bytes": 27,
        "request_id": "r-1",
        "table": "public.notes",
        "rows": 2,
        "batch_rows": 2,
        "batch_requests": 1,
    }
    assert (refused["status"], refused["code"], refused["rows"]) == (400, "23514", 2)
    assert refused["write_seconds"] > 0
    assert (unknown["status"], unknown["code"]) == (404, "PGRST205")
    assert "table" not in unknown
    assert "queue_seconds" not in unknown
    assert (kept["status"], kept["rows"]) == (201, 2)
    assert (accepted["status"], accepted["rows"]) == (202, 1)
    assert "queue_seconds" not in accepted, "nobody knows yet"
    assert (nothing["status"], nothing["rows"]) == (201, 0)
    assert lane


@pytest.mark.usefixtures("notes")
async def test_a_request_that_waited_in_vain_says_how_long(
    dsn: str, db: Connection, start: Start, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its time went into the queue, although no flush ever ended with it."""
    async with start(dsn=dsn, access_log=True, lock_seconds_max=0.1) as running, db.transaction():
        await db.execute("lock table notes in exclusive mode")
        await running.post("notes", b'{"text":"a"}', prefer="wait=1")
    (line,) = _lines(caplog)
    assert (line["status"], line["code"]) == (503, "HR503")
    assert 0.9 <= line["queue_seconds"] <= line["seconds"]
    assert lane


@pytest.mark.parametrize(("prefix", "path"), [("/rest/v1", b"/rest/v1/t"), ("", b"/t"), ("", b"/livez")])
@pytest.mark.parametrize("root_path", ["", "/behind/a proxy"])
@pytest.mark.parametrize("client", ["127.0.0.1", "2001:db8::1"])
async def test_both_lanes_log_alike(
    prefix: str, path: bytes, root_path: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With the prefix under which a proxy has the service (`--root-path`); and uvicorn's own log is silent."""
    outcomes = []
    for lane in (True, False):
        caplog.clear()
        config = {"root_path": root_path, "access_log": True}
        async with in_process(config=config, fast_lane=lane, prefix=prefix, access_log=True) as server:
            connection = server.connect(peer=client)
            for line in (path, path + b"?a=%20b&c&columns=a", path.replace(b"t", b"%74"), b"/rest/v1/%C3%BC%20%25?x"):
                await connection.send(post(_BODY, b"X-Request-Id: r", line=_LINE % line))
            await connection.send(post(_BODY, line=b"POST %b HTTP/1.0" % path))
            replies = await connection.answered(5)
        assert not [record for record in caplog.records if record.name == "uvicorn.access"]
        lines = [_same(line) for line in _lines(caplog)]
        assert [line["status"] for line in lines] == [reply.status for reply in replies]
        outcomes.append(lines)
    assert outcomes[0] == outcomes[1]
    where = f"{root_path.replace(' ', '%20')}{path.decode()}"
    assert lines[0]["text"].startswith(f"POST {where} ")
    assert (lines[0]["path"], lines[0]["client"], lines[0]["body_bytes"]) == (where, f"{client}:40000", len(_BODY))
    assert (lines[1]["query"], lines[4]["http_version"]) == ("a=…&…&columns=a", "1.0")


_OTHERS = {
    "life": (GET, "GET /livez 200"),
    "nowhere": (NOWHERE, "POST /nowhere 404"),
    "another method": (post(_BODY, line=b"PUT /rest/v1/t HTTP/1.1"), "PUT /rest/v1/t 405"),
    "a question of a browser": (
        b"OPTIONS /rest/v1/t HTTP/1.1\r\nHost: h\r\nOrigin: o\r\nAccess-Control-Request-Method: POST\r\n\r\n",
        "OPTIONS /rest/v1/t 200",
    ),
    "chunks": (chunked(_BODY), "POST /rest/v1/t 201"),
    "a body over the limit": (post(b" " * 200_000), "POST /rest/v1/t 413"),
    "a late body": (post(_BODY)[:-1], "POST /rest/v1/t 408"),
}


@pytest.mark.parametrize("case", _OTHERS)
async def test_every_request_has_one_line(case: str, lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is for, and whoever answers it."""
    request, text = _OTHERS[case]
    settings: dict[str, Any] = {"body_bytes_max": 100_000, "body_seconds_max": 0.01, "fast_lane": lane == "fast"}
    async with in_process(access_log=True, **settings) as server, asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(server.service.postings.run())
        client = server.connect()
        await client.send(request)
        while not _lines(caplog):  # noqa: ASYNC110 - `logging` has no event for it
            await asyncio.sleep(0.001)
        await client.hang_up()
        await client.quiet()
        sweeping.cancel()
    (line,) = _lines(caplog)
    assert line["text"] == text
    assert line["seconds"] >= 0
    assert line.get("code", "").startswith(("HR", "PGRST")) == (line["status"] >= 400)


# -------------------------------------------------------------------- what is no request


_LONG = b"GET /" + b"a" * 600 + b" HTTP/1.1\r\nHost: h\r\n"

_REFUSED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "TLS": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        {"text": "- - 400", "status": 400, "code": "HR400"},
    ),
    "an escape": (b"GET /a\x1b[31mb HTTP/1.1\r\n\r\n", {"text": "- - 400", "status": 400, "code": "HR400"}),
    "no Host": (
        b"GET /a%20b?apikey=secret HTTP/1.1\r\nX-Request-Id: r\r\n\r\n",
        {
            "text": "GET /a%20b 400",
            "status": 400,
            "code": "HR400",
            "method": "GET",
            "path": "/a%20b",
            "query": "apikey=…",
            "http_version": "1.1",
            "request_id": "r",
        },
    ),
    "many headers": (
        b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200,
        {
            "text": "POST /rest/v1/t 431",
            "status": 431,
            "code": "HR431",
            "method": "POST",
            "path": "/rest/v1/t",
            "http_version": "1.1",
        },
    ),
    "a long URL": (
        b"GET /" + b"a" * 9_000,
        {
            "text": f"GET /{'a' * 499}… 414",
            "status": 414,
            "code": "HR414",
            "method": "GET",
            "path": f"/{'a' * 499}…",
        },
    ),
    "a bad chunk": (
        b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        {
            "text": "POST /rest/v1/t 400",
            "status": 400,
            "code": "HR400",
            "method": "POST",
            "path": "/rest/v1/t",
            "http_version": "1.1",
        },
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
async def test_what_is_refused_by_its_head_is_logged_as_far_as_it_is_known(
    case: str, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Scanners and broken clients are what an operator looks for here."""
    request, expected = _REFUSED[case]
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        client = server.connect()
        for _ in range(2):  # the first leaves nothing behind that the second could be taken for
            await client.send(ROW)
        await client.answered(2)
        caplog.clear()
        await client.send(request)
        (reply,) = (await client.answered(3))[2:]
        await client.quiet()
    (line,) = [_same(line) for line in _lines(caplog)]
    assert line.pop("client") == "127.0.0.1:40000"
    for name in ("table", "rows"):
        line.pop(name, None)
    assert line == expected
    assert reply.status == line["status"]


async def test_a_body_that_is_no_http_has_one_line(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """The request was under way in one of the lanes, and the connection ends beneath it."""
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        client = server.connect()
        await client.send(b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n")
        await client.quiet()
        await client.send(b"nonsense\r\n")
        await client.answered(1)
        await client.quiet()
    (line,) = _lines(caplog)
    assert (line["text"], line["code"]) == ("POST /rest/v1/t 400", "HR400")


async def test_a_crowd_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is refused before anybody looks at what it wants."""
    async with in_process(config={"limit_concurrency": 1}, access_log=True) as server:
        client = server.connect()
        await client.send(ROW)
        await client.answered(1)
    (line,) = _lines(caplog)
    assert (line["text"], line["code"]) == ("POST /rest/v1/t 503", "HR507")


# -------------------------------------------------------------------- clients that leave


async def _leave(server: InProcess, request: bytes) -> None:
    client = server.connect()
    await client.send(request)
    await client.quiet()
    await client.hang_up()
    await client.quiet()


@pytest.mark.parametrize("case", ["waiting", "being written", "half a body"])
async def test_a_client_that_leaves_has_a_line(case: str, lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """Time-outs of clients are half of all riddles, and the server's answer is in none of them."""
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        server.sink.gate.clear()
        if case == "waiting":
            await _leave(server, ROW)
            caplog.clear()
        await _leave(server, ROW[:-1] if case == "half a body" else ROW)
        (line,) = _lines(caplog)
        server.sink.gate.set()
        await server.connect().quiet()
    assert len(_lines(caplog)) == 1
    assert (line["text"], line["status"]) == ("POST /rest/v1/t 499", 499)
    assert "code" not in line
    assert "write_seconds" not in line
    assert line["seconds"] >= 0


async def test_a_request_that_the_server_gives_up_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Servers cancel what takes too long when they stop. Its posting must not wait for the body for ever."""
    async with in_process(fast_lane=False, access_log=True) as server:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/rest/v1/t",
            "query_string": b"",
            "headers": [],
            "http_version": "2",
            "server": ("127.0.0.1", 8000),
            "state": {STATE: server.service},
        }
        body: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def receive() -> Any:
            return await body

        async def send(_message: Any) -> None:
            pass

        task = asyncio.ensure_future(cast("Any", server.config.app)(scope, receive, send))
        while not server.service.postings.unread:  # noqa: ASYNC110 - nothing tells when it is there
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not server.service.postings.unread
    (line,) = _lines(caplog)
    assert (line["text"], line["http_version"]) == ("POST /rest/v1/t 499", "2")


# -------------------------------------------------------------------- what must not be in it


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"apikey=secret", "apikey=…"),
        (b"columns=a,b&select=a,b:c::text&order=a.desc", "columns=a,b&select=a,b:c::text&order=a.desc"),
        (b"on_conflict=a&limit=1", "on_conflict=a&limit=…"),
        (b"id=eq.5&select=a&token=x=y", "id=…&select=a&token=…"),
        (b"eyJhbGciOiJIUzI1NiJ9", "…"),
        (b"select%3Dx=y&sel%65ct=z", "select%3Dx=…&sel%65ct=…"),
        (b"&&", "…&…&…"),
        (b"a%0A10:00:00%20ERROR=1&columns=%0A", "a%0A10:00:00%20ERROR=…&columns=%0A"),
        (b"columns=" + b"a" * 600, f"columns={'a' * 492}…"),
    ],
)  # fmt: skip
async def test_a_query_is_shown_without_its_values(
    query: bytes, shown: str, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys go into `apikey`, and filters hold what is in rows; logs are read by others than databases are."""
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        client = server.connect()
        await client.send(post(_BODY, line=_LINE % (b"/rest/v1/t?" + query)))
        await client.answered(1)
    (line,) = _lines(caplog)
    assert line["query"] == shown


async def test_a_path_breaks_no_line(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that could would let anybody write into the log what he likes."""
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        client = server.connect()
        for path in (b"/rest/v1/%0A10:00:00%20ERROR%20x", b"/%1b%5b31m%ff%e2%80%a8", b"/rest/v1/" + b"%00" * 2_000):
            await client.send(post(_BODY, line=_LINE % path))
        await client.answered(3)
    first, second, third = _lines(caplog)
    assert first["path"] == "/rest/v1/%0A10%3A00%3A00%20ERROR%20x"
    assert second["path"] == "/%1B%5B31m%EF%BF%BD%E2%80%A8"
    assert third["path"] == ("/rest/v1/" + "%00" * 200)[:500] + "…"
    assert all(line["text"].isprintable() for line in (first, second, third))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", [b"203.0.113.7"], "203.0.113.7:0"),
        ("127.0.0.1", [b"198.51.100.1, 203.0.113.7:99"], "203.0.113.7:99"),
        ("127.0.0.1", [b"198.51.100.1", b"203.0.113.7, 127.0.0.1"], "203.0.113.7:0"),
        ("192.0.2.1", [b"203.0.113.7"], "192.0.2.1:40000"),
        ("127.0.0.1", [b""], "127.0.0.1:40000"),
        ("127.0.0.1", [b"x" * 600], f"{'x' * 500}…"),
    ],
)
async def test_the_client_is_whom_a_trusted_proxy_names(
    peer: str, forwarded: list[bytes], client: str, lane: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a proxy all requests come from its address; and nobody else may say who he is."""
    async with in_process(fast_lane=lane == "fast", access_log=True) as server:
        connection = server.connect(peer=peer)
        for _ in range(2):  # the second has a head that is known
            await connection.send(post(_BODY, *[b"X-Forwarded-For: " + value for value in forwarded]))
        await connection.answered(2)
    assert [line["client"] for line in _lines(caplog)] == [client, client]


# -------------------------------------------------------------------- which requests


async def test_without_the_setting_there_is_no_line(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """A line costs more than a row does in the fast lane, so nobody has it by accident."""
    async with in_process(config={"access_log": True}, fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(ROW, GET, b"nonsense\r\n\r\n")
        await client.answered(3)
        assert server.service.access is None
    assert not [record for record in caplog.records if "access" in record.name]


async def test_a_share_of_the_requests_is_logged(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """A busy service is known by one request in a hundred as well; its bugs are not."""
    async with in_process(fast_lane=lane == "fast", access_log=True, access_log_share=0.25) as server:
        assert server.service.access is not None
        chances = iter([0.1, 0.3, 0.24, 0.25, 0.0, 0.9])
        server.service.access._chance = lambda: next(chances)
        client = server.connect()
        for request in (ROW, ROW, GET, GET, NOWHERE, NOWHERE):
            await client.send(request)
        await client.answered(6)
    assert [line["text"] for line in _lines(caplog)] == ["POST /rest/v1/t 201", "GET /livez 200", "POST /nowhere 404"]


def test_errors_of_the_service_are_always_logged() -> None:
    """A 503 is none: an outage has as many of them as there are requests."""
    log = AccessLog(0.5, lambda: 0.9)
    assert [status for status in (201, 404, 429, 499, 500, 501, 503, 504) if log.wants(status)] == [500, 501, 504]
    assert all(AccessLog(1.0, lambda: 0.9999).wants(status) for status in (201, 503))


# -------------------------------------------------------------------- bugs


async def _broken() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("request_id", ["r-1", ""])
async def test_a_bug_has_a_name_in_answer_and_log(request_id: str, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who reports it has seen nothing but the answer."""
    app = create_app(Settings(dsn=dsn, access_log=True))
    app.add_api_route("/broken", _broken)
    async with app.router.lifespan_context(app) as state:
        transport = _Stateful(app, state)
        async with httpx2.AsyncClient(transport=transport, base_url="http://h") as client:
            response = await client.get("/broken", headers={"x-request-id": request_id} if request_id else {})
    assert (response.status_code, response.json()["code"]) == (500, "HR500")
    name = response.headers["x-request-id"]
    assert name == (request_id or name)
    assert len(name) == (3 if request_id else 32)
    (line,) = _lines(caplog)
    assert (line["text"], line["code"], line["request_id"]) == ("GET /broken 500", "HR500", name)
    assert transport.notes == [f"request_id={name}"]


class _Stateful(httpx2.ASGITransport):
    """Hands the lifespan's state to requests, as servers do, and keeps what a server would log."""

    def __init__(self, app: Any, state: Any) -> None:
        self.notes: list[str] = []

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app({**scope, "state": dict(state)}, receive, send)
            except RuntimeError as error:
                self.notes = error.__notes__

        super().__init__(with_state)
