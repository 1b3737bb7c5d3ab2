"""Several workers of one service: each tells the numbers of all."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest

from bench.agreement import read_metrics
from service.observing.numbers import OUTCOMES, Numbers, State, TableNumbers, encode, together
from service.observing.workers import Workers
from tests.harness import Connection, Start

_NONE = [0] * (len(OUTCOMES) - 1)


def _numbers(requests: int, pending: int = 0) -> Numbers:
    numbers = Numbers(State(pending_requests=pending), requests + pending, requests + pending)
    numbers.tables["public.t"] = TableNumbers([requests, *_NONE], [requests, *_NONE])
    return numbers


def _die(worker: Workers) -> None:
    """As kill -9 would have it: the lock is gone, and nothing was said."""
    assert worker._lock is not None
    os.close(worker._lock)


def test_workers_see_each_other(tmp_path: Path) -> None:
    """But not themselves: what they know of that is newer."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    first.publish(_numbers(1))
    second.publish(_numbers(2))
    second.publish(_numbers(3, pending=1))
    assert first.others() == [_numbers(3, pending=1)]
    assert second.others() == [_numbers(1)]


def test_one_that_has_said_nothing_yet_is_no_trouble(tmp_path: Path) -> None:
    """It has just begun."""
    first, _second = Workers(tmp_path), Workers(tmp_path)
    assert first.others() == []


def test_without_a_folder_there_is_nobody_else() -> None:
    """The usual case."""
    alone = Workers(None)
    alone.publish(_numbers(1))
    alone.leave(_numbers(1))
    assert alone.others() == []
    assert not alone.are_several


def test_what_the_dead_have_counted_stays(tmp_path: Path) -> None:
    """A counter never falls; what a dead worker had at hand is not at hand any more, and the balance holds."""
    first, second, third = (Workers(tmp_path) for _ in range(3))
    second.publish(_numbers(5, pending=2))
    third.publish(_numbers(7))
    _die(second)
    _die(third)
    for _ in range(2):
        departed = together(first.others())
        assert departed.tables["public.t"].requests[0] == 12
        assert departed.received_requests == 14
        assert departed.tables[""].requests[OUTCOMES.index("unknown")] == 2, "what it had not answered"
        assert (departed.state.pending_requests, departed.state.workers) == (0, 0)
        assert (departed.unbalanced_requests, departed.unbalanced_rows) == (0, 0)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock", ".lock"], "nothing is left of them"
    fourth = Workers(tmp_path)
    assert together(fourth.others()) == departed, "who comes later knows, too"


def test_one_that_leaves_in_good_order_is_counted_once(tmp_path: Path) -> None:
    """By all others, whoever looks first."""
    first, second, third = (Workers(tmp_path) for _ in range(3))
    second.leave(_numbers(5))
    assert [numbers.tables["public.t"].requests[0] for numbers in first.others()] == [5]
    assert [numbers.tables["public.t"].requests[0] for numbers in third.others()] == [5]


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"\x80", b"{}"])
def test_a_file_that_cannot_be_read_is_left_out(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a disk full of zeros must not stop /metrics."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    (tmp_path / second._name).write_bytes(content)
    others = first.others()
    assert others == [] or content == b"\x80"  # an empty map: a worker that has counted nothing
    assert bool(others) != ("cannot read the numbers of another worker" in caplog.text)


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Numbers are not worth a worker."""
    folder = tmp_path / "gone"
    worker = Workers(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    worker.publish(_numbers(1))
    assert "cannot write the numbers of this worker" in caplog.text
    assert worker.others() == []


def test_the_first_of_a_new_service_counts_from_nought(tmp_path: Path) -> None:
    """What is shown since the start is about this start."""
    old = Workers(tmp_path)
    old.leave(_numbers(5))
    new = Workers(tmp_path)
    assert new.others() == []
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_numbers_of_another_version_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """During an upgrade both are there, and their buckets may not be the same."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    (tmp_path / second._name).write_bytes(b"\0\0\0\0" + encode(_numbers(1))[4:])
    for _ in range(3):
        assert first.others() == []
    assert caplog.text.count("it was written by another version") == 1


def test_while_somebody_buries_what_was_seen_before_is_as_good(tmp_path: Path) -> None:
    """Nobody waits for a lock: one that has it may be stopped."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    second.publish(_numbers(2))
    seen = first.others()
    with (tmp_path / "departed.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.publish(_numbers(3))
        assert first.others() == seen == [_numbers(2)]
    assert first.others() == [_numbers(3)]


def test_who_is_buried_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although its files are still there, because whoever buried it was killed in between."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    second.publish(_numbers(5))
    _die(second)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_args, **_options: None)
        first.others()
    for _ in range(3):
        assert together(first.others()).tables["public.t"].requests[0] == 5


def test_who_cannot_be_buried_stays_as_he_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full must not make counters fall."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    second.publish(_numbers(5))
    _die(second)
    with monkeypatch.context() as full:
        full.setattr(Workers, "_write", lambda *_args: False)
        for _ in range(2):
            assert together(first.others()).tables["public.t"].requests[0] == 5
    assert together(first.others()).tables["public.t"].requests[0] == 5


def test_nobody_is_told_anything_after_the_end(tmp_path: Path) -> None:
    """A file without a lock would stay for ever."""
    first, second = Workers(tmp_path), Workers(tmp_path)
    second.leave(_numbers(5))
    first.others()
    second.publish(_numbers(6))
    assert together(first.others()).tables["public.t"].requests[0] == 5
    assert not (tmp_path / second._name).exists()


async def test_trouble_with_the_numbers_stops_no_service(
    db: Connection, dsn: str, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at by a task beside those that write rows."""
    await db.execute("create table t (n int)")
    async with start(dsn=dsn) as headrace:
        monkeypatch.setattr(type(headrace.service.snapshots), "own", lambda _self: 1 / 0)
        await headrace.eventually(lambda: "the numbers could not be looked at" in caplog.text)
        assert (await headrace.post("t", {"n": 1})).status_code == 201
        monkeypatch.undo()
        assert (await headrace.client.get("/metrics")).status_code == 200


async def test_services_in_one_folder_are_one(db: Connection, dsn: str, start: Start, tmp_path: Path) -> None:
    """/metrics, the dashboard and its balance, whichever is asked, and after one of them has stopped."""
    await db.execute("create table t (n int)")
    async with start(dsn=dsn, workers_dir=tmp_path) as first:
        async with start(dsn=dsn, workers_dir=tmp_path) as second:
            for service, requests in ((first, 2), (second, 3)):
                for _ in range(requests):
                    assert (await service.post("t", [{"n": 1}, {"n": 2}])).status_code == 201
            for service in (first, second):
                snapshots = service.service.snapshots
                await service.eventually(lambda: snapshots.all().totals().requests[0] == 5)  # noqa: B023
                text = (await service.client.get("/metrics")).text
                account = read_metrics(text)
                assert "headrace_workers 2.0" in text
                assert (account.rows["committed"], account.received, account.unbalanced) == (10, 5, (0, 0))
                await service.eventually(lambda: service.service.live.latest()[1].count(b'"committed":[5,10]') == 1)  # noqa: B023
                glance = (await service.client.get("/dashboard/glance")).json()
                assert (glance["workers"], glance["totals"]["committed"]) == (2, [5, 10])
                assert glance["slots"] == {"busy": 0, "idle": 4, "away": 0}
        text = (await first.client.get("/metrics")).text
        assert "headrace_workers 1.0" in text
        assert read_metrics(text).requests["committed"] == 5
        assert read_metrics(text).unbalanced == (0, 0)


_SERVE = """
import asyncio, sys
from pathlib import Path
from service.observing.workers import Workers
from service.observing.numbers import OUTCOMES, Numbers, TableNumbers
worker = Workers(Path(sys.argv[1]))
numbers = Numbers(received_requests=4)
numbers.tables["public.t"] = TableNumbers([4] + [0] * (len(OUTCOMES) - 1))
worker.publish(numbers)
print("here", flush=True)
sys.stdin.read()
"""


async def test_a_worker_that_is_killed_leaves_what_it_had_told(tmp_path: Path) -> None:
    """A lock ends with its process, whatever ends that."""
    worker = Workers(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SERVE, str(tmp_path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"here\n"
    (alive,) = worker.others()
    assert alive.state.workers == 1
    process.send_signal(signal.SIGKILL)
    await process.wait()
    (dead,) = worker.others()
    assert (dead.state.workers, dead.tables["public.t"].requests[0]) == (0, 4)
