"""The laws of a connection, for random requests, cut and damaged at random."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness import Reply
from tests.service.in_process import GET, NOWHERE, ROW, InProcess, chunked, in_process, post

lawful = settings(max_examples=100, deadline=None, derandomize=True)

_HIDDEN = post(b'{"a":\n"hidden"}')
"""A request that is only ever sent as the body of another one. None of its lines is a row."""

_LINES = [
    b"POST /rest/v1/t HTTP/1.1",
    b"POST /rest/v1/none HTTP/1.1",
    b"POST /nowhere HTTP/1.1",
    b"PUT /livez HTTP/1.1",
]
_HEADERS = [
    b"Content-Type: application/json",
    b"Content-Type: application/x-ndjson",
    b"Content-Type: text/xml",
    b"Prefer: return=representation",
    b"Prefer: respond-async",
    b"Prefer: bad-rows=quarantine\r\nX-Request-Id: r",
    b"Idempotency-Key:",  # a real one would be under way for as long as a 202 is
    b"Connection: keep-alive",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"X: " + b"y" * 300,
]


def _rows(texts: list[str]) -> bytes:
    return b"\r\n\r\n".join(msgspec.json.encode({"a": text}) for text in texts)


def _cut(body: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    for size in sizes:
        chunks.append(body[:size])
        body = body[size:]
    return [chunk for chunk in [*chunks, body] if chunk]


def _chunked(line: bytes, headers: list[bytes], chunks: list[bytes]) -> bytes:
    return chunked(*chunks, line=b"\r\n".join([line, *headers]), trailers=b"Trailer: x\r\n" * (len(chunks) % 2))


_BODIES = st.one_of(
    st.lists(st.text("xyz\r\n{}ü", max_size=6), max_size=3).map(_rows),
    st.sampled_from([b"", b"{}", b"[]", b'{"nope":1}', b"{", _HIDDEN, b"\r\n\r\n" + _HIDDEN, b"0\r\n\r\n" + _HIDDEN]),
)
_SOME_HEADERS = st.lists(st.sampled_from(_HEADERS), max_size=3, unique=True)
REQUESTS = st.one_of(
    st.sampled_from([ROW, ROW, GET, NOWHERE]),
    st.builds(
        lambda line, headers, body: post(body, *headers, line=line), st.sampled_from(_LINES), _SOME_HEADERS, _BODIES
    ),
    st.builds(
        lambda line, headers, body, sizes: _chunked(line, headers, _cut(body, sizes)),
        st.sampled_from(_LINES[:1]),  # elsewhere, an answer that comes before the end of the chunks may close
        _SOME_HEADERS,
        _BODIES,
        st.lists(st.integers(1, 20), max_size=3),
    ),
)
"""Requests that are right as far as HTTP goes."""

_DAMAGE = [
    b"",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\x80",
    b"0\r\n\r\n",
    b"HTTP/1.0\r\n",
    b"HTTP/1.1\r\n",
    b"CONNECT /",
    b"Host: h\r\n",
    b"Content-Length: 9\r\n",
    b"Content-Length: 99999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"X: " + b"y" * 2000 + b"\r\n",
    ROW,
    GET,
    NOWHERE,
]
_PLACES = st.one_of(st.integers(0, 3000), st.integers(0, 20).map(lambda line: -1 - line))


def _damaged(data: bytes, damages: list[tuple[int, int, bytes]]) -> bytes:
    """Put something else in the place of some bytes: at an offset, or for a negative one at the begin of a line."""
    for place, size, new in damages:
        if place < 0:
            lines = [0, *(at + 2 for at in range(len(data)) if data[at : at + 2] == b"\r\n")]
            at = lines[-place % len(lines)]
        else:
            at = place % (len(data) + 1)
        data = data[:at] + new + data[at + size :]
    return data


DAMAGES = st.lists(st.tuples(_PLACES, st.integers(0, 3), st.sampled_from(_DAMAGE)), min_size=1, max_size=4)
CUTS = st.lists(st.integers(0, 3000), max_size=6)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[at:end] for at, end in zip([0, *ends], ends, strict=False) if at < end]


# ---------------------------------------------------------------- laws


async def _one_by_one(server: InProcess, requests: list[bytes]) -> list[Reply]:
    replies = []
    for request in requests:
        client = server.connect()
        await client.send(request)
        replies += await client.answered(1)
        await client.hang_up()
    return replies


async def _settled(server: InProcess, pieces: list[bytes], *, slowly: bool) -> tuple[bytes, bool]:
    """What one connection is told in the end, and whether that was the end. Nothing is left of it in the service."""
    client = server.connect()
    for piece in pieces:
        await client.send(piece)
        if slowly:
            await client.quiet()
    await client.quiet()
    for reply in client.replies[:-1]:
        assert not reply.closes, "the last one closes"
    if client.replies:
        assert client.is_over() == client.replies[-1].closes
    written, is_over = bytes(client.transport.written), client.is_over()
    await client.hang_up()
    await client.quiet()
    assert server.service.postings._arriving == set()
    assert server.service.batcher.statistics().pending_submissions == 0
    assert server.state.tasks == set()
    return written, is_over


@lawful
@given(requests=st.lists(REQUESTS, min_size=1, max_size=6), cuts=CUTS, slowly=st.booleans())
def test_each_request_gets_its_own_answer_in_turn(requests: list[bytes], cuts: list[int], slowly: bool) -> None:  # noqa: FBT001
    """Whatever is sent together and however it is cut; and what is in a body is never taken for a request."""

    async def main() -> None:
        for lane in (True, False):
            async with in_process(fast_lane=lane) as server:
                expected = await _one_by_one(server, requests)
                stored = server.sink.rows[:]
                server.sink.rows.clear()
                client = server.connect()
                for piece in _pieces(b"".join(requests), cuts):
                    await client.send(piece)
                    if slowly:
                        await client.quiet()
                assert await client.answered(len(requests)) == expected
                assert await client.quiet() == expected
                assert server.sink.rows == stored
                assert "hidden" not in stored
                assert not client.is_over()
                await client.hang_up()

    asyncio.run(main())


@lawful
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), damages=DAMAGES, cuts=CUTS, slowly=st.booleans())
def test_whatever_arrives_the_end_is_orderly(
    requests: list[bytes],
    damages: list[tuple[int, int, bytes]],
    cuts: list[int],
    slowly: bool,  # noqa: FBT001
) -> None:
    """No exception, no hang, no more answers than heads, none behind the last one, nothing left behind."""
    data = _damaged(b"".join(requests), damages)

    async def main() -> None:
        for lane in (True, False):
            async with in_process(fast_lane=lane, head_bytes_max=2000) as server:
                written, _ = await _settled(server, _pieces(data, cuts), slowly=slowly)
                assert written.count(b"HTTP/1.1 ") - written.count(b" 100 Continue") <= data.count(b"\n") + 1

    asyncio.run(main())


@lawful
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4), damages=DAMAGES, cuts=CUTS)
def test_the_lanes_agree_on_everything(
    requests: list[bytes], damages: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    """What one of them refuses, the other one must not store."""
    data = _damaged(b"".join(requests), damages)

    async def main() -> None:
        outcomes = []
        for lane in (True, False):
            async with in_process(fast_lane=lane, head_bytes_max=2000) as server:
                told = await _settled(server, _pieces(data, cuts), slowly=True)
                outcomes.append((told, server.sink.rows))
        assert outcomes[0] == outcomes[1]

    asyncio.run(main())
