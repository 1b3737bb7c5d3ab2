"""Statuses: each SQLSTATE and each code of the dialect has its own, and every error has the same form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import httpx2
import pytest
from fastapi import HTTPException

from service.app import create_app
from service.problems import key_under_way, problem_of
from service.settings import Settings
from sql import Fault, Rejected
from tests.harness import Connection, Running, Start

# https://docs.postgrest.org/en/stable/references/errors.html, and where that is silent, what PostgREST does.
SQLSTATES = {
    200: "",
    400: "01000 02000 0A000 20000 21001 22000 22001 22003 22007 22023 22P02 22P05 23000 23001 23502 23514 23P01 23ABC "
    "24000 27000 2B000 2F000 34000 3D000 3F000 42000 42601 42703 42804 42809 428C9 42P02 42P10 44000 72000 "
    "P0001 PGRST HR123 HV 00ABC ZZZZZ 99999",
    401: "42501",
    403: "0L000 0LP01 0P000 28000 28P01",
    404: "42883 42P01",
    405: "25006",
    409: "23503 23505",
    500: "09000 21000 25000 25001 25P02 2D000 38000 39000 39P01 3B000 3B001 40000 40001 40002 40003 40P01 42P17 53400 "
    "54000 54001 55000 55006 55P03 57000 57014 57P02 57P03 58000 58030 F0000 HV000 HV00N P0000 P0002 P0003 P0004 "
    "XX000 XX001 XX002 PT000 PT200 PT302 PT399 PT600 PT999 PTABC PT4XX",
    503: "08000 08003 08006 08P01 53000 53100 53200 53300 57P01",
    402: "PT402",
    418: "PT418",
    599: "PT599",
}


def _raised() -> Iterator[tuple[str, int]]:
    for status, states in SQLSTATES.items():
        for state in states.split():
            if len(state) == 5:
                yield state, status


@pytest.fixture
async def _faults(db: Connection) -> None:
    """A table whose trigger raises what a row says."""
    await db.execute("""
        create table faults (state text, message text);
        create function refuse() returns trigger language plpgsql as $$
            begin raise exception using errcode = new.state, message = coalesce(new.message, 'no'); end $$;
        create trigger refuse before insert on faults for each row execute function refuse();
    """)


@pytest.mark.usefixtures("_faults")
@pytest.mark.parametrize("prefer", ["return=minimal", "return=representation"])
async def test_every_sqlstate_that_is_raised_has_its_status_at_once(prefer: str, headrace: Running) -> None:
    """Class 40, 53 and 57 too: raised on purpose, they are an answer to the row, and not a reason to try again."""
    for state, status in _raised():
        response = await headrace.post("faults", {"state": state}, prefer=prefer)
        problem = {"code": state, "message": "no", "details": None, "hint": None}
        assert (response.status_code, response.json()) == (status, problem)
        assert response.headers["proxy-status"] == f"PostgREST; error={state}"
        assert response.headers.get("retry-after") == ("1" if status == 503 else None), state
        assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None), state


@pytest.mark.usefixtures("_faults")
async def test_some_messages_tell_more_than_their_sqlstate(headrace: Running) -> None:
    """PostgREST reads them too: the extension pg-safeupdate, and roles that there are none of."""
    for state, message, status in (
        ("21000", "UPDATE requires a WHERE clause", 400),
        ("21000", "more than one row", 500),
        ("22023", 'role "nobody" does not exist', 401),
        ("22023", "rolling does not exist", 400),
    ):
        response = await headrace.post("faults", {"state": state, "message": message})
        assert (response.status_code, response.json()["code"]) == (status, state)
        assert ("www-authenticate" in response.headers) == (status == 401)


async def test_a_role_that_may_not_is_told_to_say_who_it_is(db: Connection, dsn: str, start: Start) -> None:
    """401 and not 403, because nobody has said who he is; with the challenge that a 401 needs."""
    name = await db.fetchval("select current_database()")
    await db.execute(f"""
        create table t (n int); create table guarded (n int); alter table guarded enable row level security;
        create role r_{name} login; grant create on database {name} to r_{name}; grant insert on guarded to r_{name}
    """)
    try:
        async with start(dsn=dsn.replace("postgres@", f"r_{name}@")) as headrace:
            for table, words in (
                ("t", "permission denied for table t"),
                ("guarded", 'new row violates row-level security policy for table "guarded"'),
            ):
                response = await headrace.post(table, {"n": 1})
                assert (response.status_code, response.json()["code"]) == (401, "42501")
                assert response.json()["message"] == words
                assert response.headers["www-authenticate"] == "Bearer"
    finally:
        await db.execute(f"drop owned by r_{name} cascade; drop role r_{name}")


async def test_a_real_deadlock_is_tried_again(db: Connection, dsn: str, headrace: Running) -> None:
    """Until it succeeds; from a trigger's hand the same SQLSTATE is an answer."""
    await db.execute("""
        create table places (n int primary key, m int); insert into places values (1), (2);
        create table t (n int); create sequence attempts;
        create function lock_both() returns trigger language plpgsql set deadlock_timeout = '10ms' as $$ begin
            perform nextval('attempts');
            update places set m = 0 where n = 2;
            perform pg_advisory_xact_lock(7);
            update places set m = 0 where n = 1;
            return new;
        end $$;
        create trigger lock_both before insert on t for each row execute function lock_both();
    """)
    other = await asyncpg.connect(dsn)

    async def somebody_waits_for(event: str) -> None:
        query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = $1"
        while not await other.fetchval(query, event):  # noqa: ASYNC110 - that is how one learns it
            await asyncio.sleep(0.005)

    await other.execute("select pg_advisory_lock(7)")
    await db.execute("set deadlock_timeout = '1min'; begin; update places set m = 1 where n = 1")
    request = asyncio.create_task(headrace.post("t", {"n": 1}))
    await somebody_waits_for("advisory")
    ours = asyncio.create_task(db.execute("update places set m = 1 where n = 2; commit"))
    await somebody_waits_for("transactionid")
    await other.execute("select pg_advisory_unlock(7)")
    await ours
    assert (await request).status_code == 201
    # Two, as a rule. A row that its last writer has given up is for whoever comes first: an attempt that overtakes the
    # session that has waited for it runs into the same deadlock once more.
    assert await db.fetchval("select last_value from attempts") >= 2
    await other.close()


CODES = {
    "PGRST000": 503,
    "PGRST002": 503,
    "PGRST100": 400,
    "PGRST102": 400,
    "PGRST106": 406,
    "PGRST107": 406,
    "PGRST116": 406,
    "PGRST117": 405,
    "PGRST122": 400,
    "PGRST125": 404,
    "PGRST204": 400,
    "PGRST205": 404,
}


@pytest.mark.parametrize(("code", "status"), CODES.items())
def test_a_code_of_the_dialect_has_its_status(code: str, status: int) -> None:
    """Whoever finds the fault, the slot included, need not know the status."""
    assert problem_of(Rejected(Fault(code, ""))).status == status


def test_a_key_under_way_is_worth_trying_again_soon() -> None:
    """The first answer comes within a request's deadline, most likely at once."""
    assert ("retry-after", "1") in key_under_way().answer.headers


# ---------------------------------------------------------------- the framework


async def _numbers(number: int, limit: int = 1) -> dict[str, int]:
    return {"number": number, "limit": limit}


async def _broken() -> None:
    raise RuntimeError("a secret")


def _refusing(status: int) -> None:
    raise HTTPException(status, "no", {"X-Reason": "because"})


async def test_every_error_of_the_framework_has_our_form() -> None:
    """A client that finds neither code nor message has nothing to show or to decide by."""
    app = create_app(Settings(dsn="postgresql://nowhere/"))
    app.add_api_route("/numbers/{number}", _numbers)
    app.add_api_route("/broken", _broken)
    app.add_api_route("/refusing/{status}", _refusing)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://h", headers={"Origin": "http://o"}) as client:
        for method, path, status, code, message in (
            ("GET", "/numbers/x?limit=y", 400, "HR400", "path.number: "),
            ("GET", "/nowhere", 404, "PGRST125", "Invalid path specified in request URL"),
            ("PUT", "/docs", 405, "PGRST117", "Unsupported HTTP method: PUT"),
            ("PATCH", "/numbers/1", 405, "PGRST117", "Unsupported HTTP method: PATCH"),
            ("GET", "/refusing/413", 413, "HR413", "no"),
            ("GET", "/refusing/422", 422, "HR422", "no"),
            ("GET", "/refusing/418", 418, "HR418", "no"),
            ("GET", "/broken", 500, "HR500", "Internal error"),
        ):
            response = await client.request(method, path)
            problem = response.json()
            assert list(problem) == ["code", "message", "details", "hint"]
            assert (response.status_code, problem["code"]) == (status, code)
            assert problem["message"].startswith(message)
            assert response.headers["content-type"] == "application/json; charset=utf-8"
            assert response.headers["proxy-status"] == f"PostgREST; error={code}"
            assert response.headers["access-control-allow-origin"] == "*"
            assert response.headers.get("x-reason") == ("because" if path.startswith("/refusing") else None)
            assert "secret" not in response.text
