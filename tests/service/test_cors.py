"""Web pages of other origins: what their browsers let them see."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from service.http.cors import CORS_HEADERS
from tests.harness import Connection, Reply, Running
from tests.service.in_process import GET, ROW, chunked, in_process, post

ORIGIN = b"Origin: http://page.example"
SEEN = [(name.encode(), value.encode()) for name, value in CORS_HEADERS]

_BODY = b'{"a":"x"}'


def shown(reply: Reply) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that are for browsers."""
    return [(name, value) for name, value in reply.headers if name.startswith(b"access-control-")]


REQUESTS: dict[str, tuple[bytes, int]] = {
    "a row": (post(_BODY, ORIGIN), 201),
    "rows returned": (post(_BODY, ORIGIN, b"Prefer: return=representation"), 201),
    "no rows": (post(b"[]", ORIGIN), 201),
    "no answer": (post(_BODY, ORIGIN, b"Prefer: respond-async"), 202),
    "bad rows": (post(b'[{"nope":1},{"a":"x"}]', ORIGIN, b"Prefer: bad-rows=quarantine"), 201),
    "in chunks": (chunked(_BODY, line=b"POST /rest/v1/t HTTP/1.1\r\n" + ORIGIN), 201),
    "an opaque origin": (post(_BODY, b"Origin: null"), 201),
    "bad JSON": (post(b"{", ORIGIN), 400),
    "bad lines": (post(b"{}\n{", ORIGIN, b"Content-Type: application/x-ndjson"), 400),
    "an unknown table": (post(_BODY, ORIGIN, line=b"POST /rest/v1/none HTTP/1.1"), 404),
    "a wrong schema": (post(_BODY, ORIGIN, b"Content-Profile: other"), 406),
    "a wrong key": (post(_BODY, ORIGIN, b"Idempotency-Key: "), 400),
    "too much": (post(b" " * 2000, ORIGIN), 413),
    "nowhere": (post(_BODY, ORIGIN, line=b"POST /nowhere HTTP/1.1"), 404),
    "another method": (post(_BODY, ORIGIN, line=b"PUT /rest/v1/t HTTP/1.1"), 405),
    "two hosts": (post(_BODY, ORIGIN, b"Host: h"), 400),
    "an overlong head": (post(_BODY, ORIGIN, b"X: " + b"y" * 2000), 431),
    "overlong trailers": (
        chunked(_BODY, line=b"POST /rest/v1/t HTTP/1.1\r\n" + ORIGIN, trailers=b"X: " + b"y" * 2000 + b"\r\n"),
        431,
    ),
}


async def answers(lane: str, *requests: bytes) -> list[Reply]:
    """What each of these requests is answered on a connection of its own, whole and in two pieces."""
    found = []
    async with in_process(fast_lane=lane == "fast", body_bytes_max=1000, head_bytes_max=1000) as server:
        for request in requests:
            for pieces in ([request], [request], [request[:-1], request[-1:]]):
                client = server.connect()
                await client.send(*pieces)
                (reply,) = await client.answered(1)
                found.append(reply)
                await client.hang_up()
    return found


@pytest.mark.parametrize("case", REQUESTS)
async def test_a_page_sees_every_answer(case: str, lane: str) -> None:
    """Of an error, too: without these headers a browser tells a page nothing but that something went wrong."""
    request, status = REQUESTS[case]
    replies = await answers(lane, request)
    assert [reply.status for reply in replies] == [status] * 3
    for reply in replies:
        assert shown(reply) == SEEN
    for reply in await answers(lane, request.replace(b"Origin:", b"X-Not:")):
        assert reply.status == status
        assert shown(reply) == [], "nobody else has any use for them"


async def test_the_origin_of_one_request_is_not_that_of_the_next(lane: str) -> None:
    """A proxy sends those of a page and those of a program on the same connection."""
    async with in_process(fast_lane=lane == "fast", head_bytes_max=1000) as server:
        client = server.connect()
        await client.send(post(_BODY, ORIGIN), ROW, post(b"{"), post(_BODY, ORIGIN), b"\r\n" * 600)
        replies = await client.answered(5)
        assert [reply.status for reply in replies] == [201, 201, 400, 201, 431]
        assert [shown(reply) for reply in replies] == [SEEN, [], [], SEEN, []]


_ALWAYS_READABLE = {b"content-type", b"content-length", b"date", b"connection"}
"""https://fetch.spec.whatwg.org/#cors-safelisted-response-header-name, and what is none of a page's business."""


async def test_a_page_may_read_all_that_we_say(db: Connection, headrace: Running) -> None:
    """A header that is not named cannot be read, and clients read counts, keys and reasons from headers."""
    exposed = {name.strip().lower() for name in SEEN[1][1].split(b",")}
    await db.execute("create table t (a text, n int check (n > 0))")
    key = b"Idempotency-Key: k"
    quarantine = b"Prefer: bad-rows=quarantine, wait=9"
    cases: Sequence[bytes] = [
        *[request for request, _ in REQUESTS.values()],
        *[post(b'{"a":"x"}', ORIGIN, key)] * 2,
        post(b'[{"n":1},{"n":0}]', ORIGIN, quarantine),
        post(b'[{"n":1},{"n":0}]', ORIGIN),
        post(b'[{"n":1},{"n":"x"}]', ORIGIN),
    ]
    said: set[bytes] = set()
    for request in cases:
        async with headrace.connect() as connection:
            await connection.send(request)
            reply = await connection.next()
            assert shown(reply) == SEEN
            said |= {name for name, _ in reply.headers if not name.startswith(b"access-control-")}
    assert said - _ALWAYS_READABLE <= exposed
    assert {b"headrace-row", b"headrace-column", b"headrace-quarantined-rows", b"idempotency-replayed"} < said


# ---------------------------------------------------------------- what browsers ask before


def question(*headers: bytes, path: bytes = b"/rest/v1/t") -> bytes:
    """A preflight request."""
    return post(b"", *headers, line=b"OPTIONS %b HTTP/1.1" % path)


_POST = b"Access-Control-Request-Method: POST"


@pytest.mark.parametrize("path", [b"/rest/v1/t", b"/rest/v1/a%2Fb", b"/rest/v1/none", b"/openapi.json", b"/nowhere"])
async def test_everything_is_allowed_that_is_asked_for(path: bytes, lane: str) -> None:
    """The request itself tells more, and its answer can be read, which that to the question cannot."""
    asked = b"Access-Control-Request-Headers: authorization,x-client-info, prefer"
    for reply in await answers(lane, question(ORIGIN, _POST, asked, path=path)):
        assert (reply.status, reply.body) == (200, b"")
        assert sorted(reply.headers) == [
            (b"access-control-allow-headers", b"authorization,x-client-info, prefer"),
            (b"access-control-allow-methods", b"GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD"),
            (b"access-control-allow-origin", b"*"),
            (b"access-control-max-age", b"86400"),
            (b"content-length", b"0"),
        ]
    for reply in await answers(lane, question(ORIGIN, _POST, path=path)):
        assert reply.status == 200
        assert b"access-control-allow-headers" not in dict(reply.headers), "none were asked for"


async def test_only_a_question_is_answered_like_one(lane: str) -> None:
    """OPTIONS as such is a method like any other that a table does not take."""
    for request, is_seen in ((question(_POST), False), (question(), False), (question(ORIGIN), True)):
        for reply in await answers(lane, request):
            assert (reply.status, reply.code) == (405, "PGRST117")
            assert (b"allow", b"POST") in reply.headers
            assert shown(reply) == (SEEN if is_seen else [])


async def test_the_connection_goes_on_after_a_question(lane: str) -> None:
    """Browsers send the request itself on the same connection."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        for number in range(1, 7, 2):
            await client.send(question(ORIGIN, _POST) + post(_BODY, ORIGIN))
            replies = await client.answered(number + 1)
            assert [reply.status for reply in replies[-2:]] == [200, 201]
        await client.send(ROW)
        assert shown((await client.answered(7))[-1]) == []
        assert server.sink.rows == ["x"] * 4


# ---------------------------------------------------------------- what is nobody's business


@pytest.mark.parametrize("path", [b"/livez", b"/readyz", b"/metrics", b"/openapi.json"])
async def test_the_state_of_the_service_is_not_for_pages(path: bytes, headrace: Running) -> None:
    """`/readyz` may name hosts and roles; operators do not look at it from pages of somebody else's."""
    async with headrace.connect() as connection:
        await connection.send(GET.replace(b"/livez", path).replace(b"Host", ORIGIN + b"\r\nHost"))
        reply = await connection.next()
        assert reply.status == 200
        assert shown(reply) == []
