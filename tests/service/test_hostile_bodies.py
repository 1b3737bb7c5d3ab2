"""Bodies that mean harm: a 4xx or an honest success, the next good request is stored, and others get their turn."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.harness import Connection, Running, requests_by_outcome
from tests.service.in_process import ROW, InProcess, chunked, in_process, post

_LINES = b"Content-Type: application/x-ndjson"
_RETURNING = b"Prefer: return=representation"

DEEP = 100_000

HOSTILE: dict[str, bytes] = {
    "open arrays": b"[" * DEEP,
    "open objects": b'{"a":' * DEEP,
    "closed arrays": b"[" * DEEP + b"]" * DEEP,
    "closed objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "arrays and objects": b'[{"a":' * DEEP + b"1" + b"}]" * DEEP,
    "deep, but not too deep": b"[" * 200 + b"]" * 200,
    "one dimension too many": b"[" * 7 + b"1" + b"]" * 7,
    "1e999": b"1e999",
    "-1e999": b"-1e999",
    "1e-999": b"1e-999",
    "an exponent of many digits": b"1e" + b"9" * 5000,
    "400 digits": b"9" * 400,
    "a megabyte of digits": b"9" * 1_000_000,
    "a megabyte of decimals": b"0." + b"3" * 1_000_000,
    "NaN": b"NaN",
    "NUL, raw": b'"\0"',
    "NUL, escaped": b'"\\u0000"',
    "NUL, in an array": b'["x","\\u0000"]',
    "NUL, in a key": b'{"\\u0000":1}',
    "NUL, maybe": b'"\\\\u0000\\\\\\u0000"',
    "half a character": b'"\\ud800"',
    "two wrong halves": b'"\\udc00\\ud800"',
    "half a character in a key": b'{"\\ud800":1}',
    "encoded half": b'"\xed\xa0\x80"',
    "no UTF-8": b'"\xff"',
    "overlong": b'"\xc0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "UTF-8, cut": b'"\xf0\x9f\x98"',
    "the same key twice": b'{"x":1,"x":[]}',
    "the same key ten thousand times": b"{" + b",".join([b'"x":1'] * 10_000) + b"}",
    "ten thousand keys": b"{" + b",".join(b'"k%d":1' % number for number in range(10_000)) + b"}",
    "a byte order mark": b'\xef\xbb\xbf"x"',
    "a byte order mark inside": b'"\xef\xbb\xbf"',
    "a megabyte of backslashes": b'"' + b"\\" * 1_000_000 + b'"',
    "backslashes and no NUL": b'"' + b"\\\\u0000" * 100_000 + b'"',
    "a hundred thousand elements": b"[" + b",".join([b'"\\\\"'] * 100_000) + b"]",
    "COPY's end": b'"\\\\.\\n"',
    "COPY's markers": b'"\\\\N\\t\\\\D"',
}
"""What may stand where a value belongs."""

_COLUMNS = {
    "a": "text",
    "i": "bigint",
    "n": "numeric",
    "f": "float8",
    "j": "json",
    "b": "jsonb",
    "r": "text[]",
    "m": "int[]",
    "c": "pair",
}


async def _hostile_forms(value: bytes, column: str) -> list[tuple[bytes, dict[str, str]]]:
    row = b'{"%b":%b}' % (column.encode(), value)
    good = b'{"%b":null}' % column.encode()
    lines = {"content_type": "application/x-ndjson"}
    return [
        (row, {}),
        (b"[" + good + b"," + row + b"]", {}),
        (good + b"\n" + row.replace(b"\n", b"") + b"\n", lines),
        (row, {"prefer": "return=representation"}),
        (good + b"\n" + row, lines | {"prefer": "return=representation"}),
    ]


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_value_is_judged_and_harms_nobody(
    case: str, headrace: Running, db: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """In a column of each kind, in each form of a body: no 5xx but PostgreSQL's own "too complex", no traceback."""
    await db.execute("create type pair as (x int, y text)")
    for table in ("t", "u"):
        columns = [(name, type_) for name, type_ in _COLUMNS.items() if table == "u" or type_ != "pair"]
        await db.execute(f"create table {table} ({', '.join(f'{name} {type_}' for name, type_ in columns)})")
    await headrace.service.watch.reload()
    caplog.set_level(logging.WARNING)
    for column, type_ in _COLUMNS.items():
        table = "u" if type_ == "pair" else "t"
        for body, headers in await _hostile_forms(HOSTILE[case], column):
            response = await headrace.post(table, body, **headers)
            ends = f"{column} {headers} {response.status_code} {response.text[:200]}"
            assert response.status_code == 201 or 400 <= response.status_code < 500 or '"code":"54' in response.text, (
                ends
            )
        good = await headrace.post(table, {column: None})
        assert good.status_code == 201, good.text
    assert not [record for record in caplog.records if record.exc_info]
    assert headrace.service.postings._held == 0
    assert headrace.service.batcher.statistics().pending_submissions == 0


@pytest.mark.parametrize("case", [case for case, value in HOSTILE.items() if not value.startswith(b"[[[[[[[")])
@pytest.mark.parametrize("headers", [(), (_LINES,), (_RETURNING,)], ids=["JSON", "lines", "returning"])
async def test_a_hostile_value_as_the_whole_body(case: str, headers: tuple[bytes, ...], lane: str) -> None:
    """Whole and in chunks; both lanes refuse it in the same words, and go on on the same connection."""
    body = HOSTILE[case]
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        pieces = [body[at : at + 5000] for at in range(0, len(body), 5000)]
        line = b"\r\n".join([b"POST /rest/v1/t HTTP/1.1", *headers])
        await client.send(post(body, *headers), chunked(*pieces, line=line), ROW)
        first, second, third = await client.answered(3)
        assert (first.status, first.body) == (second.status, second.body)
        assert first.status == 400, first
        assert third.status == 201


def _repeated(unit: bytes, size: int = 3_000_000, *, before: bytes = b"[", after: bytes = b"]") -> bytes:
    return before + b",".join([unit] * (size // (len(unit) + 1))) + after


LONG: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "rows of nothing": (_repeated(b"{}"), ()),
    "short rows": (_repeated(b'{"a":1}'), ()),
    "short rows, returned": (_repeated(b'{"a":1}'), (_RETURNING,)),
    "rows that hold rows": (_repeated(b'{"a":[{"a":1},{"a":[{"a":2}]}]}'), ()),
    "rows in strings": (_repeated(b'{"a":"},{\\"a\\":1},{"}'), ()),
    "rows with space": (_repeated(b'{\n  "a" : 1\n}\n', after=b" ]\n"), ()),
    "a bad one at the end": (_repeated(b'{"a":1}', after=b',{"b":1}]'), ()),
    "no end": (_repeated(b'{"a":1}', after=b""), ()),
    "lines of nothing": (b"{}\n" * 500_000, (_LINES,)),
    "lines of two kinds": (b'{"a":1}\n{"b":1}\n' * 100_000, (_LINES,)),
    "lines that all become wider": (b'{"b":1}\n' * 100_000 + b'{"a":1}\n' * 100_000, (_LINES,)),
    "lines, returned": (b'{"a":1}\n' * 300_000, (_LINES, _RETURNING)),
    "empty lines": (b"\n" * 3_000_000, (_LINES,)),
}


class _Turns:
    """Counts turns of the event loop: while the service works, others must have theirs."""

    def __init__(self) -> None:
        self.number = 0
        self._task = asyncio.create_task(self._count())

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.number += 1

    def stop(self) -> None:
        self._task.cancel()


@pytest.mark.parametrize("case", LONG)
async def test_a_long_body_is_read_in_turns(case: str, lane: str) -> None:
    """One of 3 MB took up to a second in one go, one of 30 MB up to 13 seconds, in which nobody else was answered."""
    body, headers = LONG[case]
    async with in_process(fast_lane=lane == "fast", pending_rows_max=10**9) as server:
        client = server.connect()
        turns = _Turns()
        request = post(body, *headers)
        await client.send(*(request[at : at + 250_000] for at in range(0, len(request), 250_000)))
        while not client.replies:  # noqa: ASYNC110 - each turn counts
            await asyncio.sleep(0)
        turns.stop()
        assert turns.number > len(body) / 100_000
        assert client.replies[0].status in (201, 400)
        assert client.replies[0].status == (400 if case in ("a bad one at the end", "no end") else 201)
        await client.send(ROW)
        assert (await client.answered(2))[1].status == 201


MANY = {
    "requests that are refused": post(b"{") * 2000,
    "requests without rows": post(b"[]") * 2000,
    "chunks of line ends": chunked(*[b"\r\n\r\n"] * 30_000, b"{}"),
    "a chunk of line ends": chunked(b"\r\n\r\n" * 50_000, b"{}"),
}


@pytest.mark.parametrize("case", MANY)
async def test_a_packet_full_of_work_is_done_in_turns(case: str) -> None:
    """The kernel hands over 250 kB at once. What is cheap for the sender must not keep the others waiting for 0.2 s."""
    data = MANY[case]
    async with in_process() as server:
        client = server.connect()
        turns = _Turns()
        await client.send(*(data[at : at + 250_000] for at in range(0, len(data), 250_000)))
        expected = data.count(b"POST")
        while bytes(client.transport.written).count(b"HTTP/1.1 ") < expected:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        turns.stop()
        assert turns.number > 8
        await client.send(ROW)
        assert (await client.answered(expected + 1))[-1].status == 201
        assert not client.transport.paused


async def test_a_client_that_leaves_while_its_body_is_read_in_turns(lane: str) -> None:
    """What is left of the work is not done for nobody."""
    async with in_process(fast_lane=lane == "fast") as server:
        for case in ("short rows", "lines of two kinds"):
            body, headers = LONG[case]
            request = post(body[:200_000], *headers)
            client = server.connect()
            await client.send(request)
            await asyncio.sleep(0)
            await client.hang_up()
            await client.quiet()
            assert server.service.postings._arriving == set()
            assert server.service.postings._held == 0
        assert server.sink.rows == []


async def test_a_row_is_not_refused_for_what_was_measured_of_others(lane: str) -> None:
    """Metrics of refused requests must add up as well, whatever they held."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        for number, value in enumerate(HOSTILE.values(), 1):
            await client.send(post(b'{"a":%b,"nope":1}' % value))
            assert (await client.answered(number))[-1].status == 400
        assert _counted(server) == len(HOSTILE)


def _counted(server: InProcess) -> int:
    return sum(requests_by_outcome(server.service).values())
