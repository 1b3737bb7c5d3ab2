"""Fuzzing of bodies that must be decoded: damaged, and cut anywhere.

`FUZZ_EXAMPLES=20000 pytest tests/service/test_fuzz_bodies.py` looks longer. What once broke it stays as an example.
"""

from __future__ import annotations

import csv
import io
import os

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.bodies import from_msgpack
from service.problems import Refused
from tests.fuzzing import mutated
from tests.service.coded import CODINGS, decoded, msgpack_of
from tests.service.test_bodies_csv import problem_in, rows
from tests.service.test_bodies_msgpack import json_of

fuzzed = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")), deadline=None)

_CUTS = st.lists(st.integers(0, 5000), max_size=6)


@fuzzed
@given(st.binary(max_size=2000), st.sampled_from(["gzip", "zstd"]), st.data())
def test_damaged_compressed_data_is_refused_or_harmless(body: bytes, name: str, data: st.DataObject) -> None:
    """There is no third way: no other exception, and no end of a body that is missing without anybody's notice."""
    whole = CODINGS[name](body)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(Refused):
        decoded([whole[:end]], "application/x-ndjson", name)
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    damaged = whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
    try:
        decoded([damaged], "application/x-ndjson", name)
    except Refused as error:
        assert error.problem.status in (400, 413)  # noqa: PT017 - it need not be raised


_NASTY_CSV = [
    b'"', b'""', b",", b"\n", b"\r", b"\r\n", b'","', b'"\n', b'\n"', b"NULL", b'"NULL"', b',"NULL",', b"\xff", b"\0",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\\", b";", b"\t", b" ", b"\n\n", b",,", b"x" * 40, b'"x""y"', b"\x0b",
    b"\xe2\x80\xa8", b"\xc2\x85",
]  # fmt: skip
_CSVS = mutated(
    st.sampled_from(
        [b"a,b\n1,2\n3,4\n", b'a\r\n"x ""y"""\r\nNULL\r\n', b'a,b\r"1\r\n2",\r"",3', b'"a","b"\n"NULL",NULL']
    ),
    _NASTY_CSV,
)


@fuzzed
@given(_CSVS, _CUTS)
@example(b'a\nx"y\n"z\n', [6])
@example(b'a,b\n1,"\n2,"\n3,4\n', [5, 9])
def test_where_a_csv_is_cut_makes_no_difference(body: bytes, cuts: list[int]) -> None:
    """Packets end anywhere, and a producer must not be told one thing today and another one tomorrow."""
    try:
        expected = rows(body)
    except Refused:
        assert problem_in(body, cuts) == problem_in(body)
    else:
        assert rows(body, cuts) == expected
        text = body.decode().removeprefix("\ufeff")
        names, *records = [record for record in csv.reader(io.StringIO(text, newline=""), strict=True) if record]
        assert all(len(record) == len(names) for record in records)
        assert [[value or "NULL" for value in row.values()] for row in expected] == [
            [dict(zip(names, record, strict=True))[name] or "NULL" for name in dict.fromkeys(names)]
            for record in records
        ]


_SEEDS = st.sampled_from(
    [msgpack_of([{"a": 1, "b": [1.5, {}]}, {"a": "x", "b": b"y"}]), msgpack_of({"a": None, "b": -1})]
)
_TOKENS = [bytes([byte]) for byte in (*range(0x80, 0x98), *range(0xA0, 0xA4), *range(0xC0, 0xE1))]
_TOKENS += [
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xd6\xff\0\0\0\1",
    b"\xdd\0\0\0\2",
    b"\xdf\0\0\0\1",
    b"\xda\0\1x",
    b"\xff" * 9,
]


@fuzzed
@given(mutated(_SEEDS, _TOKENS), _CUTS)
@example(b"\x91\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0", [])
def test_damaged_messagepack_is_refused_or_valid(body: bytes, cuts: list[int]) -> None:
    """Whatever comes out is JSON, what goes wrong has words; and the ways and the cuts do not differ."""
    try:
        result = json_of(body)
    except Refused:
        with pytest.raises(Refused):
            json_of(body, cuts)
    else:
        msgspec.json.decode(result)
        assert json_of(body, cuts) == result
        slow = b"".join(from_msgpack._converted_one_by_one(body, 1, 1 << 25))
        assert msgspec.json.decode(slow) == msgspec.json.decode(result)
