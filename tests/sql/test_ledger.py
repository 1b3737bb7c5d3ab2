"""The ledger: what a slot knows after a write whose end it did not see, and what it costs to get that wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import asyncpg
import pytest

from sql import (
    InDoubt,
    OutcomeUnknown,
    Rejected,
    Slot,
    SqlError,
    Timeouts,
    Unavailable,
    Way,
    Written,
)
from sql.catalog import load
from sql.connect import connect
from sql.ledger import Ledger, Past
from sql.work import Part, Work
from tests.harness import Connection, rows_of
from tests.sql.batches import Batch, requests, target_of

Store = Callable[[Slot, Work, Part], Awaitable[Sequence[Sequence[object]]]]

_store: Store = Slot._store


async def cut_after(slot: Slot, work: Work, part: Part) -> Sequence[Sequence[object]]:
    """The write is committed, but nobody hears of it."""
    await _store(slot, work, part)
    assert slot._ledger is not None
    slot._ledger.flush -= 1
    raise ConnectionResetError


async def cut_before(_slot: Slot, _work: Work, _part: Part) -> Sequence[Sequence[object]]:
    """The write never arrives."""
    raise ConnectionResetError


async def bug_after(slot: Slot, work: Work, part: Part) -> Sequence[Sequence[object]]:
    """The write is committed, then we make a mistake."""
    await cut_after_quietly(slot, work, part)
    raise ZeroDivisionError


async def bug_before(_slot: Slot, _work: Work, _part: Part) -> Sequence[Sequence[object]]:
    """A mistake before anything is written."""
    raise ZeroDivisionError


async def cut_after_quietly(slot: Slot, work: Work, part: Part) -> None:
    """Commit, and forget it."""
    await _store(slot, work, part)
    assert slot._ledger is not None
    slot._ledger.flush -= 1


async def cut_off(slot: Slot, batches: Sequence[Batch], cut: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a write end in doubt."""
    with monkeypatch.context() as patch:
        patch.setattr(Slot, "_store", cut)
        with pytest.raises(InDoubt):
            await slot.write(batches)


WAYS = [Way.COPY, Way.RECORDSET, Way.RECORDSET_RETURNING]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cut", [cut_after, cut_before])
async def test_what_was_cut_off_is_stored_once(
    cut: Store, way: Way, slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was committed before the cut or not; and who wants the rows back gets them."""
    resolved: list[str] = []
    slot._resolved = resolved.append
    batches = [Batch(await target_of(db, way), requests(way, 1, 2, 3))]
    await cut_off(slot, batches, cut, monkeypatch)
    await slot.open()
    (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    stored = await rows_of(db, "select n, id from t order by n")
    assert [n for n, _ in stored] == [1, 2, 3]
    if way is Way.RECORDSET_RETURNING:
        assert outcomes == [Written([f'{{"n":{n},"id":{number}}}'], 1, 1) for n, number in stored]
    else:
        assert outcomes == [None, None, None]
    assert resolved == ["stored" if cut is cut_after else "not_stored"]


@pytest.mark.parametrize("cut", [cut_after, cut_before])
async def test_several_tables_are_in_doubt_together(
    cut: Store, slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One transaction, one row in the ledger."""
    await db.execute("create table u (n int)")
    batches = [Batch(await target_of(db, table=name), requests(Way.COPY, 1, 2)) for name in "tu"]
    await cut_off(slot, batches, cut, monkeypatch)
    await slot.open()
    assert await slot.write(batches) == [[None, None]] * 2
    assert await rows_of(db, "select (select count(*) from t), (select count(*) from u)") == [(2, 2)]


@pytest.mark.parametrize(("bug", "stored"), [(bug_after, [1, 2]), (bug_before, [])])
async def test_even_a_bug_leaves_the_truth(
    bug: Store, stored: list[int], slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is said to be, and what is not fails without being tried for ever."""
    batches = [Batch(await target_of(db), requests(Way.COPY, 1, 2))]
    await cut_off(slot, batches, bug, monkeypatch)
    await slot.open()
    (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    assert [type(outcome) for outcome in outcomes] == ([type(None)] * 2 if stored else [SqlError] * 2)
    assert [n for (n,) in await rows_of(db, "select n from t order by n")] == stored


async def test_a_cut_in_the_middle_of_isolating_goes_on_there(
    slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the batch is stored by then, some is refused; both stay so."""
    calls = 0

    async def cut_third(slot: Slot, work: Work, part: Part) -> Sequence[Sequence[object]]:
        nonlocal calls
        calls += 1
        if calls == 3:
            return await cut_after(slot, work, part)
        return await _store(slot, work, part)

    monkeypatch.setattr(Slot, "_store", cut_third)
    batches = [Batch(await target_of(db), requests(Way.COPY, 1, 100, 3, 101, 5))]
    with pytest.raises(InDoubt):
        await slot.write(batches)
    await slot.open()
    (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    assert [type(outcome) for outcome in outcomes] == [type(None), Rejected, type(None), Rejected, type(None)]
    assert await rows_of(db, "select n from t order by n") == [(1,), (3,), (5,)]


async def test_other_batches_after_a_doubt_that_was_given_up(
    slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked has told its requests that nobody knows; what the ledger says is of no use to others."""
    monkeypatch.setattr(Slot, "_store", cut_after)
    target = await target_of(db)
    with pytest.raises(InDoubt):
        await slot.write([Batch(target, requests(Way.COPY, 1))])
    monkeypatch.undo()
    await slot.open()
    assert await slot.write([Batch(target, requests(Way.COPY, 2))]) == [[None]]
    assert await rows_of(db, "select n from t order by n") == [(1,), (2,)]


async def test_a_row_that_somebody_deleted_is_noticed(
    slot: Slot, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it nobody can know. A write in good order makes it anew."""
    target = await target_of(db)
    await db.execute("delete from headrace.ledger")
    assert await slot.write([Batch(target, requests(Way.COPY, 1))]) == [[None]]
    assert await rows_of(db, "select flush from headrace.ledger") == [(1,)]
    monkeypatch.setattr(Slot, "_store", cut_after)
    batches = [Batch(target, requests(Way.COPY, 2))]
    with pytest.raises(InDoubt):
        await slot.write(batches)
    monkeypatch.undo()
    await db.execute("delete from headrace.ledger")
    await slot.open()
    (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown]


async def test_a_late_attempt_is_fenced_off(slot: Slot, db: Connection) -> None:
    """It was under way in some buffer when its slot signed in again, and must not commit behind its back."""
    ledger = slot._ledger
    assert ledger is not None
    late = ledger.advance
    await slot.close()
    await slot.open()
    with pytest.raises(asyncpg.NotNullViolationError):
        await db.execute(f"{late}; insert into t values (1)")
    assert await rows_of(db, "select n from t") == []
    # So is the slot itself, if somebody changes its row; it signs in again and goes on.
    await db.execute("update headrace.ledger set flush = flush + 7")
    batches = [Batch(await target_of(db), requests(Way.COPY, 2))]
    with pytest.raises(Unavailable):
        await slot.write(batches)
    await slot.open()
    assert await slot.write(batches) == [[None]]


@pytest.mark.parametrize(("end", "past"), [("commit", Past.STORED), ("rollback", Past.NOT_STORED)])
async def test_an_attempt_that_still_runs_is_waited_for(end: str, past: Past, slot: Slot, dsn: str) -> None:
    """It has locked its row in the ledger, and could commit any time."""
    ledger = slot._ledger
    assert ledger is not None
    zombie = await asyncpg.connect(dsn)
    await zombie.execute(f"begin; {ledger.advance}; insert into t values (1)")
    other = await connect(dsn, Timeouts(), "another")
    signing = asyncio.create_task(ledger.sign_in(other, "nobody"))
    await asyncio.sleep(0.1)
    assert not signing.done()
    await zombie.execute(end)
    assert await signing is past
    await other.close()
    await zombie.close()


async def test_an_attempt_of_our_own_that_hangs_is_ended(slot: Slot, db: Connection, dsn: str) -> None:
    """A lock would hold it for long; its backend is asked to stop instead of being waited for."""
    locker = await asyncpg.connect(dsn)
    await locker.execute("begin; lock table t in exclusive mode")
    batches = [Batch(await target_of(db), requests(Way.COPY, 1))]
    slot._timeouts = Timeouts(lock_seconds=60, statement_seconds=60)
    writing = asyncio.create_task(slot.write(batches))
    await asyncio.sleep(0.2)
    assert slot._connection is not None
    slot._connection._transport.abort()  # type: ignore[attr-defined]
    with pytest.raises(InDoubt):
        await writing
    await slot.open()
    await locker.execute("commit")
    await locker.close()
    assert await slot.write(batches) == [[None]]
    assert await rows_of(db, "select n from t") == [(1,)]


async def test_a_row_that_stays_locked_is_left_behind(
    slot: Slot, db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped backend may hold it for hours. The write is called unknown, and the slot goes on under a new name."""
    monkeypatch.setattr(Slot, "_store", cut_before)
    slot._timeouts = Timeouts(lock_seconds=0.1, doubt_seconds=0.3)
    batches = [Batch(await target_of(db), requests(Way.COPY, 1))]
    assert slot._ledger is not None
    zombie = await asyncpg.connect(dsn)
    await zombie.execute(f"begin; {slot._ledger.advance}")
    with pytest.raises(InDoubt):
        await slot.write(batches)
    monkeypatch.undo()
    for _ in range(100):
        try:
            await slot.open()
            break
        except Unavailable:
            pass
    (outcomes,) = await slot.write(batches)
    assert isinstance(outcomes, Sequence)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown]
    assert await slot.write([Batch(batches[0].lane, requests(Way.COPY, 2))]) == [[None]]
    await zombie.close()


async def test_at_least_once_writes_again(db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what it says, and it leaves no trace in the database."""
    await db.execute("create table t (n int)")
    slot = Slot(dsn, Timeouts(), lambda: load(db, ["public"]), at_least_once=True)
    await slot.open()
    cut = 0

    async def cut_once(slot: Slot, work: Work, part: Part) -> Sequence[Sequence[object]]:
        nonlocal cut
        cut += 1
        results = await _store(slot, work, part)
        if cut == 1:
            raise ConnectionResetError
        return results

    monkeypatch.setattr(Slot, "_store", cut_once)
    batches = [Batch(await target_of(db), requests(Way.COPY, 1))]
    with pytest.raises(InDoubt):
        await slot.write(batches)
    await slot.open()
    assert await slot.write(batches) == [[None]]
    assert await rows_of(db, "select n from t") == [(1,), (1,)]
    assert await db.fetchval("select to_regnamespace('headrace')") is None
    await slot.close()


async def test_a_ledger_has_a_row_of_its_own() -> None:
    """Two slots with one row would fence each other off."""
    assert Ledger().slot != Ledger().slot


async def test_a_write_that_was_given_up_bars_no_way(slot: Slot, db: Connection, dsn: str) -> None:
    """Its backend may be frozen and hold the row for hours. Nobody will ask, so the slot goes on under a new name."""
    target = await target_of(db)
    locker = await asyncpg.connect(dsn)
    await locker.execute("begin; lock table t in exclusive mode")
    slot._timeouts = Timeouts(lock_seconds=60)
    writing = asyncio.create_task(slot.write([Batch(target, requests(Way.COPY, 1))]))
    await asyncio.sleep(0.2)
    old = slot._ledger
    assert old is not None
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await slot.close()
    await locker.execute("rollback")
    await locker.execute(f"begin; update headrace.ledger set at = now() where slot = '{old.slot}'")
    slot._timeouts = Timeouts(lock_seconds=0.2)
    await slot.open()
    assert await slot.write([Batch(target, requests(Way.COPY, 2))]) == [[None]]
    await locker.close()
