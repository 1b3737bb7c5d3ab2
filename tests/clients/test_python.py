"""postgrest-py and supabase-py, unmodified, against the service: what their users see of an insert or an upsert."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
import supabase
from postgrest import APIError, AsyncPostgrestClient, CountMethod, ReturnMethod, SyncPostgrestClient

from tests.clients.refusals import REFUSALS, Refusal
from tests.harness import Connection, Running, Start, rows_of

# supabase-py passes on what postgrest-py has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' parameter is deprecated:DeprecationWarning")

Client = AsyncPostgrestClient | supabase.AsyncClient

BOLT = {"id": 1, "name": "bolt", "qty": 10, "note": "steel"}
NUT = {"id": 2, "name": "nut", "qty": 20, "note": None}
ITEMS = "select id, name, qty, note from items order by id"


@pytest.fixture(params=["postgrest-py", "supabase-py"])
async def client(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Client]:
    """A client of the service, made as its documentation says."""
    if request.param == "postgrest-py":
        async with AsyncPostgrestClient(f"{url}/rest/v1") as postgrest:
            yield postgrest
        return
    client = await supabase.acreate_client(url, "anon-key")
    yield client
    await client.postgrest.aclose()
    await client.auth.close()


async def data_of(call: Any) -> Any:
    """What a call brings."""
    return (await call.execute()).data


async def refused(call: Any) -> dict[str, str | None]:
    """The error that a call raises, which must be all that the service said."""
    with pytest.raises(APIError) as caught:
        await call.execute()
    error = caught.value
    words = {"code": error.code, "message": error.message, "details": error.details, "hint": error.hint}
    assert error.json() == words
    return words


# -------------------------------------------------------------------- insert


async def test_an_insert_gives_the_row_as_it_is_stored(client: Client) -> None:
    """The default of these clients, with what the database added."""
    response = await client.from_("items").insert({"name": "washer"}).execute()
    assert response.data == [{"id": 100, "name": "washer", "qty": 1, "note": None}]
    assert response.count is None


async def test_many_rows_come_back_in_their_order(client: Client) -> None:
    """Programs pair them with what they have sent. Keys that all rows lack take their defaults."""
    rows = [{"name": f"part {n}", "note": "x" if n % 2 else None} for n in range(50)]
    assert await data_of(client.from_("items").insert(rows)) == [
        {"id": 100 + n, "qty": 1, **row} for n, row in enumerate(rows)
    ]


async def test_a_key_that_only_some_rows_have_is_null_in_the_others(client: Client) -> None:
    """The client names all columns of all rows, and then absent means NULL."""
    data = await data_of(client.from_("items").insert([{"name": "a"}, {"name": "b", "note": "x"}]))
    assert [row["note"] for row in data] == [None, "x"]
    error = await refused(client.from_("items").insert([{"id": 8, "name": "a"}, {"id": 9, "name": "b", "qty": 5}]))
    assert error["message"] == 'null value in column "qty" of relation "items" violates not-null constraint'


async def test_default_to_null_false_gives_the_default_instead(client: Client) -> None:
    """What most programs want, and why the option exists. An explicit None stays NULL."""
    rows: list[dict[str, object]] = [{"serial": "A"}, {"serial": "B", "label": None}, {"serial": "C", "label": "c"}]
    data = await data_of(client.from_("devices").insert(rows, default_to_null=False))
    assert [row["label"] for row in data] == ["unnamed", None, "c"]


async def test_an_insert_of_nothing_is_a_success(client: Client, db: Connection) -> None:
    """A program that has no rows today is not wrong."""
    response = await client.from_("items").insert([], count=CountMethod.exact).execute()
    assert (response.data, response.count) == ([], 0)
    assert len(await rows_of(db, ITEMS)) == 2


async def test_rows_without_columns_are_rows_of_defaults(client: Client) -> None:
    """As one and as many."""
    assert await data_of(client.from_("pings").insert({})) == [{"id": 1, "kind": "auto"}]
    assert await data_of(client.from_("pings").insert([{}, {}])) == [
        {"id": 2, "kind": "auto"},
        {"id": 3, "kind": "auto"},
    ]


async def test_returning_minimal_gives_no_rows(client: Client, db: Connection) -> None:
    """An empty body is an empty list."""
    rows = [{"id": 8, "name": "a"}, {"id": 9, "name": "b"}]
    response = await client.from_("items").insert(rows, returning=ReturnMethod.minimal).execute()
    assert (response.data, response.count) == ([], None)
    assert (await rows_of(db, ITEMS))[2:] == [(8, "a", 1, None), (9, "b", 1, None)]


@pytest.mark.parametrize("returning", ReturnMethod)
async def test_counts(client: Client, returning: ReturnMethod) -> None:
    """Of the rows that were stored. A plan counts nothing."""
    for method, count in ((CountMethod.exact, 2), (CountMethod.estimated, 2), (CountMethod.planned, None)):
        call = client.from_("items").insert([{"name": "a"}, {"name": "b"}], returning=returning, count=method)
        assert (await call.execute()).count == count


async def test_values_are_stored_as_the_client_encodes_them(client: Client) -> None:
    """Times, dates, bytes and large numbers go there and back. The service answers in UTC."""
    row = {
        "id": 1,
        "ts": datetime(2024, 5, 6, 7, 8, 9, 123456, UTC),
        "day": date(2024, 2, 29),
        "blob": b"\x00\xff",
        "big": 2**63 - 1,
        "tags": ["a", 'b "c"', None],
        "data": {"a": [1, {"b": None}], "ü": "€"},
    }
    texts = {"ts": "2024-05-06T07:08:09.123456+00:00", "day": "2024-02-29", "blob": "\\x00ff"}
    assert await data_of(client.from_("kitchen").insert(row)) == [row | texts]
    key = uuid.uuid4()
    assert await data_of(client.from_("devices").insert({"id": key, "serial": "X"})) == [
        {"id": str(key), "serial": "X", "label": "unnamed"}
    ]


# -------------------------------------------------------------------- the shape of the answer


async def test_select_narrows_the_rows(client: Client) -> None:
    """With another name and another type, as for reading."""
    assert await data_of(client.from_("items").insert({"name": "a"}).select("key:id::text", "name")) == [
        {"key": "100", "name": "a"}
    ]


async def test_select_asks_for_rows_after_all(client: Client) -> None:
    """It replaces `return=minimal`."""
    call = client.from_("items").insert({"name": "a"}, returning=ReturnMethod.minimal).select("id")
    assert await data_of(call) == [{"id": 100}]


async def test_single_gives_the_row_itself(client: Client) -> None:
    """Also of a list of one."""
    for rows, number in (({"name": "a"}, 100), ([{"name": "a"}], 101)):
        data = await data_of(client.from_("items").insert(rows).single())
        assert data == {"id": number, "name": "a", "qty": 1, "note": None}


@pytest.mark.parametrize("returning", ReturnMethod)
async def test_single_refuses_many_rows_and_stores_none(
    client: Client, db: Connection, returning: ReturnMethod
) -> None:
    """The check comes after the insert, which is then undone."""
    call = client.from_("items").insert([{"name": "a"}, {"name": "b"}], returning=returning).single()
    assert await refused(call) == {
        "code": "PGRST116",
        "message": "Cannot coerce the result to a single JSON object",
        "details": "The result contains 2 rows",
        "hint": None,
    }
    assert len(await rows_of(db, ITEMS)) == 2


async def test_maybe_single_gives_one_row_or_none(client: Client) -> None:
    """The client does this by itself, from an array."""
    data = await data_of(client.from_("items").insert({"name": "a"}).maybe_single())
    assert data == {"id": 100, "name": "a", "qty": 1, "note": None}
    assert await client.from_("items").insert([]).maybe_single().execute() is None


async def test_csv(client: Client) -> None:
    """For those who make files of it."""
    call = client.from_("items").insert([{"name": "a"}, {"name": 'b, "c"'}]).select("id", "name")
    assert await data_of(call.csv()) == 'id,name\n100,a\n101,"b, ""c"""'


async def test_strip_nulls(client: Client) -> None:
    """Of an array and of a single object."""
    assert await data_of(client.from_("items").insert({"name": "a"}).strip_nulls()) == [
        {"id": 100, "name": "a", "qty": 1}
    ]
    single = client.from_("items").insert({"name": "a"}).strip_nulls().single()
    assert await data_of(single) == {"id": 101, "name": "a", "qty": 1}


# -------------------------------------------------------------------- upsert


async def test_an_upsert_merges(client: Client, db: Connection) -> None:
    """By the primary key; columns that are not sent stay as they are."""
    assert await data_of(client.from_("items").upsert({"id": 1, "name": "bolt M6"})) == [BOLT | {"name": "bolt M6"}]
    assert await rows_of(db, ITEMS) == [(1, "bolt M6", 10, "steel"), (2, "nut", 20, None)]


async def test_an_upsert_of_many_updates_some_and_inserts_others(client: Client) -> None:
    """All come back, in their order."""
    call = client.from_("items").upsert([{"id": 3, "name": "c"}, {"id": 1, "name": "a"}], count=CountMethod.exact)
    response = await call.execute()
    assert response.data == [{"id": 3, "name": "c", "qty": 1, "note": None}, BOLT | {"name": "a"}]
    assert response.count == 2


async def test_an_upsert_by_another_key(client: Client) -> None:
    """on_conflict names its columns."""
    call = client.from_("devices").upsert({"serial": "SN-1", "label": "again"}, on_conflict="serial")
    assert await data_of(call) == [{"id": "00000000-0000-0000-0000-00000000000a", "serial": "SN-1", "label": "again"}]


async def test_an_upsert_with_defaults_makes_keys_where_there_are_none(client: Client) -> None:
    """Known and new rows in one list."""
    rows: list[dict[str, object]] = [{"id": 1, "name": "known"}, {"name": "new"}]
    assert await data_of(client.from_("items").upsert(rows, default_to_null=False).select("name", "note")) == [
        {"name": "known", "note": "steel"},
        {"name": "new", "note": None},
    ]


async def test_ignored_duplicates_are_neither_changed_nor_returned(client: Client, db: Connection) -> None:
    """Nor counted: what comes back is what was new."""
    rows = [{"id": 1, "name": "other"}, {"id": 51, "name": "new"}]
    call = client.from_("items").upsert(rows, ignore_duplicates=True, count=CountMethod.exact)
    response = await call.execute()
    assert (response.data, response.count) == ([{"id": 51, "name": "new", "qty": 1, "note": None}], 1)
    assert await rows_of(db, "select name from items where id = 1") == [("bolt",)]
    assert await data_of(client.from_("items").upsert(rows, ignore_duplicates=True)) == []


async def test_an_upsert_of_nothing_is_a_success(client: Client) -> None:
    """As an insert of nothing is."""
    assert await data_of(client.from_("items").upsert([])) == []


async def test_insert_with_upsert(client: Client) -> None:
    """An old way to say it."""
    assert await data_of(client.from_("items").insert({"id": 2, "name": "nut"}, upsert=True)) == [NUT]


async def test_an_upsert_without_rows_in_the_answer(client: Client, db: Connection) -> None:
    """200 and 201 are the same to the client."""
    for name in ("a", "b"):
        row = {"id": 7, "name": name}
        assert await data_of(client.from_("items").upsert(row, returning=ReturnMethod.minimal)) == []
    assert await rows_of(db, "select name from items where id = 7") == [("b",)]


# -------------------------------------------------------------------- names


async def test_another_schema(client: Client, db: Connection) -> None:
    """`schema()` gives a client for it; the first one stays where it was."""
    assert await data_of(client.schema("audit").from_("events").insert({"what": "login"})) == [
        {"id": 1, "what": "login"}
    ]
    assert await rows_of(db, "select what from audit.events") == [("login",)]
    assert await data_of(client.from_("items").insert({"name": "a"}).select("id")) == [{"id": 100}]


async def test_names_with_capitals_and_spaces(client: Client) -> None:
    """In the path, in the list of columns, in the key, and in the choice of columns."""
    table = client.from_("Order Items")
    rows = [{"Order ID": 7, "Line No": 2, "Qty": 3}, {"Order ID": 7, "Line No": 3, "Qty": 4}]
    assert await data_of(table.insert(rows)) == rows
    row = {"Order ID": 7, "Line No": 1, "Qty": 6}
    call = table.upsert([row], on_conflict="Order ID,Line No").select('"Line No"', "n:Qty")
    assert await data_of(call) == [{"Line No": 1, "n": 6}]


# -------------------------------------------------------------------- errors


async def test_errors(client: Client, db: Connection) -> None:
    """Programs branch on the code and show the message."""
    before = await rows_of(db, ITEMS)

    async def error(refusal: Refusal) -> dict[str, str | None]:
        table = client.schema(refusal.schema).from_(refusal.table)
        if refusal.upsert is None:
            return await refused(table.insert(refusal.rows))
        return await refused(table.upsert(refusal.rows, on_conflict=refusal.upsert))

    errors = {name: await error(refusal) for name, refusal in REFUSALS.items()}
    assert errors == {name: refusal.error for name, refusal in REFUSALS.items()}
    assert await rows_of(db, ITEMS) == before


async def test_what_is_not_offered_is_said_in_words(client: Client) -> None:
    """Reading, changing, deleting and calling functions is PostgREST's, and not done here."""
    for call, method in (
        (client.from_("items").select("*"), "GET"),
        (client.from_("items").update({"qty": 1}).eq("id", 1), "PATCH"),
        (client.from_("items").delete().eq("id", 1), "DELETE"),
    ):
        error = await refused(call)
        assert (error["code"], error["message"]) == ("PGRST117", f"Unsupported HTTP method: {method}")
    assert (await refused(client.rpc("f", {})))["code"] == "PGRST125"


async def test_a_database_that_is_away(start: Start) -> None:
    """No client tries a POST again by itself, so the reason must reach the program."""
    async with (
        start(dsn="postgresql://127.0.0.1:1/none", request_seconds_max=0.1) as running,
        AsyncPostgrestClient(f"{running.client.base_url}/rest/v1") as client,
    ):
        assert (await refused(client.from_("items").insert({"name": "a"})))["code"] == "PGRST002"


# -------------------------------------------------------------------- sharing


async def test_calls_at_the_same_time_each_get_their_own(client: Client, db: Connection, headrace: Running) -> None:
    """They share batches, and nobody can tell."""
    calls = [client.from_("items").insert({"name": f"part {n}"}) for n in range(20)]
    calls += [client.from_("items").upsert({"id": 1, "name": f"bolt {n}"}) for n in range(3)]
    async with asyncio.TaskGroup() as group, headrace.gathering(db, "items", len(calls) + 1):
        tasks = [group.create_task(data_of(call)) for call in calls]
        bad = group.create_task(refused(client.from_("items").insert({"name": "bad", "qty": "many"})))
    assert [task.result()[0]["name"] for task in tasks] == [
        *[f"part {n}" for n in range(20)],
        *[f"bolt {n}" for n in range(3)],
    ]
    assert bad.result()["code"] == "22P02"
    assert await rows_of(db, "select count(*), count(distinct id) from items") == [(22, 22)]


# -------------------------------------------------------------------- the clients that block


async def test_the_blocking_clients(url: str) -> None:
    """Scripts use these. They are the same code, generated, on another HTTP client."""

    def postgrest() -> Any:
        with SyncPostgrestClient(f"{url}/rest/v1") as client:
            return client.from_("items").upsert([{"id": 1, "name": "a"}, {"id": 9, "name": "b"}]).execute().data

    def of_supabase() -> tuple[Any, str | None]:
        client = supabase.create_client(url, "anon-key")
        try:
            stored = client.schema("audit").from_("events").insert({"what": "login"}).select("what").single().execute()
            with pytest.raises(APIError) as caught:
                client.table("items").insert({"id": 1, "name": "a"}).execute()
            return stored.data, caught.value.code
        finally:
            client.postgrest.aclose()
            client.auth.close()

    assert [row["name"] for row in await asyncio.to_thread(postgrest)] == ["a", "b"]
    assert await asyncio.to_thread(of_supabase) == ({"what": "login"}, "23505")
