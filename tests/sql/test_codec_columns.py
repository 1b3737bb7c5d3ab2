"""Listed columns: rows with any keys become rows with exactly these columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import asyncpg
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import sql.codec
import sql.pieces
from sql import CopyCodec, Encoded, Fault, Kind, RecordCodec, Rejected, Table, Target, TooLarge, Way
from sql.copy import copy
from sql.encoded import NO_ROWS, result_of
from sql.shape import ListedShape, Shape
from tests.harness import Connection
from tests.sql.json_sources import USUAL, values
from tests.sql.tables import TYPES, column, copy_codec, outcome, record_codec, rows, table, warmed
from tests.sql.test_codec_laws import fast_line, has_nul, lawful, meanings, stored, wanted

TABLE = table(
    column("i", Kind.INTEGER, identity="by default"),
    column("t", default="'x'"),
    column("n", Kind.NUMBER, default="1"),
    column("f", Kind.BOOLEAN, default="true"),
    column("j", Kind.JSON, default="'{}'"),
    column("l", Kind.ARRAY, default="'{}'"),
    column("plain"),
)
ALL = tuple(TABLE.columns)
FULL = '{"i":1,"t":"a","n":1.50,"f":true,"j":{"k":[]},"l":["x"],"plain":"ä"}'
VALUES = {"i": "1", "t": "a", "n": "1.50", "f": "t", "j": '{"k":[]}', "l": '{"x"}', "plain": "ä"}
ABSENT = "absent"


def codecs(of: Table, columns: tuple[str, ...], *, defaults: bool) -> list[CopyCodec]:
    """One that has seen nothing yet, and one that has generated functions, if there can be any."""
    cold, warm = (copy_codec(of, columns=columns, defaults=defaults) for _ in range(2))
    return [cold, warmed(warm, b"{}") if Shape(of, columns).compilable else warm]


def lines_of(codec: CopyCodec, cuts: Sequence[int] = ()) -> Callable[[bytes], Encoded]:
    """A function for a body of lines that arrives in pieces, cut at these places."""

    def read(body: bytes) -> Encoded:
        reader = codec.lines()
        for start, end in pairwise([0, *sorted(cuts), len(body)]):
            reader.feed(body[start:end])
        return reader.finish()

    return read


CASES: dict[str, tuple[tuple[str, ...], str, dict[str, str | None]]] = {
    "all keys": (ALL, FULL, dict(VALUES)),
    "no keys": (ALL, "{}", dict.fromkeys(ALL, ABSENT)),
    "nulls": (ALL, json.dumps(dict.fromkeys(ALL)), dict.fromkeys(ALL)),
    "fewer columns than keys": (("plain", "n"), FULL, {"n": "1.50", "plain": "ä"}),
    "keys of no columns": (("t", "j"), '{"u":1,"t":"a","":{"t":"b"},"T":[null]}', {"t": "a", "j": ABSENT}),
    "only other keys": (("t", "plain"), '{"n":1,"x":"y"}', {"t": ABSENT, "plain": ABSENT}),
    "repeated keys": (("t", "i"), '{"t":"a","t":null,"i":[],"x":1,"i":2,"x":2}', {"i": "2", "t": None}),
    "an escaped key": (("t", "plain"), r'{"\u0074":"a\tb"}', {"t": "a\tb", "plain": ABSENT}),
    "another kind of number": (("i", "n", "f"), '{"i":1.0,"f":"yes"}', {"i": "1.0", "n": ABSENT, "f": "yes"}),
    "another kind of text": (("t", "l"), '{"t":{"a": 1}}', {"t": '{"a": 1}', "l": ABSENT}),
    "what looks like a marker": (("t", "n"), r'{"t":"\\D"}', {"t": "\\D", "n": ABSENT}),
    "what looks like U+0000": (("t", "n"), r'{"t":"\\u0000","x":"\\u0000"}', {"t": "\\u0000", "n": ABSENT}),
}


@pytest.mark.parametrize("defaults", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_row_becomes_one_of_the_listed_columns(name: str, *, defaults: bool) -> None:
    """Clients list the columns of each array that they insert; a row must not depend on what its neighbours have."""
    columns, source, fields = CASES[name]
    lacking = {column: "the default" if defaults and column != "plain" else None for column in columns}
    expected = {column: lacking[column] if value is ABSENT else value for column, value in fields.items()}
    body = source.encode()
    for codec in codecs(TABLE, columns, defaults=defaults):
        assert meanings(TABLE, rows(codec.one(body))) == meanings(TABLE, [expected])
        for call, three in ((codec.array, b"[%b,{}, %b]"), (lines_of(codec), b"%b\n{}\n%b")):
            assert meanings(TABLE, rows(call(three % (body, body)))) == meanings(TABLE, [expected, lacking, expected])


def test_columns_are_written_in_the_order_of_the_table() -> None:
    """Clients list them in any order; requests that list the same must share their batches."""
    for columns in (("l", "plain", "i"), ("i", "l", "plain", "l")):
        body = b'{"plain":"x","x":1}'
        for codec in codecs(TABLE, columns, defaults=True):
            assert codec.one(body) == Encoded(("i", "l", "plain"), b"\\D\t\\D\tx\n", 1)
        assert record_codec(TABLE, columns=columns).one(body) == Encoded(("i", "l", "plain"), body, 1)


@pytest.mark.parametrize("make", [copy_codec, record_codec])
def test_a_list_is_judged_before_any_row(make: Callable[..., object]) -> None:
    """It is the same for all rows, of which there may be none; and the same mistake must have one answer."""
    with pytest.raises(Rejected) as info:
        make(TABLE, columns=("t", "zeta", "alpha", "T"))
    assert (info.value.fault.code, info.value.fault.column) == ("PGRST204", "T")
    for more in ({"identity": "always"}, {"generated": True}):
        with pytest.raises(Rejected) as info:
            make(table(column("id", Kind.INTEGER, **more), column("b")), columns=("b", "id"))
        assert (info.value.fault.code, info.value.fault.column) == ("428C9", "id")


def test_defaults_need_a_marker() -> None:
    """Before PostgreSQL 16, NULL would be stored without a word."""
    with pytest.raises(ValueError, match="marker"):
        copy_codec(TABLE, 150000, columns=("t",), defaults=True)
    assert rows(copy_codec(TABLE, 150000, columns=("t",)).one(b"{}")) == [{"t": None}]


@pytest.mark.parametrize("body", [b"[]", b" [ ] "])
def test_nothing_is_no_rows(body: bytes) -> None:
    """Whatever would have been in them."""
    made: list[CopyCodec | RecordCodec] = [*codecs(TABLE, ("t",), defaults=False), record_codec(TABLE, columns=("t",))]
    for codec in made:
        assert codec.array(body) == NO_ROWS
    assert lines_of(copy_codec(TABLE, columns=("t",)))(b"\n \n") == NO_ROWS


BAD = {
    b'[{"t":1},2]': ("PGRST102", None),
    b'[{"t":1},null]': ("PGRST102", None),
    b'[{"t":1},[{}]]': ("PGRST102", None),
    b'[{"t":1},{"x":nul}]': ("PGRST102", None),
    b'[{"t":1},{"x":"\\ud800"}]': ("PGRST102", None),
    b'[{"t":1},{"x":"\xff"}]': ("PGRST102", 2),
    b'[{"t":1},{"\xff":1}]': ("PGRST102", None),
    b'[{"t":1},{"x":{"y":["\\\\\\u0000"]}}]': ("22P05", 2),
    b'[{"t":1},{"\\u0000":1}]': ("22P05", 2),
    b'[{"t":1},{"t":"\\u0000"}]': ("22P05", 2),
}


@pytest.mark.parametrize("body", BAD)
def test_what_is_dropped_is_json_all_the_same(body: bytes) -> None:
    """PostgreSQL, which reads all of it on the other way, would not take it either."""
    for codec in codecs(TABLE, ("t",), defaults=False):
        fault = outcome(codec.array, body)
        assert isinstance(fault, Fault)
        assert (fault.code, fault.row) == BAD[body]
        fault = outcome(lines_of(codec), body[1:-1].replace(b"},", b"}\n"))
        assert isinstance(fault, Fault)
        assert (fault.code, fault.row) == (BAD[body][0], 2)
    if BAD[body][0] == "PGRST102":
        with pytest.raises(Rejected):
            record_codec(TABLE, columns=("t",)).array(body)


# ------------------------------------------------------------------ laws

_names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4)

_columns = st.builds(
    column,
    _names,
    st.sampled_from(list(TYPES)),
    default=st.none() | st.just("1"),
    identity=st.none() | st.just("by default"),
)

Pairs = list[tuple[str, str]]
"""Keys, which may be repeated, and JSON sources."""


@st.composite
def requests(draw: st.DrawFn, *, usual: bool = False) -> tuple[Table, tuple[str, ...], list[Pairs]]:
    """A table, a list of some of its columns, and rows with any keys; with any values, or what is usually sent."""
    drawn = table(*draw(st.lists(_columns, min_size=1, max_size=5, unique_by=lambda each: each.name)))
    listed = draw(st.lists(st.sampled_from(list(drawn.columns)), min_size=1))
    names = st.sampled_from([*listed, *drawn.columns]) | _names | st.just("\0")

    def pair(name: str) -> st.SearchStrategy[tuple[str, str]]:
        known = drawn.columns.get(name)
        usually = USUAL[known.kind] | st.just("null") if known else values
        return st.tuples(st.just(name), usually if usual else usually | values)

    return drawn, tuple(listed), draw(st.lists(st.lists(names.flatmap(pair), max_size=6), min_size=1, max_size=4))


def source_of(row: Pairs) -> bytes:
    """The row as JSON."""
    return f"{{{','.join(f'{json.dumps(name)}:{value}' for name, value in row)}}}".encode()


def is_bad(row: Pairs) -> bool:
    """Whether U+0000 is in what counts of a row."""
    return any("\0" in name or has_nul(value) for name, value in dict(row).items())


@lawful
@given(requests(usual=True), st.booleans())
def test_listed_columns_are_taken_and_others_left(
    case: tuple[Table, tuple[str, ...], list[Pairs]],
    defaults: bool,  # noqa: FBT001
) -> None:
    """By the rules of PostgreSQL, read once more and written down in another way."""
    of, listed, drawn = case
    ordered = [each for name, each in of.columns.items() if name in listed]
    body = b"[" + b",".join(map(source_of, drawn)) + b"]"
    expected = [
        {
            each.name: wanted(each.kind, dict(row)[each.name])
            if each.name in dict(row)
            else "the default"
            if defaults and (each.default or each.identity)
            else None
            for each in ordered
        }
        for row in drawn
    ]
    bad = next((number for number, row in enumerate(drawn, 1) if is_bad(row)), None)
    for codec in codecs(of, listed, defaults=defaults):
        found = outcome(codec.array, body)
        if bad is not None:
            assert isinstance(found, Fault)
            assert (found.code, found.row) == ("22P05", bad)
            continue
        assert isinstance(found, list)
        assert [list(row) for row in found] == [[each.name for each in ordered]] * len(drawn)
        for row, meant in zip(found, expected, strict=True):
            for name, value in row.items():
                kind = of.columns[name].kind
                assert (value if value == "the default" else stored(kind, value)) == meant[name]


@lawful
@given(requests(usual=True), st.booleans())
def test_a_generated_function_takes_rows_with_any_keys(
    case: tuple[Table, tuple[str, ...], list[Pairs]],
    defaults: bool,  # noqa: FBT001
) -> None:
    """Declining them is safe but slow, and clients list columns with everything they send."""
    of, listed, drawn = case
    shape = ListedShape(of, [name for name in of.columns if name in listed], defaults=defaults)
    assume(shape.compilable)
    for source in map(source_of, drawn):
        if b"\\u0000" not in source:
            assert fast_line(shape, source) is not None


@lawful
@given(requests(), st.booleans(), st.lists(st.integers(0, 400), max_size=4))
def test_it_does_not_matter_how_a_body_is_read(
    case: tuple[Table, tuple[str, ...], list[Pairs]],
    defaults: bool,  # noqa: FBT001
    cuts: list[int],
) -> None:
    """By generated functions or value by value, as a whole or in pieces, cut anywhere: it is the same body."""
    of, listed, drawn = case
    sources = [source_of(row).replace(b"\n", b" ") for row in drawn]  # between tokens; inside of them there are none
    array, lines = b"[" + b",\n ".join(sources) + b"]", b"\n".join(sources)
    cold, warm = codecs(of, listed, defaults=defaults)
    whole = meanings(of, outcome(cold.array, array))
    cuts = [min(cut, len(lines)) for cut in cuts]
    for codec in (copy_codec(of, columns=listed, defaults=defaults), warm):
        assert meanings(of, outcome(codec.array, array)) == whole
        assert meanings(of, outcome(lines_of(codec, cuts), lines)) == whole
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sql.codec, "PIECE_BYTES", 0)
            patch.setattr(sql.pieces, "PIECE_BYTES", 7)
            assert meanings(of, outcome(lambda: result_of(codec.array_steps(array)))) == whole  # noqa: B023
    for source in sources:
        assert meanings(of, outcome(cold.one, source)) == meanings(of, outcome(warm.one, source))


def test_short_rows_do_not_fill_the_memory() -> None:
    """A row of two bytes becomes as wide as the list: a body of a megabyte could be a gigabyte of rows."""
    rows_ = [b"{}"] * 20_000
    size = 3 * len(ALL) * len(rows_)
    for bytes_max in (size, size - 1):
        codec = CopyCodec(TABLE, copy_default=True, bytes_max=bytes_max, columns=ALL)
        reading = (
            partial(result_of, codec.array_steps(b"[" + b",".join(rows_) + b"]")),
            partial(lines_of(codec, range(0, 60_000, 5_000)), b"\n".join(rows_)),
        )
        for read in reading:
            if bytes_max == size:
                assert read().size == size
            else:
                with pytest.raises(TooLarge):
                    read()


def test_lines_may_be_cut_anywhere() -> None:
    """Rows with other keys than those before them are nothing special here."""
    body = f'{FULL}\r\n{{"x":1,"t":null}}\n\n{{}}\n{{"plain":"\\u00e4😀"}}'.encode()
    for codec in codecs(TABLE, ALL, defaults=True):
        whole = meanings(TABLE, outcome(lines_of(codec), body))
        assert isinstance(whole, list)
        assert len(whole) == 4
        for cut in range(len(body) + 1):
            assert meanings(TABLE, outcome(lines_of(codec, [cut]), body)) == whole


# ------------------------------------------------------------------ PostgreSQL itself

_ORACLE = {
    Kind.TEXT: "'given'",
    Kind.INTEGER: "7",
    Kind.NUMBER: "1.5",
    Kind.BOOLEAN: "true",
    Kind.JSON: "'{\"a\": 1}'",
    Kind.ARRAY: "'{a,b}'",
}
THEIRS = table(
    *[column(f"c{number}", kind, default=default) for number, (kind, default) in enumerate(_ORACLE.items())],
    *[column(f"d{number}", kind) for number, kind in enumerate(_ORACLE)],
)
"""Two columns of each kind, one with a default and one without."""

Body = tuple[tuple[str, ...], list[Pairs]]

_keys = st.sampled_from([*THEIRS.columns, "x", "C0"])
_bodies = st.tuples(
    st.lists(st.sampled_from(list(THEIRS.columns)), min_size=1, max_size=6, unique=True).map(tuple),
    st.lists(
        st.lists(
            _keys.flatmap(
                lambda name: st.tuples(
                    st.just(name), USUAL[THEIRS.columns[name].kind] if name in THEIRS.columns else values
                )
            ),
            max_size=5,
        ),
        min_size=1,
        max_size=3,
    ),
)


@pytest.fixture
async def tables(db: Connection) -> Connection:
    """The table for our COPY, and one for what PostgreSQL makes of the same JSON."""
    columns = ", ".join(
        f"{each.name} {each.type}" + (f" default {each.default}" if each.default else "")
        for each in THEIRS.columns.values()
    )
    for name in ("t", "theirs"):
        await db.execute(f"create table {name} (number bigint generated always as identity, {columns})")
    return db


@pytest.mark.parametrize("defaults", [False, True])
async def test_what_is_copied_is_what_postgresql_makes_of_the_json(tables: Connection, *, defaults: bool) -> None:
    """A request that wants its rows back goes the other way, and must not store anything else for that."""
    if defaults and tables.get_server_version() < (16,):
        return
    examples: list[Body] = []

    @settings(lawful, max_examples=80)
    @given(_bodies)
    @example((("c0", "d0", "c4"), [[("c0", '"a"'), ("c0", "null"), ("x", "{}")], [("d0", "1"), ("c4", "null")], []]))
    def collect(body: Body) -> None:
        # PostgreSQL sees U+0000 also where the same key follows with another value; COPY is not told of the first one.
        if not any(has_nul(value) and dict(row)[name] != value for row in body[1] for name, value in row):
            examples.append(body)

    collect()
    for listed, drawn in examples:
        body = b"[" + b",".join(map(source_of, drawn)) + b"]"
        ours = [await _ours(tables, codec, body) for codec in codecs(THEIRS, listed, defaults=defaults)]
        assert ours == [await _theirs(tables, listed, drawn, defaults=defaults)] * 2, body


async def _ours(db: Connection, codec: CopyCodec, body: bytes) -> object:
    try:
        encoded = codec.array(body)
        target = Target(THEIRS, encoded.columns, Way.COPY, copy_default=db.get_server_version() >= (16,))
        await copy(db, target, [encoded.payload])
    except (Rejected, asyncpg.PostgresError):
        return None
    return await _contents(db, "t")


async def _theirs(db: Connection, listed: Sequence[str], drawn: Sequence[Pairs], *, defaults: bool) -> object:
    """Row by row, where a column may take its default."""
    parts = [(listed, drawn)]
    if defaults:
        parts = [([name for name in listed if name in dict(row)], [row]) for row in drawn]
    try:
        async with db.transaction():
            for columns, some in parts:
                source = f"[{','.join(source_of(row).decode() for row in some)}]"
                names = ", ".join(columns)
                types = ", ".join(f"{name} {THEIRS.columns[name].type}" for name in columns)
                if columns:
                    query = f"select {names} from json_to_recordset($1::json) as r({types})"
                    await db.execute(f"insert into theirs ({names}) {query}", source)
                else:
                    await db.execute("select from json_to_recordset($1::json) as r(x text)", source)
                    await db.execute("insert into theirs default values")
    except asyncpg.PostgresError:
        return None
    return await _contents(db, "theirs")


async def _contents(db: Connection, name: str) -> object:
    columns = ", ".join(f"{column}::text" for column in THEIRS.columns)
    found = [tuple(record) for record in await db.fetch(f"select {columns} from {name} order by number")]
    await db.execute(f"truncate {name}")
    return found
