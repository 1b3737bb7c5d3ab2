"""`headrace quarantine`: what an operator reads, and what scripts do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime

import msgspec
import pytest

from service.commands import quarantine as commands
from sql import quarantine
from tests.harness import Connection, Running, rows_of

ITEMS = "create table items (id int primary key, name text check (name <> '')); create table others (n int)"


async def run(dsn: str, *arguments: str) -> tuple[int, str, str]:
    """The command in a process of its own: exit status, stdout, stderr."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "quarantine", *arguments, "--dsn", dsn]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=50)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
async def kept(db: Connection, headrace: Running) -> Connection:
    """A database with four rows in quarantine: three for `items`, one for `others`."""
    await db.execute(ITEMS)
    body = b'{"id":1,"name":""}\n{"id":2,"name":"[red]b"}\n{"id":2,"name":"c"}\n\x1b]0;title\x07\n'
    assert (await headrace.lines("items", body, prefer="bad-rows=quarantine", x_request_id="r 7")).status_code == 201
    assert (await headrace.post("others", {"n": "x"}, prefer="bad-rows=quarantine")).status_code == 201
    assert await db.fetchval("select count(*) from headrace.quarantine") == 4
    return db


async def ids(db: Connection, table: str = "items") -> list[str]:
    """The entries of a table."""
    found = await rows_of(db, f"select id from headrace.quarantine where table_name = '{table}' order by id")
    return [str(each) for (each,) in found]


async def test_list_and_show(kept: Connection, dsn: str) -> None:
    """Plain lines for pipes, JSON for scripts; what a stranger has sent does not reach the terminal as it is."""
    status, listed, complaint = await run(dsn, "list")
    assert (status, complaint) == (0, "")
    lines = [line.split("\t") for line in listed.splitlines()]
    assert [line[0] for line in lines] == [*await ids(kept), *await ids(kept, "others")]
    assert {line[2] for line in lines} == {"public.items", "public.others"}
    assert {line[3] for line in lines} == {"PGRST102", "23514", "23505", "22P02"}
    assert r"\x1b]0;title\x07" in listed
    assert "\x1b" not in listed
    assert len((await run(dsn, "list", "--table", "others"))[1].splitlines()) == 1
    assert len((await run(dsn, "list", "--limit", "2"))[1].splitlines()) == 2

    status, listed, _ = await run(dsn, "list", "--json", "--table", "public.others")
    entry = msgspec.json.decode(listed)
    assert (entry["row"], entry["table"], entry["code"], entry["row_number"]) == ('{"n":"x"}', "others", "22P02", 1)

    status, shown, _ = await run(dsn, "show", str(entry["id"]))
    assert status == 0
    assert "column    n" in shown
    assert shown.endswith('{"n":"x"}\n')
    assert msgspec.json.decode((await run(dsn, "show", str(entry["id"]), "--json"))[1]) == entry
    (with_request,) = (await ids(kept))[:1]
    assert "request   r 7, row" in (await run(dsn, "show", with_request))[1]
    assert await run(dsn, "show", "999") == (1, "", "There is no entry 999\n")


async def test_replay(kept: Connection, dsn: str) -> None:
    """What can be stored by now leaves the quarantine; what is refused again stays, and says so by the exit status."""
    await kept.execute("alter table items drop constraint items_name_check")
    status, said, refused = await run(dsn, "replay", "--table", "items")
    assert (status, said) == (1, "stored 1, refused 2\n")
    assert sorted(line.partition(": ")[2][:5] for line in refused.splitlines()) == ["23505", "PGRST"]
    assert await rows_of(kept, "select id from items order by id") == [(1,), (2,)]
    assert len(await ids(kept)) == 2

    await kept.execute("alter table others alter n type text")
    (other,) = await ids(kept, "others")
    status, said, refused = await run(dsn, "replay", other, "999", "--json")
    assert (status, refused) == (1, "")
    first, second = map(msgspec.json.decode, said.splitlines())
    assert first == {"id": int(other), "stored": True}
    assert (second["id"], second["stored"], second["message"]) == (999, False, "there is no such entry")
    assert await kept.fetchval("select n from others") == "x"
    await kept.execute("truncate items")
    await kept.execute("delete from headrace.quarantine where code like 'PGRST%'")
    assert await run(dsn, "replay", "--all") == (0, "stored 1, refused 0\n", "")


async def test_drop(kept: Connection, dsn: str) -> None:
    """Asks nothing, so it does nothing unless it is told what."""
    status, said, complaint = await run(dsn, "drop")
    assert (status, said, complaint) == (1, "", "Say which ones: ids, or --table NAME, or --all\n")
    first, *_ = await ids(kept)
    assert (await run(dsn, "drop", first, "--all"))[0] == 1
    assert await run(dsn, "drop", first, first) == (0, "dropped 1\n", "")
    assert await run(dsn, "drop", first, "--json") == (1, '{"dropped":0}\n', "")
    assert await run(dsn, "drop", "--table", "others") == (0, "dropped 1\n", "")
    assert len(await ids(kept)) == 2
    assert await run(dsn, "drop", "--all") == (0, "dropped 2\n", "")
    assert await run(dsn, "list") == (0, "", "")


async def test_what_goes_wrong_is_one_line(dsn: str) -> None:
    """No traceback for a database that is away, a typing error or a database that has no quarantine yet."""
    assert await run(dsn, "list") == (0, "", "")
    for wrong, words in (
        ("postgresql://nobody@127.0.0.1:1/x", "cannot reach the database: "),
        ("postgresql://u:se/cret@127.0.0.1:1/x", "the DSN is not a connection URL that can be read"),
        ("mysql://x", "HEADRACE_DSN: "),
    ):
        status, said, complaint = await run(wrong, "list")
        assert (status, said) == (1, "")
        assert complaint.startswith(words)
        assert complaint.count("\n") == 1
        assert "cret" not in complaint


async def test_a_table_for_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """People want columns; brackets in a row are no markup of ours."""
    monkeypatch.setenv("COLUMNS", "160")
    at = datetime(2026, 11, 21, 10, tzinfo=UTC)
    entry = quarantine.Entry(
        7, at, "public", "items", b'{"a":"[red]\x1b[31m"}', "22P02", "bad", None, None, None, "r", 3, None
    )

    async def entries(*_: object, **__: object) -> list[quarantine.Entry]:
        return [entry]

    async def count(*_: object, **__: object) -> int:
        return 3

    monkeypatch.setattr(quarantine, "entries", entries)
    monkeypatch.setattr(quarantine, "count", count)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    await commands.list_entries(None, None, 1, as_json=False)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "│ 7  │ 2026-11-21 10:00:00Z │ public.items │ 22P02 │ bad " in said
    assert r"[red]\x1b[31m" in said
    assert "2 more" in said
