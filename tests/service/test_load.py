"""`headrace load`: what is in the table afterwards, and what people are told about the rest."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import socket
import sys
import zipfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.commands.load import Destination, Job, Limits, Loader, load
from service.commands.rowfile import File, LoadError, Refusal, open_source
from tests.harness import Connection, Running, Start
from tests.service.fake_service import CREATED, FakeService, refusal_of

PROGRAM = Path(sys.executable).parent / "headrace"


def url_of(running: Running) -> str:
    """What `--url` takes for a service of the tests."""
    return f"{str(running.client.base_url).rstrip('/')}/rest/v1"


def job(path: Path, url: str, *, limits: Limits | None = None, **file: Any) -> Job:
    """A load of a file into table t."""
    return Job(File(str(path), **file), Destination("t", url), limits or Limits())


def written(path: Path, content: str | bytes) -> Path:
    """A file with this content, at the path."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbers(path: Path, count: int) -> Path:
    """An NDJSON file of the rows {"n": 1}, {"n": 2}, …: the row on line i is i."""
    return written(path, "".join(f'{{"n": {n}}}\n' for n in range(1, count + 1)))


@pytest.fixture
async def headrace_with_table(db: Connection, headrace: Running) -> Running:
    """A service, and a table t with a column n."""
    await db.execute("create table t (n int)")
    return headrace


# -------------------------------------------------------------------- formats


async def test_csv_fields_arrive_as_they_are(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """Quotes, commas and line ends inside fields are data; PostgreSQL reads each value by the column's own type."""
    await db.execute("create table t (a int, b text, c numeric, d date, e int[])")
    path = written(tmp_path / "rows.csv", 'b,a,c,d,e\r\n"x, ""y""\r\nz\t\\",007,1.50,2026-02-28,"{1,2}"\r\n,,,,\r\n')
    report = await load(job(path, url_of(headrace)))
    assert (report.stored, report.complete) == (2, True)
    rows = [tuple(row) for row in await db.fetch("select a, b, c::text, d::text, e from t order by a")]
    assert rows == [(7, 'x, "y"\r\nz\t\\', "1.50", "2026-02-28", [1, 2]), (None, None, None, None, None)]


async def test_null_is_what_the_file_says(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """With another marker, an empty field is an empty text."""
    await db.execute("create table t (a int, b text)")
    await load(job(written(tmp_path / "rows.csv", "a,b\nNA,\n1,NA\n"), url_of(headrace), null="NA"))
    assert [tuple(row) for row in await db.fetch("select a, b from t order by a")] == [(1, None), (None, "")]


async def test_json_columns_hold_json(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """For json and jsonb a string would be JSON already, and {"a": 1} would arrive as a string of seven letters."""
    await db.execute("create table t (a jsonb, n int)")
    path = written(tmp_path / "rows.csv", 'a,n\n"{""a"":\n [1.50, ""\\n""]}",1\n"1,""n"":7",2\n,3\n')
    report = await load(job(path, url_of(headrace), json_columns=("a",)))
    assert [tuple(row) for row in await db.fetch("select a::text, n from t order by n")] == [
        ('{"a": [1.50, "\\n"]}', 1),
        (None, 3),
    ]
    assert report.refusals == [Refusal(4, "a", "not JSON")]


async def test_ndjson_lines_are_passed_on(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """Digits that no float holds, nested JSON, blank lines, a last line without its end."""
    await db.execute("create table t (a numeric, b jsonb)")
    path = written(
        tmp_path / "rows.jsonl", b'\xef\xbb\xbf{"a": 0.1234567890123456789, "b": {"x": [1]}}\r\n\n{"a": 2, "b": null}'
    )
    report = await load(job(path, url_of(headrace)))
    assert report.complete
    assert [tuple(row) for row in await db.fetch("select a::text, b::text from t order by a")] == [
        ("0.1234567890123456789", '{"x": [1]}'),
        ("2", None),
    ]


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.csv.zip", "rows.zip", "rows.ZIP"])
async def test_packed_files_are_unpacked(db: Connection, headrace: Running, tmp_path: Path, name: str) -> None:
    """Large files come packed; the name says how, and what is inside."""
    await db.execute("create table t (n int)")
    content = b"\xef\xbb\xbfn\n1\n2\n"
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    elif name.lower().endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("folder")
            archive.writestr("folder/inside.csv", content)
    else:
        path.write_bytes(content)
    assert (await load(job(path, url_of(headrace)))).complete
    assert await db.fetchval("select array_agg(n order by n) from t") == [1, 2]


async def test_of_several_packed_files_one_is_chosen(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """Nobody guesses which one was meant."""
    await db.execute("create table t (n int)")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("a.ndjson", '{"n": 1}')
        archive.writestr("b.csv", "n\n2\n")
    with pytest.raises(LoadError, match=r"2 files.*--member: a\.ndjson, b\.csv"):
        await load(job(tmp_path / "rows.zip", url_of(headrace)))
    assert (await load(job(tmp_path / "rows.zip", url_of(headrace), member="a.ndjson"))).complete
    assert await db.fetchval("select array_agg(n) from t") == [1]


@pytest.mark.parametrize("damage", ["cut off", "overwritten"])
async def test_a_damaged_file_is_loaded_up_to_the_damage(
    headrace_with_table: Running, tmp_path: Path, damage: str
) -> None:
    """A download that broke off must not look like the whole file."""
    packed = gzip.compress(os.urandom(300_000).hex().encode() + b"\n")
    # After the ten bytes of gzip's header, ones are a block of a type that does not exist.
    packed = packed[:-1000] if damage == "cut off" else packed[:10] + b"\xff" * 1000 + packed[1010:]
    path = written(tmp_path / "rows.csv.gz", gzip.compress(b"n\n1\n2\n") + packed)
    report = await load(job(path, url_of(headrace_with_table), limits=Limits(request_rows_max=1)))
    assert report.stopped is not None
    assert "cannot be read after line 3" in report.stopped
    assert (report.stored, report.complete) == (2, False)


# -------------------------------------------------------------------- bad rows


async def test_bad_rows_are_named_and_the_others_stored(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """A request is all or nothing, a file is not; lines count from the file's first, whatever its fields span."""
    await db.execute("create table t (n int, b text check (b <> 'bad'))")
    records = [f'{n},"two\nlines"' for n in range(40)]
    records[7] = "x7,ok"
    records[8] = "8,bad"
    records[33] = "9999999999,ok"
    path = written(tmp_path / "rows.csv", "n,b\n" + "\n".join(records) + "\n")
    report = await load(job(path, url_of(headrace), limits=Limits(request_rows_max=10)))
    assert (report.stored, report.refused, report.complete) == (37, 3, False)
    # Before record i there are the header and i records of two lines, less one for each bad one, which has one line.
    assert [(refusal.line, refusal.column) for refusal in report.refusals] == [(16, "n"), (17, None), (66, "n")]
    assert 'invalid input syntax for type integer: "x7"' in report.refusals[0].message
    assert "check constraint" in report.refusals[1].message
    assert "out of range" in report.refusals[2].message
    assert await db.fetchval("select count(*) from t") == 37


async def test_bad_rows_that_nobody_names_are_found_by_halving(
    db: Connection, headrace: Running, tmp_path: Path
) -> None:
    """PostgreSQL checks foreign keys at the end of the statement and does not say which row failed."""
    await db.execute("create table parents (n int primary key); insert into parents select generate_series(1, 100)")
    await db.execute("create table t (n int references parents)")
    lines = [f'{{"n": {n}}}\n' for n in range(1, 101)]
    lines[9] = '{"n": 1010}\n'
    lines[10] = '{"n": 1011}\n'
    lines[99] = '{"n": 1100}\n'
    path = written(tmp_path / "rows.ndjson", "".join(lines))
    report = await load(job(path, url_of(headrace)))
    assert (report.stored, report.refused) == (97, 3)
    assert [refusal.line for refusal in report.refusals] == [10, 11, 100]
    assert "(n)=(1010) is not present" in report.refusals[0].message
    assert await db.fetchval("select count(*) from t") == 97
    report = await load(job(path, url_of(headrace), limits=Limits(errors_max=1)))
    assert [refusal.line for refusal in report.refusals] == [10]  # the first one is found first


async def test_ragged_and_undecodable_rows_are_not_sent(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """A missing or extra field shifts values into other columns; guessing would store lies."""
    await db.execute("create table t (a text, b text)")
    path = written(tmp_path / "rows.csv", b'a,b\n1,one\n2\n\n3,three,3\n4,\xff\n5,fi"ve\n"6"x,six\n7,seven\n')
    report = await load(job(path, url_of(headrace)))
    assert report.refusals == [
        Refusal(3, None, "number of fields: 1 instead of 2"),
        Refusal(5, None, "number of fields: 3 instead of 2"),
        Refusal(6, None, "not UTF-8"),
        Refusal(8, None, "not CSV: ',' expected after '\"'"),
    ]
    assert [row["a"] for row in await db.fetch("select a from t order by a")] == ["1", "5", "7"]


async def test_too_many_bad_rows_stop_the_load(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """A wrong file should not be tried to its end."""
    await db.execute("create table t (n int)")
    path = written(tmp_path / "rows.ndjson", '{"n": "x"}\n' * 500 + '{"n": 1}\n')
    report = await load(job(path, url_of(headrace), limits=Limits(request_rows_max=50, in_flight=1, errors_max=30)))
    assert report.stopped == "30 errors are enough (--errors-max)"
    assert (report.stored, report.refused) == (0, 30)
    complaints = report.complaints()
    assert complaints[0].startswith("line 1, column n: invalid input syntax")
    assert complaints[19].startswith("line 20, ")
    assert complaints[20:23] == [
        "and 10 more refused rows",
        "not sent: lines 31 to 50 (20 rows)",
        "not read: what follows line 50",
    ]


@pytest.mark.parametrize(
    ("destination", "content", "message"),
    [
        (("t", "secret"), '{"n": 1}\n', "Invalid schema: secret Only the following schemas are exposed: public"),
        (("nowhere", None), '{"n": 1}\n', "Could not find the table 'public.nowhere' in the schema cache"),
        (("t", None), '{"n": 1}\n{"m": 2}\n', "line 2: Could not find the 'm' column of 't' in the schema cache"),
    ],
)
async def test_what_no_row_can_mend_stops_the_load(
    headrace_with_table: Running, tmp_path: Path, destination: tuple[str, str | None], content: str, message: str
) -> None:
    """A misspelled table must not be reported once for each row."""
    path = written(tmp_path / "rows.ndjson", content)
    table, schema = destination
    report = await load(Job(File(str(path)), Destination(table, url_of(headrace_with_table), schema)))
    assert report.stopped == message
    assert (report.stored, report.refused) == (0, 0)
    assert not report.complete


async def test_a_service_that_takes_less_gets_less(db: Connection, dsn: str, start: Start, tmp_path: Path) -> None:
    """413 is about the request, not about its rows, until there is one row only."""
    await db.execute("create table t (n int, b text)")
    path = numbers(tmp_path / "rows.ndjson", 300)
    async with start(dsn=dsn, body_bytes_max=1000) as headrace:
        await headrace.eventually(lambda: headrace.service.watch.catalog is not None)
        assert (await load(job(path, url_of(headrace)))).complete
        assert await db.fetchval("select array_agg(n order by n) from t") == list(range(1, 301))
        written(path, json.dumps({"n": 1, "b": "x" * 2000}))
        assert (await load(job(path, url_of(headrace)))).stopped == "The request body is larger than 1000 bytes"


# -------------------------------------------------------------------- services that are not well


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_a_request_is_sent_again_when_it_was_asked_to(tmp_path: Path, status: str) -> None:
    """`Retry-After` says both that nothing was stored and when there is room again; coming earlier makes it worse."""
    path = numbers(tmp_path / "rows.ndjson", 3)
    async with FakeService(refusal_of(status, "retry-after: 1")).listening() as service:
        report = await load(job(path, service.url))
    assert (report.stored, report.complete) == (3, True)
    assert service.bodies == [path.read_bytes()] * 2
    assert 1 <= service.arrivals[1] - service.arrivals[0] < 2


async def test_waiting_ends(tmp_path: Path) -> None:
    """A service that never has room must not hold a script for ever, and the rows are known not to be stored."""
    path = numbers(tmp_path / "rows.ndjson", 3)
    async with FakeService(refusal_of("429 Too Many Requests", "retry-after: 60")).listening() as service:
        report = await load(job(path, service.url, limits=Limits(retry_seconds_max=30)))
    assert report.stopped == "not stored after 30 s of trying: not now"
    assert [str(stretch) for stretch in report.unsent] == ["lines 1 to 3 (3 rows)"]


@pytest.mark.parametrize("answer", [refusal_of("503 Service Unavailable"), refusal_of("502 Bad Gateway"), ""])
async def test_rows_that_may_be_stored_are_not_sent_again(tmp_path: Path, answer: str) -> None:
    """Nobody knows whether they are there; sending them again may double them, so people have to look."""
    path = numbers(tmp_path / "rows.ndjson", 5)
    limits = Limits(request_rows_max=2, in_flight=1)
    async with FakeService(CREATED, answer).listening() as service:
        report = await load(job(path, service.url, limits=limits))
    assert (report.stored, report.complete, report.stopped) == (3, False, None)
    assert b"".join(service.bodies) == path.read_bytes()
    assert report.complaints()[0].startswith("unknown whether stored: lines 3 to 4 (2 rows): ")
    assert "stored 3, refused 0, unknown 2 rows" in report.summary()


async def test_a_request_says_what_it_brings(tmp_path: Path) -> None:
    """The table may have any name; a token for a proxy in between goes with each request."""
    path = numbers(tmp_path / "rows.ndjson", 3)
    headers = (("Authorization", "Bearer x"),)
    async with FakeService().listening() as service:
        destination = Destination("ä/b", f"{service.url}/rest/v1/", "other", headers)
        assert (await load(Job(File(str(path)), destination))).complete
    request_line, *lines = service.heads[0].splitlines()
    assert request_line == "post /rest/v1/%c3%a4%2fb http/1.1"
    assert {"content-type: application/x-ndjson", "content-profile: other", "authorization: bearer x"} <= set(lines)


async def test_the_key_may_be_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option can be seen by all users of the machine."""
    monkeypatch.setenv("HEADRACE_API_KEY", "hr_secret")
    path = numbers(tmp_path / "rows.ndjson", 3)
    async with FakeService().listening() as service:
        status, out, err = await command(path, "--table", "t", "--url", service.url)
    assert status == 0, err
    assert "authorization: bearer hr_secret" in service.heads[0].splitlines()
    assert "hr_secret" not in out + err


@pytest.mark.parametrize("key", ["hr_secret\r\n", "hr_sec\x01ret", "hr_s\u00e9cret"])
async def test_a_key_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Not even one with characters that cannot be sent; the end of a line is what files leave at it."""
    monkeypatch.setenv("HEADRACE_API_KEY", key)
    path = numbers(tmp_path / "rows.ndjson", 3)
    async with FakeService().listening() as service:
        status, out, err = await command(path, "--table", "t", "--url", service.url)
        given = await command(path, "--table", "t", "--url", service.url, "--header", "apikey: hr_sec\x01ret")
    assert (status == 0) == key.startswith("hr_secret")
    for text in (out, err, *given[1:]):
        assert "hr_s" not in text


async def test_a_service_that_restarts_is_waited_for(tmp_path: Path) -> None:
    """Nothing was sent to a port where nobody listens, so it may be tried again."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = FakeService()
    waits: list[str] = []
    with open_source(File(str(numbers(tmp_path / "rows.ndjson", 3)))) as source:
        loader = Loader(source, Job(File(""), Destination("t", f"http://127.0.0.1:{port}")), waits.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loader.run)
            while not waits:  # noqa: ASYNC110 - a list has no event
                await anyio.sleep(0.01)
            async with service.listening(port):
                while not loader.report.stored:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.01)
    assert (loader.report.stored, loader.report.complete) == (3, True)
    assert waits[0].startswith(f"waiting: no connection to http://127.0.0.1:{port}/t")


async def test_requests_are_in_flight_together(tmp_path: Path) -> None:
    """Shared batches need company: the service answers none of the three before all are there."""
    path = numbers(tmp_path / "rows.ndjson", 12)
    service = FakeService()
    service.barrier = asyncio.Barrier(3)
    async with service.listening():
        report = await load(job(path, service.url, limits=Limits(request_rows_max=2, in_flight=3)))
    assert report.complete
    assert sorted(b"".join(service.bodies).splitlines()) == sorted(path.read_bytes().splitlines())


async def test_whoever_does_not_wait_for_answers_is_told_what_is_unknown(tmp_path: Path) -> None:
    """The second Ctrl-C leaves requests without an answer; their rows are neither stored nor lost for sure."""
    service = FakeService()
    service.barrier = asyncio.Barrier(99)  # never full: there is no answer
    with open_source(File(str(numbers(tmp_path / "rows.ndjson", 5)))) as source:
        async with service.listening():
            limits = Limits(request_rows_max=2, in_flight=2)
            loader = Loader(source, Job(File(""), Destination("t", service.url), limits), print)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loader.run)
                while len(service.bodies) < 2:  # noqa: ASYNC110 - a list has no event
                    await anyio.sleep(0.01)
                loader.stop("interrupted")
                loader.cut()
    assert [(stretch.first, stretch.last) for stretch in sorted(loader.report.unknown)] == [(1, 2), (3, 4)]
    assert loader.report.complaints()[-2:] == ["not read: what follows line 4", "stopped: interrupted"]


# -------------------------------------------------------------------- the command


async def command(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run `headrace load` and return its status, stdout and stderr."""
    done = await anyio.run_process([PROGRAM, "load", *arguments], input=stdin, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def test_the_command_loads_stdin(db: Connection, headrace: Running) -> None:
    """The end of a shell pipeline: status 0 and the summary mean that every row is there."""
    await db.execute("create table t (n int)")
    options = ["--table", "t", "--url", url_of(headrace), "--schema", "public", "--header", "X-Trace: 7"]
    status, stdout, stderr = await command("-", "--format", "csv", *options, stdin=b"n\n1\n2\n")
    assert (status, stderr) == (0, "")
    assert stdout.startswith("stored 2, refused 0, unknown 0 rows in ")
    assert await db.fetchval("select sum(n) from t") == 3


async def test_the_command_fails_if_a_row_is_not_stored(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """Scripts look at the status, people at stderr."""
    await db.execute("create table t (n int)")
    path = written(tmp_path / "rows.csv", "n\n1\nx\n3\n")
    status, stdout, stderr = await command(path, "--table", "t", "--url", url_of(headrace))
    assert status == 1
    assert stdout.startswith("stored 2, refused 1, unknown 0 rows in ")
    assert stderr == 'line 3, column n: invalid input syntax for type integer: "x"\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "--table", "t"], "--format"),
        (["-", "--format", "csv", "--table", "t", "--url", "localhost:8000"], "must begin with http://"),
        (["-", "--format", "csv", "--table", "t", "--json", "b"], 'does not name the column "b"'),
        (["-", "--format", "csv", "--table", "t", "--header", "no colon"], "Name: value"),
    ],
)
async def test_mistakes_on_the_command_line_are_explained(arguments: list[str], message: str) -> None:
    """Before anything is sent, and without a traceback."""
    status, _, stderr = await command(*arguments, stdin=b"a\n1\n")
    assert status != 0
    assert message in stderr
    assert "Traceback" not in stderr


async def test_ctrl_c_ends_with_a_summary(db: Connection, headrace: Running) -> None:
    """Whoever stops a load must know how far it came, even if the pipe that it reads is silent."""
    await db.execute("create table t (n int)")
    arguments = ["-", "--format", "ndjson", "--table", "t", "--url", url_of(headrace), "--request-rows", "1"]
    process = await anyio.open_process([PROGRAM, "load", *arguments])
    async with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        await process.stdin.send(b'{"n": 1}\n{"n": ')
        while not await db.fetchval("select count(*) from t"):  # noqa: ASYNC110 - the row is in another process
            await anyio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        status = await process.wait()
        stdout = b"".join([chunk async for chunk in process.stdout]).decode()
        stderr = b"".join([chunk async for chunk in process.stderr]).decode()
    assert status == 1
    assert stdout.startswith("stored 1, refused 0, unknown 0 rows in ")
    assert stderr.endswith("not read: what follows line 1\nstopped: interrupted\n")
