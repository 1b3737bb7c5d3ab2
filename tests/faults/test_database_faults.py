"""Rows 13 to 19 of the matrix: a database that works and cannot take the rows, rows that it cannot take, and DDL."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.checker import Expected
from tests.faults.conftest import Scene
from tests.faults.server import Postgres
from tests.faults.traffic import TABLES, Mix, Traffic

_IMPATIENT = {"request_seconds_max": 1, "lock_seconds_max": 0.3}
"""So that a test of some seconds sees deadlines pass."""


def _is_refused(traffic: Traffic, table: str, code: str) -> bool:
    """Whether a request for the table had this answer."""
    return any(entry.table == table and entry.code == code for entry in traffic.history.entries)


def _suffers_alone(scene: Scene, table: str) -> bool:
    """Whether it is this table whose requests were late. (A machine that stands still makes some others late, too.)"""
    late = [entry.table for entry in scene.history.entries if entry.code == "HR503"]
    return late.count(table) >= 0.7 * len(late)


@pytest.mark.parametrize("mode", ["exclusive", "access exclusive"])
async def test_a_table_that_is_locked(scene: Scene, mode: str) -> None:
    """Row 13: its requests are refused at their deadline, and not stored later; the other tables know nothing of it."""
    mix = Mix(deadline_seconds=1)
    async with scene.under_load(mix, **_IMPATIENT) as (headrace, traffic):
        async with scene.connection() as holder, holder.transaction():
            await holder.execute(f"lock table t0 in {mode} mode")
            await headrace.eventually(lambda: _is_refused(traffic, "t0", "HR503"))
        await traffic.acknowledged(100)
    await scene.judge(Expected(unknown_max=0, flush_seconds=5))
    assert _suffers_alone(scene, "t0")


@pytest.fixture
def small_disk(own: Postgres) -> Iterator[Path]:
    """A file system of a megabyte that PostgreSQL may write to; only for those who may mount one."""
    folder = own.data.parent / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        pytest.skip("no file system can be mounted here; the test with a trigger stands in")
    owner = pwd.getpwuid(own.data.stat().st_uid)
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # some process of the server's may have a file open


@pytest.fixture
async def full_table(scene: Scene, small_disk: Path) -> AsyncIterator[str]:
    """A table on it."""
    async with scene.connection() as admin:
        await admin.execute(f"create tablespace small location '{small_disk}'")
        await admin.execute("create table full_up (key bigint not null, value text) tablespace small")
    yield "full_up"
    async with scene.connection() as admin:
        await admin.execute("drop table full_up")
        await admin.execute("checkpoint")  # only then the files of a dropped table are gone
        await admin.execute("drop tablespace small")


async def _fills_up(scene: Scene, table: str) -> None:
    """Traffic until the table takes nothing any more; the others go on."""
    mix = Mix(kinds=["array"], rows=(200, 400), tables=[table, "t1", "t2"], deadline_seconds=1)
    async with scene.under_load(mix, **_IMPATIENT) as (headrace, traffic):
        await headrace.eventually(lambda: _is_refused(traffic, table, "HR503"))
        await traffic.acknowledged(500)
        assert (await headrace.client.get("/livez")).status_code == 200
    await scene.judge(Expected(unknown_max=0))
    assert _suffers_alone(scene, table)


async def test_a_disk_that_is_full(scene: Scene, full_table: str) -> None:
    """Row 14: the requests are tried until their deadline, and refused; the service lives."""
    await _fills_up(scene, full_table)


async def test_a_disk_that_may_not_be_filled(scene: Scene) -> None:
    """Row 14 where nothing can be mounted: a limit of the same class (53400), which is reached after so many rows."""
    await scene.sql("""
        create table full_up (key bigint not null, value text);
        create function fill() returns trigger language plpgsql set temp_file_limit = 64 set work_mem = 64 as $$ begin
            if (select count(*) from full_up) > 5000 then
                perform count(*) from (select distinct g from generate_series(1, 100000) g) x;
            end if;
            return null;
        end $$;
        create trigger fill after insert on full_up for each statement execute function fill()
    """)
    await _fills_up(scene, "full_up")


async def test_a_role_with_too_few_connections(scene: Scene) -> None:
    """Row 15: the service waits for what it can get, does not storm the server, and goes on when there is more."""
    role = f"few_{scene.database}"
    await scene.sql(f"""
        create role {role} login;
        grant create on database {scene.database} to {role};
        grant all on all tables in schema public to {role}
    """)
    try:
        async with scene.under_load(Mix(deadline_seconds=1), user=role, **_IMPATIENT) as (headrace, traffic):
            await scene.sql(f"alter role {role} connection limit 0")
            await scene.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")
            await headrace.eventually(lambda: headrace.service.batcher.away() is not None)
            await headrace.eventually(lambda: any(e.code == "PGRST000" for e in traffic.history.entries))
            await scene.sql(f"alter role {role} connection limit 1")
            await asyncio.sleep(0.5)
            await scene.sql(f"alter role {role} connection limit -1")
            await traffic.acknowledged(100)
        await scene.judge(Expected(unknown_max=0))
    finally:
        await scene.sql(f"drop owned by {role} cascade; drop role {role}")


async def test_a_server_that_is_read_only(scene: Scene) -> None:
    """Row 16: as a standby is before it is promoted. Nothing is acknowledged, nothing is a fault of the rows."""
    async with scene.under_load(Mix(deadline_seconds=1), **_IMPATIENT) as (headrace, traffic):
        await scene.own.reload(default_transaction_read_only="on")
        try:
            await headrace.eventually(lambda: _is_refused(traffic, "t0", "HR503"))
            before = traffic.history.acknowledged_rows
            await asyncio.sleep(0.5)
            assert traffic.history.acknowledged_rows == before
        finally:
            await scene.own.reload(default_transaction_read_only=None)
        await traffic.acknowledged(100)
    await scene.judge(Expected(unknown_max=0))


POISONED = """
create table nothing (id int primary key);
create table t3 (
    key bigint not null, value varchar(20) check (value <> 'check'),
    nobody int generated always as (case value when 'foreign' then 1 end) stored references nothing,
    late int generated always as (case value when 'deferred' then 1 end) stored unique deferrable initially deferred
);
insert into t3 values (0, 'deferred');
create function refuse() returns trigger language plpgsql as $$ begin
    if new.value = tg_argv[0] then raise 'refused by a trigger'; end if;
    return new;
end $$;
create trigger before_it before insert on t3 for each row execute function refuse('before');
create trigger after_it after insert on t3 for each row execute function refuse('after');
create constraint trigger at_the_end after insert on t3 deferrable initially deferred
    for each row execute function refuse('at the end');
"""
LOCATED = ('{"key":null,"value":"x"}', '{"key":KEY,"value":"check"}', '{"key":KEY,"value":"before"}',
           '{"key":KEY,"value":"more than twenty characters"}', '{"key":"word","value":"x"}',
           '{"key":99999999999999999999,"value":"x"}', r'{"key":KEY,"value":"\u0000"}')  # fmt: skip
"""Bad rows that the error names by their line."""
NOT_LOCATED = tuple(f'{{"key":KEY,"value":"{word}"}}' for word in ("foreign", "deferred", "after", "at the end"))
"""Bad rows that are found by halving."""


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("spoilt", [LOCATED, NOT_LOCATED], ids=["located", "not located"])
async def test_rows_that_cannot_be_stored(scene: Scene, spoilt: tuple[str, ...], share: float) -> None:
    """Rows 17 and 18: any number of them, in any place, fail their own requests, and no others in the same batch."""
    await scene.sql(POISONED)
    mix = Mix(clients=16, spoilt=spoilt, spoilt_share=share, tables=["t3"])
    async with scene.service() as headrace:
        traffic = scene.traffic(headrace, mix)
        async with traffic.running():
            await headrace.eventually(lambda: len(scene.history.entries) >= 200)
    await scene.sql("delete from t3 where key = 0")
    await scene.judge(Expected(unknown_max=0, acknowledged_rows_min=0 if share == 1.0 else 1))
    answers = {entry.outcome for entry in scene.history.entries if entry.spoilt}
    assert answers == {"refused"}


DDL = {
    "a column is added": ("alter table t0 add more int default 7", "alter table t0 drop more"),
    "a type changes": ("alter table t0 alter key type numeric", "alter table t0 alter key type bigint"),
    "a text type changes": ("alter table t0 alter value type varchar(40)", "alter table t0 alter value type text"),
    "a column is renamed": ("alter table t0 rename value to other", "alter table t0 rename other to value"),
    "a table is renamed": ("alter table t0 rename to gone", "alter table gone rename to t0"),
    "a table is replaced": (
        "alter table t0 rename to old; create table t0 (value text, key bigint)",
        "begin; lock t0; insert into old select key, value from t0; drop table t0; alter table old rename to t0; end",
    ),
    "an index comes and goes": ("create index by_key on t0 (key)", "drop index by_key"),
}


@pytest.mark.parametrize("there_and_back", DDL.values(), ids=DDL)
async def test_a_table_that_is_changed(scene: Scene, there_and_back: tuple[str, str]) -> None:
    """Row 19: what is stored is what was sent. Whoever comes in between is told the truth about the table."""
    async with scene.under_load(Mix(tables=TABLES[:2])) as (_, traffic):
        for statements in there_and_back * 3:
            await scene.sql(statements)
            await traffic.acknowledged(30)
    # Between the two, a name that is not there is an error of the request.
    await scene.judge(Expected(unknown_max=0, rejections=frozenset({"PGRST204", "PGRST205", "42703", "42P01"})))
