"""PostgreSQL as the oracle: what `json_to_recordset` makes of a JSON value is what the service must store."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import pytest

import sql.codec
from tests.harness import Connection, Running

WAYS = ("recordset", "copy", "compiled")
"""The ways a row can go: the recordset, COPY value by value, COPY by generated functions."""

RECORDSET = "return=representation"
"""The `Prefer` header that makes a row of any table go the recordset way."""

Outcomes = dict[str, str | None]
"""JSON source of a value → the text of what was stored (None is NULL), or `"error …"` with the SQLSTATE."""


class Oracle:
    """Compares the service with PostgreSQL. Each way has a table of its own, and so a codec of its own."""

    def __init__(self, db: Connection, headrace: Running) -> None:
        self._db = db
        self._headrace = headrace

    async def judge(self, types: Sequence[str], values: Sequence[str]) -> None:
        """Fail if any way stores any of these JSON values otherwise than PostgreSQL does."""
        tables = {type_: f"t{number}" for number, type_ in enumerate(types)}
        for type_, table in tables.items():
            for way in (*WAYS, "oracle"):
                await self._db.execute(f"create table {table}_{way} (id int primary key, v {type_})")
        await self._headrace.service.watch.reload()
        for type_, table in tables.items():
            theirs = await self._expected(f"{table}_oracle", type_, values)
            for way in WAYS:
                assert await self._posted(f"{table}_{way}", values, way) == theirs, f"{type_} by {way}"

    async def _posted(self, table: str, values: Sequence[str], way: str) -> Outcomes:
        """What the service stores for each value, each in a request of its own."""
        headers = {"prefer": RECORDSET} if way == "recordset" else {}
        errors: Outcomes = {}
        with pytest.MonkeyPatch.context() as patch:
            if way == "copy":
                patch.setattr(sql.codec, "_COMPILE_AFTER_ROWS", 10**9)
            if way == "compiled":
                response = await self._headrace.post(table, [{"id": -n, "v": None} for n in range(1, 21)])
                assert response.status_code == 201, response.text
            for number, value in enumerate(values):
                response = await self._headrace.post(table, f'{{"id":{number},"v":{value}}}'.encode(), **headers)
                if response.status_code != 201:
                    errors[value] = f"error {response.json()['code']}"
        return await self._stored(table, values) | errors

    async def _expected(self, table: str, type_: str, values: Sequence[str]) -> Outcomes:
        """What PostgreSQL itself stores for each value."""
        insert = f"insert into {table} select * from json_to_recordset($1::json) as r(id int, v {type_})"
        errors: Outcomes = {}
        for number, value in enumerate(values):
            try:
                await self._db.execute(insert, f'[{{"id":{number},"v":{value}}}]')
            except asyncpg.PostgresError as error:
                errors[value] = f"error {error.sqlstate}"
        return await self._stored(table, values) | errors

    async def _stored(self, table: str, values: Sequence[str]) -> Outcomes:
        rows = dict(await self._db.fetch(f"select id, v::text from {table} where id >= 0"))
        return {value: rows[number] for number, value in enumerate(values) if number in rows}
