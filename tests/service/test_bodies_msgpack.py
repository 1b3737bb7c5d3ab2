"""MessagePack bodies: the rows are those that the same values would be in JSON; the rest is refused."""

from __future__ import annotations

import math
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bodies import from_msgpack
from service.problems import Refused
from tests.service.coded import decoded, msgpack_of
from tests.service.in_process import in_process, post
from tests.service.test_bodies_codings import cut

_CUTS = st.lists(st.integers(0, 5000), max_size=6)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, -1, -32, -33, -128, -129, -32768, -32769])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=10)
    | st.sampled_from([31, 32, 255, 256]).map(lambda size: "x" * size)
)
_KEYS = st.text(st.characters(codec="utf-8"), max_size=5)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_KEYS, inner), max_leaves=20)
_ROWS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=5), max_size=20)


def json_of(body: bytes, cuts: list[int] | None = None, bytes_max: int = 1 << 25) -> bytes:
    """The JSON for a body."""
    return decoded(cut(body, cuts or []), "application/msgpack", bytes_max=bytes_max)


def problem_in(body: bytes) -> str:
    """What is wrong with a body."""
    with pytest.raises(Refused) as refused:
        json_of(body)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code) == (400, "PGRST102")
    return problem.fault.message


@pytest.fixture(params=["fast", "slow"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The two ways to convert rows. One takes what it is made for, the other one everything."""
    if request.param == "slow":
        monkeypatch.setattr(from_msgpack, "_find_no_number", bool)
    return str(request.param)


@settings(deadline=None)
@given(_ROWS, _CUTS, st.booleans())
def test_rows_are_those_of_the_same_json(rows: list[dict[str, Any]], cuts: list[int], single: bool) -> None:  # noqa: FBT001 - made by Hypothesis
    """Digit by digit and in the same order; by both ways."""
    value: Any = rows[0] if single and rows else rows
    body = msgpack_of(value)
    expected = msgspec.json.encode(value)
    assert json_of(body, cuts) == expected
    slow = b"".join(from_msgpack._converted_one_by_one(body, 1, 1 << 25))
    assert slow == expected


@pytest.mark.usefixtures("way")
def test_what_json_does_not_have() -> None:
    """PostgreSQL reads these strings, each in a column of the type that it is meant for."""
    row = {"nan": math.nan, "up": math.inf, "down": -math.inf, "bytes": b"\x00\xff", "none": b"", "big": 2**64 - 1}
    assert msgspec.json.decode(json_of(msgpack_of([row]))) == [
        {"nan": "NaN", "up": "Infinity", "down": "-Infinity", "bytes": "\\x00ff", "none": "\\x", "big": 2**64 - 1}
    ]
    single = msgpack.packb([{"a": math.nan}, {"a": -math.inf}, {"a": 0.5}], use_single_float=True)
    assert json_of(single) == b'[{"a":"NaN"},{"a":"-Infinity"},{"a":0.5}]'
    deep = {"a": [[[[[{"b": b"x"}, math.nan, {}, []]]]]], "c": {"d": {"e": b"y" * 300}}}
    assert msgspec.json.decode(json_of(msgpack_of(deep))) == {
        "a": [[[[[{"b": "\\x78"}, "NaN", {}, []]]]]],
        "c": {"d": {"e": "\\x" + "79" * 300}},
    }


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("extension", "text"),
    [
        (b"\xd6\xff\0\0\0\0", "1970-01-01T00:00:00Z"),
        (b"\xd6\xff\xff\xff\xff\xff", "2106-02-07T06:28:15Z"),
        (b"\xd7\xff" + (123456789 << 34 | 1795255200).to_bytes(8), "2026-11-21T10:00:00.123456789Z"),
        (b"\xd7\xff" + (500_000_000 << 34 | 0).to_bytes(8), "1970-01-01T00:00:00.5Z"),
        (b"\xc7\x0c\xff\0\0\0\1" + (-1).to_bytes(8, signed=True), "1969-12-31T23:59:59.000000001Z"),
        (b"\xc7\x0c\xff\0\0\0\0" + (-62135596800).to_bytes(8, signed=True), "0001-01-01T00:00:00Z"),
        (b"\xc8\0\x0c\xff\0\0\0\0" + (253402300799).to_bytes(8, signed=True), "9999-12-31T23:59:59Z"),
        (b"\xc9\0\0\0\x04\xff\0\0\0\x01", "1970-01-01T00:00:01Z"),
    ],
)
def test_timestamps_keep_all_their_digits(extension: bytes, text: str) -> None:
    """PostgreSQL rounds them; that is not ours to do. Before 1970 the fraction counts forwards as well."""
    assert msgspec.json.decode(json_of(b"\x91\x81\xa2ts" + extension)) == [{"ts": text}]


async def test_the_last_of_a_repeated_key_counts(lane: str) -> None:
    """As in JSON, by both ways."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        media_type = b"Content-Type: application/msgpack"
        await client.send(post(b"\x82\xa1a\xa1x\xa1a\xa1y", media_type))
        await client.send(post(b"\x82\xa1a\xa1x\xa1a\xc4\x01y", media_type))
        assert [reply.status for reply in await client.answered(2)] == [201, 201]
        assert server.sink.rows == ["y", "\\\\x79"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "A MessagePack body is a map, or an array of maps"),
        (b"\xc0", "A MessagePack body is a map, or an array of maps"),
        (b"\xa1x", "A MessagePack body is a map, or an array of maps"),
        (b"\xc1", "A MessagePack body is a map, or an array of maps"),
        (b'{"a":1}', "A MessagePack body is a map, or an array of maps"),
        (b"\x81\xa1a", "The MessagePack data is not complete"),
        (b"\x92\x80", "The MessagePack data is not complete"),
        (b"\xdd\0\0", "The MessagePack data is not complete"),
        (b"\xdf", "The MessagePack data is not complete"),
        (b"\x81\xa1a\xc1", "The body is no MessagePack data"),
        (b"\x91" * 5000, "The body is no MessagePack data"),
        (b"\x80\x80", "There is something behind the MessagePack data"),
        (b"\x91\x80\0", "There is something behind the MessagePack data"),
        (b"\x90\xc0", "There is something behind the MessagePack data"),
        (b"\x81\1\1", "The MessagePack data has a key that is no string"),
        (b"\x81\xc4\1a\1", "The MessagePack data has a key that is no string"),
        (b"\x81\xa1a\x81\xc0\1", "The MessagePack data has a key that is no string"),
        (b"\x81\x90\1", "The MessagePack data has a key that is no string"),
        (b"\x81\xa1a\xa1\xff", "A string that is not UTF-8"),
        (b"\x81\xa1a\xa3\xed\xa0\x80", "A string that is not UTF-8"),
        (b"\x81\xa1\xff\1", "A string that is not UTF-8"),
        (b"\x81\xa1a\xd4\5\0", "An extension type that is no timestamp"),
        (b"\x81\xa1a\xd4\xff\0", "An extension type that is no timestamp"),
        (b"\x81\xa1a\xd7\xff\xff\xff\xff\xff\0\0\0\0", "A timestamp with more than a second of nanoseconds"),
        (b"\x81\xa1a\xc7\x0c\xff\0\0\0\0\x7f" + b"\xff" * 7, "A timestamp before the year 1 or after the year 9999"),
    ],
)
def test_what_is_no_messagepack_with_rows_is_refused(body: bytes, message: str) -> None:
    """In one piece and byte by byte."""
    assert problem_in(body) == message
    with pytest.raises(Refused):
        json_of(body, list(range(len(body))))


@pytest.mark.parametrize("kind", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_a_length_that_is_declared_takes_no_memory(kind: bytes) -> None:
    """Five bytes that announce four thousand million values, thousandfold."""
    huge = kind + b"\xff\xff\xff\xff"
    for body in (huge, b"\x91" + huge, b"\x81\xa1a" + huge, (b"\xdd\xff\xff\xff\xff" * 1000) + b"\xc0" * 100_000):
        assert problem_in(body) in {
            "The MessagePack data is not complete",
            "The body is no MessagePack data",
            "A MessagePack body is a map, or an array of maps",
            "An extension type that is no timestamp",
        }


def test_rows_that_differ_go_each_their_way() -> None:
    """In a large body some slices are converted in one go, some value by value; none is lost or moved."""
    rows: list[dict[str, Any]] = [{"n": number, "t": "x" * (number % 50)} for number in range(20_000)]
    for number in range(3000, 20_000, 4000):
        rows[number]["t"] = b"z"
    rows[9000]["t"] = "y" * 300_000
    rows[9500]["t"] = "y" * 65_535
    expected = [row if row["t"] != b"z" else {"n": row["n"], "t": "\\x7a"} for row in rows]
    assert msgspec.json.decode(json_of(msgpack_of(rows))) == expected


def test_a_row_has_a_limit_in_json() -> None:
    """It is read in one go, so it must not become much larger than a body may be."""
    with pytest.raises(Refused) as refused:
        json_of(b"\x81\xa1a\xdd\0\1\0\0" + b"\xc0" * 65_536, bytes_max=100_000)
    assert refused.value.problem.status == 413
    many = msgpack_of([{"a": [None] * 100}] * 2000)
    assert len(json_of(many, bytes_max=100_000)) > 1_000_000
