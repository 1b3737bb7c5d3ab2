"""Content codings: compressed bodies come back as they were, however they are cut, joined or damaged."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.problems import Refused
from sql import Catalog
from tests.service.coded import CODINGS, decoded, gzip_of, skippable, zstd_of
from tests.service.in_process import catalog, chunked, in_process, post

_LINES = "application/x-ndjson"
_PARTS = st.lists(st.binary(max_size=300) | st.builds(bytes, st.integers(0, 100_000)), min_size=1, max_size=4)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in pieces that end at these places, as far as it has them."""
    ends = [*sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    return [data[at:end] for at, end in zip([0, *ends], ends, strict=False)]


@settings(deadline=None)
@given(_PARTS, st.sampled_from([name for name in CODINGS if name != "identity"]), st.lists(st.integers(0), max_size=5))
def test_what_was_compressed_comes_back(parts: list[bytes], name: str, cuts: list[int]) -> None:
    """In one piece or many; and what was compressed in parts and joined, as collectors and `cat` do, comes joined."""
    data = b"".join(CODINGS[name](part) for part in parts)
    assert decoded(cut(data, cuts), _LINES, name) == b"".join(parts)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (gzip_of(b"x") + bytes(1000), "gzip"),
        (gzip_of(b"") * 500 + gzip_of(b"x") + gzip_of(b""), "gzip"),
        (gzip.compress(b"x", 0, mtime=0), "gzip"),
        (skippable(b"index") + zstd_of(b"x") + skippable(bytes(70_000)), "zstd"),
        (zstd_of(b"") * 500 + zstd_of(b"x"), "zstd"),
    ],
)
def test_what_the_formats_allow_is_taken(data: bytes, name: str) -> None:
    """Padding, frames to be skipped, and parts without anything in them."""
    assert decoded([data], _LINES, name) == b"x"
    assert decoded([bytes([byte]) for byte in data], _LINES, name) == b"x"


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "gzip", "The body is no complete gzip data"),
        (b"", "zstd", "The body is no complete zstd data"),
        (b"{}", "gzip", "The body is no gzip data"),
        (b"{}{}", "zstd", "The body is no zstd data"),
        (bytes(50), "gzip", "The body is no gzip data"),
        (gzip_of(b"x") + b"y", "gzip", "The body is no complete gzip data"),
        (gzip_of(b"x") + b"yyyyyyyyyyyyyyyyyyyy", "gzip", "The body is no gzip data"),
        (zstd_of(b"x") + bytes(8), "zstd", "The body is no zstd data"),
        (gzip_of(b"x")[:-8] + bytes(8), "gzip", "The body is no gzip data"),
        (zstd_of(b"x"), "gzip", "The body is no gzip data"),
        (gzip_of(b"") * 10_001, "gzip", "The body has more than 10000 parts of gzip data"),
        (zstd_of(b"") * 10_001, "zstd", "The body has more than 10000 parts of zstd data"),
        (zstd_of(b"x"), "gzip, zstd", "The body is no complete gzip data"),
    ],
)
def test_what_is_no_such_data_is_refused(data: bytes, name: str, message: str) -> None:
    """The words say which of the two it was, where there are two."""
    with pytest.raises(Refused) as refused:
        decoded([data], _LINES, name)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code, problem.fault.message) == (400, "PGRST102", message)


def test_a_window_that_no_http_client_may_use_is_refused() -> None:
    """It would take 128 MiB of memory, for a body of any size."""
    noise = random.Random(1).randbytes(9 << 20)
    with pytest.raises(Refused) as refused:
        decoded([zstd_of(noise, window_log=27)], _LINES, "zstd")
    assert "too much memory" in str(refused.value.problem.fault.details)
    assert decoded([zstd_of(noise, window_log=23)], _LINES, "zstd") == noise


async def test_a_compressed_body_cut_anywhere(lane: str) -> None:
    """A piece may end within the head of a member, or between two of them."""
    rows = [b'{"a":"%d"}\n' % number for number in range(40)]
    line = b"POST /rest/v1/t HTTP/1.1\r\nContent-Type: application/x-ndjson\r\nContent-Encoding: %b"
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        number = 0
        for name in ("gzip", "zstd", "gzip, zstd"):
            body = CODINGS[name](b"".join(rows[:20])) + CODINGS[name](b"".join(rows[20:]))
            for at in range(1, len(body), 1 if lane == "fast" else 7):
                server.sink.rows.clear()
                await client.send(chunked(body[:at], body[at:], line=line % name.encode()))
                number += 1
                assert (await client.answered(number))[-1].status == 201
                assert server.sink.rows == [str(row) for row in range(40)]


async def test_a_body_that_is_asked_for_is_decoded_too(lane: str) -> None:
    """`Expect: 100-continue`, as curl sends it for large bodies; and a coding that is not taken saves sending it."""
    body = gzip_of(b'{"a":"x"}')
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        request = post(body, b"Content-Encoding: gzip", b"Expect: 100-continue")
        head, body = request[: -len(body)], request[-len(body) :]
        await client.send(head)
        while not client.was_told_to_continue:
            await client.quiet()
        await client.send(body)
        assert (await client.answered(1))[-1].status == 201
        client = server.connect()
        await client.send(head.replace(b"gzip", b"brrr"))
        assert [reply.status for reply in await client.answered(1)] == [415]
        assert not client.was_told_to_continue


@pytest.mark.parametrize("prefer", [(), (b"Prefer: bad-rows=quarantine",)], ids=["plain", "kept"])
@pytest.mark.parametrize("before", [Catalog(("public",), {}), catalog("b")], ids=["no table", "no column"])
async def test_a_body_is_decoded_once_more_for_a_newer_catalog(
    before: Catalog, prefer: tuple[bytes, ...], lane: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one packet with its head or not: at the second look it is still what came, or what that was decoded to."""
    async with in_process(fast_lane=lane == "fast") as server:

        async def look() -> None:
            server.service.ingest.publish(catalog("a"))

        monkeypatch.setattr(server.watch, "after_miss", look)
        body = gzip_of(b"a\nx\ny\n")
        headers = (b"Content-Type: text/csv", b"Content-Encoding: gzip", *prefer)
        line = b"\r\n".join([b"POST /rest/v1/t HTTP/1.1", *headers])
        for request in (post(body, *headers), chunked(body[:9], body[9:], line=line)):
            for pieces in ([request], cut(request, [len(request) - 20]), cut(request, [len(request) - 1])):
                server.service.ingest.publish(before)
                client = server.connect()
                for piece in pieces:
                    await client.send(piece)
                    await client.quiet()
                reply = (await client.answered(1))[0]
                assert reply.status == 201, reply
                await client.hang_up()
        assert server.sink.rows == ["x", "y"] * 6
