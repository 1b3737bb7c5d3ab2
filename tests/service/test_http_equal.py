"""Two lanes, one service: whatever is asked, both answer the same bytes and store the same rows."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import Connection, Reply, Start, metrics_text, rows_of
from tests.service.in_process import GET, NOWHERE, ROW, chunked, in_process, post

_BODY = b'{"a":"x"}'


_COUNTED = ("headrace_received", "headrace_requests_total", "headrace_rows_total", "headrace_refusals")


def _table(name: bytes) -> bytes:
    return b"POST /rest/v1/%b HTTP/1.1" % name


def _prefer(*lines: bytes) -> bytes:
    return post(_BODY, *[b"Prefer: " + line for line in lines])


def _typed(media_type: bytes) -> bytes:
    return post(_BODY, b"Content-Type: " + media_type)


_1_0 = b"POST /rest/v1/t HTTP/1.0"
_1_1 = b"POST /rest/v1/t HTTP/1.1"

CASES: dict[str, bytes] = {
    "an object": ROW,
    "an array": post(b'[{"a":"x"},{"a":"y"}]'),
    "an empty array": post(b"[]"),
    "an empty object": post(b"{}"),
    "lines": post(b'{"a":"x"}\n\n{"b":"y"}\r\n', b"Content-Type: application/x-ndjson"),
    "no lines": post(b"", b"Content-Type: application/x-ndjson"),
    "no body": post(b""),
    "no body and no length": b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\n\r\n",
    "chunks": chunked(b'{"a"', b':"x"}'),
    "no chunks": chunked(),
    # Preferences
    "representation": _prefer(b"return=representation"),
    "representation of nothing": post(b"[]", b"Prefer: return=representation"),
    "minimal": _prefer(b"return=minimal"),
    "respond-async": _prefer(b"respond-async"),
    "wait": _prefer(b"wait=3"),
    "a long wait": _prefer(b"wait=999999999"),
    "a wait that is none": _prefer(b"wait=soon"),
    "all preferences": _prefer(b"return=representation, respond-async, wait=5, handling=strict"),
    "preferences in lines": _prefer(b"return=minimal", b"wait=1", b"return=representation"),
    "odd preferences": _prefer(b' Return="minimal" ; x=y ,, WAIT = 1', b"\xfc"),
    # Extras
    "a key": post(_BODY, b"Idempotency-Key: k"),
    "no key": post(_BODY, b"Idempotency-Key: "),
    "two keys": post(_BODY, b"Idempotency-Key: k", b"Idempotency-Key: k"),
    "a key and no rows": post(b"[]", b"Idempotency-Key: k"),
    "a key and bad JSON": post(b"[", b"Idempotency-Key: k"),
    "a key and chunks": chunked(b'{"a"', b':"x"}', line=_1_1 + b"\r\nIdempotency-Key: k"),
    "a request id": post(_BODY, b"X-Request-Id: r"),
    "no bad rows": post(_BODY, b"X-Request-Id: r", b"Prefer: bad-rows=quarantine"),
    "bad rows": post(b'[{"a":"x"},{"nope":1},5]', b"X-Request-Id: r", b"Prefer: bad-rows=quarantine"),
    "only bad rows": post(b"[1,2]", b"X-Request-Id: r", b"Prefer: bad-rows=quarantine"),
    "bad rows and others returned": post(
        b'[{"a":"x"},{"nope":1}]', b"Prefer: return=representation, bad-rows=quarantine"
    ),
    "bad rows and no answer": post(b'[{"a":"x"},{"nope":1}]', b"Prefer: respond-async, bad-rows=quarantine, wait=9"),
    "bad rows of no array": post(b"[1,2", b"Prefer: bad-rows=quarantine"),
    "bad rows, but too many bytes": post(b" " * 200_000, b"Prefer: bad-rows=quarantine"),
    # Headers
    "header names in other letters": post(_BODY, b"CONTENT-TYPE: application/json", b"pReFeR: return=minimal"),
    "white space around values": post(_BODY, b"Content-Type: \t application/json \t ", b"Prefer:return=minimal"),
    "two types": post(_BODY, b"Content-Type: application/json", b"Content-Type: text/xml"),
    "two types, the other way": post(_BODY, b"Content-Type: text/xml", b"Content-Type: application/json"),
    "two schemas": post(_BODY, b"Content-Profile: public", b"Content-Profile: other"),
    "an empty schema": post(_BODY, b"Content-Profile:"),
    "a wrong schema": post(_BODY, b"Content-Profile: other"),
    "a schema of odd letters": post(_BODY, b"Content-Profile: \xfc"),
    "a type with parameters": _typed(b"Application/JSON; charset=utf-8"),
    "any type": _typed(b"*/*"),
    "an empty type": _typed(b""),
    "a wrong type": _typed(b"text/xml"),
    "a type of odd letters": _typed(b"\xe4/\xff"),
    "a cookie, an origin and more": post(_BODY, b"Cookie: a=b", b"Origin: http://o", b"Accept: */*", b"X-Y: z" * 50),
    "many headers": post(_BODY, *[b"X-%d: y" % number for number in range(90)]),
    # Bodies
    "bad JSON": post(b'{"a":'),
    "not UTF-8": post(b'{"a":"\xff"}'),
    "a number": post(b"5"),
    "an unknown column": post(b'{"nope":1}'),
    "a bad line": post(b'{"a":"x"}\n{"nope":1}', b"Content-Type: application/x-ndjson"),
    "a body over the limit": post(b" " * 200_000),
    "a chunked body over the limit": chunked(b" " * 120_000),
    "a chunked body far over the limit": chunked(b" " * 200_000),
    # Connections
    "closing": post(_BODY, b"Connection: close"),
    "closing after an error": post(b"5", b"Connection: Close"),
    "keeping alive": post(_BODY, b"Connection: keep-alive"),
    "keeping alive and closing": post(_BODY, b"Connection: keep-alive, close"),
    "HTTP/1.0": post(_BODY, line=_1_0),
    "HTTP/1.0 without Host": post(_BODY, line=_1_0, host=b"X: y"),
    "HTTP/1.0 keeping alive": post(_BODY, b"Connection: keep-alive", line=_1_0),
    "HTTP/1.0 and an error": post(b"5", line=_1_0),
    "an upgrade to HTTP/2": post(_BODY, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A"),
    "an upgrade to WebSocket": post(
        _BODY, b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13"
    ),
    "an upgrade with chunks": chunked(_BODY).replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 1),
    "an upgrade and a close": post(_BODY, b"Connection: upgrade, close", b"Upgrade: x"),
    # Tables and paths
    "an unknown table": post(_BODY, line=_table(b"none")),
    "an unknown table and no body": post(b"", line=_table(b"none")),
    "an unknown table and bad JSON": post(b"{", line=_table(b"none")),
    "a table with a space": post(_BODY, line=_table(b"two%20words")),
    "a table with a plus": post(_BODY, line=_table(b"two+words")),
    "a table with a quote": post(_BODY, line=_table(b"a%22b%27c")),
    "a table with a dot": post(_BODY, line=_table(b"public.t")),
    "a table of dots": post(_BODY, line=_table(b"..")),
    "a table with an umlaut": post(_BODY, line=_table(b"%C3%BCber")),
    "a table that is no UTF-8": post(_BODY, line=_table(b"%ff%fe")),
    "a table with NUL": post(_BODY, line=_table(b"t%00")),
    "a table with a line end": post(_BODY, line=_table(b"t%0a")),
    "only a line end": post(_BODY, line=_table(b"%0d%0a")),
    "a table with a slash": post(_BODY, line=_table(b"a%2Fb")),
    "a table that is a slash": post(_BODY, line=_table(b"%2f")),
    "a table with a percent sign": post(_BODY, line=_table(b"%25")),
    "half an escape": post(_BODY, line=_table(b"t%2")),
    "an escape too many": post(_BODY, line=_table(b"%74")),
    "an escape that escapes": post(_BODY, line=_table(b"%2574")),
    "an escape in the prefix": post(_BODY, line=b"POST /%72est/v1/t HTTP/1.1"),
    "no table": post(_BODY, line=_table(b"")),
    "a slash behind": post(_BODY, line=_table(b"t/")),
    "a slash too many": post(_BODY, line=_table(b"/t")),
    "the prefix": post(_BODY, line=b"POST /rest/v1 HTTP/1.1"),
    "slashes in front": post(_BODY, line=b"POST //rest/v1/t HTTP/1.1"),
    "steps in the path": post(_BODY, line=b"POST /rest/v1/../v1/t HTTP/1.1"),
    "a path in other letters": post(_BODY, line=b"POST /REST/v1/t HTTP/1.1"),
    "a query": post(_BODY, line=_table(b"t?select=a&columns=%22a%22")),
    "a query of odd letters": post(_BODY, line=_table(b"t?%ff=%00&&?")),
    "an empty query": post(_BODY, line=_table(b"t?")),
    "a fragment": post(_BODY, line=_table(b"t#f")),
    "an absolute URL": post(_BODY, line=b"POST http://other:80/rest/v1/t?x=y HTTP/1.1"),
    "an absolute URL without a path": post(_BODY, line=b"POST http://other HTTP/1.1"),
    "a star": post(b"", line=b"OPTIONS * HTTP/1.1"),
    "a slash in the prefix": post(_BODY, line=b"POST /rest%2Fv1/t HTTP/1.1"),
    "no UTF-8 in the prefix": post(_BODY, line=b"POST /rest/v%ff/t HTTP/1.1"),
    "a surrogate": post(_BODY, line=_table(b"%ed%a0%80")),
    # Web pages
    "an origin": post(_BODY, b"Origin: http://o"),
    "no origin": post(_BODY, b"Origin:"),
    "an origin and rows": post(_BODY, b"Origin: http://o", b"Prefer: return=representation"),
    "an origin and no rows": post(b"[]", b"Origin: http://o"),
    "an origin and no answer": post(_BODY, b"Origin: http://o", b"Prefer: respond-async"),
    "an origin and bad rows": post(b"[1]", b"Origin: http://o", b"X-Request-Id: r", b"Prefer: bad-rows=quarantine"),
    "an origin and a key": post(_BODY, b"Origin: http://o", b"Idempotency-Key: k"),
    "an origin and chunks": chunked(_BODY, line=_1_1 + b"\r\nOrigin: http://o"),
    "an origin and bad JSON": post(b"[", b"Origin: http://o"),
    "an origin and an unknown table": post(_BODY, b"Origin: http://o", line=_table(b"none")),
    "an origin and a body over the limit": post(b" " * 200_000, b"Origin: http://o"),
    "an origin and a chunked body over the limit": chunked(b" " * 200_000, line=_1_1 + b"\r\nOrigin: http://o"),
    "an origin, and nothing there": post(_BODY, b"Origin: http://o", line=_table(b"t/1")),
    "an origin, and not HTTP": post(_BODY, b"Origin: http://o", b"Host: h"),
    "an origin, and what is private": GET.replace(b"Host", b"Origin: http://o\r\nHost"),
    "a question before": post(
        b"", b"Origin: http://o", b"Access-Control-Request-Method: POST", line=b"OPTIONS /rest/v1/t HTTP/1.1"
    ),
    "a question of nobody": post(b"", b"Access-Control-Request-Method: POST", line=b"OPTIONS /rest/v1/t HTTP/1.1"),
    "no question": post(b"", b"Origin: http://o", line=b"OPTIONS /rest/v1/t HTTP/1.1"),
    # Other methods and paths, which both lanes leave to FastAPI
    "GET of a table": b"GET /rest/v1/t HTTP/1.1\r\nHost: h\r\n\r\n",
    "PUT": post(_BODY, line=b"PUT /rest/v1/t HTTP/1.1"),
    "PATCH": post(_BODY, line=b"PATCH /rest/v1/t HTTP/1.1"),
    "life": GET,
    "nowhere": NOWHERE,
}


async def _answer(lane: bool, pieces: list[bytes], **settings: Any) -> tuple[bytes, bool, list[str], str]:  # noqa: FBT001
    async with in_process(fast_lane=lane, body_bytes_max=100_000, **settings) as server:
        server.state.default_headers = [(b"date", b"today"), (b"x-of-uvicorn", b"yes")]
        client = server.connect()
        await client.send(*pieces)
        await client.answered(1)
        await client.quiet()
        closed = client.is_over()
        await client.hang_up()
        metrics = metrics_text(server.service)
        counted = "\n".join(line for line in metrics.splitlines() if line.startswith(_COUNTED))
        return bytes(client.transport.written), closed, server.sink.rows, counted


@pytest.mark.parametrize("case", CASES)
async def test_both_lanes_answer_the_same_bytes(case: str) -> None:
    """Whole or in two pieces; and they close or not, store and count alike. All default headers are there."""
    request = CASES[case]
    for pieces in ([request], [request[:-1], request[-1:]]):
        fast = await _answer(True, pieces)
        assert fast == await _answer(False, pieces)
        written, closed, _, _ = fast
        assert b"\r\ndate: today\r\nx-of-uvicorn: yes\r\n" in written
        assert closed == (b"\r\nconnection: close\r\n" in written)


async def test_the_date_is_that_of_the_answer(lane: str) -> None:
    """Answers are put together once a second: not once for ever."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        for number, date in enumerate((b"today", b"today", b"tomorrow"), 1):
            server.state.default_headers = [(b"date", date)]
            await client.send(ROW)
            await client.answered(number)
        dates = [line for line in bytes(client.transport.written).splitlines() if line.startswith(b"date")]
        assert dates == [b"date: today", b"date: today", b"date: tomorrow"]


# ---------------------------------------------------------------- with a database

_TABLES = """
create table items (
    id int primary key, name varchar(5) not null, qty int check (qty >= 0), made timestamptz, item int references items
);
insert into items values (1, 'there', 1);
create table "Größe, ""x"". y" (n int default 7);
create view items_view as select id, name from items;
create function refuse() returns trigger language plpgsql as $$
begin
    raise exception using errcode = new.state, message = 'I refuse: ü', detail = 'because', hint = E'ask\nnicely';
end $$;
create table faults (state text);
create trigger refuse before insert on faults for each row execute function refuse();
"""

_BODIES: dict[str, tuple[bytes, bytes]] = {
    "22P02": (b"items", b'{"id":"two"}'),
    "22001": (b"items", b'{"id":2,"name":"too long"}'),
    "22003": (b"items", b'{"id":99999999999,"name":"a"}'),
    "22007": (b"items", b'[{"id":2,"name":"a","made":"now"},{"id":3,"name":"a","made":"never"}]'),
    "22P05": (b"items", b'{"id":2,"name":"\\u0000"}'),
    "23502": (b"items", b'[{"id":2,"name":"a"},{"id":3,"name":null}]'),
    "23503": (b"items", b'{"id":2,"name":"a","item":99}'),
    "23505": (b"items", b'[{"id":2,"name":"a"},{"id":1,"name":"a"}]'),
    "23514": (b"items", b'{"id":2,"name":"a","qty":-1}'),
    "PGRST204": (b"items", b'{"id":2,"n\\u00e4me":"a"}'),
    "PGRST205": (b"item", b"{}"),
    "PT418": (b"faults", b'{"state":"PT418"}'),
    "PT599": (b"faults", b'{"state":"PT599"}'),
    "P0001": (b"faults", b'{"state":"P0001"}'),
    "": (b"Gr%C3%B6%C3%9Fe%2C%20%22x%22%2E%20y", b"{}"),
    "a view": (b"items_view", b'{"id":1,"name":"again"}'),
}


async def test_both_lanes_answer_alike_with_a_database(db: Connection, dsn: str, start: Start) -> None:
    """All headers of all errors: row, column, status; and representations."""
    await db.execute(_TABLES)
    async with start(dsn=dsn, fast_lane=True) as fast, start(dsn=dsn, fast_lane=False) as slow:
        for prefer in (b"return=minimal", b"return=representation"):
            for code, (table, body) in _BODIES.items():
                request = post(body, b"Prefer: " + prefer, line=_table(table))
                for pieces in ([request], [request[:-1], request[-1:]]):
                    answers: list[Reply] = []
                    for headrace in (fast, slow):
                        async with headrace.connect() as connection:
                            await connection.send(*pieces)
                            answers.append(await connection.next())
                    assert answers[0] == answers[1], code
                    assert answers[0].status == 201 or code in (answers[0].code, "a view"), answers[0]
        stored = post(b'{"id":2,"name":"\\u00fc"}', b"Prefer: return=representation", line=_table(b"items"))
        for headrace in (fast, slow):
            async with headrace.connect() as connection:
                await connection.send(stored)
                answers.append(await connection.next())
                await db.execute("delete from items where id = 2")
        assert answers[-1] == answers[-2]
        assert answers[-1].body == '[{"id":2,"name":"ü","qty":null,"made":null,"item":null}]'.encode()
    assert await rows_of(db, "select id from items") == [(1,)]
