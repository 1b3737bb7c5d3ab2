"""`headrace keys`: what an operator asks for, what he is told, and what he must never be shown again."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys

import msgspec
import pytest

from service.commands import keys as commands
from service.commands.keys import KeysError, Order
from sql import api_keys
from sql.ledger import SCHEMA_SQL
from tests.harness import Connection
from tests.roles import role_in


async def run(dsn: str, *arguments: str) -> tuple[int, str, str]:
    """The command in a process of its own: exit status, stdout, stderr."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "keys", *arguments, "--dsn", dsn]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=50)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_create_list_revoke(db: Connection, dsn: str) -> None:
    """The key is alone on stdout, for a pipe, and nowhere else, ever again."""
    await db.execute("create table events (n int)")
    status, key, said = await run(dsn, "create", "pump", "--table", "public.events")
    assert status == 0
    assert re.fullmatch(r"hr_[a-z0-9]{12}_[A-Za-z0-9]{33}\n", key)
    assert "It is the first one: within about two seconds nobody writes" in said
    assert "warning" not in said
    _, key_id, secret = key.strip().split("_")
    row = await db.fetchrow("select * from headrace.api_keys")
    assert row is not None
    assert (row["id"], row["name"], row["grants"]) == (key_id, "pump", ["public.events:insert"])
    assert row["secret_sha256"] == hashlib.sha256(secret.encode()).digest()

    status, made, said = await run(
        dsn, "create", "other", "--table", "public.*:insert,update", "--table", "*:select", "--rows-per-second", "10",
        "--queue-share", "0.1", "--expires-days", "1", "--json",
    )  # fmt: skip
    assert status == 0
    assert "first one" not in said
    entry = msgspec.json.decode(made)
    assert entry.pop("key").startswith(f"hr_{entry['id']}_")
    assert (entry["rows_per_second"], entry["queue_share"], entry["state"]) == (10.0, 0.1, "good")
    assert entry["grants"] == ["public.*:insert,update", "*:select"]

    status, listed, complaint = await run(dsn, "list")
    assert (status, complaint) == (0, "")
    assert [line.split("\t")[1:4] for line in listed.splitlines()] == [
        ["pump", "good", "public.events:insert"],
        ["other", "good", "public.*:insert,update *:select"],
    ]
    status, as_json, _ = await run(dsn, "list", "--json")
    assert msgspec.json.decode(as_json.splitlines()[1]) == entry
    for told in (listed, as_json, said):
        assert secret not in told
        assert row["secret_sha256"].hex() not in told
    assert "sha256" not in as_json

    assert await run(dsn, "revoke", "pump") == (0, f"revoked pump (id {key_id})\n", "")
    assert await run(dsn, "revoke", "pump") == (1, "", "There is no living key of this name or id\n")
    status, revoked, _ = await run(dsn, "revoke", entry["id"], "--json")
    assert (status, msgspec.json.decode(revoked)["state"]) == (0, "revoked")
    assert [line.split("\t")[2] for line in (await run(dsn, "list"))[1].splitlines()] == ["revoked", "revoked"]


async def test_a_key_that_has_leaked_is_revoked_by_itself(db: Connection, dsn: str) -> None:
    """Whoever finds one knows nothing else of it; and it is not repeated."""
    await db.execute(SCHEMA_SQL)
    _, key, _ = await run(dsn, "create", "pump", "--table", "*")
    status, said, complaint = await run(dsn, "revoke", key.strip())
    assert (status, complaint) == (0, "")
    assert key.strip() not in said


async def test_what_goes_wrong_is_one_line(db: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, nothing made, and nothing on stdout that somebody would take for a key."""
    assert await run(dsn, "list") == (0, "", "")
    assert await run(dsn, "revoke", "x") == (1, "", "There are no keys\n")
    assert (await run(dsn, "create", "pump"))[0] == 2
    assert (await run(dsn, "create", "pump", "--table", "events"))[:2] == (1, "")
    assert await db.fetchval("select to_regclass('headrace.api_keys') is null")
    assert (await run(dsn, "create", "pump", "--table", "*"))[0] == 0
    status, said, complaint = await run(dsn, "create", "pump", "--table", "*")
    assert (status, said) == (1, "")
    assert complaint.splitlines() == ["There is a key pump already: revoke it first, or choose another name"]
    async with role_in(db, dsn) as role:
        status, said, complaint = await run(role.dsn, "list")
        assert (status, said, complaint.count("\n")) == (1, "", 1)
        assert f"grant select on headrace.api_keys to {role.name}" in complaint
    assert "cannot reach the database" in (await run("postgresql://nobody@127.0.0.1:1/x", "list"))[2]
    monkeypatch.setenv("HEADRACE_AT_LEAST_ONCE", "true")
    status, said, complaint = await run(dsn, "create", "third", "--table", "*")
    assert (status, said) == (1, "")
    assert "HEADRACE_AT_LEAST_ONCE" in complaint


async def test_grants_that_do_nothing_are_pointed_out(dsn: str) -> None:
    """The key is made all the same: the table may come later."""
    status, key, said = await run(
        dsn, "create", "pump", "--table", "public.nowhere", "--table", "api.*:select", "--table", "public.x:update",
    )  # fmt: skip
    assert status == 0
    assert key.startswith("hr_")
    assert "warning: there is no table public.nowhere yet" in said
    assert "warning: schema api is not in HEADRACE_SCHEMAS here" in said
    assert "warning: api.*:select is of no use without insert" in said
    assert "warning: public.x:update is of no use without insert" in said
    _, _, said = await run(dsn, "create", "other", "--table", "pg_catalog.pg_class:select", "--table", "*")
    assert "of no use" not in said
    assert "there is no table" not in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": ""}, "name"), ({"name": " x"}, "name"), ({"name": "x\n"}, "name"), ({"name": "x" * 65}, "name"),
        ({"name": "hr_abc"}, "hr_"), ({"grants": ["x"]}, "--table"), ({"rows_per_second": 0}, "--rows-per-second"),
        ({"rows_per_second": float("nan")}, "--rows-per-second"),
        ({"rows_per_second": float("inf")}, "--rows-per-second"), ({"queue_share": 0}, "--queue-share"),
        ({"queue_share": 1.1}, "--queue-share"), ({"queue_share": float("nan")}, "--queue-share"),
        ({"expires_days": 0}, "--expires-days"), ({"expires_days": float("inf")}, "--expires-days"),
        ({"expires_days": float("nan")}, "--expires-days"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changed: dict[str, object], words: str) -> None:
    """Before the database is asked for anything."""
    order = {"name": "pump", "grants": ["*"], "rows_per_second": None, "queue_share": 0.5, "expires_days": None}
    assert Order(**order).check().all  # type: ignore[arg-type]
    with pytest.raises(KeysError, match=words):
        Order(**order | changed).check()  # type: ignore[arg-type]


async def test_a_table_for_a_terminal(
    db: Connection, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People want columns; brackets in a name are no markup of ours, and what has expired is told from what is good."""
    monkeypatch.setenv("COLUMNS", "200")
    await api_keys.create(db, api_keys.Wanted("id1", "[red]a", ["*:insert"], expires_days=0.1), bytes(32))
    await db.execute("update headrace.api_keys set expires_at = now() - interval '1 second'")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    await commands.list_keys(db, as_json=False)
    said = capsys.readouterr().out
    assert "│ id1 │ [red]a │ expired │ *:insert │" in said
