"""The recordset: what COPY cannot write, and rows that come back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx2
import pytest

from tests.harness import Connection, Running, rows_of
from tests.sql.oracle import RECORDSET


async def together(
    db: Connection, headrace: Running, table: str, bodies: Sequence[object], **headers: str
) -> list[httpx2.Response]:
    """The answers to requests that share statements."""
    await headrace.service.watch.reload()
    async with headrace.gathering(db, table, requests=len(bodies)):
        sent = [asyncio.create_task(headrace.post(table, body, **headers)) for body in bodies]
    return await asyncio.gather(*sent)


async def test_stored_rows_come_back_in_order(db: Connection, headrace: Running) -> None:
    """A client matches what it sent with the keys that the database gave by their places."""
    await db.execute("create table t (id int generated always as identity, v int, d int default 5)")
    response = await headrace.post("t", [{"v": n} for n in range(1_000, 0, -1)], prefer=RECORDSET)
    assert response.status_code == 201
    assert response.json() == [{"id": n, "v": 1_001 - n, "d": 5} for n in range(1, 1_001)]


async def test_requests_that_share_a_statement_get_their_own_rows(db: Connection, headrace: Running) -> None:
    """They are told apart by their number alone."""
    await db.execute("create table t (v text)")
    bodies = [[{"v": f"{n} {m}"} for m in range(1 + n % 4)] for n in range(60)]
    responses = await together(db, headrace, "t", bodies, prefer=RECORDSET)
    assert [response.json() for response in responses] == bodies


@pytest.mark.parametrize(("posted_to", "triggered"), [("base", "base"), ("behind", "base"), ("base", "base_1")])
async def test_rows_that_a_trigger_drops_are_nobody_elses(
    posted_to: str, triggered: str, db: Connection, headrace: Running
) -> None:
    """Fewer rows come back than were sent, and they must not be given to the wrong requests."""
    await db.execute(
        f"""
        create function keep() returns trigger language plpgsql as
            $$ begin if new.v = 'drop' then return null; end if; return new; end $$;
        create table base (v text) partition by hash (v);
        create table base_1 partition of base for values with (modulus 1, remainder 0);
        create view behind as select * from base;
        create trigger g before insert on {triggered} for each row execute function keep()
        """
    )
    values = ["drop" if n % 3 else f"row {n}" for n in range(60)]
    responses = await together(db, headrace, posted_to, [{"v": value} for value in values], prefer=RECORDSET)
    assert [response.json() for response in responses] == [
        [] if value == "drop" else [{"v": value}] for value in values
    ]


async def test_rules_are_followed(db: Connection, headrace: Running) -> None:
    """COPY would pass them by. Rows cannot be returned through them, which is PostgreSQL's answer to who asks."""
    await db.execute("create table t (v text); create rule g as on insert to t where new.v = 'drop' do instead nothing")
    assert (await headrace.post("t", [{"v": "a"}, {"v": "drop"}])).status_code == 201
    response = await headrace.post("t", {"v": "b"}, prefer=RECORDSET)
    assert (response.status_code, response.json()["code"]) == (400, "0A000")
    assert await rows_of(db, "select v from t") == [("a",)]


async def test_a_view_takes_rows_of_nothing(db: Connection, headrace: Running) -> None:
    """Naming one of its columns would fail if that one is computed."""
    await db.execute("create table t (a int default 7); create view v as select a * 2 as doubled, a from t")
    response = await headrace.post("v", b"[{},{}]", prefer=RECORDSET)
    assert (response.status_code, response.json()) == (201, [{"doubled": 14, "a": 7}] * 2)
    assert (await headrace.post("v", b"{}")).status_code == 201
    assert await rows_of(db, "select a from t") == [(7,)] * 3


async def test_a_table_without_columns_takes_rows(db: Connection, headrace: Running) -> None:
    """They count, even if they say nothing."""
    await db.execute("create table t ()")
    assert (await headrace.post("t", b"[{},{},{}]")).status_code == 201
    assert await db.fetchval("select count(*) from t") == 3


async def test_a_bad_row_is_only_its_own_requests_fault(db: Connection, headrace: Running) -> None:
    """The statement fails as a whole and names no row, so the bad one is found by halving."""
    await db.execute("create type pair as (x int, y text); create table t (p pair)")
    bodies = [{"p": {"x": "bad" if n in (7, 8, 31) else n}} for n in range(40)]
    responses = await together(db, headrace, "t", bodies)
    assert [n for n, response in enumerate(responses) if response.status_code != 201] == [7, 8, 31]
    assert {response.json()["code"] for response in responses if response.status_code != 201} == {"22P02"}
    assert await db.fetchval("select count(*) from t") == 37
