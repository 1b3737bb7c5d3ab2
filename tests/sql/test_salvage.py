"""What is written beside the rows: idempotency keys and bad rows, in the same transaction as the good ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from sql import (
    BadRow,
    Catalog,
    CopyCodec,
    Extra,
    Fault,
    IdempotencyKey,
    InDoubt,
    KeyReused,
    RecordCodec,
    Rejected,
    Salvage,
    Slot,
    Stored,
    Target,
    Timeouts,
    Unavailable,
    Way,
    nothing_target,
    records,
    rows_of_body,
    salvaging,
)
from sql.catalog import load
from sql.encoded import result_of
from tests.harness import Connection, rows_of
from tests.sql.batches import Batch, Request, options_of

DDL = """
    create table parent (id int primary key); insert into parent values (1);
    create table t (
        n int check (n < 100), s varchar(5), p int references parent, d int unique deferrable initially deferred,
        id int generated always as identity);
    create function slow_temper() returns trigger language plpgsql as $$ begin
        if new.s = 'boo' then raise exception 'no %', new.s using errcode = 'HR123', column = 's'; end if;
        if new.s = 'busy' then perform from parent for update nowait; end if;
        return null; end $$;
    create trigger g after insert on t for each row execute function slow_temper();
    create view v as select * from t
"""


@pytest.fixture
async def slot(db: Connection, dsn: str) -> AsyncIterator[Slot]:
    """A slot that is open, and tables with all kinds of constraints."""
    await db.execute(DDL)

    async def changed() -> Catalog:
        return await load(db, ["public"])

    slot = Slot(dsn, Timeouts(), changed)
    await slot.open()
    yield slot
    await slot.close()


async def batch(
    db: Connection, *bodies: bytes, way: Way = Way.COPY, table: str = "t", extras: Sequence[Extra | None] | None = None
) -> Batch:
    """A batch of these bodies, all of the same columns; with a wish to have bad rows kept, unless told otherwise."""
    catalog = await load(db, ["public"])
    table_ = catalog.tables["public", table]
    if way is Way.COPY:
        codec: CopyCodec | RecordCodec = CopyCodec(table_, copy_default=True, bytes_max=10**6)
    else:
        codec = RecordCodec(table_)
    encoded = [codec.array(body) if body.startswith(b"[") else codec.one(body) for body in bodies]
    target = Target(table_, encoded[0].columns, way, catalog.copy_default, options_of(way))
    if extras is None:
        extras = [Extra(salvage=Salvage(f"r{n}", body, lines=False)) for n, body in enumerate(bodies)]
    requests = [Request(e.payload, e.rows, extra) for e, extra in zip(encoded, extras, strict=True)]  # type: ignore[arg-type]
    return Batch(target, requests)


def bad_of(outcome: object) -> list[tuple[int, str]]:
    """Which rows of a request are in quarantine, and the codes of the reasons."""
    assert isinstance(outcome, Stored), outcome
    assert not outcome.replayed
    return [(row.row, row.fault.code) for row in outcome.bad]


def stored(results: Sequence[Sequence[object] | Exception]) -> list[Stored]:
    """The outcomes of all requests, which are all stored."""
    found = []
    for outcomes in results:
        assert isinstance(outcomes, Sequence), outcomes
        for outcome in outcomes:
            assert isinstance(outcome, Stored), outcome
            found.append(outcome)
    return found


CAUSES = {
    "check": (b'{"n":%d,"s":"a","p":1,"d":%d}', 100, "23514", "n"),
    "length": (b'{"s":"abcdef","n":%d,"p":1,"d":%d}', 1, "22001", "s"),
    "type": (b'{"s":"a","n":"x%d","p":1,"d":%d}', 1, "22P02", "n"),
    "foreign key": (b'{"s":"a","p":7,"n":%d,"d":%d}', 1, "23503", None),
    "trigger": (b'{"s":"boo","n":%d,"p":1,"d":%d}', 1, "HR123", "s"),
    "deferred": (b'{"s":"a","n":%d,"p":1,"d":0}', 1, "23505", None),
}


@pytest.mark.parametrize("way", [Way.COPY, Way.RECORDSET, Way.RECORDSET_RETURNING])
@pytest.mark.parametrize("cause", CAUSES)
async def test_bad_rows_are_kept_and_good_ones_stored(cause: str, way: Way, slot: Slot, db: Connection) -> None:
    """Whatever is wrong with them, however many they are and wherever they stand."""
    source, value, code, column = CAUSES[cause]
    number = 0

    def row(is_bad: bool) -> bytes:  # noqa: FBT001
        nonlocal number
        number += 1
        good = b'{"n":1,"s":"a","p":1,"d":%d}' % number
        if not is_bad:
            return good
        return source % ((value,) if source.count(b"%d") == 1 else (value, number))

    await db.execute("insert into t (d) values (0)")
    for places in ([3], [1, 2, 4, 5, 8], range(1, 9)):
        bodies = [
            b"[" + b",".join(row(is_bad=n in places) for n in range(1, 9)) + b"]",
            b"[" + b",".join(row(is_bad=False) for n in range(1, 3)) + b"]",
        ]
        (outcomes,) = await slot.write([await batch(db, *bodies, way=way)])
        assert isinstance(outcomes, Sequence)
        assert bad_of(outcomes[0]) == [(place, code) for place in places]
        assert bad_of(outcomes[1]) == []
        kept = await rows_of(
            db,
            "select row_number, row, schema_name, table_name, code, request_id, column_name"
            " from headrace.quarantine order by id",
        )
        raws = rows_of_body(bodies[0], lines=False)
        for place, (number_kept, raw, *rest) in zip(places, kept, strict=True):
            assert (number_kept, raw) == (place, raws[place - 1].decode())
            assert rest[:4] == ["public", "t", code, "r0"]
            assert rest[4] in (column, None), "not every error names it"
        assert await db.fetchval("select count(*) from t") == 8 - len(places) + 2 + 1
        if way is Way.RECORDSET_RETURNING and len(places) < 8:
            result = stored([outcomes])[0].result
            assert result is not None
            assert len(result.rows) == result.count == 8 - len(places)
        await db.execute("truncate headrace.quarantine; delete from t where d > 0")


@pytest.mark.parametrize("words", [("a", "busy", "boo"), ("a", "boo", "busy")], ids=["at once", "when rows are tried"])
async def test_what_is_transient_is_not_kept(words: Sequence[str], slot: Slot, db: Connection) -> None:
    """Somebody's lock says nothing about a row: it is tried again."""
    body = b"[%b]" % b",".join([b'{"s":"%b"}' % word.encode() for word in words])
    async with db.transaction():
        await db.execute("select from parent for update")
        (outcomes,) = await slot.write([await batch(db, body)])
    assert isinstance(outcomes, Unavailable)
    assert await db.fetchval("select count(*) from t") == 0
    assert await db.fetchval("select count(*) from headrace.quarantine") == 0
    (again,) = stored(await slot.write([await batch(db, body)]))
    assert bad_of(again) == [(1 + words.index("boo"), "HR123")]


async def test_neighbours_without_the_wish_are_refused_as_ever(slot: Slot, db: Connection) -> None:
    """They share the batch, not the preference."""
    body = b'[{"n":1},{"n":100}]'
    extras = [None, Extra(salvage=Salvage("r", body, lines=False)), None]
    (outcomes,) = await slot.write([await batch(db, body, body, b'[{"n":2}]', extras=extras)])
    assert isinstance(outcomes, Sequence)
    assert isinstance(outcomes[0], Rejected)
    assert bad_of(outcomes[1]) == [(2, "23514")]
    assert outcomes[2] is None
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,)]


async def test_a_request_that_fails_as_a_whole(slot: Slot, db: Connection) -> None:
    """Whoever waits for the answer is told; after a 202 nobody is left to be, so all of it is kept."""
    body = b'[{"n":1},{"n":2}]'
    extras = [Extra(salvage=Salvage(name, body, lines=False, everything=name == "b")) for name in "ab"]
    made = await batch(db, body, body, extras=extras)
    await db.execute("drop table t cascade")
    (outcomes,) = await slot.write([made])
    assert isinstance(outcomes, Sequence)
    assert isinstance(outcomes[0], Rejected)
    assert bad_of(outcomes[1]) == [(1, "PGRST205"), (2, "PGRST205")]
    assert await db.fetchval("select count(*) from headrace.quarantine where request_id = 'b'") == 2


async def test_nothing_but_bad_rows(slot: Slot, db: Connection) -> None:
    """The codec has refused them all; bytes that are no text are kept as bytes."""
    fault = Fault("22P02", "no\0 good")
    bad = [BadRow(1, b"\xff", fault), BadRow(2, b"a'b\\", fault)]
    extra = Extra(salvage=Salvage("r", b"\xff\na'b\\\n", lines=True, bad=bad))
    lane = nothing_target("public", "it's")
    (outcomes,) = await slot.write([Batch(lane, [Request(b"", 2, extra)])])
    assert isinstance(outcomes, Sequence)
    assert bad_of(outcomes[0]) == [(1, "22P02"), (2, "22P02")]
    kept = await rows_of(db, "select row, row_bytes, table_name, message from headrace.quarantine order by id")
    assert kept == [(None, b"\xff", "it's", "no good"), ("a'b\\", None, "it's", "no good")]


async def test_what_a_codec_refuses_is_told_apart(slot: Slot, db: Connection) -> None:  # noqa: ARG001
    """Row by row; in an array the first good row decides on the keys."""
    table = (await load(db, ["public"])).tables["public", "t"]
    array = b'[{"n":1,\n"s":"a"},{"x":1},3,{"n":2},{"n":3,"s":null}]'
    for codec in (CopyCodec(table, copy_default=True, bytes_max=1000), RecordCodec(table)):
        encoded, bad = result_of(salvaging(codec, array, lines=False))
        assert [(row.row, row.raw, row.fault.code) for row in bad] == [
            (2, b'{"x":1}', "PGRST204"),
            (3, b"3", "PGRST102"),
            (4, b'{"n":2}', "PGRST102"),
        ]
        assert (encoded.columns, encoded.rows) == (("n", "s"), 2)
        encoded, bad = result_of(salvaging(codec, b"[1,2]", lines=False))
        assert (encoded.rows, len(bad)) == (0, 2)
    codec = CopyCodec(table, copy_default=True, bytes_max=1000)
    encoded, bad = result_of(salvaging(codec, b'{"n":1}\n{"n":\n{"s":"a"}', lines=True))
    assert ([row.row for row in bad], encoded.rows, encoded.columns) == ([2], 2, ("n", "s"))


# -------------------------------------------------------------------- keys


def keyed(*names: str, digest: bytes = b"1") -> list[Extra | None]:
    """A key for each request."""
    return [Extra(IdempotencyKey(name, digest * 16)) for name in names]


@pytest.mark.parametrize("way", [Way.COPY, Way.RECORDSET, Way.RECORDSET_RETURNING])
async def test_a_repeat_gets_the_first_answer(way: Way, slot: Slot, db: Connection) -> None:
    """And its neighbours are stored all the same."""
    first = await batch(db, b'{"n":1}', b'{"n":2}', way=way, extras=keyed("it's", "b\\"))
    one, two = stored(await slot.write([first]))
    assert [outcome.replayed for outcome in (one, two)] == [False, False]
    extras = [*keyed("new"), *keyed("it's"), *keyed("b\\", digest=b"2"), None]
    again = await batch(db, b'{"n":3}', b'{"n":1}', b'{"n":9}', b'{"n":4}', way=way, extras=extras)
    (outcomes,) = await slot.write([again])
    assert isinstance(outcomes, Sequence)
    new, repeated, reused, plain = outcomes
    assert isinstance(new, Stored)
    assert isinstance(repeated, Stored)
    assert repeated.replayed
    assert repeated.result == one.result
    assert isinstance(reused, KeyReused)
    assert (plain is None) == (way is not Way.RECORDSET_RETURNING)
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,), (3,), (4,)]


async def test_keys_of_several_tables(slot: Slot, db: Connection) -> None:
    """They share one transaction; the one that is known is left out of it."""
    await db.execute("create table u (n int)")
    for expected in (1, 2):
        batches = [
            await batch(db, b'{"n":1}', table=name, extras=keyed(f"{name}{name == 'u' and expected}")) for name in "tu"
        ]
        results = await slot.write(batches)
        assert [outcome.replayed for (outcome,) in results] == [expected == 2, False]  # type: ignore[misc,union-attr]
        assert await rows_of(db, "select (select count(*) from t), (select count(*) from u)") == [(1, expected)]


async def test_a_refused_request_leaves_its_key_unused(slot: Slot, db: Connection) -> None:
    """It may be mended and sent again."""
    (outcomes,) = await slot.write([await batch(db, b'{"n":100}', extras=keyed("k"))])
    assert isinstance(outcomes, Sequence)
    assert isinstance(outcomes[0], Rejected)
    assert stored(await slot.write([await batch(db, b'{"n":1}', extras=keyed("k", digest=b"2"))]))


async def test_the_first_answer_names_the_same_bad_rows(slot: Slot, db: Connection) -> None:
    """They are in quarantine once."""
    body = b'[{"n":1},{"n":100}]'
    for replayed in (False, True):
        extra = Extra(IdempotencyKey("k", b"1" * 16), Salvage("r", body, lines=False))
        (outcome,) = stored(await slot.write([await batch(db, body, extras=[extra])]))
        assert outcome.replayed is replayed
        assert [(row.row, row.fault.code) for row in outcome.bad] == [(2, "23514")]
    assert await db.fetchval("select count(*) from headrace.quarantine") == 1


async def test_an_old_key_is_a_new_one(slot: Slot, db: Connection) -> None:
    """Even if nobody has cleaned up."""
    made = await batch(db, b'{"n":1}', extras=keyed("k"))
    await slot.write([made])
    await db.execute("update headrace.idempotency set at = now() - interval '25 hours'")
    (outcome,) = stored(await slot.write([made]))
    assert not outcome.replayed
    assert await db.fetchval("select count(*) from t") == 2


async def test_the_same_key_twice_in_one_batch(slot: Slot, db: Connection) -> None:
    """One of them is first."""
    made = await batch(db, b'{"n":1}', b'{"n":1}', b'{"n":2}', extras=[*keyed("k", "k"), None])
    (outcomes,) = await slot.write([made])
    assert isinstance(outcomes, Sequence)
    assert sorted(outcome.replayed for outcome in stored([outcomes[:2]])) == [False, True]
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,)]


async def test_a_connection_that_is_lost_over_the_verdict(
    slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of this part was stored, so it is judged again on the next connection."""
    made = await batch(db, b'{"n":1}', b'{"n":2}', extras=keyed("k", "l"))
    stored(await slot.write([made]))
    again = await batch(db, b'{"n":1}', b'{"n":3}', extras=keyed("k", "m"))
    for failing, error in (("first_answers", ConnectionResetError), ("try_each", ConnectionResetError)):

        async def lose(*_: object, error: type[Exception] = error) -> None:
            raise error

        monkeypatch.setattr(records, failing, lose)
        if failing == "try_each":
            body = b'[{"p":7,"n":9},{"n":4,"p":1}]'
            again = await batch(
                db, b'{"n":5,"p":1}', body, extras=[None, Extra(salvage=Salvage("r", body, lines=False))]
            )
        with pytest.raises((Unavailable, InDoubt)):
            await slot.write([again])
        monkeypatch.undo()
        await slot.open()
        (outcomes,) = await slot.write([again])
        assert isinstance(outcomes, Sequence)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,), (3,), (4,), (5,)]


async def test_two_slots_with_the_same_key(slot: Slot, db: Connection, dsn: str) -> None:
    """Workers do not know of each other; the database does."""
    other = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await other.open()
    for n in range(20):
        made = await batch(db, b'{"n":%d}' % n, extras=keyed(f"k{n}"))
        results = await asyncio.gather(slot.write([made]), other.write([made]))
        assert sorted(stored(result)[0].replayed for result in results) == [False, True]
    assert await db.fetchval("select count(*) from t") == 20
    await other.close()


RAISED = {
    "assert": "assert new.n < 5, 'too big'",
    **{
        state: f"if new.n >= 5 then raise exception 'x' using errcode = '{state}'; end if"
        for state in (
            "02000",
            "08000",
            "25006",
            "40001",
            "40P01",
            "42P01",
            "53300",
            "55000",
            "55P03",
            "57014",
            "57P01",
            "58030",
        )
    },
    "XX000": "if new.n >= 5 then perform refuse(); end if",
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("raised", RAISED)
async def test_whatever_a_trigger_raises_comes_to_an_end(
    raised: str, when: str, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own request only, and kept where that was asked for. Nothing is tried for ever."""
    await db.execute(
        "create table t (n int); create function refuse() returns void language plpgsql as"
        " $$ begin raise exception 'x' using errcode = 'XX000'; end $$;"
        f" create function f() returns trigger language plpgsql as $$ begin {RAISED[raised]};"
        f" return new; end $$; create trigger g {when} insert on t for each row execute function f()"
    )
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]))
    await slot.open()
    tries = 0
    try_each = records.try_each

    async def counted(connection: Connection, rows: Sequence[str], time_zone: str) -> dict[int, Fault]:
        nonlocal tries
        tries += 1
        return await try_each(connection, rows, time_zone)

    monkeypatch.setattr(records, "try_each", counted)
    body = b'[{"n":1},{"n":7}]'
    extras = [None, Extra(salvage=Salvage("r", body, lines=False)), None]
    (outcomes,) = await slot.write([await batch(db, b'{"n":2}', body, b'{"n":8}', extras=extras)])
    assert tries <= 2
    assert isinstance(outcomes, Sequence)
    code = "P0004" if raised == "assert" else raised
    assert outcomes[0] is None
    assert isinstance(outcomes[2], Rejected)
    assert outcomes[2].fault.code == code
    assert bad_of(outcomes[1]) == [(2, code)]
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,)]
    await slot.close()


async def test_a_trial_that_takes_too_long_fails_its_request_only(
    slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours have been stored, and are told so."""
    monkeypatch.setattr("sql.slot._TRIAL_SECONDS", 0.3)
    await db.execute(
        "create function f() returns trigger language plpgsql as 'begin perform pg_sleep(0.01); return new; end';"
        "create trigger h before insert on t for each row execute function f()"
    )
    body = b"[" + b",".join([b'{"n":1,"p":7}'] * 50) + b"]"
    extras = [None, Extra(salvage=Salvage("r", body, lines=False))]
    batches = [await batch(db, b'{"n":2,"p":1}', body, extras=extras)]
    try:
        (outcomes,) = await slot.write(batches)
    except InDoubt:
        await slot.open()
        (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Rejected)
    assert outcomes[1].fault.code == "23503"
    assert await rows_of(db, "select n from t") == [(2,)]


@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_bytes_are_the_same_whatever_strings_are(conforming: str, slot: Slot, db: Connection) -> None:
    """`off` is how old applications set their databases up."""
    await db.execute(
        f"alter database {await db.fetchval('select current_database()')}"
        f" set standard_conforming_strings = {conforming}"
    )
    await slot.close()
    await slot.open()
    for replayed in (False, True):
        (outcome,) = stored(await slot.write([await batch(db, b'{"n":1}', extras=keyed("k", digest=bytes([92])))]))
        assert outcome.replayed is replayed
    bad = [BadRow(1, b"\xff\\", Fault("22P02", "no"))]
    extra = Extra(salvage=Salvage("r", b"", lines=True, bad=bad))
    stored(await slot.write([Batch(nothing_target("public", "t"), [Request(b"", 1, extra)])]))
    assert await db.fetchval("select row_bytes from headrace.quarantine") == b"\xff\\"
