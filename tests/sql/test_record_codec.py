"""What the codec of the recordset way tells of rows beside their columns: the keys that they have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, json

import sql.pieces
import sql.record_codec
from sql import Encoded, Kind, RecordCodec, Rejected
from sql.encoded import NO_ROWS, result_of
from tests.sql.tables import column, record_codec, table
from tests.sql.test_codec_laws import lawful

TABLE = table(column("id", Kind.INTEGER), column("no"), column("t"))


def keys_of(encoded: Encoded) -> set[tuple[str, ...]]:
    """The keys, which were asked for."""
    assert encoded.keys is not None
    return set(encoded.keys)


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (b'[{"id":1,"t":"a"},{"id":2,"t":"a"},{"id":1,"t":"b"}]', {("1",), ("2",)}),
        (b'[{"id":"1"},{"id":1},{"id" : 1 }]', {("1",)}),
        (b'[{"id":"\\u0031"},{"id":"1"}]', {("1",)}),
        (b'[{"id":null},{"id":"null"}]', {("null",)}),
        (b'[{"id":1,"id":2}]', {("2",)}),
        (b'[{"id":1.50},{"id":true},{"id":["a"]},{"id":""}]', {("1.50",), ("true",), ('["a"]',), ("",)}),
        (b'[{"id":"\\u00e4\\n"}]', {("ä\n",)}),
        (b'[{"t":1},{"t":2}]', set()),
    ],
)
def test_keys_are_the_texts_of_their_values(body: bytes, keys: set[tuple[str, ...]]) -> None:
    """Two requests with the same key must not be in one statement; it is compared before PostgreSQL reads it."""
    assert keys_of(record_codec(TABLE, key=("id",)).array(body)) == keys
    assert keys_of(record_codec(TABLE, columns=("id", "t"), key=("id",)).array(body)) == keys
    rows = [bytes(row) for row in json.decode(body, type=list[Raw])]
    assert keys_of(record_codec(TABLE, key=("id",)).lines(b"\n".join(rows))) == keys
    for row in rows:
        assert keys_of(record_codec(TABLE, key=("id",)).one(row)) <= keys


def test_a_key_may_have_several_columns() -> None:
    """In the order of the key, not of the table. A row without all of them conflicts with nothing."""
    codec = record_codec(TABLE, columns=("id", "no"), key=("no", "id"))
    body = b'[{"id":1,"no":"a"},{"no":"b"},{"id":2,"no":null},{},{"no":1,"id":"a"}]'
    assert keys_of(codec.array(body)) == {("a", "1"), ("1", "a")}


def test_a_key_that_is_not_listed_is_dropped_like_any_other() -> None:
    """What is stored there is its default, not what the row says."""
    codec = record_codec(TABLE, columns=("no", "t"), key=("no", "id"))
    assert keys_of(codec.array(b'[{"id":1,"no":"a"}]')) == set()


def test_keys_are_looked_for_only_where_they_are_needed() -> None:
    """They cost as much as all the rest."""
    assert record_codec(TABLE).array(b'[{"id":1}]').keys is None
    for codec in (record_codec(TABLE), record_codec(TABLE, key=("id",))):
        assert codec.array(b"[]") == NO_ROWS
        assert codec.lines(b"") == NO_ROWS


def test_rows_with_listed_columns_stay_as_they_came() -> None:
    """PostgreSQL reads them itself; only their columns are known beforehand."""
    codec = record_codec(TABLE, columns=("t", "id"))
    body = b'[{"id":1}, {"x":{},"t":"a"},{}]'
    assert codec.array(body) == Encoded(("id", "t"), body[1:-1], 3)
    assert codec.lines(b'{"id":1}\n\n{"x":2}') == Encoded(("id", "t"), b'{"id":1},{"x":2}', 2)
    assert codec.one(b" {} ") == Encoded(("id", "t"), b"{}", 1)


_bodies = st.lists(
    st.fixed_dictionaries(
        {}, optional={"id": st.none() | st.integers(0, 9) | st.text("01é\\", max_size=2), "no": st.text(max_size=3)}
    ),
    max_size=12,
)


@lawful
@given(_bodies, st.sampled_from([("id",), ("id", "no")]), st.integers(1, 40))
def test_a_body_in_pieces_has_the_same_keys(drawn: list[dict[str, object]], key: tuple[str, ...], size: int) -> None:
    """A large body is looked at in pieces, and a key that is forgotten there lets two requests fail each other."""
    expected = {
        tuple(str(row[name]) for name in key) for row in drawn if all(row.get(name) is not None for name in key)
    }
    sources = [json.encode(row) for row in drawn]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sql.pieces, "PIECE_BYTES", size)
        patch.setattr(sql.record_codec, "PIECE_BYTES", 0)
        codec = record_codec(TABLE, columns=("id", "no"), key=key)
        array = result_of(codec.array_steps(b"[" + b", ".join(sources) + b"]"))
        lines = codec.lines(b"\n".join(sources))
    assert array.rows == lines.rows == len(drawn)
    if drawn:
        assert keys_of(array) == keys_of(lines) == expected


def test_keys_that_differ_are_noticed_in_whatever_piece_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a list, the columns of the first row are those of all."""
    monkeypatch.setattr(sql.pieces, "PIECE_BYTES", 10)
    monkeypatch.setattr(sql.record_codec, "PIECE_BYTES", 0)
    body = b'[{"id":1},{"id":2},{"no":3},{"no":4}]'
    for codec in (RecordCodec(TABLE), RecordCodec(TABLE, key=("id",))):
        with pytest.raises(Rejected, match="All object keys must match"):
            result_of(codec.array_steps(body))
    assert result_of(RecordCodec(TABLE, columns=("id",)).array_steps(body)).rows == 4
