"""`headrace doctor` on real databases: what it finds, how it ends, and what it keeps to itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.doctor import examination as doctor
from service.doctor.findings import Finding, Level
from service.settings import Settings
from tests.harness import Connection, Running
from tests.roles import PASSWORD, role_in
from tests.service.command import headrace

TEST_SERVER = {"fsync is off", "full_page_writes is off", "synchronous_commit is off"}
"""What is odd about the PostgreSQL of the tests, which must be fast."""


async def examined(dsn: str, **settings: Any) -> list[Finding]:
    """All findings of a service with these settings on a port that is free, but for those about the tests' server."""
    found = await doctor.findings_of(Settings(dsn=dsn, port=0, **settings), [])
    return [each for each in found if each.text.partition(":")[0] not in TEST_SERVER]


def bad(found: list[Finding]) -> Iterator[tuple[str, Level, str]]:
    """What is not fine: group, level, and how the text begins."""
    for each in found:
        if each.level is not Level.OK:
            yield each.group, each.level, each.text


# -------------------------------------------------------------------- as a command


async def test_the_command(db: Connection, dsn: str) -> None:
    """A database that is fine ends with status 0, whatever warnings there are."""
    await db.execute("create table t (a int)")
    ended = await headrace("doctor", "--dsn", dsn, "--json", HEADRACE_PORT="0", HEADRACE_PROT="1")
    assert (ended.status, ended.complaint) == (0, "")
    found = [msgspec.json.decode(line, type=Finding) for line in ended.said.splitlines()]
    assert {each.text.partition(":")[0] for each in found if each.level is Level.WARNING} == {
        *TEST_SERVER, "HEADRACE_PROT is not a setting and has no effect",
    }  # fmt: skip
    groups = ["Settings", "This machine", "Access", "Database", "Connections", "Tables", "Schema headrace"]
    assert list(dict.fromkeys(each.group for each in found)) == groups


async def test_an_error_ends_with_status_1(dsn: str) -> None:
    """Deployments ask before they go on. There is no table yet."""
    ended = await headrace("doctor", HEADRACE_PORT="0", HEADRACE_DSN=dsn)
    assert (ended.status, ended.complaint) == (1, "")
    lines = ended.said.splitlines()
    at = lines.index("✗ error   there is no table in public: nothing can be written")
    assert lines[at + 1].startswith("          → create tables there")
    assert lines[-1].startswith("1 error, 3 warnings, ")


async def test_settings_that_cannot_be_read() -> None:
    """They are findings, too, and what a DSN contains is not repeated."""
    ended = await headrace(
        "doctor", "--json", HEADRACE_PORT="x", HEADRACE_FLUSH_SLOTS="65", HEADRACE_DSN=f"mysql://u:{PASSWORD}@h/x"
    )
    assert (ended.status, ended.complaint) == (1, "")
    found = [msgspec.json.decode(line, type=Finding) for line in ended.said.splitlines()]
    assert [(each.level, each.text.partition(":")[0]) for each in found] == [
        (Level.ERROR, "HEADRACE_DSN"),
        (Level.ERROR, "HEADRACE_PORT"),
        (Level.ERROR, "HEADRACE_FLUSH_SLOTS"),
    ]
    assert PASSWORD not in ended.said


@pytest.mark.parametrize(
    "dsn", [f"postgresql://u:{PASSWORD}@127.0.0.1:1/x", f"postgresql://u:{PASSWORD}@127.0.0.1:x/x"]
)
async def test_no_database(dsn: str) -> None:
    """The rest is looked at all the same. No password is shown, of a DSN that can be read or not."""
    ended = await headrace("doctor", "--dsn", dsn, HEADRACE_PORT="0")
    assert (ended.status, ended.complaint) == (1, "")
    assert "error   cannot reach the database: " in ended.said
    assert "the service picks a free port" in ended.said
    assert PASSWORD not in ended.said


async def test_no_dsn(tmp_path: Path) -> None:
    """Before the first start the service's own PostgreSQL does not run, which is no fault."""
    ended = await headrace("doctor", HEADRACE_PORT="0", HEADRACE_DATA_DIR=str(tmp_path))
    assert (ended.status, ended.complaint) == (0, "")
    assert "so the service starts a PostgreSQL of its own" in ended.said


# -------------------------------------------------------------------- what it finds


async def test_a_new_database_is_fine(db: Connection, dsn: str) -> None:
    """And it stays as it was: a doctor writes nothing."""
    await db.execute("create table t (a serial primary key)")
    assert list(bad(await examined(dsn))) == []
    assert await db.fetchval("select to_regnamespace('headrace') is null")


async def test_a_running_service_is_fine(db: Connection, headrace: Running, dsn: str) -> None:
    """Its slots are found in the ledger, its connections counted once, and it is asked how it is."""
    await db.execute("create table t (a int)")
    assert (await headrace.post("t", {"a": 1}, prefer="bad-rows=quarantine")).status_code == 201
    settings = Settings(dsn=dsn, port=headrace.client.base_url.port or 0)
    found = await doctor.findings_of(settings, [])
    texts = [each.text for each in found]
    assert "flush slots that are connected: 2; others in the ledger: 0" in texts
    assert "complete, and the role may use it" in texts
    assert any(text.startswith("a service runs at 127.0.0.1:") and "is ready" in text for text in texts)
    assert {each.text.partition(":")[0] for each in found if each.level is not Level.OK} == TEST_SERVER

    assert (await headrace.post("t", {"a": "x"}, prefer="bad-rows=quarantine")).status_code == 201
    (waiting,) = bad(await examined(dsn))
    assert waiting == ("Schema headrace", Level.WARNING, "1 row is in quarantine: they were refused and kept")


async def test_a_role_without_rights_and_what_it_takes(db: Connection, dsn: str) -> None:
    """Who runs what is advised, as it is written there, has a service that works."""
    await db.execute("create schema api; create table api.t (a serial, b int); create table api.u (a int)")
    async with role_in(db, dsn) as role:
        levels = []
        for _ in range(4):
            found = await examined(role.dsn, schemas="api")
            errors = [each for each in found if each.level is Level.ERROR]
            levels.append([each.group for each in errors])
            for each in errors:
                assert each.advice
                await db.execute(each.advice.partition("; or")[0])
    assert levels == [["Tables", "Tables", "Schema headrace"], ["Tables"], [], []]


async def test_too_few_connections(db: Connection, dsn: str) -> None:
    """For the server, or for the role."""
    await db.execute("create table t (a int)")
    found = [each for each in bad(await examined(dsn, workers=50)) if each[0] == "Connections"]
    assert [each[1] for each in found] == [Level.ERROR]
    assert found[0][2] == (
        "1 pod * 50 workers * (2 flush slots + 2) = 200 connections, but max_connections 200"
        " - superuser_reserved_connections 3 - reserved_connections 0 - HEADRACE_CONNECTIONS_RESERVE 3 = 194"
    )
    async with role_in(db, dsn) as role:
        await db.execute(f"alter role {role.name} connection limit 3; grant insert on t to {role.name}")
        await db.execute(f"grant create on database {await db.fetchval('select current_database()')} to {role.name}")
        (limited,) = bad(await examined(role.dsn))
        assert limited[2].endswith("but the role may have 3 (alter role … connection limit)")


async def test_a_read_only_database(db: Connection, dsn: str) -> None:
    """Somebody has closed it for a move, and forgotten it."""
    await db.execute("create table t (a int)")
    database = await db.fetchval("select current_database()")
    await db.execute(f"alter database {database} set default_transaction_read_only = on")
    (found,) = bad(await examined(dsn))
    assert found == ("Database", Level.ERROR, "default_transaction_read_only is on, so nothing can be stored")


async def test_a_schema_that_is_missing(db: Connection, dsn: str) -> None:
    """A typing error, mostly."""
    await db.execute("create table t (a int)")
    assert list(bad(await examined(dsn, schemas="public,pulic"))) == [
        ("Tables", Level.WARNING, "there is no schema pulic")
    ]


async def test_it_is_quick(db: Connection, dsn: str) -> None:
    """Whoever waits for it has trouble already. (It takes 0.05 s here.)"""
    await db.execute("create table t (a int)")
    started = time.monotonic()
    await examined(dsn)
    assert time.monotonic() - started < 2
