"""PostgreSQL as the oracle: what `json_to_recordset` makes of a JSON value is what the service must store."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import asyncpg
import pytest

import sql.codec
from sql import Slot, nothing_target
from sql.work import Group, Part, Work
from tests.harness import Connection, Running

RECORDSET = "return=representation"
"""The `Prefer` header that makes a row of any table go the recordset way."""

WAYS = {"recordset": {"prefer": RECORDSET}, "copy": {}, "compiled": {}, "together": {}}
"""The ways that a row can go, with the headers for it: the recordset, COPY value by value, by generated functions, and
the INSERT of constants by which batches for several tables are written together.
"""

Outcomes = dict[str, str | None]
"""JSON source of a value → the text of what was stored (None is NULL), or `"error …"` with the SQLSTATE."""


class Oracle:
    """Compares the service with PostgreSQL. Each way has a table of its own, and so a codec of its own."""

    def __init__(self, db: Connection, headrace: Running) -> None:
        self._db = db
        self._headrace = headrace
        self._numbers = itertools.count()

    async def judge(self, types: Sequence[str], values: Sequence[str]) -> None:
        """Fail if any way stores any of these JSON values otherwise than PostgreSQL does."""
        tables = {type_: f"t{next(self._numbers)}" for type_ in types}
        for type_, table in tables.items():
            for way in (*WAYS, "oracle"):
                await self._db.execute(f"create table {table}_{way} (id int, v {type_})")
        await self._headrace.service.watch.reload()
        for type_, table in tables.items():
            theirs = await self._expected(f"{table}_oracle", type_, values)
            for way in WAYS:
                assert await self._posted(f"{table}_{way}", theirs, way) == theirs, f"{type_} by {way}"

    async def _expected(self, table: str, type_: str, values: Sequence[str]) -> Outcomes:
        """What PostgreSQL itself stores for each value."""
        insert = f"insert into {table} select * from json_to_recordset($1::json) as r(id int, v {type_})"
        errors: Outcomes = {}
        for number, value in enumerate(values):
            try:
                await self._db.execute(insert, f"[{_row(number, value)}]")
            except asyncpg.PostgresError as error:
                errors[value] = f"error {error.sqlstate}"
        stored = await self._stored(table, values)
        return {value: errors.get(value, stored.get(value)) for value in values}

    async def _posted(self, table: str, expected: Outcomes, way: str) -> Outcomes:
        """What the service stores. Values that should be good come in one request, to save time, each other by itself.

        Not for the generated functions: one row that they decline sends all rows of its request the slow way.
        """
        rows = {value: _row(number, value) for number, value in enumerate(expected)}
        alone = {value for value, text in expected.items() if way == "compiled" or (text or "").startswith("error ")}
        errors: Outcomes = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sql.codec, "_COMPILE_AFTER_ROWS", 10**9 if way == "copy" else 1)
            if way == "together":
                patch.setattr(Slot, "_store", _store_together)
            if way == "compiled":
                assert (await self._headrace.post(table, _row(-1, "null").encode())).status_code == 201
            good = f"[{','.join(row for value, row in rows.items() if value not in alone)}]"
            response = await self._headrace.post(table, good.encode(), **WAYS[way])
            for value in alone if response.status_code == 201 else rows:
                response = await self._headrace.post(table, rows[value].encode(), **WAYS[way])
                if response.status_code != 201:
                    errors[value] = f"error {response.json()['code']}"
        return await self._stored(table, list(expected)) | errors

    async def _stored(self, table: str, values: Sequence[str]) -> Outcomes:
        records = await self._db.fetch(f"select id, v::text from {table} where id >= 0")
        return {values[record["id"]]: record["v"] for record in records}


_store = Slot._store


async def _store_together(slot: Slot, work: Work, part: Part) -> Sequence[Sequence[object]]:
    """A batch alone, as if it were one of several. What is bad is judged by COPY, and must be bad for that as well."""
    (group,) = part.groups
    if not slot.may_share(group.target):
        return await _store(slot, work, part)
    try:
        # A second one, of nothing.
        return (await _store(slot, work, Part([group, Group(nothing_target("", ""), group.batch, [])])))[:1]
    except asyncpg.PostgresError:
        await _store(slot, work, part)
        pytest.fail("COPY takes what the INSERT does not")


def _row(number: int, value: str) -> str:
    return f'{{"id":{number},"v":{value}}}'
