"""Bodies that mean harm and must be decoded: little memory, a 4xx, and others have their turn meanwhile."""

from __future__ import annotations

import asyncio
import tracemalloc
from functools import cache

import pytest

from tests.service.coded import CODINGS, csv_of, gzip_of, lines_of, msgpack_of, skippable, zstd_of
from tests.service.in_process import ROW, in_process, post
from tests.service.test_hostile_bodies import _Turns

MIB = 1 << 20

_CSV = b"Content-Type: text/csv"
_FORM = b"Content-Type: application/x-www-form-urlencoded"
_LINES = b"Content-Type: application/x-ndjson"
_MSGPACK = b"Content-Type: application/msgpack"
_GZIP = b"Content-Encoding: gzip"
_ZSTD = b"Content-Encoding: zstd"
_KEEPING = b"Prefer: bad-rows=quarantine"

_ROWS = [{"a": f"row {number}", "b": "some text"} for number in range(40_000)]


@cache
def bomb(name: str) -> bytes:
    """256 MiB of spaces, which JSON and NDJSON may begin with; or of line ends, for a CSV."""
    match name:
        case "gzip":
            return gzip_of(b" " * MIB) * 256
        case "zstd":
            return zstd_of(b" " * (256 * MIB))
        case "gzip in gzip":
            return gzip_of(gzip_of(b" " * (256 * MIB)))
        case _:
            return zstd_of(b"a\n" + b"\r\n" * (128 * MIB))


BOMBS = {
    "gzip": ("gzip", (_GZIP,)),
    "gzip, lines": ("gzip", (_GZIP, _LINES)),
    "gzip, kept": ("gzip", (_GZIP, _LINES, _KEEPING)),
    "gzip in gzip": ("gzip in gzip", (b"Content-Encoding: gzip, gzip",)),
    "zstd": ("zstd", (_ZSTD,)),
    "zstd, lines": ("zstd", (_ZSTD, _LINES)),
    "zstd, MessagePack": ("zstd", (_ZSTD, _MSGPACK)),
    "zstd, CSV": ("csv", (_ZSTD, _CSV)),
    "zstd, form": ("zstd", (_ZSTD, _FORM)),
}


@pytest.mark.parametrize("case", BOMBS)
async def test_a_bomb_is_refused_before_it_bursts(case: str, lane: str) -> None:
    """What is decompressed of 256 MiB in 8 to 270 kB is as much as a body may be, and memory with it."""
    name, headers = BOMBS[case]
    request = post(bomb(name), *headers)
    async with in_process(fast_lane=lane == "fast", body_bytes_max=4 * MIB) as server:
        client, other = server.connect(), server.connect()
        tracemalloc.start()
        try:
            await client.send(*(request[at : at + 250_000] for at in range(0, len(request), 250_000)))
            answered_meanwhile = 0
            while not client.replies:
                await other.send(ROW)
                answered_meanwhile = len(await other.answered(answered_meanwhile + 1))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        problem = client.replies[0]
        assert (problem.status, problem.code) == (413, "HR413")
        assert b"when decompressed" in problem.body
        assert peak < 24 * MIB
        assert answered_meanwhile > 5
        assert all(reply.status == 201 for reply in other.replies)


GROWING = {
    "CSV with wide rows": (b"a" * 60_000 + b",b\n" + b",\n" * 10_000, (_CSV, _KEEPING)),
    "nothing but nil": (b"\xdc\x27\x10" + b"\x81\xa1a\xdd\0\0\4\0%b" % (b"\xc0" * 1024) * 10_000, (_MSGPACK,)),
}


@pytest.mark.parametrize("case", GROWING)
async def test_what_is_larger_in_json_has_the_limit_of_all_bodies(case: str, lane: str) -> None:
    """Names of columns are repeated in each row of JSON; what is too much for the service is never built."""
    body, headers = GROWING[case]
    async with in_process(fast_lane=lane == "fast", pending_bytes_max=40 * MIB) as server:
        client = server.connect()
        tracemalloc.start()
        try:
            await client.send(post(body, *headers))
            while not client.replies:  # noqa: ASYNC110 - each turn counts
                await asyncio.sleep(0)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (client.replies[0].status, client.replies[0].code) == (413, "HR413")
        assert peak < 120 * MIB


LONG: dict[str, tuple[bytes, tuple[bytes, ...], int]] = {
    "NDJSON, gzip": (gzip_of(lines_of(_ROWS)), (_GZIP, _LINES), 40_000),
    "JSON, gzip": (gzip_of(b"[%b]" % lines_of(_ROWS)[:-1].replace(b"\n", b",")), (_GZIP,), 40_000),
    "NDJSON, zstd twice": (zstd_of(zstd_of(lines_of(_ROWS))), (b"Content-Encoding: zstd, zstd", _LINES), 40_000),
    "frames without anything": (zstd_of(b"") * 9_999 + zstd_of(b"{}"), (_ZSTD, _LINES), 1),
    "CSV": (csv_of(_ROWS), (_CSV,), 40_000),
    "CSV, kept": (csv_of(_ROWS), (_CSV, _KEEPING), 40_000),
    "CSV, returned": (csv_of(_ROWS), (_CSV, b"Prefer: return=representation"), 1),
    "CSV with blank lines": (b"a,b\n" + b"\n" * 2_000_000 + b"1,2\n", (_CSV,), 1),
    "CSV with a long record": (b'a\n"%b"\n' % (b"x\n" * 1_500_000), (_CSV,), 1),
    "MessagePack": (msgpack_of(_ROWS), (_MSGPACK,), 40_000),
    "MessagePack with bytes": (msgpack_of([{"a": b"x", "b": 1.5}] * 40_000), (_MSGPACK,), 40_000),
    "MessagePack, one value": (b"\x81\xa1a\xdd\0\x0f\x42\x40" + b"\x80" * 1_000_000, (_MSGPACK,), 1),
    "MessagePack, one string": (msgpack_of({"a": "x" * 3_000_000}), (_MSGPACK,), 1),
    "a form": (b"a=" + b"%41" * 1_000_000, (_FORM,), 1),
    "a form of many fields": (b"&".join([b"a=%d" % number for number in range(10_000)]), (_FORM,), 1),
}


@pytest.mark.parametrize("case", LONG)
async def test_a_long_body_is_decoded_in_turns(case: str, lane: str) -> None:
    """Nobody should have to wait for it: there is a turn for others after some milliseconds of work at most."""
    body, headers, lines = LONG[case]
    async with in_process(fast_lane=lane == "fast", pending_rows_max=10**9) as server:
        client = server.connect()
        request = post(body, *headers)
        await client.send(*(request[at : at + 250_000] for at in range(0, len(request), 250_000)))
        turns = _Turns()
        while not client.replies:  # noqa: ASYNC110 - each turn counts
            await asyncio.sleep(0)
        turns.stop()
        assert client.replies[0].status == 201, client.replies[0]
        assert len(server.sink.rows) == lines
        assert turns.number >= 20
        await client.send(ROW)
        assert (await client.answered(2))[1].status == 201


async def test_a_client_that_leaves_while_its_body_is_decoded(lane: str) -> None:
    """What is left of the work is not done for nobody, and its memory is given back."""
    async with in_process(fast_lane=lane == "fast", body_bytes_max=64 * MIB) as server:
        for name, headers in (("zstd", (_ZSTD,)), ("csv", (_ZSTD, _CSV))):
            client = server.connect()
            await client.send(post(bomb(name), *headers))
            for _ in range(20):
                await asyncio.sleep(0)
            assert server.service.postings._held > 0
            await client.hang_up()
            await client.quiet()
            assert server.service.postings._arriving == set()
            assert server.service.postings.unread == set()
            assert server.service.postings._held == 0
        assert server.sink.rows == []


async def test_many_bodies_share_the_memory_there_is(lane: str) -> None:
    """Each is within its limit; together they are not, and some have to come again."""
    body = zstd_of(b"[" + b" " * (3 * MIB) + b'{"a":"x"}]')
    async with in_process(fast_lane=lane == "fast", body_bytes_max=4 * MIB, pending_bytes_max=8 * MIB) as server:
        clients = [server.connect() for _ in range(10)]
        for client in clients:
            await client.send(post(body, _ZSTD))
        replies = [(await client.answered(1))[0] for client in clients]
        assert {reply.status for reply in replies} == {201, 429}
        assert server.service.postings._held == 0


@pytest.mark.parametrize("name", [name for name in CODINGS if name != "identity"])
async def test_a_body_is_limited_as_it_comes_and_as_it_is(name: str, lane: str) -> None:
    """The limit is to the byte in both forms: noise becomes larger by compressing, text smaller."""
    rows = b'{"a":"%b"}' % (b"x" * 9_992)
    async with in_process(fast_lane=lane == "fast", body_bytes_max=10_000) as server:
        client = server.connect()
        coding = b"Content-Encoding: " + name.encode()
        await client.send(post(CODINGS[name](rows), coding), post(CODINGS[name](rows + b" "), coding))
        assert [reply.status for reply in await client.answered(2)] == [201, 413]
        assert len(rows) == 10_000
        await client.send(post(skippable(bytes(9_991)) + zstd_of(b"{}"), _ZSTD))
        last = (await client.answered(3))[-1]
        assert (last.status, last.code) == (413, "HR413")
        assert b"decompressed" not in last.body
