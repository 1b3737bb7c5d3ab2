"""Laws of the codec, for any table, any rows and any bytes."""

from __future__ import annotations

import contextlib
import json
import re
from functools import partial
from itertools import pairwise

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec import DecodeError, Raw
from msgspec.json import decode

from sql import CopyCodec, Encoded, Fault, Kind, Rejected, Table
from sql.shape import Shape
from tests.sql.json_sources import Row, source, spaces, tables_and_rows, values
from tests.sql.tables import MIXED, copy_codec, outcome, record_codec, unescaped, warmed

lawful = settings(max_examples=100, deadline=None)

USUAL_ROW = b'{"text":"x","integer":1,"number":1.5,"boolean":true,"json":{},"array":[]}'

# ------------------------------------------------------------------ what PostgreSQL would understand


def meaning(kind: Kind, value: str | None) -> object:
    """A value as its type reads it: the two ways need not write `true`, `-0` or the escapes of JSON alike."""
    if value is None:
        return None
    if kind is Kind.BOOLEAN:
        return {"true": "t", "false": "f"}.get(value, value)
    if kind is Kind.INTEGER and re.fullmatch(r"-?\d{1,4000}", value):
        return int(value)
    return value


def meanings(table: Table, found: object) -> object:
    """An outcome of the codec in these terms."""
    if isinstance(found, Fault):
        return found
    assert isinstance(found, list)
    return [{name: meaning(table.columns[name].kind, value) for name, value in row.items()} for row in found]


def wanted(kind: Kind, value: str) -> object:
    """What a JSON value means to a column of that kind; an independent reading of the rules."""
    if value == "null":
        return None
    loaded = json.loads(value, parse_int=str, parse_float=str)
    if kind in (Kind.JSON, Kind.ARRAY):
        return loaded
    return meaning(kind, loaded if isinstance(loaded, str) else value)


def stored(kind: Kind, value: str | None) -> object:
    """What PostgreSQL would store for the text of a field, in the terms of `wanted`."""
    if value is None:
        return None
    if kind is Kind.JSON:
        return json.loads(value, parse_int=str, parse_float=str)
    if kind is Kind.ARRAY:
        items = re.findall(r'"((?:\\.|[^"\\])*)"|([^,{}"]+)', value, re.DOTALL)
        return [
            None if bare.strip().upper() == "NULL" else bare.strip() or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            for quoted, bare in items
            if not bare.isspace()
        ]
    return meaning(kind, value)


def has_nul(value: str) -> bool:
    """Whether U+0000 is anywhere in a JSON value, even in one of two members with the same name."""
    found: list[object] = [json.loads(value, object_pairs_hook=list)]
    while found:
        each = found.pop()
        if isinstance(each, str) and "\0" in each:
            return True
        if isinstance(each, (list, tuple)):
            found += each
    return False


# ------------------------------------------------------------------ rows


def fast_line(shape: Shape, body: bytes) -> str | None:
    """The line of the generated function, None where the row is not for it."""
    try:
        return shape.line_function(body)(shape.decode_row(body))
    except (Rejected, DecodeError, RecursionError, UnicodeDecodeError):
        return None


def shape_of(table: Table, row: Row) -> Shape:
    """The shape of this row."""
    shape = Shape(table, [name for name in table.columns if name in row])
    assume(shape.compilable)
    return shape


@lawful
@given(tables_and_rows())
def test_a_generated_function_writes_what_the_slow_way_writes_or_declines(case: tuple[Table, list[Row]]) -> None:
    """The fast way is generated source code; where it is wrong, it is wrong for millions of rows."""
    table, drawn = case
    for row in drawn:
        shape, body = shape_of(table, row), source(row)
        fast = fast_line(shape, body)
        if fast is not None:
            slow = shape.line(decode(body, type=dict[str, Raw]))
            fields = [[unescaped(field) for field in line[:-1].split("\t")] for line in (fast, slow)]
            kinds = [table.columns[name].kind for name in shape.columns]
            assert [*map(meaning, kinds, fields[0])] == [*map(meaning, kinds, fields[1])]


@lawful
@given(tables_and_rows(usual=True))
def test_a_generated_function_takes_what_producers_send(case: tuple[Table, list[Row]]) -> None:
    """Declining is safe but slow; a row that could be stored must not be declined for its ordinary values."""
    table, drawn = case
    for row in drawn:
        if not any(map(has_nul, row.values())):
            assert fast_line(shape_of(table, row), source(row)) is not None


@lawful
@given(tables_and_rows(usual=True))
def test_fields_give_back_the_values(case: tuple[Table, list[Row]]) -> None:
    """Whatever is in a value, tabs, line ends, backslashes, braces: it comes out of COPY as it went in."""
    table, drawn = case
    found = outcome(copy_codec(table).array, b"[" + b",".join(map(source, drawn)) + b"]")
    bad = next((number for number, row in enumerate(drawn, 1) if any(map(has_nul, row.values()))), None)
    if bad is not None:
        assert isinstance(found, Fault)
        assert (found.code, found.row) == ("22P05", bad)
        return
    assert isinstance(found, list)
    kinds = {name: column.kind for name, column in table.columns.items()}
    assert [{name: stored(kinds[name], value) for name, value in row.items()} for row in found] == [
        {name: wanted(kinds[name], value) for name, value in row.items()} for row in drawn
    ]


# ------------------------------------------------------------------ bodies


def entry_points(body: bytes, codec: CopyCodec) -> list[partial[Encoded]]:
    """Every function that takes a body."""
    records = record_codec(MIXED)
    reader = codec.lines()

    def lines() -> Encoded:
        reader.feed(body)
        return reader.finish()

    return [partial(each, body) for each in (codec.one, codec.array, records.one, records.array, records.lines)] + [
        partial(lines)
    ]


_keys = st.sampled_from([*MIXED.columns, "unknown", "te\\u0078t"])
_objects = st.dictionaries(_keys, values, max_size=4).map(
    lambda row: "{" + ",".join(f'"{key}":{value}' for key, value in row.items()) + "}"
)
_json = (_objects | values | st.lists(_objects | values, max_size=3).map(lambda all_: f"[{','.join(all_)}]")).map(
    str.encode
)
_broken = st.builds(
    lambda body, place, cut, junk: body[: place % (len(body) + 1)] + junk + body[place % (len(body) + 1) + cut :],
    _json | st.just(USUAL_ROW),
    st.integers(0, 200),
    st.integers(0, 3),
    st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"]", b"\n", b"\xff", b"\\ud800", b"\0", b"}\n{"]),
)
bodies = st.binary(max_size=30) | _json | _broken


@lawful
@given(bodies)
@example(b'{"json":' + b"[" * 100_000)
@example(b'{"array":' + b"[" * 900 + b"]" * 900 + b"}")
def test_no_body_raises_anything_but_rejected(body: bytes) -> None:
    """Bodies come from anybody; an exception that nobody expects is answered 500 and says that we are broken."""
    for codec in (copy_codec(MIXED), warmed(copy_codec(MIXED), USUAL_ROW)):
        for call in entry_points(body, codec):
            with contextlib.suppress(Rejected):
                call()


@lawful
@given(bodies)
def test_what_a_codec_has_seen_does_not_change_what_it_says(body: bytes) -> None:
    """Two processes, or one after a restart, must not disagree on whether a body is good."""
    cold, warm = copy_codec(MIXED), warmed(copy_codec(MIXED), USUAL_ROW)
    for first, second in zip(entry_points(body, cold)[:2], entry_points(body, warm)[:2], strict=True):
        assert meanings(MIXED, outcome(first)) == meanings(MIXED, outcome(second))


@lawful
@given(
    st.lists(st.one_of(_objects.map(str.encode), st.just(USUAL_ROW), _broken, spaces.map(str.encode)), max_size=5),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b""]),
    st.lists(st.integers(0, 300), max_size=4),
    st.booleans(),
)
def test_lines_mean_the_same_wherever_they_are_cut(lines: list[bytes], end: bytes, cuts: list[int], warm: bool) -> None:  # noqa: FBT001
    """The network cuts anywhere, and the codec takes whole chunks in one go where it can."""

    def read(chunks: list[bytes], codec: CopyCodec) -> object:
        reader = codec.lines()

        def encoded() -> Encoded:
            for chunk in chunks:
                reader.feed(chunk)
            return reader.finish()

        return meanings(MIXED, outcome(encoded))

    body = end.join(lines)
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    chunks = [body[start:stop] for start, stop in pairwise(places)]
    codec = warmed(copy_codec(MIXED), USUAL_ROW) if warm else copy_codec(MIXED)
    assert read(chunks, codec) == read([body], copy_codec(MIXED))
