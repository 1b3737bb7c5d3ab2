"""When the library runs: its start, its stop, event loops and processes, and the parts of an app around it."""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI

import headrace as package
from batching import Closed, DeadlinePassed, FlushCut, QueueFull, SinkAway
from headrace import (
    DuplicateKey,
    Headrace,
    HeadraceError,
    NotRunning,
    OutcomeUnknown,
    RowsRefused,
    StartRefused,
    Unavailable,
)
from service.embedded import EmbeddedPostgres
from service.library.errors import exception_of
from service.problems import problem_of
from sql import Fault, KeyReused, Rejected, TableChanged
from sql import OutcomeUnknown as Unknown
from tests.harness import Connection, rows_of
from tests.roles import role_in

NOTES = "create table notes (id int generated always as identity, text text)"


# -------------------------------------------------------------------- start and stop


async def test_it_asks_nobody_who_he_is(dsn: str, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment says about who may write is for those who come by HTTP."""
    await db.execute(NOTES)
    monkeypatch.setenv("HEADRACE_HOST", "0.0.0.0")
    for anonymous in ("auto", "refuse"):
        monkeypatch.setenv("HEADRACE_ANONYMOUS_WRITES", anonymous)
        async with Headrace(dsn) as headrace:
            await headrace.insert("notes", {"text": anonymous})
    assert await db.fetchval("select count(*) from notes") == 2


async def test_more_connections_than_there_may_be(db: Connection, dsn: str) -> None:
    """It says so when it starts, and not when the program is busy."""
    async with role_in(db, dsn) as role:
        await db.execute(f"alter role {role.name} connection limit 2")
        with pytest.raises(StartRefused, match="but the role may have 2"):
            async with Headrace(role.dsn):
                pytest.fail("it has started")


async def test_it_does_not_insert_before_its_start_nor_after_its_stop(dsn: str, db: Connection) -> None:
    """An app that forgot the lifespan must learn that from the message."""
    await db.execute(NOTES)
    headrace = Headrace(dsn)
    with pytest.raises(NotRunning, match=r"lifespan=headrace\.lifespan"):
        await headrace.insert("notes", {"text": "early"})
    async with headrace:
        await headrace.insert("notes", {"text": "one"})
    with pytest.raises(NotRunning):
        await headrace.insert("notes", {"text": "late"})
    async with headrace:
        await headrace.insert("notes", {"text": "two"})
    assert await rows_of(db, "select text from notes order by id") == [("one",), ("two",)]


async def test_an_app_tells_the_writer_s_numbers_and_whether_it_can_write(dsn: str, db: Connection) -> None:
    """Its own /metrics and readiness check, which the library cannot add by itself."""
    await db.execute(NOTES)
    headrace = Headrace(dsn)
    with pytest.raises(NotRunning):
        headrace.metrics()
    async with headrace:
        await headrace.insert("notes", [{"text": "one"}, {"text": "two"}])
        assert headrace.problem is None
        text = headrace.metrics().decode()
        assert 'headrace_rows_total{outcome="committed",table="public.notes"} 2.0' in text
        assert "headrace_unbalanced_requests 0.0" in text
    with pytest.raises(NotRunning):
        assert headrace.problem
    async with Headrace("postgresql://nobody@127.0.0.1:1/none") as away:
        assert "refused" in str(away.problem)


async def test_it_is_started_once(dsn: str) -> None:
    """Two starts would be two writers, of which one is never stopped."""
    async with Headrace(dsn) as headrace:
        with pytest.raises(RuntimeError, match="runs already"):
            await headrace.__aenter__()
        assert headrace.dsn == dsn


async def test_stopping_finishes_what_was_accepted(dsn: str, db: Connection) -> None:
    """A deployment must not cost rows."""
    await db.execute(NOTES)
    headrace = Headrace(dsn)
    await headrace.__aenter__()
    async with db.transaction():
        await db.execute("lock table notes in exclusive mode")
        calls = [asyncio.ensure_future(headrace.insert("notes", {"text": f"{n}"}, returning="text")) for n in range(5)]
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(headrace.__aexit__(None, None, None))
        await asyncio.sleep(0)
        with pytest.raises(NotRunning):
            await headrace.insert("notes", {"text": "late"})
        assert not stopping.done()
    assert await asyncio.gather(*calls) == [{"text": f"{n}"} for n in range(5)]
    await stopping
    await headrace.__aexit__(None, None, None)  # a second time does nothing


async def test_stopping_ends_although_the_database_does_not_answer(dsn: str, db: Connection) -> None:
    """What cannot be written until then is not: its caller is told, and the process ends."""
    await db.execute(NOTES)
    headrace = Headrace(dsn, drain_seconds_max=0.1)
    async with db.transaction():
        await db.execute("lock table notes in exclusive mode")
        async with headrace:
            call = asyncio.ensure_future(headrace.insert("notes", {"text": "one"}))
            await asyncio.sleep(0)
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await call


async def test_a_task_may_start_it_and_another_one_stop_it(dsn: str, db: Connection) -> None:
    """The fixtures of some test tools are set up and torn down so."""
    await db.execute(NOTES)
    headrace = Headrace(dsn)
    await asyncio.create_task(headrace.__aenter__())
    await headrace.insert("notes", {"text": "one"})
    await asyncio.create_task(headrace.__aexit__(None, None, None))
    assert await db.fetchval("select count(*) from notes") == 1


async def test_a_start_that_is_cancelled_leaves_nothing(dsn: str) -> None:
    """A server that gives up its start may try again."""
    headrace = Headrace(dsn)
    start = asyncio.ensure_future(headrace.__aenter__())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    async with headrace:
        pass


async def test_without_a_database_it_starts_and_says_so() -> None:
    """An app with other things to do must come up while its database is away."""
    async with Headrace("postgresql://nobody@127.0.0.1:1/none") as headrace:
        for row in ({"text": "one"}, {"text": float("nan")}):
            with pytest.raises(Unavailable) as raised:
                await headrace.insert("notes", row, deadline_seconds=0.2)
            assert raised.value.status == 503
            assert raised.value.retry_seconds is not None


def test_what_makes_no_sense_is_a_value_error() -> None:
    """At the line that says it, not at the first insert."""
    with pytest.raises(ValueError, match="flush_slots"):
        Headrace("postgresql://x", flush_slots=0)
    with pytest.raises(ValueError, match="flush_slts"):
        Headrace("postgresql://x", flush_slts=2)
    with pytest.raises(ValueError, match="postgresql://"):
        Headrace("mysql://x")


async def test_the_database_comes_from_the_environment(
    dsn: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the service; and nothing is started in secret."""
    with pytest.raises(ValueError, match="HEADRACE_DSN"):
        await Headrace().__aenter__()
    await db.execute(NOTES)
    monkeypatch.setenv("HEADRACE_DSN", dsn)
    async with Headrace() as headrace:
        await headrace.insert("notes", {"text": "one"})
    assert await db.fetchval("select count(*) from notes") == 1


async def test_it_may_bring_its_own_database(postgres: EmbeddedPostgres) -> None:
    """To try it, nobody should have to install anything. Here it shares the folder of the tests' own PostgreSQL."""
    async with Headrace(embedded=True, data_dir=postgres.folder) as headrace:
        connection = await asyncpg.connect(headrace.dsn)
        row = await headrace.insert("events", {"device_id": "a", "ts": "2026-11-21T10:00:00Z"}, returning="device_id")
        assert row == {"device_id": "a"}
        await connection.execute("drop table events; drop schema headrace cascade")
        await connection.close()


# -------------------------------------------------------------------- event loops, processes, threads


def _in_process(dsn: str, program: str) -> str:
    """What a program prints that has a DSN."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), dsn],
        cwd=Path(__file__).parent.parent.parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_it_may_run_in_one_event_loop_after_another(dsn: str, db: Connection) -> None:
    """Scripts call `asyncio.run` as often as they like, and not all of them end as they should."""
    await db.execute(NOTES)
    program = """
        import asyncio, sys
        from headrace import Headrace, NotRunning

        headrace = Headrace(sys.argv[1])

        async def insert():
            async with headrace:
                print(await headrace.insert("notes", {"text": "one"}, returning="id"))

        async def leave():
            await headrace.__aenter__()

        asyncio.run(insert())
        asyncio.run(insert())
        asyncio.run(leave())
        asyncio.run(insert())
    """
    assert await asyncio.to_thread(_in_process, dsn, program) == "{'id': 1}\n{'id': 2}\n{'id': 3}\n"


async def test_it_is_made_at_import_and_started_in_each_worker(dsn: str, db: Connection) -> None:
    """A server that forks has loaded the app before; what was connected by then would be shared by all."""
    await db.execute(NOTES)
    program = """
        import asyncio, os, sys
        from headrace import Headrace

        headrace = Headrace(sys.argv[1])

        async def insert():
            async with headrace:
                for _ in range(3):
                    await headrace.insert("notes", {"text": str(os.getpid())})

        workers = []
        for _ in range(2):
            worker = os.fork()
            if not worker:
                asyncio.run(insert())
                os._exit(0)
            workers.append(worker)
        asyncio.run(insert())
        print([os.waitpid(worker, 0)[1] for worker in workers])
    """
    assert await asyncio.to_thread(_in_process, dsn, program) == "[0, 0]\n"
    assert await rows_of(db, "select count(distinct text), count(*) from notes") == [(3, 9)]


async def test_another_event_loop_is_told_that_it_is_the_wrong_one(dsn: str) -> None:
    """It is not thread-safe; rows that were lost between two threads would be looked for a long time."""
    outcome: list[BaseException | None] = []

    def elsewhere(call: Coroutine[Any, Any, None]) -> None:
        try:
            outcome.append(asyncio.run(call))
        except HeadraceError as error:
            outcome.append(error)

    async with Headrace(dsn) as headrace:
        thread = threading.Thread(target=elsewhere, args=(headrace.insert("notes", {"text": "one"}),))
        thread.start()
        await asyncio.to_thread(thread.join)
    (error,) = outcome
    assert isinstance(error, NotRunning)
    assert "another event loop" in str(error)


# -------------------------------------------------------------------- in an app


async def test_an_app_may_have_a_lifespan_of_its_own(dsn: str, db: Connection) -> None:
    """Most have one already."""
    await db.execute(NOTES)
    headrace = Headrace(dsn)
    events = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with headrace.lifespan(app):
            await headrace.insert("notes", {"text": "started"})
            yield {"of": "the app"}
            await headrace.insert("notes", {"text": "stopping"})
        events.append("stopped")

    app = FastAPI(lifespan=lifespan)
    async with app.router.lifespan_context(app) as state:
        assert state == {"of": "the app"}
    assert events == ["stopped"]
    assert await rows_of(db, "select text from notes order by id") == [("started",), ("stopping",)]


@pytest.mark.parametrize(
    ("before", "asked", "meanwhile"), [(700, 10_000, 10_000), (50_000, 10_000, 50_000), (700, 0, 700), (0, 10_000, 0)]
)
async def test_the_collector_of_a_server_runs_seldom(dsn: str, before: int, asked: int, meanwhile: int) -> None:
    """It is the process of somebody else: what he has set himself stays, and afterwards all is as it was."""
    others = gc.get_threshold()
    gc.set_threshold(before, *others[1:])
    try:
        async with Headrace(dsn, gc_threshold=asked).lifespan():
            assert gc.get_threshold() == (meanwhile, *others[1:])
        assert gc.get_threshold() == (before, *others[1:])
        async with Headrace(dsn, gc_threshold=asked):
            assert gc.get_threshold() == (before, *others[1:])
    finally:
        gc.set_threshold(*others)


# -------------------------------------------------------------------- what is raised


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (Rejected(Fault("23502", "null")), RowsRefused, "23502"),
        (Rejected(Fault("23505", "there already")), DuplicateKey, "23505"),
        (Rejected(Fault("P0002", "of a function")), RowsRefused, "P0002"),
        (Rejected(Fault("PT503", "of a trigger")), Unavailable, "PT503"),
        (KeyReused(), RowsRefused, "HR422"),
        (QueueFull(3), Unavailable, "HR429"),
        (SinkAway(1, OSError()), Unavailable, "PGRST000"),
        (DeadlinePassed(), Unavailable, "HR503"),
        (TableChanged(), Unavailable, "HR504"),
        (Closed(), Unavailable, "HR505"),
        (Unknown(), OutcomeUnknown, "HR506"),
        (FlushCut(), OutcomeUnknown, "HR506"),
        (ZeroDivisionError(), OutcomeUnknown, "HR500"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_problem_is_of_the_class_that_says_what_to_do(
    error: Exception, kind: type[HeadraceError], code: str
) -> None:
    """A caller tells apart: never, later, nobody knows."""
    problem = problem_of(error)
    raised = exception_of(problem)
    assert type(raised) is kind
    assert (raised.code, raised.status, raised.retry_seconds) == (code, problem.status, problem.retry_seconds)


def test_an_exception_survives_a_queue() -> None:
    """Workers of other processes report what went wrong as pickles."""
    error = exception_of(problem_of(Rejected(Fault("23505", "there already", "details", "hint", 3, "column"))))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DuplicateKey
    assert vars(copy) == vars(error)
    assert str(copy) == "there already (23505, row 3, column column)"


def test_what_is_public_is_listed_and_named_as_it_is_imported() -> None:
    """A traceback shows the name that an `except` needs."""
    assert {name for name in vars(package) if not name.startswith("_")} == set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__module__ == "headrace"
        assert getattr(package, name).__doc__
