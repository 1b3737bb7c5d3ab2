"""Newline-delimited JSON: rows line by line, in chunks cut wherever the network cut them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sql import CopyCodec, Encoded, Fault, Kind, Rejected
from tests.sql.tables import column, copy_codec, outcome, record_codec, rows, table, warmed

TABLE = table(column("a", Kind.INTEGER, default="7"), column("b"), column("c", Kind.JSON, identity="by default"))
ROW = b'{"a":1,"b":"x"}'


def read(chunks: Sequence[bytes], codec: CopyCodec | None = None) -> object:
    """The rows, or the fault, of a body that arrives in these chunks."""
    reader = (codec or copy_codec(TABLE)).lines()

    def encoded() -> Encoded:
        for chunk in chunks:
            reader.feed(chunk)
        return reader.finish()

    return outcome(encoded)


def codecs() -> list[CopyCodec]:
    """One that has seen nothing yet, and one that has functions for rows like ROW."""
    return [copy_codec(TABLE), warmed(copy_codec(TABLE), ROW)]


BODIES = {
    "one set of keys": '{"a":1,"b":"ä"}\n{"b":"\\t😀","a":null}\n'.encode(),
    "no end of the last line": ROW + b"\n" + ROW,
    "CRLF": ROW + b"\r\n" + ROW + b"\r\n",
    "blank lines": b"\n \n" + ROW + b"\n\r\n\t\n" + ROW + b"\n\n",
    "mixed keys": b'{"a":1}\n{"b":"x"}\n{}\n{"b":"y","a":2}\n{"c":{"d":"\\n"}}\n{"a":3}',
    "nothing": b"",
    "only blank lines": b"\n\r\n  \n",
    "two on a line": ROW + ROW + b"\n\n" + ROW + b"\n",
    "one on two lines": b'{"a":\n1}' + ROW + b"\n",
    "an object that ends and begins lines": b'{"c":{}\n}{"c":\n{}}\n{"c":{}}',
    "bad JSON in the third row": ROW + b"\n\n" + ROW + b'\n{"a":}\n' + ROW,
    "invalid UTF-8 in the second row": ROW + b'\n{"b":"\xc3"}\n',
    "no object in the second row": ROW + b"\n[]\n",
    "an unknown key in the second row": ROW + b'\n{"z":1}\n',
    "U+0000 in the second row": ROW + b'\n{"a":1,"b":"\\u0000"}\n',
}


@pytest.mark.parametrize("name", BODIES)
def test_it_does_not_matter_where_a_body_is_cut(name: str) -> None:
    """The network cuts anywhere; a row must not depend on it, nor on what the codec has seen before."""
    body = BODIES[name]
    whole = read([body])
    for codec in codecs():
        assert read([body], codec) == whole
        for cut in range(len(body) + 1):
            assert read([body[:cut], body[cut:]], codec) == whole, cut
        assert read([body[i : i + 1] for i in range(len(body))], codec) == whole


@pytest.mark.parametrize(
    ("name", "code", "row"),
    [
        ("two on a line", "PGRST102", 1),
        ("one on two lines", "PGRST102", 1),
        ("an object that ends and begins lines", "PGRST102", 1),
        ("bad JSON in the third row", "PGRST102", 3),
        ("invalid UTF-8 in the second row", "PGRST102", 2),
        ("no object in the second row", "PGRST102", 2),
        ("an unknown key in the second row", "PGRST204", 2),
        ("U+0000 in the second row", "22P05", 2),
    ],
)
def test_the_fault_names_the_row(name: str, code: str, row: int) -> None:
    """In a body of a million lines, a fault without its place is of no use."""
    for codec in codecs():
        fault = read([BODIES[name]], codec)
        assert isinstance(fault, Fault)
        assert (fault.code, fault.row) == (code, row)


@pytest.mark.parametrize("name", ["no end of the last line", "CRLF", "blank lines"])
def test_line_ends_are_no_data(name: str) -> None:
    """Files from other systems end their lines differently, or not at all."""
    for codec in codecs():
        assert read([BODIES[name]], codec) == [{"a": "1", "b": "x"}] * 2


@pytest.mark.parametrize("name", ["nothing", "only blank lines"])
def test_a_body_without_rows_succeeds(name: str) -> None:
    """As an empty array does."""
    for codec in codecs():
        assert read([BODIES[name]], codec) == []


def test_rows_may_have_different_keys() -> None:
    """Logs do; a column that a row does not mention takes its default, as it would in a request of its own."""
    default = "the default"
    for codec in codecs():
        assert read([BODIES["mixed keys"]], codec) == [
            {"a": "1", "b": None, "c": default},
            {"a": default, "b": "x", "c": default},
            {"a": default, "b": None, "c": default},
            {"a": "2", "b": "y", "c": default},
            {"a": default, "b": None, "c": '{"d":"\\n"}'},
            {"a": "3", "b": None, "c": default},
        ]


def test_only_columns_that_occur_are_written() -> None:
    """A column that nobody mentions may be one that takes no values."""
    guarded = table(column("id", identity="always"), column("a", default="1"), column("b"))
    reader = copy_codec(guarded).lines()
    reader.feed(b'{"b":"x"}\n{"a":"y"}\n')
    assert reader.finish() == Encoded(("a", "b"), b"\\D\tx\ny\t\\N\n", 2)


def test_values_cannot_pass_for_the_markers() -> None:
    """Whoever writes a backslash and a D wants these two stored."""
    reader = copy_codec(TABLE).lines()
    reader.feed(b'{"a":1,"b":"\\\\D"}\n{"b":"\\\\N"}\n')
    assert reader.finish().payload == b"1\t\\\\D\n\\D\t\\\\N\n"


def test_before_postgresql_16_keys_must_not_differ() -> None:
    """Its COPY knows no marker for defaults; saying so beats storing NULL."""
    reader = copy_codec(TABLE, server_version=150000).lines()
    reader.feed(BODIES["mixed keys"])
    with pytest.raises(Rejected) as info:
        reader.finish()
    assert info.value.fault.code == "PGRST102"
    assert "PostgreSQL 16" in str(info.value.fault.hint)


def test_before_postgresql_16_a_forgotten_shape_is_no_other_set_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body must not fail because other bodies had so many sets of keys that this one was forgotten meanwhile."""
    codec = warmed(copy_codec(TABLE, server_version=150000), ROW)
    monkeypatch.setattr("sql.encoded._SHAPES_MAX", 1)
    codec.one(b"{}")
    rows_of_one_shape = [{"a": "1", "b": "x"}] * 2
    assert read([ROW + b"\n", b" " + ROW.replace(b"1", b'"1"')], codec) == rows_of_one_shape


def test_the_recordset_takes_lines_with_the_same_keys() -> None:
    """It is what tables get that COPY cannot write; its rows must be told apart in errors as well."""
    codec = record_codec(TABLE)
    assert codec.lines(b'{"a":1}\r\n\n {"a":2}') == Encoded(("a",), b'{"a":1}\r, {"a":2}', 2)
    assert codec.lines(b"\n") == Encoded((), b"", 0)
    for body, code, row in ((b'{"a":1}\n{"b":2}', "PGRST102", None), (b'{"a":1}\n\n{"a"', "PGRST102", 2)):
        with pytest.raises(Rejected) as info:
            codec.lines(body)
        assert (info.value.fault.code, info.value.fault.row) == (code, row)


def test_lines_are_encoded_as_they_arrive() -> None:
    """A large body must not be held as a whole: what is complete is encoded, and only the rest of the source kept."""
    reader = copy_codec(TABLE).lines()
    reader.feed(ROW + b"\n" + ROW[:7])
    assert reader._rest == [ROW[:7]]
    with pytest.raises(Rejected):
        reader.feed(b"\n")
    assert rows(copy_codec(TABLE).one(ROW)) == [{"a": "1", "b": "x"}]
