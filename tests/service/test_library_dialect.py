"""The library speaks the dialect: columns, upserts, names of all kinds, and whose mistake is whose."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import Headrace, RowsRefused
from tests.harness import Connection, rows_of


async def test_rows_may_have_different_columns(writer: Headrace, db: Connection) -> None:
    """What one of them lacks takes its default, as if it had been alone."""
    rows: list[dict[str, Any]] = [{"text": "one"}, {"text": "two", "kind": None}, {"kind": "x", "text": "three"}]
    await writer.insert("notes", rows)
    assert await rows_of(db, "select text, kind from notes order by id") == [
        ("one", "note"),
        ("two", None),
        ("three", "x"),
    ]
    returned = await writer.insert("notes", rows, returning="kind")
    assert returned == [{"kind": "note"}, {"kind": None}, {"kind": "x"}]


async def test_columns_are_those_that_count(writer: Headrace, db: Connection) -> None:
    """A model may have fields that are nobody's column."""
    await writer.insert("notes", {"text": "one", "kind": "x", "password": "y"}, columns=["text", "number"])
    assert await rows_of(db, "select text, kind, number from notes") == [("one", "note", None)]
    with pytest.raises(RowsRefused, match="PGRST204"):
        await writer.insert("notes", {"text": "one"}, columns=["text", "nothing"])


async def test_a_row_whose_key_is_there_replaces_values(writer: Headrace, db: Connection) -> None:
    """An upsert: the stored row keeps what the new one does not bring."""
    await writer.insert("notes", {"text": "one", "number": 1, "kind": "x"})
    row = await writer.insert("notes", {"text": "two", "number": 1}, on_conflict="number", returning="*")
    assert row == {"id": 1, "text": "two", "kind": "x", "number": 1}
    assert await db.fetchval("select count(*) from notes") == 1


async def test_duplicates_may_be_ignored(writer: Headrace, db: Connection) -> None:
    """A list may hold rows that are there already; what is returned are those that are new."""
    one, two = {"id": 101, "text": "one"}, {"id": 101, "text": "two"}
    assert await writer.insert("notes", one, ignore_duplicates=True, returning="id") == {"id": 101}
    assert await writer.insert("notes", two, ignore_duplicates=True, returning="id") is None
    rows = [{"id": 101, "text": "three"}, {"id": 102, "text": "four"}]
    assert await writer.insert("notes", rows, ignore_duplicates=True, returning="text") == [{"text": "four"}]
    await writer.insert("notes", {"text": "five", "number": 5})
    rows = [{"text": "six", "number": 5}, {"text": "seven", "number": 7}]
    await writer.insert("notes", rows, on_conflict="number", ignore_duplicates=True)
    texts = await rows_of(db, "select text from notes order by id")
    assert texts == [("five",), ("seven",), ("one",), ("four",)]


async def test_names_may_be_anything(writer: Headrace, db: Connection) -> None:
    """Columns are named by whoever has made the table."""
    strange = 'a "b", c\\d&e=%25+ü'
    quoted = '"' + strange.replace('"', '""') + '"'
    await db.execute(f"create table odd ({quoted} int unique, x int default 3)")
    assert await writer.insert("odd", {strange: 1}, returning=strange, columns=strange) == {strange: 1}
    assert await writer.insert("odd", {strange: 1, "x": 4}, returning=[strange, "x"], on_conflict=strange) == {
        strange: 1,
        "x": 4,
    }


@pytest.mark.parametrize(("parameter", "code"), [("returning", "42703"), ("on_conflict", "42703")])
async def test_a_column_that_is_none_is_refused(writer: Headrace, db: Connection, parameter: str, code: str) -> None:
    """A misspelt name must not be left out in silence."""
    parameters: dict[str, Any] = {parameter: "nothing"}
    with pytest.raises(RowsRefused) as raised:
        await writer.insert("notes", {"text": "one"}, **parameters)
    assert raised.value.code == code
    assert await db.fetchval("select count(*) from notes") == 0


@pytest.mark.parametrize("parameter", ["returning", "on_conflict", "columns"])
async def test_a_list_of_columns_names_some(writer: Headrace, parameter: str) -> None:
    """An empty one is a mistake of the program, and PostgREST's words for it would be odd."""
    parameters: dict[str, Any] = {parameter: []}
    with pytest.raises(ValueError, match="empty"):
        await writer.insert("notes", {"text": "one"}, **parameters)


async def test_rows_that_change_others_must_say_all_the_same(db: Connection, writer: Headrace) -> None:
    """What a row lacks would be set to its default in the stored one, which nobody has asked for."""
    await db.execute(
        "create table u (id int primary key, v text, w text default 'd'); insert into u values (1, 'a', 'b')"
    )
    rows = [{"id": 1, "v": "new"}, {"id": 2, "w": "new"}]
    with pytest.raises(ValueError, match="same columns"):
        await writer.insert("u", rows, on_conflict="id")
    await writer.insert("u", rows, on_conflict="id", ignore_duplicates=True)
    assert await rows_of(db, "select * from u order by id") == [(1, "a", "b"), (2, None, "new")]
