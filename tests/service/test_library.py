"""The library: what a call of `insert` stores, returns and raises, and that it is one request among all others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict

from headrace import DuplicateKey, Headrace, HeadraceError, RowsRefused, Unavailable
from service.library.insertion import Insertion
from tests.harness import Connection, metrics_text, rows_of, unbalanced


async def _eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; the test's time limit ends the wait."""
    while not condition():  # noqa: ASYNC110 - there is nobody who would tell us
        await asyncio.sleep(0.002)


def _pending(writer: Headrace) -> int:
    """Calls that have no outcome yet."""
    assert writer._service is not None
    return writer._service.batcher.statistics().pending_submissions


def _is_writing(writer: Headrace) -> bool:
    """Whether calls have no outcome yet, and none of them waits."""
    assert writer._service is not None
    now = writer._service.batcher.statistics()
    return now.pending_rows > 0 and not now.waiting_rows


def _unbalanced(writer: Headrace) -> tuple[int, int]:
    """Requests and rows that somebody has lost."""
    assert writer._service is not None
    return unbalanced(writer._service)


@asynccontextmanager
async def _locked(db: Connection) -> AsyncIterator[None]:
    """Nobody writes to `notes` meanwhile."""
    async with db.transaction():
        await db.execute("lock table notes in exclusive mode")
        yield


# -------------------------------------------------------------------- what is stored and returned


async def test_a_row_is_committed_when_the_call_returns(writer: Headrace, db: Connection) -> None:
    """That is what an endpoint may tell its client."""
    await writer.insert("notes", {"text": "one"})
    assert await rows_of(db, "select id, text, kind from notes") == [(1, "one", "note")]


async def test_a_row_returns_the_columns_that_were_asked_for(writer: Headrace) -> None:
    """The key that the database has made is why most inserts return anything."""
    assert await writer.insert("notes", {"text": "one"}, returning="id") == {"id": 1}
    assert await writer.insert("notes", {"text": "two"}, returning=["id", "kind"]) == {"id": 2, "kind": "note"}
    assert await writer.insert("notes", {"text": "three", "number": 3}, returning="*") == {
        "id": 3,
        "text": "three",
        "kind": "note",
        "number": 3,
    }


async def test_several_rows_return_a_list_in_their_order(writer: Headrace) -> None:
    """Whoever zips them with what he has sent must not mix them up."""
    rows = [{"text": f"note {number}"} for number in range(5)]
    assert await writer.insert("notes", rows, returning=("id", "text")) == [
        {"id": number + 1, "text": f"note {number}"} for number in range(5)
    ]
    assert await writer.insert("notes", (row for row in rows[:2]), returning="id") == [{"id": 6}, {"id": 7}]


async def test_no_rows_are_a_success(writer: Headrace, db: Connection) -> None:
    """A list that happens to be empty is no reason for an `if`."""
    assert await writer.insert("notes", [], returning="id") == []
    await writer.insert("notes", [])
    assert await db.fetchval("select count(*) from notes") == 0


async def test_an_absent_column_takes_its_default_and_none_is_null(writer: Headrace, db: Connection) -> None:
    """The two are not the same, in Python as little as in SQL."""
    await writer.insert("notes", {"text": "absent"})
    await writer.insert("notes", {"text": "none", "kind": None})
    assert await rows_of(db, "select text, kind from notes order by id") == [("absent", "note"), ("none", None)]


class _Typed(TypedDict):
    text: str
    number: int


@dataclass
class _Dataclass:
    text: str
    number: int = field(default=2)


class _Struct(msgspec.Struct):
    text: str
    number: int
    kind: str | msgspec.UnsetType = msgspec.UNSET


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str


@pytest.mark.parametrize(
    "row",
    [
        dict(_Typed(text="dict", number=1)),
        MappingProxyType({"text": "mappingproxy", "number": 1}),
        _Dataclass("dataclass"),
        _Struct("struct", 3),
        _Model.model_validate({"text": "model", "number": 4}),
    ],
    ids=lambda row: type(row).__name__,
)
async def test_a_row_may_be_what_an_app_has(writer: Headrace, db: Connection, row: Any) -> None:
    """Its fields are the columns; an author should not have to convert what has been checked."""
    assert await writer.insert("notes", row, returning="kind") == {"kind": "note"}
    await db.execute("update notes set number = null")
    assert await writer.insert("notes", [row], returning="kind") == [{"kind": "note"}]
    texts = await rows_of(db, "select text from notes")
    assert texts == [(type(row).__name__.strip("_").lower(),)] * 2


async def test_rows_of_other_schemas_go_there(dsn: str, db: Connection) -> None:
    """An app may keep its tables apart."""
    await db.execute("create schema other; create table other.notes (text text, id int default 7)")
    async with Headrace(dsn, schemas=("public", "other")) as writer:
        assert await writer.insert("notes", {"text": "one"}, schema="other", returning="id") == {"id": 7}
        with pytest.raises(RowsRefused, match="PGRST106"):
            await writer.insert("notes", {"text": "one"}, schema="secret")
    assert await rows_of(db, "select text from other.notes") == [("one",)]


async def test_a_table_that_was_made_meanwhile_is_found(writer: Headrace, db: Connection) -> None:
    """Migrations run while apps do; also for values that are written by their column's type."""
    await db.execute("create table fresh (f double precision)")
    await writer.insert("fresh", {"f": 1.5})
    await db.execute("create table fresher (f double precision)")
    await writer.insert("fresher", {"f": float("nan")})
    await db.execute("create table freshest (j jsonb)")
    with pytest.raises(ValueError, match="JSON has no nan"):
        await writer.insert("freshest", [{"j": [float("nan")]}])
    assert await rows_of(db, "select (select f from fresh)::text, (select f from fresher)::text") == [("1.5", "NaN")]


async def test_a_table_that_was_changed_is_read_anew(writer: Headrace, db: Connection) -> None:
    """What is returned has the type that the column has now."""
    assert await writer.insert("notes", {"text": "one", "number": 1}, returning="number") == {"number": 1}
    await db.execute("alter table notes alter number type numeric(5, 2)")
    assert writer._service is not None
    await writer._service.watch.reload()
    row = await writer.insert("notes", {"text": "two", "number": 2}, returning="number")
    assert repr(row["number"]) == "Decimal('2.00')"


async def test_thousands_of_rows_are_one_insert(writer: Headrace, db: Connection) -> None:
    """Pieces are for the event loop; in the table they are all or nothing, in order."""
    rows = [{"text": f"{number}", "number": number} for number in range(3_000)]
    returned = await writer.insert("notes", rows, returning="number")
    assert [row["number"] for row in returned] == list(range(3_000))
    with pytest.raises(DuplicateKey):
        await writer.insert("notes", [{"text": "new", "number": 3_000}, *rows])
    assert await db.fetchval("select count(*) from notes") == 3_000


# -------------------------------------------------------------------- together with others


async def test_calls_of_all_tasks_share_batches(writer: Headrace, db: Connection) -> None:
    """It is what makes an insert cheap."""
    async with _locked(db):
        calls = [asyncio.ensure_future(writer.insert("notes", {"text": f"{n}"}, returning="id")) for n in range(50)]
        await _eventually(lambda: _pending(writer) == 50)
    rows = await asyncio.gather(*calls)
    assert sorted(row["id"] for row in rows) == list(range(1, 51))
    assert await db.fetchval("select count(distinct xmin::text) from notes") <= 2


async def test_a_bad_row_fails_its_own_call_only(writer: Headrace, db: Connection) -> None:
    """Whoever shares a batch with it must not notice."""
    async with _locked(db):
        texts = ["bad" if number == 7 else f"{number}" for number in range(20)]
        calls = [asyncio.ensure_future(writer.insert("notes", {"text": text})) for text in texts]
        await _eventually(lambda: _pending(writer) == 20)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [7]
    assert isinstance(outcomes[7], RowsRefused)
    assert await db.fetchval("select count(*) from notes") == 19


async def test_everything_is_counted(writer: Headrace, db: Connection) -> None:
    """A call that is in no metric could be lost without anybody noticing."""
    await writer.insert("notes", [{"text": "one"}, {"text": "two"}])
    for table, row in (("notes", {"text": "bad"}), ("nowhere", {}), ("notes", {"nothing": 1})):
        with pytest.raises(RowsRefused):
            await writer.insert(table, row)
    with pytest.raises(Unavailable):
        await writer.insert("notes", {"text": "late"}, deadline_seconds=0)
    async with _locked(db):
        call = asyncio.ensure_future(writer.insert("notes", {"text": "cancelled"}))
        await _eventually(lambda: _pending(writer) == 1)
        call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert writer._service is not None
    text = metrics_text(writer._service)
    assert "headrace_received_requests_total 6.0" in text
    await _eventually(lambda: _pending(writer) == 0)
    assert _unbalanced(writer) == (0, 0)


async def test_the_same_key_at_once_is_written_in_turn(writer: Headrace, db: Connection) -> None:
    """Two users who save the same thing in the same moment both succeed."""
    async with _locked(db):
        first = {"text": "0", "number": 0}
        calls = [
            asyncio.ensure_future(
                writer.insert("notes", first | {"text": f"{number}"}, on_conflict="number", returning="text")
            )
            for number in range(10)
        ]
        await _eventually(lambda: _pending(writer) == 10)
    assert await asyncio.gather(*calls) == [{"text": f"{number}"} for number in range(10)]
    assert await rows_of(db, "select text from notes") == [("9",)]


# -------------------------------------------------------------------- what is raised


async def test_a_refused_row_is_named(writer: Headrace, db: Connection) -> None:
    """An author wants to show his user which of a hundred rows it was, and why."""
    with pytest.raises(RowsRefused) as raised:
        await writer.insert("notes", [{"text": "good"}, {"text": "bad"}])
    error = raised.value
    assert (error.code, error.status, error.row) == ("23514", 400, 2)
    assert error.message == 'new row for relation "notes" violates check constraint "notes_text_check"'
    assert str(error) == f"{error.message} (23514, row 2)"
    with pytest.raises(RowsRefused) as raised:
        await writer.insert("notes", {"text": "good", "number": "many"})
    assert (raised.value.code, raised.value.column) == ("22P02", "number")
    assert await db.fetchval("select count(*) from notes") == 0


async def test_a_duplicate_key_has_a_class_of_its_own(writer: Headrace) -> None:
    """It is what endpoints answer with 409, and often no error at all."""
    await writer.insert("notes", {"text": "one", "number": 1})
    with pytest.raises(DuplicateKey) as raised:
        await writer.insert("notes", {"text": "two", "number": 1}, returning="id")
    error = raised.value
    assert (error.code, error.status, error.details) == ("23505", 409, "Key (number)=(1) already exists.")


@pytest.mark.parametrize(
    ("table", "row", "code"),
    [("nowhere", {"text": "a"}, "PGRST205"), ("notes", {"nothing": 1}, "PGRST204"), ("notes", {}, "23502")],
)
async def test_what_can_never_be_stored_is_refused(
    writer: Headrace, table: str, row: dict[str, Any], code: str
) -> None:
    """Trying it again would be in vain."""
    with pytest.raises(RowsRefused) as raised:
        await writer.insert(table, row)
    assert raised.value.code == code


async def test_rows_that_wait_too_long_are_not_stored(writer: Headrace, db: Connection) -> None:
    """An endpoint has a deadline of its own; what it has given up must not appear later."""
    async with _locked(db):
        first = asyncio.ensure_future(writer.insert("notes", {"text": "first"}))
        await _eventually(lambda: _is_writing(writer))
        with pytest.raises(Unavailable) as raised:
            await writer.insert("notes", {"text": "late"}, deadline_seconds=0.1)
        assert (raised.value.code, raised.value.status) == ("HR503", 503)
        assert raised.value.retry_seconds is not None
    await first
    assert await rows_of(db, "select text from notes") == [("first",)]


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_deadline_that_has_passed_is_no_time_at_all(writer: Headrace, db: Connection, seconds: float) -> None:
    """What is left of a budget may be nothing."""
    with pytest.raises(Unavailable, match="HR503"):
        await writer.insert("notes", {"text": "late"}, deadline_seconds=seconds)
    with pytest.raises(Unavailable, match="HR503"):
        await writer.insert("nowhere", {"text": "late"}, deadline_seconds=seconds)
    assert await db.fetchval("select count(*) from notes") == 0


@pytest.mark.usefixtures("notes")
async def test_too_much_at_once_is_refused(dsn: str, db: Connection) -> None:
    """Memory has an end; the caller learns of it while trying again still helps."""
    async with Headrace(dsn, pending_rows_max=2) as writer:
        async with _locked(db):
            calls = [asyncio.ensure_future(writer.insert("notes", {"text": "one"})) for _ in range(2)]
            await _eventually(lambda: _pending(writer) == 2)
            with pytest.raises(Unavailable) as raised:
                await writer.insert("notes", {"text": "two"})
            assert (raised.value.code, raised.value.status) == ("HR429", 429)
            with pytest.raises(RowsRefused, match="HR413"):
                await writer.insert("notes", [{"text": "three"}] * 3)
        await asyncio.gather(*calls)


@pytest.mark.usefixtures("notes")
async def test_a_body_may_not_be_larger_than_a_request(dsn: str) -> None:
    """The limits of the service are those of the library."""
    async with Headrace(dsn, body_bytes_max=1_000) as writer:
        with pytest.raises(RowsRefused, match="HR413"):
            await writer.insert("notes", {"text": "x" * 1_000})


# -------------------------------------------------------------------- cancelling


async def test_a_cancelled_call_takes_back_what_waits(writer: Headrace, db: Connection) -> None:
    """`asyncio.timeout` around an insert must mean what it says."""
    async with _locked(db):
        first = asyncio.ensure_future(writer.insert("notes", {"text": "first"}))
        await _eventually(lambda: _is_writing(writer))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await writer.insert("notes", {"text": "second"})
        assert _pending(writer) == 1
    await first
    assert await rows_of(db, "select text from notes") == [("first",)]


async def test_a_cancelled_call_does_not_stop_a_write(writer: Headrace, db: Connection) -> None:
    """What PostgreSQL has begun to write it writes, and nothing is lost by that."""
    async with _locked(db):
        call = asyncio.ensure_future(writer.insert("notes", {"text": "first"}))
        await _eventually(lambda: _is_writing(writer))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert call.cancelled()
    await _eventually(lambda: _pending(writer) == 0)
    assert await rows_of(db, "select text from notes") == [("first",)]
    assert _unbalanced(writer) == (0, 0)


async def test_a_failed_call_leaves_no_cycle(writer: Headrace) -> None:
    """Under overload most calls fail, and their rows must not stay until the collector comes."""
    gc.collect()
    gc.disable()
    try:
        for arguments in (("notes", {"text": "bad"}), ("nowhere", {}), ("notes", {"nothing": 1})):
            with pytest.raises(RowsRefused):
                await writer.insert(*arguments)
        with pytest.raises(Unavailable):
            await writer.insert("notes", {"text": "late"}, deadline_seconds=0)
        await asyncio.sleep(0)
        assert [each for each in gc.get_objects() if isinstance(each, Insertion)] == []
    finally:
        gc.enable()


# -------------------------------------------------------------------- trying again


async def test_a_call_with_a_key_is_stored_once(writer: Headrace, db: Connection) -> None:
    """After an `OutcomeUnknown` this is how to go on."""
    for _ in range(2):
        assert await writer.insert("notes", {"text": "one"}, returning="id", idempotency_key="k1") == {"id": 1}
    assert await db.fetchval("select count(*) from notes") == 1
    with pytest.raises(RowsRefused, match="HR422"):
        await writer.insert("notes", {"text": "two"}, returning="id", idempotency_key="k1")
    with pytest.raises(RowsRefused, match="HR400"):
        await writer.insert("notes", {"text": "two"}, idempotency_key="schlüssel")
    assert _unbalanced(writer) == (0, 0)


async def test_a_call_with_a_key_keeps_its_deadline(writer: Headrace, db: Connection) -> None:
    """It is a call like any other; while its write goes on, the key is under way."""
    async with _locked(db):
        first = asyncio.ensure_future(writer.insert("notes", {"text": "one"}, idempotency_key="k1"))
        await _eventually(lambda: _is_writing(writer))
        with pytest.raises(Unavailable, match="HR409"):
            await writer.insert("notes", {"text": "one"}, idempotency_key="k1")
        with pytest.raises(Unavailable, match="HR503"):
            await writer.insert("notes", {"text": "two"}, idempotency_key="k2", deadline_seconds=0.05)
    await first
    assert await rows_of(db, "select text from notes") == [("one",)]


def test_every_exception_is_one_of_ours() -> None:
    """`except HeadraceError` catches all that an insert says about rows."""
    for kind in (RowsRefused, DuplicateKey, Unavailable):
        assert issubclass(kind, HeadraceError)
        assert kind.__module__ == "headrace"
