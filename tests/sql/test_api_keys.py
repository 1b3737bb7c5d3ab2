"""API keys as they are kept: what changes is noticed, what was revoked stays, and rights are asked for by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from sql import Slot, Timeouts, Unavailable, api_keys
from sql.api_keys import KeysDenied, KeysRefused, Wanted
from sql.catalog import load
from sql.ledger import SCHEMA_SQL
from tests.harness import Connection
from tests.roles import Role, role_in

DIGEST = bytes(range(32))


@pytest.fixture
async def role(db: Connection, dsn: str) -> AsyncIterator[Role]:
    """A role without rights."""
    async with role_in(db, dsn) as found:
        yield found


@pytest.fixture
async def its(role: Role) -> AsyncIterator[Connection]:
    """Its connection."""
    connection = await asyncpg.connect(role.dsn)
    yield connection
    await connection.close()


def wanted(number: int = 1, **more: object) -> Wanted:
    """A key."""
    return Wanted(f"id{number}", f"pump {number}", ["public.events:insert"], **more)  # type: ignore[arg-type]


async def test_a_key_from_its_making_to_its_end(db: Connection) -> None:
    """Each step is seen by the next look, and by that only."""
    nothing = await api_keys.look(db)
    assert nothing is not None
    assert (nothing.any, nothing.living) == (False, ())
    assert await api_keys.look(db, nothing.fingerprint) is None

    made = await api_keys.create(db, wanted(rows_per_second=5.5, queue_share=0.25, expires_days=2), DIGEST)
    assert (made.name, made.grants, made.rows_per_second, made.queue_share) == (
        "pump 1",
        ["public.events:insert"],
        5.5,
        0.25,
    )
    assert made.expires_at is not None
    assert (made.expires_at - made.created_at).total_seconds() == 2 * 86_400
    kept = await api_keys.look(db, nothing.fingerprint)
    assert kept is not None
    assert (kept.any, list(kept.living)) == (True, [(made, DIGEST)])
    assert await api_keys.look(db, kept.fingerprint) is None

    revoked = await api_keys.revoke(db, "pump 1")
    assert revoked.revoked_at is not None
    last = await api_keys.look(db, kept.fingerprint)
    assert last is not None
    assert (last.any, list(last.living)) == (True, []), "that there was one must not be forgotten"
    assert await api_keys.keys(db) == [revoked]


@pytest.mark.parametrize(
    "change",
    [
        "update headrace.api_keys set grants = '{*}'",
        "update headrace.api_keys set revoked_at = now()",
        "delete from headrace.api_keys",
        "truncate headrace.api_keys",
        "drop table headrace.api_keys",
        "drop schema headrace cascade",
        "begin; create table t as table headrace.api_keys; drop table headrace.api_keys; commit",
    ],
)
async def test_any_change_is_noticed(db: Connection, change: str) -> None:
    """Also one that somebody makes by hand."""
    await api_keys.create(db, wanted(), DIGEST)
    kept = await api_keys.look(db)
    assert kept is not None
    await db.execute(change)
    assert await api_keys.look(db, kept.fingerprint) is not None


async def test_names_are_unique_among_the_living(db: Connection) -> None:
    """So a key is revoked by its name, and a new one of the same name takes its place."""
    await api_keys.create(db, wanted(), DIGEST)
    with pytest.raises(KeysRefused, match="There is a key pump 1 already"):
        await api_keys.create(db, Wanted("id2", "pump 1", []), DIGEST)
    await api_keys.revoke(db, "id1")
    await api_keys.create(db, Wanted("id2", "pump 1", []), DIGEST)
    for nobody in ("id1", "pump 2", ""):
        with pytest.raises(KeysRefused, match="no living key"):
            await api_keys.revoke(db, nobody)
    await api_keys.create(db, Wanted("id3", "id2", []), DIGEST)
    with pytest.raises(KeysRefused, match="another one"):
        await api_keys.revoke(db, "id2")
    assert [key.revoked_at is None for key in await api_keys.keys(db)] == [False, True, True]


async def test_there_are_not_keys_without_end(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every service keeps them in memory; revoked ones are not counted."""
    monkeypatch.setattr(api_keys, "_INSERT", api_keys._INSERT.replace(str(api_keys.LIVING_MAX), "2"))
    await api_keys.create(db, wanted(1), DIGEST)
    await api_keys.create(db, wanted(2), DIGEST)
    with pytest.raises(KeysRefused, match="revoke some"):
        await api_keys.create(db, wanted(3), DIGEST)
    await api_keys.revoke(db, "id1")
    await api_keys.create(db, wanted(3), DIGEST)


async def test_two_who_make_the_first_key_at_once(db: Connection, dsn: str) -> None:
    """Neither fails because the other one makes the tables."""
    others = [await asyncpg.connect(dsn) for _ in range(4)]
    made = [api_keys.create(other, wanted(number), DIGEST) for number, other in enumerate(others)]
    await asyncio.gather(*made)
    assert len(await api_keys.keys(db)) == 4
    for other in others:
        await other.close()


# -------------------------------------------------------------------- rights


async def test_the_role_without_rights_is_told_what_to_grant(db: Connection, its: Connection, role: Role) -> None:
    """That keys cannot be read is not the same as that there are none."""
    assert await api_keys.look(its) is not None
    with pytest.raises(KeysDenied, match=r"permission denied for database .*grant create on database"):
        await api_keys.create(its, wanted(), DIGEST)
    await api_keys.create(db, wanted(), DIGEST)
    acts: list[tuple[Callable[[], Awaitable[object]], str]] = [
        (lambda: api_keys.look(its), "select"),
        (lambda: api_keys.keys(its), "select"),
        (lambda: api_keys.create(its, wanted(2), DIGEST), "select, insert"),
        (lambda: api_keys.revoke(its, "id1"), "select, update"),
    ]
    for act, rights in acts:
        with pytest.raises(KeysDenied, match=f"run `grant .*; grant {rights} on headrace.api_keys to {role.name}`"):
            await act()
        await db.execute(f"grant usage on schema headrace to {role.name}")
        await db.execute(f"grant {rights} on headrace.api_keys to {role.name}")
        await act()
        await db.execute(f"revoke all on headrace.api_keys from {role.name}")


async def test_a_database_that_goes_away_in_the_middle(db: Connection, dsn: str) -> None:
    """Is no reason to believe that there are no keys."""
    other = await asyncpg.connect(dsn)
    await db.execute("select pg_terminate_backend($1)", other.get_server_pid())
    with pytest.raises(Unavailable):
        await api_keys.look(other)


EARLIER = SCHEMA_SQL[: SCHEMA_SQL.index("create table if not exists headrace.api_keys")]
"""What an earlier version has made."""


async def test_an_installation_of_an_earlier_version_gets_the_table(db: Connection, role: Role) -> None:
    """By the next slot that opens. Who may not make it writes without, for rows need no keys."""
    await db.execute(EARLIER)
    await db.execute(f"grant usage on schema headrace to {role.name}")
    await db.execute(f"grant all on all tables in schema headrace to {role.name}")
    for dsn, is_there in ((role.dsn, False), (None, True)):
        slot = Slot(dsn or role.dsn, Timeouts(), lambda: load(db, ["public"]))
        if dsn is None:
            await db.execute(f"alter schema headrace owner to {role.name}")
            for table in ("ledger", "idempotency", "quarantine"):
                await db.execute(f"alter table headrace.{table} owner to {role.name}")
        await slot.open()
        await slot.close()
        assert (await db.fetchval("select to_regclass('headrace.api_keys') is not null")) == is_there


async def test_what_an_administrator_makes_is_the_services(db: Connection, its: Connection, role: Role) -> None:
    """His key is read by the role that the service has, or else nobody could write any more."""
    await db.execute(f"grant create on database {await db.fetchval('select current_database()')} to {role.name}")
    await its.execute(EARLIER)
    await api_keys.create(db, wanted(), DIGEST)
    kept = await api_keys.look(its)
    assert kept is not None
    assert kept.any
    assert await db.fetchval("select current_user") == "postgres", "the role was taken for the transaction only"


def test_digests_are_not_shown() -> None:
    """In a log they would be one thing less to find out."""
    assert repr(api_keys.Kept("f", any=True, living=[(None, DIGEST)])) == "Kept(1 living)"  # type: ignore[list-item]
