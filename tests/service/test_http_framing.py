"""Where a request ends: bytes cut anywhere, many requests in one packet; each is answered once, and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.http.protocol import Protocol
from tests.harness import Reply
from tests.service.in_process import GET, NOWHERE, ROW, InProcess, catalog, chunked, in_process, post

_LINES = post(b'{"a":"1"}\r\n\r\n{"a":"2"}\r\n\r\n', b"Content-Type: application/x-ndjson")
_CHUNKED = (
    b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'4;name="value";other\r\n{"a"\r\nf\r\n:"chunked"\r\n\r\n}\r\n00;x\r\nTrailer: 1\r\nOther: 2\r\n\r\n'
)
_EXPECT = post(b'{"a":"expected"}', b"Expect: 100-continue")
_UPGRADE = post(b'{"a":"h2c"}', b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
_BAD_ROW = post(b'{"nope":1}')
_BAD_TYPE = post(b"<a/>\r\n\r\n", b"Content-Type: text/xml")
_EMPTY = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\n\r\n"
_NO_TABLE = post(b"{}", line=b"POST /rest/v1/none HTTP/1.1")
_NOWHERE_CHUNKED = chunked(b"\r\n\r\n", line=b"POST /nowhere HTTP/1.1", trailers=b"A: b\r\n")
_LAST = post(b'{"a":"last"}', b"Connection: close")

STREAMS: dict[str, tuple[bytes, ...]] = {
    "fixed length": (ROW,),
    "lines": (_LINES,),
    "chunked": (_CHUNKED,),
    "no body": (_EMPTY,),
    "expect": (_EXPECT,),
    "upgrade": (_UPGRADE,),
    "elsewhere": (NOWHERE, _NOWHERE_CHUNKED),
    "rows and others": (ROW, GET, ROW, NOWHERE, ROW, ROW),
    "chunked among others": (_CHUNKED, ROW, _CHUNKED, GET, _NOWHERE_CHUNKED, ROW),
    "refused among others": (_BAD_ROW, ROW, _BAD_TYPE, _NO_TABLE, _EMPTY, ROW),
    "expect among others": (ROW, _EXPECT, GET, _EXPECT, _UPGRADE, _LAST),
}

Answers = tuple[list[Reply], list[str]]
"""What was answered, and the rows that were stored."""


@pytest.fixture
async def server(lane: str) -> AsyncIterator[InProcess]:
    """A service in the lane of the test."""
    async with in_process(fast_lane=lane == "fast") as server:
        yield server


async def one_by_one(server: InProcess, requests: tuple[bytes, ...]) -> Answers:
    """What the requests are answered if each comes whole, on a connection of its own: what must come out always."""
    replies: list[Reply] = []
    server.sink.rows.clear()
    for request in requests:
        client = server.connect()
        await client.send(request)
        replies += await client.answered(1)
        await client.hang_up()
    return replies, server.sink.rows[:]


async def in_pieces(server: InProcess, pieces: list[bytes], number: int, *, slowly: bool) -> Answers:
    """What one connection answers to the pieces."""
    server.sink.rows.clear()
    client = server.connect()
    for piece in pieces:
        await client.send(piece)
        if slowly:
            await client.quiet()
    await client.answered(number)
    replies = await client.quiet()
    assert client.transport.closed == replies[-1].closes
    if not client.transport.closed:
        assert not client.transport.paused, "who has all answers may send again"
        await client.hang_up()
    return replies, server.sink.rows[:]


@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "slowly"])
@pytest.mark.parametrize("stream", STREAMS)
async def test_where_the_bytes_are_cut_makes_no_difference(stream: str, slowly: bool, server: InProcess) -> None:  # noqa: FBT001
    """Networks cut where they like: every offset must give the answers of whole requests."""
    requests = STREAMS[stream]
    expected = await one_by_one(server, requests)
    data = b"".join(requests)
    step = 1 if len(requests) == 1 or not slowly else 7
    for at in range(0, len(data), step):
        pieces = [piece for piece in (data[:at], data[at:]) if piece]
        assert await in_pieces(server, pieces, len(requests), slowly=slowly) == expected, at


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
async def test_pieces_of_any_size_make_no_difference(stream: str, size: int, server: InProcess) -> None:
    """Byte by byte is the hardest cut of all."""
    requests = STREAMS[stream]
    expected = await one_by_one(server, requests)
    data = b"".join(requests)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert await in_pieces(server, pieces, len(requests), slowly=False) == expected


async def test_hundreds_of_requests_in_one_packet(server: InProcess) -> None:
    """Answers come in order, each once, and the connection is usable afterwards."""
    requests = [post(b'{"a":"%d"}' % number) for number in range(300)]
    requests[50:50] = [GET, NOWHERE, chunked(b'{"a":"chunked"}'), _BAD_ROW]
    client = server.connect()
    await client.send(b"".join(requests))
    replies = await client.answered(len(requests))
    assert [reply.status for reply in replies] == [201] * 50 + [200, 404, 201, 400] + [201] * 250
    rows = [str(number) for number in range(300)]
    rows[50:50] = ["chunked"]
    assert server.sink.rows == rows
    await client.send(ROW)
    assert len(await client.answered(len(requests) + 1)) == len(requests) + 1


async def test_the_server_reads_on_after_any_request(server: InProcess) -> None:
    """A connection on which reading stays paused is dead, and its client waits for ever."""
    kinds = [ROW, GET, NOWHERE, _NOWHERE_CHUNKED, _CHUNKED, _BAD_ROW, _BAD_TYPE, _NO_TABLE, _EXPECT, _UPGRADE]
    for first in kinds:
        for second in kinds:
            client = server.connect()
            await client.send(first + second)
            await client.answered(2)
            assert not client.transport.paused, (first, second)
            await client.send(ROW)
            assert (await client.answered(3))[2].status == 201, (first, second)
            await client.hang_up()


class _Forgetful(dict[bytes, object]):
    """A memory that keeps nothing."""

    def __setitem__(self, _key: bytes, _value: object) -> None:
        """Forget it."""


async def test_a_head_that_was_seen_before_is_answered_as_the_first(
    server: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of heads is a short cut, not another way: good and bad bodies of one length get the same answers."""
    requests = (ROW, post(b'{"b":"x"}'), post(b'{"c":"x"}'), post(b'{"a":"x"{'), post(b"[       ]"), ROW)
    remembering = await one_by_one(server, requests)
    assert await one_by_one(server, requests) == remembering
    monkeypatch.setattr(server.service.heads, "known", lambda **_: _Forgetful())
    assert await one_by_one(server, requests) == remembering
    assert [reply.status for reply in remembering[0]] == [201, 201, 400, 400, 201, 201]


async def test_a_head_that_was_seen_before_goes_by_the_newest_catalog(server: InProcess) -> None:
    """What was planned by an older one would be corrected, but only after each request has failed once."""
    client = server.connect()
    await client.send(ROW, ROW)
    await client.answered(2)
    server.service.ingest.publish(catalog("c"))
    await client.send(post(b'{"c":"z"}'))
    assert [reply.status for reply in await client.answered(3)] == [201, 201, 201]
    assert server.sink.rows == ["x", "x", "z"]
    assert server.watch.misses == 0


async def test_a_packet_that_looks_like_a_known_request_may_be_part_of_another(server: InProcess) -> None:
    """Within a head or a body it is a value or data; a short cut there would let requests in by the back door."""
    client = server.connect()
    await client.send(ROW, ROW)
    await client.answered(2)
    await client.send(b"POST /nowhere HTTP/1.1\r\nX: y", ROW)
    assert (await client.answered(3))[2].status == 404
    await client.send(post(ROW, line=b"POST /nowhere HTTP/1.1")[: -len(ROW)])
    await client.quiet()
    await client.send(ROW)
    assert (await client.answered(4))[3].status == 404
    await client.send(post(ROW, b"Content-Type: application/x-ndjson")[: -len(ROW)], ROW)
    assert (await client.answered(5))[4].status == 400
    await client.send(b"\r\n", ROW)
    assert (await client.answered(6))[5].status == 201
    assert server.sink.rows == ["x"] * 3


async def test_the_lanes_are_what_they_are_called(
    server: InProcess, lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast lane asks FastAPI for nothing that stores rows; otherwise all these tests would show one lane twice."""
    handed_over: list[bytes] = []
    hand_over = Protocol._hand_over

    def spy(protocol: Protocol, *arguments: object) -> None:
        handed_over.append(protocol._framing.url)
        hand_over(protocol, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Protocol, "_hand_over", spy)
    client = server.connect()
    await client.send(ROW, ROW, _CHUNKED, _EXPECT, _UPGRADE, _BAD_ROW, GET)
    assert len(await client.answered(7)) == 7
    assert handed_over == ([b"/livez"] if lane == "fast" else [b"/rest/v1/t"] * 6 + [b"/livez"])


async def test_empty_lines_between_requests_are_nothing(server: InProcess) -> None:
    """Some clients send a line end too much after a body (RFC 9112 section 2.2); the next request may come late."""
    client = server.connect()
    await client.send(ROW + b"\r\n")
    await client.answered(1)
    client.protocol.tick(server.service.settings.head_seconds_max)
    assert len(await client.quiet()) == 1, "nobody has asked for anything more"
    await client.send(b"\r\n" + ROW)
    assert [reply.status for reply in await client.answered(2)] == [201, 201]


@pytest.mark.parametrize("together", [True, False], ids=["one packet", "two packets"])
async def test_a_body_that_breaks_off_after_its_request_was_answered(together: bool, server: InProcess) -> None:  # noqa: FBT001
    """A 404 needs no body. If that turns out to be broken, the connection ends; a second answer would be the next's."""
    client = server.connect()
    head = b"POST /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    broken = b"no size\r\n" + ROW
    if together:
        await client.send(head + broken)
    else:
        await client.send(head)
        await client.quiet()
        await client.send(broken)
    replies = await client.quiet()
    assert len(replies) == 1, replies
    assert replies[0].status == (400 if together else 404)
    assert client.is_over()
    assert server.sink.rows == []


async def test_turns_are_kept_while_the_database_is_slow(server: InProcess) -> None:
    """A request that FastAPI could answer at once waits for the rows before it."""
    server.sink.gate.clear()
    client = server.connect()
    await client.send(ROW + GET + ROW + GET)
    assert await client.quiet() == []
    server.sink.gate.set()
    assert [reply.status for reply in await client.answered(4)] == [201, 200, 201, 200]
