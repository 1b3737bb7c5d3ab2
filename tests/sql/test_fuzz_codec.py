"""Fuzzing of the row codec: damaged bodies, read by all its ways and by PostgreSQL.

`FUZZ_EXAMPLES=20000 pytest tests/sql/test_fuzz_codec.py` looks longer. What once broke it stays as an example.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sql.codec
import sql.pieces
import sql.record_codec
from sql import CopyCodec, Encoded, Fault, Kind, RecordCodec, Rejected
from sql.encoded import decode_elements, result_of
from tests.fuzzing import NASTY_JSON, mutated
from tests.harness import Connection
from tests.sql.json_sources import values
from tests.sql.tables import MIXED, column, copy_codec, outcome, record_codec, table, warmed
from tests.sql.test_codec_laws import USUAL_ROW, meanings

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)

_keys = st.sampled_from([*MIXED.columns, "text", "integer", "unknown", "te\\u0078t"])
_rows = st.dictionaries(_keys, values, max_size=3).map(
    lambda row: "{" + ",".join(f'"{key}":{value}' for key, value in row.items()) + "}"
)


def _array(name: str, drawn: list[str], gap: str) -> str:
    return "[" + gap.join('{"' + name + '":' + value + "}" for value in drawn) + "]"


_alike = st.builds(
    _array,
    st.sampled_from(list(MIXED.columns)),
    st.lists(values, max_size=6),
    st.sampled_from([",", " , ", ",\n  "]),
)
_seeds = st.one_of(
    _rows,
    _alike,
    st.lists(_rows, max_size=4).map(lambda rows: f"[{','.join(rows)}]"),
    st.lists(_rows, max_size=4).map("\n".join),
    st.lists(_alike, max_size=3).map(lambda nested: _array("json", nested, ",")),
    st.just(USUAL_ROW.decode()),
).map(str.encode)
BODIES = mutated(_seeds, NASTY_JSON)


def _failed(found: object) -> bool:
    return isinstance(found, Fault)


@fuzzed
@given(BODIES)
def test_the_fast_way_and_the_slow_way_agree(body: bytes) -> None:
    """What is generated for usual rows must be right for every other, or leave it alone."""
    warm = warmed(copy_codec(MIXED), USUAL_ROW)
    for name in ("one", "array"):
        slow = outcome(getattr(copy_codec(MIXED), name), body)
        assert meanings(MIXED, outcome(getattr(warm, name), body)) == meanings(MIXED, slow)
    assert meanings(MIXED, outcome(_read_lines(warm), body)) == meanings(
        MIXED, outcome(_read_lines(copy_codec(MIXED)), body)
    )


def _read_lines(codec: CopyCodec) -> Callable[[bytes], Encoded]:
    def read(body: bytes) -> Encoded:
        reader = codec.lines()
        reader.feed(body)
        return reader.finish()

    return read


@fuzzed
@given(BODIES, st.integers(1, 40), st.booleans())
@example(b'[{"text":"},{"},{"text":1}]', 5, False)
@example(b'[{"json":[{"json":1},{"json":2}]},{"json":3}]', 5, False)
@example(b'[{"text":1},]', 1, False)
@example(b'[{"text":1}],{"text":2}]', 1, False)
@example(b"[{},{}]x", 1, False)
@example(b'x[{"text":1}]', 1, False)
@example(b"]", 1, False)
@example(USUAL_ROW, 1, False)
@example(b"[{},{}", 1, False)
def test_a_body_in_pieces_is_what_it_is_as_a_whole(body: bytes, size: int, warm: bool) -> None:  # noqa: FBT001
    """Where one row ends is guessed. A wrong guess must be noticed, or rows are lost or made up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql.pieces, "PIECE_BYTES", size)
        patch.setattr(sql.codec, "PIECE_BYTES", 0)
        patch.setattr(sql.record_codec, "PIECE_BYTES", 0)
        patch.setattr(sql.pieces, "_DOUBTFUL_BYTES", 4 * size)
        codec = warmed(copy_codec(MIXED), USUAL_ROW) if warm else copy_codec(MIXED)
        pieces, whole = outcome(_steps(codec.array_steps), body), outcome(copy_codec(MIXED).array, body)
        assert meanings(MIXED, pieces) == meanings(MIXED, whole) or (_failed(pieces) and _failed(whole))
        records = record_codec(MIXED)
        for name in ("array", "lines"):
            found = _encoded(_steps(getattr(records, f"{name}_steps")), body)
            with pytest.MonkeyPatch.context() as large:
                large.setattr(sql.pieces, "PIECE_BYTES", 10**9)
                assert found == _encoded(getattr(record_codec(MIXED), name), body)


def _steps(steps: Callable[[bytes], Generator[None, None, Encoded]]) -> Callable[[bytes], Encoded]:
    return lambda body: result_of(steps(body))


def _encoded(call: Callable[[bytes], Encoded], body: bytes) -> tuple[tuple[str, ...], object, int] | None:
    """What is written, the white space around rows left out; None if it is refused."""
    try:
        encoded = call(body)
    except Rejected:
        return None
    assert isinstance(encoded.payload, bytes)
    loaded = decode_elements(b"[%b]" % encoded.payload)
    return encoded.columns, [bytes(each) for each in loaded], encoded.rows


_ORACLE = table(*[column(f"c{number}", kind) for number, kind in enumerate(Kind) if kind is not Kind.COMPOSITE])


@pytest.fixture
async def oracle(db: Connection) -> Connection:
    """A database with a table of each kind of column, to be written by COPY and as PostgreSQL writes it itself."""
    for name in ("ours", "theirs"):
        columns = ", ".join(f"{each.name} {each.type}" for each in _ORACLE.columns.values())
        await db.execute(f"create table {name} (id int, {columns})")
    return db


async def test_what_is_copied_is_what_postgresql_makes_of_the_json(oracle: Connection) -> None:
    """The rule of the codec is `json_to_recordset`; a value that is stored otherwise is a value that is lost."""
    examples: list[tuple[str, bytes]] = []

    @settings(fuzzed, max_examples=max(100, fuzzed.max_examples // 4))
    @given(st.sampled_from(list(_ORACLE.columns)), mutated(values.map(str.encode), NASTY_JSON))
    def collect(name: str, value: bytes) -> None:
        examples.append((name, b'{"%b":%b}' % (name.encode(), value)))

    collect()
    codec, records = copy_codec(_ORACLE), record_codec(_ORACLE)
    types = ", ".join(f"{each.name} {each.type}" for each in _ORACLE.columns.values())
    for name, body in examples:
        theirs = await _theirs(oracle, records, body, name, types)
        assert await _ours(oracle, codec, body, name) == theirs, body


async def _theirs(db: Connection, codec: RecordCodec, body: bytes, name: str, types: str) -> object:
    try:
        encoded = codec.one(body)
        payload = encoded.payload
        assert isinstance(payload, bytes)
        query = f"select {name}::text from json_to_recordset($1::json) as r({types})"
        return [record[0] for record in await db.fetch(query, f"[{payload.decode()}]")]
    except (Rejected, asyncpg.PostgresError):
        return None


async def _ours(db: Connection, codec: CopyCodec, body: bytes, name: str) -> object:
    try:
        encoded = codec.one(body)
        payload = encoded.payload
        assert isinstance(payload, bytes)
        async with db.transaction():
            await db.execute("delete from ours")
            await db.copy_to_table("ours", source=memoryview(payload), columns=list(encoded.columns), format="text")  # type: ignore[arg-type] # bytes-like objects will do
            return [record[0] for record in await db.fetch(f"select {name}::text from ours")]
    except (Rejected, asyncpg.PostgresError):
        return None
