"""Texts, columns and tables with anything in them, over HTTP and back."""

from __future__ import annotations

import json
from urllib.parse import quote

import msgspec

from sql import quote_identifier
from tests.harness import Connection, Running, rows_of
from tests.sql.oracle import RECORDSET

TEXTS = {
    r'"\""': '"',
    r'"\\"': "\\",
    r'"\/"': "/",
    r'"\b"': "\b",
    r'"\f"': "\f",
    r'"\n"': "\n",
    r'"\r"': "\r",
    r'"\t"': "\t",
    r'"\u0041\u00e4\u20AC"': "Aä€",
    r'"\ud83d\ude00"': "😀",
    r'"\uD83D\uDE00"': "😀",
    r'"\u0001\u001f\u007f\u0080\u2028\u2029\ufeff\uffff"': "\x01\x1f\x7f\x80\u2028\u2029\ufeff\uffff",
    '"ä€😀\x7f\u0085\u00a0\u2028\U0010ffff"': "ä€😀\x7f\x85\xa0\u2028\U0010ffff",
    r'"\\N"': "\\N",
    r'"\\."': "\\.",
    r'"\\D"': "\\D",
    r'"\\n"': "\\n",
    r'"\\u0000"': "\\u0000",
    r'"a\n\\.\nb"': "a\n\\.\nb",
    r'"\r\n"': "\r\n",
    r'"\\\\"': "\\\\",
    r'"\\\n"': "\\\n",
    r'"x41\\x41\\101"': "x41\\x41\\101",
    r'"1\t2\t\\N"': "1\t2\t\\N",
    '""': "",
    '" "': " ",
    '"N"': "N",
    '"null"': "null",
    '"NULL"': "NULL",
    '"{}"': "{}",
    '"%s %(x)s $1 \'; drop table t; --"': "%s %(x)s $1 '; drop table t; --",
}
"""JSON source → the text that it means."""


def bodies() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The same rows in all forms of a body, with the headers for each."""
    rows = [f'{{"id":{number},"v":{value}}}' for number, value in enumerate(TEXTS)]
    array, lines = f"[{','.join(rows)}]".encode(), "\n".join(rows).encode()
    ndjson = {"content_type": "application/x-ndjson"}
    return {
        "array": (array, {}),
        "lines": (lines, ndjson),
        "recordset": (array, {"prefer": RECORDSET}),
        "recordset of lines": (lines, ndjson | {"prefer": RECORDSET}),
    }


async def test_texts_come_back_as_they_were_sent(db: Connection, headrace: Running) -> None:
    """COPY gives a meaning to backslashes, tabs and line ends; a text must not."""
    await db.execute("create table t (id int, v text)")
    await headrace.service.watch.reload()
    expected = [(number, text) for number, text in enumerate(TEXTS.values())]
    for _ in ("value by value", "compiled"):
        for form, (body, headers) in bodies().items():
            response = await headrace.post("t", body, **headers)
            assert response.status_code == 201, response.text
            assert await rows_of(db, "select * from t order by id") == expected, form
            await db.execute("delete from t")


async def test_a_text_may_be_large(db: Connection, headrace: Running) -> None:
    """A document in a column is nothing special; here each character needs an escape, in JSON and in COPY."""
    await db.execute("create table t (v text, j jsonb)")
    text = 'ä\\\t\n"😀' * 100_000
    for headers in ({}, {"prefer": RECORDSET}):
        response = await headrace.post("t", {"v": text, "j": [text]}, **headers)
        assert response.status_code == 201, response.text[:200]
    assert await rows_of(db, "select distinct v, j->>0 from t") == [(text, text)]


async def test_what_is_no_text_is_refused(db: Connection, headrace: Running) -> None:
    """PostgreSQL cannot store half a character, and would say so itself where it reads the JSON."""
    await db.execute("create table t (v text)")
    for value in (r'"\ud800"', r'"\udc00"', r'"\ud800\ud800"', r'"\ud83dx"', r'"\u12"', r'"\x"', '"\t"'):
        for headers in ({}, {"prefer": RECORDSET}):
            response = await headrace.post("t", f'{{"v":{value}}}'.encode(), **headers)
            assert (response.status_code, response.json()["code"]) == (400, "PGRST102"), value


NAMES = [
    "Events", "two words", 'a "quoted" one', "it's", "select", "größe", "😀", "a.b", "a,b", "a:b", "a: b", "(a)", "\\",
    "\\N", "\\D", "a\\b", "a\nb", "a\tb", "%s", "%20", "$1", "*", "{}", "1", "stored", "r", "t", "line", "row", "c0",
    "null", "x" * 63,
]  # fmt: skip


async def test_columns_may_have_any_name(db: Connection, headrace: Running) -> None:
    """PostgreSQL allows it, so somebody has it. Some cannot be compiled, so they get tables of their own."""
    tables = {f"t{number}": [name] for number, name in enumerate(NAMES)} | {"all_of_them": NAMES}
    for table, columns in tables.items():
        await db.execute(f"create table {table} ({', '.join(f'{quote_identifier(name)} text' for name in columns)})")
    await headrace.service.watch.reload()
    for table, columns in tables.items():
        row = {name: f"value of {name}" for name in columns}
        for _ in range(2):  # the second time with generated functions
            assert (await headrace.post(table, [row] * 10)).status_code == 201, columns
        returned = await headrace.post(table, row, prefer=RECORDSET)
        assert (returned.status_code, json.loads(returned.content)) == (201, [row])
        found = await db.fetch(f"select * from {table}")
        assert [dict(each) for each in found] == [row] * 21


async def test_tables_may_have_any_name(db: Connection, headrace: Running) -> None:
    """The name comes out of a URL and goes into SQL; a slash would be a path of its own."""
    for name in NAMES:
        await db.execute(f"create table {quote_identifier(name)} (v int)")
    await headrace.service.watch.reload()
    for name in NAMES:
        for headers in ({}, {"prefer": RECORDSET}):
            response = await headrace.post(quote(name, safe=""), msgspec.json.encode({"v": 1}), **headers)
            assert response.status_code == 201, (name, response.text)
        assert await db.fetchval(f"select count(*) from {quote_identifier(name)}") == 2


async def test_the_row_with_the_bad_value_is_named_whatever_the_table_is_called(
    db: Connection, headrace: Running
) -> None:
    """The line is read out of a text that also has the names in it."""
    for name in NAMES:
        await db.execute(f"create table {quote_identifier(name)} (v int)")
    await headrace.service.watch.reload()
    for name in NAMES:
        response = await headrace.post(quote(name, safe=""), [{"v": 1}, {"v": "x\nCOPY t, line 1"}, {"v": 3}])
        assert (response.status_code, response.headers["headrace-row"]) == (400, "2"), name
