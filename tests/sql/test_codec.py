"""Bodies into rows: which columns they have, and what is wrong with a body that has none."""

from __future__ import annotations

import msgspec
import pytest

from sql import Encoded, Fault, Kind, Rejected, is_array
from tests.sql.tables import MIXED, column, copy_codec, outcome, record_codec, rows, table, warmed

TWO = table(column("a", Kind.INTEGER), column("b"))

MALFORMED = [
    b"", b" ", b"{", b"[", b"}", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{"a":1}}', b'{"a":1} x',
    b'{"a":1},', b'{"a":1}{"a":2}', b"{'a':1}", b"{a:1}", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":01}', b'{"a":1.}',
    b'{"a":.5}', b'{"a":+1}', b'{"a":0x1}', b'{"a":nul}', b'{"a":tru}', b'{"a":"b}', b'{"a":"\n"}', b'{"a":"\t"}',
    b'{"a":"\x00"}', b'{"a":"\\q"}', b'{"a":"\\u12"}', b'{"b":"\xff"}', b'{"\xff":1}', b'{"b":"\xed\xa0\x80"}',
    b'{"b":"\\ud800"}', b'{"b":"\\udc00\\ud800"}', b'{"b":"\\ud800x"}', b"\xef\xbb\xbf{}", b'{"a":1}\x00', b"\x00",
    b'{"b":[1,]}', b'{"b":[}', b'{"b":' + b"[" * 50_000 + b"]" * 50_000 + b"}", b'{"b":' + b"[" * 100_000,
    b'{"b":' + b'{"b":' * 50_000 + b"1" + b"}" * 50_001,
]  # fmt: skip
NO_OBJECTS = [b"null", b"true", b"1", b'"a"', b"nul", b"1 2"]


def same(fault: object, expected: Fault) -> bool:
    """Whether code and message are as expected."""
    return isinstance(fault, Fault) and (fault.code, fault.message) == (expected.code, expected.message)


@pytest.mark.parametrize("body", [*MALFORMED, *NO_OBJECTS], ids=lambda body: repr(body[:20]))
def test_what_is_no_json_object_is_refused_whatever_the_codec_has_seen(body: bytes) -> None:
    """A body comes from anybody; the worst it may do is to be refused, in the words that clients know."""
    expected = Fault("PGRST102", "Empty or invalid json")
    assert same(outcome(copy_codec(TWO).one, body), expected)
    assert same(outcome(warmed(copy_codec(TWO), b'{"a":1,"b":"x"}').one, body), expected)
    with pytest.raises(Rejected, match=expected.message):
        record_codec(TWO).one(body)


@pytest.mark.parametrize("body", MALFORMED, ids=lambda body: repr(body[:20]))
def test_malformed_elements_are_refused_whatever_the_codec_has_seen(body: bytes) -> None:
    """The same for arrays, which other functions decode."""
    array = b'[{"a":1,"b":"x"},' + body + b"]"
    for codec in (copy_codec(TWO), warmed(copy_codec(TWO), b'{"a":1,"b":"x"}')):
        fault = outcome(codec.array, array)
        assert isinstance(fault, Fault)
        assert fault.code == "PGRST102"
    with pytest.raises(Rejected) as info:
        record_codec(TWO).array(array)
    assert info.value.fault.code == "PGRST102"


@pytest.mark.parametrize("element", [b"null", b"1", b'"a"', b"[]", b'[{"a":1}]', b'{"b":2}', b'{"a":1,"b":2}', b"{}"])
def test_elements_are_objects_with_the_same_keys(element: bytes) -> None:
    """Rows of one request have the same columns; a client whose keys differ by mistake must not get defaults."""
    body = b'[{"a":1},' + element + b"]"
    expected = Fault("PGRST102", "All object keys must match")
    assert same(outcome(copy_codec(TWO).array, body), expected)
    assert same(outcome(warmed(copy_codec(TWO), b'{"a":1}').array, body), expected)
    with pytest.raises(Rejected, match=expected.message):
        record_codec(TWO).array(body)


def test_keys_may_come_in_any_order() -> None:
    """JSON objects have no order, so rows share a batch however they are written."""
    codec = copy_codec(TWO)
    for body in (b'{"a":1,"b":"x"}', b'{"b":"x","a":1}', b' {\t"b" :\n"x" ,\r"a":1 } '):
        assert codec.one(body) == Encoded(("a", "b"), b"1\tx\n", 1)
    assert codec.array(b'[{"a":1,"b":"x"},{"b":"y","a":2}]') == Encoded(("a", "b"), b"1\tx\n2\ty\n", 2)


def test_of_a_repeated_key_the_last_value_counts() -> None:
    """As in PostgreSQL and PostgREST; also where the value that does not count is of another kind."""
    for body in (b'{"a":1,"b":"x","a":2}', b'{"a":"1","b":"x","a":2}', b'{"a":[],"b":[],"a":2,"b":"x"}'):
        for codec in (copy_codec(TWO), warmed(copy_codec(TWO), b'{"a":1,"b":"x"}')):
            assert rows(codec.one(body)) == [{"a": "2", "b": "x"}]
            assert rows(codec.array(b"[" + body + b"]")) == [{"a": "2", "b": "x"}]


def test_escapes_in_keys_are_undone() -> None:
    """Encoders that write everything beyond ASCII as escapes name the same columns."""
    codec = copy_codec(table(column("größe")))
    for body in ('{"größe":"a"}', '{"gr\\u00f6\\u00dfe":"a"}'):
        assert rows(codec.one(body.encode())) == [{"größe": "a"}]
    assert rows(warmed(codec, '{"größe":"a"}'.encode()).one(b'{"gr\\u00f6\\u00dfe":"a"}')) == [{"größe": "a"}]


@pytest.mark.parametrize("body", [b'{"z":1,"a":1,"x":2,"y":3}', b'{"y":3,"x":2}', b'{"x":1,"y":{}}'])
def test_the_alphabetically_first_unknown_key_is_named(body: bytes) -> None:
    """Which one is told must not depend on the order of keys, or the same mistake looks like several."""
    expected = Fault("PGRST204", "Could not find the 'x' column of 't' in the schema cache", column="x")
    codec = warmed(copy_codec(TWO), b'{"a":1}')
    assert outcome(codec.one, body) == expected
    assert outcome(codec.array, b"[" + body + b"]") == expected
    with pytest.raises(Rejected) as info:
        record_codec(TWO).one(body)
    assert info.value.fault == expected


@pytest.mark.parametrize(
    ("more", "details"),
    [
        ({"identity": "always"}, 'Column "id" is an identity column defined as GENERATED ALWAYS.'),
        ({"generated": True}, 'Column "id" is a generated column.'),
    ],
)
def test_generated_columns_take_no_values(more: dict[str, object], details: str) -> None:
    """COPY would store a value for GENERATED ALWAYS AS IDENTITY, and the sequence would later collide with it."""
    guarded = table(column("id", Kind.INTEGER, **more), column("b"))
    fault = outcome(copy_codec(guarded).one, b'{"id":1,"b":"x"}')
    assert isinstance(fault, Fault)
    assert (fault.code, fault.details, fault.column) == ("428C9", details, "id")
    with pytest.raises(Rejected, match="cannot insert a non-DEFAULT value"):
        record_codec(guarded).one(b'{"id":1,"b":"x"}')
    assert rows(copy_codec(guarded).one(b'{"b":"x"}')) == [{"b": "x"}]


def test_an_identity_by_default_takes_values() -> None:
    """Restoring rows with their keys is what BY DEFAULT is for."""
    assert rows(copy_codec(table(column("id", identity="by default"))).one(b'{"id":"1"}')) == [{"id": "1"}]


@pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"[\n]"])
def test_an_empty_array_has_no_rows(body: bytes) -> None:
    """A producer with nothing to send is right, and must not cost a trip to the database."""
    for codec in (copy_codec(TWO), warmed(copy_codec(TWO), b'{"a":1}'), record_codec(TWO)):
        assert codec.array(body) == Encoded((), b"", 0)


def test_rows_without_keys_are_rows() -> None:
    """`{}` asks for a row of defaults; losing it would lose data."""
    assert copy_codec(TWO).one(b"{}") == Encoded((), b"\n", 1)
    assert copy_codec(TWO).array(b"[{},{}]") == Encoded((), b"\n\n", 2)
    assert record_codec(TWO).array(b"[{}, {}]") == Encoded((), b"{}, {}", 2)


def test_the_row_of_a_bad_value_is_told() -> None:
    """Among thousands of rows, nobody finds the one with U+0000 by himself."""
    body = b'[{"b":"x"},{"b":"y"},{"b":"z\\u0000"}]'
    for codec in (copy_codec(TWO), warmed(copy_codec(TWO), b'{"b":"x"}')):
        fault = outcome(codec.array, body)
        assert isinstance(fault, Fault)
        assert (fault.code, fault.row) == ("22P05", 3)


def test_the_recordset_gets_the_rows_as_they_came() -> None:
    """PostgreSQL reads them itself, so nothing may be rewritten; only what is around them goes."""
    body = b'\n[ {"b": "\\u00e4",\t"b":"x" } , {"b":1.50}]\r\n'
    assert record_codec(TWO).array(body) == Encoded(("b",), b' {"b": "\\u00e4",\t"b":"x" } , {"b":1.50}', 2)
    assert record_codec(TWO).one(b' {"b":1} ') == Encoded(("b",), b'{"b":1}', 1)


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"[", True), (b" \t\r\n[", True), (b"{", False), (b"", False), (b"\x0b[", False), (b'"[', False)],
)
def test_an_array_is_told_from_an_object_by_its_first_character(body: bytes, *, expected: bool) -> None:
    """Only the white space of JSON may stand before it; what else stands there is for the decoder to refuse."""
    assert is_array(body) is expected


def test_shapes_are_forgotten_before_they_fill_the_memory() -> None:
    """A producer that sends random sets of keys must not grow the process."""
    wide = table(*[column(f"c{n}") for n in range(40)])
    codec = copy_codec(wide)
    for number in range(1, 2_000):
        keys = [f'"c{bit}":"x"' for bit in range(40) if number >> bit & 1]
        assert codec.one(f"{{{','.join(keys)}}}".encode()).rows == 1
    assert len(codec._columns._shapes) <= 256


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "\x01"])
def test_columns_that_cannot_be_compiled_are_written_all_the_same(name: str) -> None:
    """The decoder has no names for these fields, so the generated functions must not be tried."""
    codec = copy_codec(table(column(name)))
    for _ in range(20):
        assert rows(codec.one(msgspec.json.encode({name: "x"}))) == [{name: "x"}]
    assert codec._last is None


def test_a_number_too_long_for_python_is_left_to_postgresql() -> None:
    """CPython refuses to convert integers of more than 4300 digits; the row must be judged by the database instead."""
    digits = "9" * 5_000
    body = f'{{"integer":{digits},"numeric":{digits}}}'.replace("numeric", "number").encode()
    assert rows(warmed(copy_codec(MIXED), b'{"integer":1,"number":1}').one(body)) == [
        {"integer": digits, "number": digits}
    ]


@pytest.mark.parametrize("value", ["[]", "[[]]", "[ [ ] , [] ]", "[[[]],[[],[]]]"])
def test_arrays_of_nothing_are_empty(value: str) -> None:
    """Before PostgreSQL 17 the input function takes no braces inside braces without an element."""
    codec = copy_codec(table(column("a", Kind.ARRAY)))
    assert rows(codec.one(f'{{"a":{value}}}'.encode())) == [{"a": "{}"}]


@pytest.mark.parametrize("depth", [7, 500])
def test_arrays_nest_no_deeper_than_postgresql_allows(depth: int) -> None:
    """Reading each level anew takes time with the square of the depth; there is no need to do it for nothing."""
    codec = copy_codec(table(column("a", Kind.ARRAY)))
    fault = outcome(codec.one, f'{{"a":{"[" * depth}1{"]" * depth}}}'.encode())
    assert isinstance(fault, Fault)
    assert (fault.code, fault.column) == ("54000", "a")
