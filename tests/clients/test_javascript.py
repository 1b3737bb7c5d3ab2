"""postgrest-js and supabase-js, unmodified, under Node, against the service: what their users see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients import javascript
from tests.clients.javascript import Chain, Node, Result, bigint
from tests.clients.refusals import REFUSALS, Refusal
from tests.harness import Connection, Start, rows_of

ITEMS = "select id, name, qty, note from items order by id"
BOLT = {"id": 1, "name": "bolt", "qty": 10, "note": "steel"}


@pytest.fixture(params=["postgrest-js", "supabase-js"])
def client(request: pytest.FixtureRequest, node: Node, url: str) -> Iterator[Chain]:
    """A client of the service, made as its documentation says."""
    yield javascript.client(node, request.param, url)
    node.hang_up()


def data_of(result: Result) -> Any:
    """What a success has brought."""
    assert result.error is None, result
    assert result.thrown is None, result
    return result.data


# -------------------------------------------------------------------- insert


async def test_an_insert_gives_nothing_unless_asked(client: Chain, db: Connection) -> None:
    """The default of these clients: no Prefer at all, an empty body, null."""
    assert await client.from_("items").insert({"name": "washer"}) == Result(status=201)
    assert (await rows_of(db, ITEMS))[2:] == [(100, "washer", 1, None)]


async def test_select_gives_the_row_as_it_is_stored(client: Chain) -> None:
    """With what the database added."""
    result = await client.from_("items").insert({"name": "washer"}).select()
    assert result == Result(data=[{"id": 100, "name": "washer", "qty": 1, "note": None}], status=201)


async def test_many_rows_come_back_in_their_order(client: Chain) -> None:
    """Programs pair them with what they have sent. Keys that all rows lack take their defaults."""
    rows = [{"name": f"part {n}", "note": "x" if n % 2 else None} for n in range(50)]
    result = await client.from_("items").insert(rows).select()
    assert data_of(result) == [{"id": 100 + n, "qty": 1, **row} for n, row in enumerate(rows)]


async def test_a_key_that_only_some_rows_have_is_null_in_the_others(client: Chain) -> None:
    """The client names all columns of all rows, and then absent means NULL."""
    result = await client.from_("items").insert([{"name": "a"}, {"name": "b", "note": "x"}]).select("note")
    assert data_of(result) == [{"note": None}, {"note": "x"}]
    result = await client.from_("items").insert([{"name": "a"}, {"name": "b", "qty": 5}])
    assert result.error is not None
    assert result.error["message"] == 'null value in column "qty" of relation "items" violates not-null constraint'


async def test_default_to_null_false_gives_the_default_instead(client: Chain) -> None:
    """What most programs want, and why the option exists. An explicit null stays NULL."""
    rows = [{"serial": "A"}, {"serial": "B", "label": None}, {"serial": "C", "label": "c"}]
    result = await client.from_("devices").insert(rows, {"defaultToNull": False}).select("label")
    assert data_of(result) == [{"label": "unnamed"}, {"label": None}, {"label": "c"}]


async def test_an_insert_of_nothing_is_a_success(client: Chain, db: Connection) -> None:
    """A program that has no rows today is not wrong."""
    assert await client.from_("items").insert([]) == Result(status=201)
    assert await client.from_("items").insert([], {"count": "exact"}).select() == Result([], count=0, status=201)
    assert len(await rows_of(db, ITEMS)) == 2


async def test_rows_without_columns_are_rows_of_defaults(client: Chain) -> None:
    """As one and as many."""
    assert data_of(await client.from_("pings").insert({}).select()) == [{"id": 1, "kind": "auto"}]
    result = await client.from_("pings").insert([{}, {}]).select()
    assert data_of(result) == [{"id": 2, "kind": "auto"}, {"id": 3, "kind": "auto"}]


async def test_counts(client: Chain) -> None:
    """Of the rows that were stored, with and without them. A plan counts nothing: NaN, which JSON writes as null."""
    for method, count in (("exact", 2), ("estimated", 2), ("planned", None)):
        rows = [{"name": "a"}, {"name": "b"}]
        assert await client.from_("items").insert(rows, {"count": method}) == Result(count=count, status=201)
        assert (await client.from_("items").insert(rows, {"count": method}).select()).count == count


async def test_a_bigint_is_stored_to_the_last_digit(client: Chain, db: Connection) -> None:
    """The client sends it as a string."""
    await client.from_("kitchen").insert({"id": 1, "big": bigint(2**63 - 1)})
    assert await rows_of(db, "select big from kitchen") == [(2**63 - 1,)]


async def test_a_rollback_that_is_not_allowed_is_none(client: Chain, db: Connection) -> None:
    """As with PostgREST's default: the preference is ignored."""
    result = await client.from_("items").insert({"id": 5, "name": "a"}).select("id").rollback()
    assert (data_of(result), result.status) == ([{"id": 5}], 201)
    assert len(await rows_of(db, ITEMS)) == 3


async def test_max_affected_has_no_effect_on_inserts(client: Chain) -> None:
    """It comes with `handling=strict`, so it must be known."""
    result = await client.from_("items").insert([{"name": "a"}, {"name": "b"}]).select("name").maxAffected(1)
    assert data_of(result) == [{"name": "a"}, {"name": "b"}]


# -------------------------------------------------------------------- the shape of the answer


async def test_select_narrows_the_rows(client: Chain) -> None:
    """With another name and another type, as for reading; white space does not matter."""
    result = await client.from_("items").insert({"name": "a"}).select("key:id::text, name")
    assert data_of(result) == [{"key": "100", "name": "a"}]


async def test_order_sorts_the_rows(client: Chain) -> None:
    """The rows of the answer, not what is stored."""
    call = client.from_("items").insert([{"name": "a"}, {"name": "b"}]).select("id,name")
    result = await call.order("name", {"ascending": False})
    assert data_of(result) == [{"id": 101, "name": "b"}, {"id": 100, "name": "a"}]


async def test_single_gives_the_row_itself(client: Chain) -> None:
    """Also of a list of one."""
    for rows, number in (({"name": "a"}, 100), ([{"name": "a"}], 101)):
        result = await client.from_("items").insert(rows).select().single()
        assert data_of(result) == {"id": number, "name": "a", "qty": 1, "note": None}


async def test_single_refuses_many_rows_and_stores_none(client: Chain, db: Connection) -> None:
    """The check comes after the insert, which is then undone; with and without the rows."""
    error = {
        "code": "PGRST116",
        "message": "Cannot coerce the result to a single JSON object",
        "details": "The result contains 2 rows",
        "hint": None,
    }
    call = client.from_("items").insert([{"name": "a"}, {"name": "b"}])
    assert await call.select().single() == Result(error=error, status=406)
    assert await call.single() == Result(error=error, status=406)
    assert len(await rows_of(db, ITEMS)) == 2


async def test_maybe_single_gives_one_row_or_none(client: Chain) -> None:
    """The client does this by itself, from an array."""
    result = await client.from_("items").insert({"name": "a"}).select("id").maybeSingle()
    assert data_of(result) == {"id": 100}
    assert data_of(await client.from_("items").insert([]).select().maybeSingle()) is None


async def test_csv(client: Chain) -> None:
    """For those who make files of it."""
    call = client.from_("items").insert([{"name": "a"}, {"name": 'b, "c"'}]).select("id,name")
    assert data_of(await call.csv()) == 'id,name\n100,a\n101,"b, ""c"""'


async def test_strip_nulls(client: Chain) -> None:
    """Of an array and of a single object."""
    call = client.from_("items").insert({"name": "a"}).select()
    assert data_of(await call.stripNulls()) == [{"id": 100, "name": "a", "qty": 1}]
    assert data_of(await call.single().stripNulls()) == {"id": 101, "name": "a", "qty": 1}


# -------------------------------------------------------------------- upsert


async def test_an_upsert_merges(client: Chain, db: Connection) -> None:
    """By the primary key; columns that are not sent stay as they are. 200 if nothing is new, else 201."""
    assert await client.from_("items").upsert({"id": 1, "name": "bolt M6"}) == Result(status=200)
    assert await client.from_("items").upsert({"id": 3, "name": "pin"}) == Result(status=201)
    assert await rows_of(db, ITEMS) == [(1, "bolt M6", 10, "steel"), (2, "nut", 20, None), (3, "pin", 1, None)]


async def test_an_upsert_of_many_updates_some_and_inserts_others(client: Chain) -> None:
    """All come back, in their order."""
    rows = [{"id": 3, "name": "c"}, {"id": 1, "name": "a"}]
    result = await client.from_("items").upsert(rows, {"count": "exact"}).select()
    stored = [{"id": 3, "name": "c", "qty": 1, "note": None}, BOLT | {"name": "a"}]
    assert result == Result(stored, count=2, status=201)
    assert (await client.from_("items").upsert(rows).select()) == Result(stored, status=200)


async def test_an_upsert_by_another_key(client: Chain) -> None:
    """Its columns are in `onConflict`."""
    row = {"serial": "SN-1", "label": "again"}
    result = await client.from_("devices").upsert(row, {"onConflict": "serial"}).select().single()
    assert data_of(result) == {"id": "00000000-0000-0000-0000-00000000000a", **row}


async def test_an_upsert_with_defaults_makes_keys_where_there_are_none(client: Chain) -> None:
    """Known and new rows in one list."""
    rows = [{"id": 1, "name": "known"}, {"name": "new"}]
    result = await client.from_("items").upsert(rows, {"defaultToNull": False}).select("name,note")
    assert data_of(result) == [{"name": "known", "note": "steel"}, {"name": "new", "note": None}]


async def test_ignored_duplicates_are_neither_changed_nor_returned(client: Chain, db: Connection) -> None:
    """Nor counted: what comes back is what was new."""
    rows = [{"id": 1, "name": "other"}, {"id": 51, "name": "new"}]
    options = {"ignoreDuplicates": True, "count": "exact"}
    result = await client.from_("items").upsert(rows, options).select("id")
    assert result == Result([{"id": 51}], count=1, status=201)
    assert await client.from_("items").upsert(rows, options).select("id") == Result([], count=0, status=201)
    assert await rows_of(db, "select name from items where id = 1") == [("bolt",)]


async def test_an_upsert_of_nothing_is_a_success(client: Chain) -> None:
    """As an insert of nothing is; nothing is new, so it is 200."""
    assert await client.from_("items").upsert([]).select() == Result([], status=200)


# -------------------------------------------------------------------- names


async def test_another_schema(client: Chain, db: Connection) -> None:
    """`schema()` gives a client for it; the first one stays where it was."""
    result = await client.schema("audit").from_("events").insert({"what": "login"}).select()
    assert data_of(result) == [{"id": 1, "what": "login"}]
    assert await rows_of(db, "select what from audit.events") == [("login",)]
    assert data_of(await client.from_("items").insert({"name": "a"}).select("id")) == [{"id": 100}]


async def test_names_with_capitals_and_spaces(client: Chain) -> None:
    """In the path, in the list of columns, in the key, and in the choice of columns."""
    table = client.from_("Order Items")
    rows = [{"Order ID": 7, "Line No": 2, "Qty": 3}, {"Order ID": 7, "Line No": 3, "Qty": 4}]
    assert data_of(await table.insert(rows).select()) == rows
    row = {"Order ID": 7, "Line No": 1, "Qty": 6}
    result = await table.upsert([row], {"onConflict": "Order ID,Line No"}).select('"Line No", n:Qty')
    assert data_of(result) == [{"Line No": 1, "n": 6}]


# -------------------------------------------------------------------- errors


async def test_errors(client: Chain, db: Connection) -> None:
    """Programs branch on the code and show the message; the client passes on what it was told, and the status."""
    before = await rows_of(db, ITEMS)

    async def result(refusal: Refusal) -> Result:
        table = client.schema(refusal.schema).from_(refusal.table)
        if refusal.upsert is None:
            return await table.insert(refusal.rows)
        return await table.upsert(refusal.rows, {"onConflict": refusal.upsert} if refusal.upsert else {})

    results = {name: await result(refusal) for name, refusal in REFUSALS.items()}
    assert results == {name: Result(error=refusal.error, status=refusal.status) for name, refusal in REFUSALS.items()}
    assert await rows_of(db, ITEMS) == before


async def test_throw_on_error_throws_the_same(client: Chain) -> None:
    """The other way of these clients to report."""
    result = await client.from_("items").insert({"id": 1, "name": "a"}).throwOnError()
    assert result.thrown == {"name": "PostgrestError", **REFUSALS["a unique key"].error}


async def test_no_body_at_all(client: Chain) -> None:
    """`insert(undefined)`, which is a bug of the program, must not store a row of defaults."""
    result = await client.from_("pings").insert()
    error = {"code": "PGRST102", "message": "Empty or invalid json", "details": None, "hint": None}
    assert result == Result(error=error, status=400)


async def test_what_is_not_offered_is_said_in_words(client: Chain) -> None:
    """Reading, changing, deleting and calling functions is PostgREST's, and not done here.

    These clients take a 404 without a body for a success.
    """
    table = client.from_("items")
    for call, method in (
        (table.select(), "GET"),
        (table.update({"qty": 1}).eq("id", 1), "PATCH"),
        (table.delete().eq("id", 1), "DELETE"),
    ):
        result = await call
        assert result.error is not None
        assert (result.status, result.error["code"]) == (405, "PGRST117")
        assert result.error["message"] == f"Unsupported HTTP method: {method}"
    result = await client.rpc("f", {})
    assert result.error is not None
    assert (result.status, result.error["code"]) == (404, "PGRST125")


async def test_a_database_that_is_away(node: Node, start: Start) -> None:
    """No client tries a POST again by itself, so the reason must reach the program."""
    async with start(dsn="postgresql://127.0.0.1:1/none", request_seconds_max=0.1) as running:
        client = javascript.client(node, "supabase-js", str(running.client.base_url).rstrip("/"))
        result = await client.from_("items").insert({"name": "a"})
        assert result.error is not None
        assert (result.status, result.error["code"]) == (503, "PGRST002")
