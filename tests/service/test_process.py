"""The service as a process: `headrace serve` as an operator starts, signals and kills it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from service.embedded import EmbeddedPostgres
from tests.harness import database_folder

HEADRACE = str(Path(sys.executable).parent / "headrace")
EVENT = {"device_id": "pump-7", "ts": "2026-11-21T10:00:00Z"}


class Process:
    """A running `headrace serve`, with what it has printed so far."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.child = subprocess.Popen(
            [HEADRACE, "serve", "--port", "0", *arguments],
            cwd=folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.output += line
        self.child.stdout.close()

    @property
    def url(self) -> str:
        """Where it listens, once it has said so."""
        wait_until(lambda: "listens on" in self.output and "\n" in self.output.split("listens on")[1])
        match = re.search(r"listens on (\S+)", self.output)
        assert match is not None
        return match[1]

    def end(self, number: int) -> int:
        """Send a signal and wait; the exit status."""
        self.child.send_signal(number)
        status = self.child.wait(30)
        self._reader.join(30)
        return status

    def psql(self, query: str) -> str:
        """What `headrace psql` prints for a query."""
        command = [HEADRACE, "psql", "-At", "-c", query]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; the test's time limit ends the wait."""
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts processes; whatever is left of them is killed at the end."""
    started: list[Process] = []
    with ExitStack() as folders:

        def start_process(*arguments: str, folder: Path | None = None, **environment: str) -> Process:
            process = Process(folder or folders.enter_context(database_folder()), *arguments, **environment)
            started.append(process)
            return process

        yield start_process
        for process in started:
            if process.child.poll() is None:
                process.end(signal.SIGTERM)


def postmaster(folder: Path) -> int | None:
    """The process id of the folder's own PostgreSQL, if it runs."""
    try:
        return int((folder / ".headrace" / "postgres" / "postmaster.pid").read_text().split()[0])
    except FileNotFoundError:
        return None


def test_one_command_gives_a_service_with_a_database(start: Callable[..., Process]) -> None:
    """Start, the printed curl line, the printed look, SIGTERM: what a newcomer does in the first minute."""
    process = start()
    assert process.url.startswith("http://127.0.0.1:")
    assert f"{process.url}/docs" in process.output
    curl = next(line for line in process.output.splitlines() if "curl" in line)
    done = subprocess.run(shlex.split(curl.split(maxsplit=1)[1]), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("HTTP/1.1 201 ")
    look = next(line for line in process.output.splitlines() if "psql" in line)
    command = shlex.split(look.split(maxsplit=1)[1])
    done = subprocess.run([HEADRACE, *command[1:]], cwd=process.folder, capture_output=True, text=True, check=True)
    assert "pump-7" in done.stdout
    assert httpx2.get(f"{process.url}/docs").status_code == 200
    for setting in ("fsync", "full_page_writes", "synchronous_commit"):
        assert process.psql(f"show {setting}") == "on"
    assert process.end(signal.SIGTERM) == 0
    assert postmaster(process.folder) is None, "the database stops with the service"
    assert "Traceback" not in process.output


def test_the_database_survives_a_kill_and_is_taken_over(start: Callable[..., Process]) -> None:
    """A kill -9 of the service loses nothing: the next start joins the running database, and stops it in the end."""
    first = start()
    assert httpx2.post(f"{first.url}/rest/v1/events", json=EVENT).status_code == 201
    pid = postmaster(first.folder)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert pid == postmaster(first.folder)

    second = start(folder=first.folder)
    assert httpx2.post(f"{second.url}/rest/v1/events", json=EVENT).status_code == 201
    assert postmaster(first.folder) == pid, "joined, not started anew"
    assert second.psql("select count(*) from events") == "2"
    assert second.end(signal.SIGINT) == 0
    assert postmaster(first.folder) is None

    third = start(folder=first.folder)
    assert third.url
    assert third.psql("select count(*) from events") == "2"


def test_two_services_share_one_database(start: Callable[..., Process]) -> None:
    """The one that stops first must not take the database away from the other."""
    first = start()
    assert first.url
    second = start(folder=first.folder)
    assert second.url != first.url
    assert first.end(signal.SIGTERM) == 0
    assert httpx2.post(f"{second.url}/rest/v1/events", json=EVENT).status_code == 201
    assert second.end(signal.SIGTERM) == 0
    assert postmaster(first.folder) is None


def test_the_demo_table_is_only_made_in_an_empty_database(start: Callable[..., Process]) -> None:
    """An operator who has tables of their own, or dropped ours, does not want it."""
    process = start()
    assert process.url
    process.psql("create table mine (n int); drop table events")
    assert process.end(signal.SIGTERM) == 0
    again = start(folder=process.folder)
    assert again.url
    assert again.psql("select string_agg(tablename, ',') from pg_tables where schemaname = 'public'") == "mine"


def test_sigterm_answers_everything_that_was_accepted(start: Callable[..., Process]) -> None:
    """Requests that wait for a slow database get their 201 while the service stops; then it ends with status 0."""
    admin = start()
    assert admin.url
    admin.psql(
        "create table t (n int); "
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(1); return null; end $$; "
        "create trigger slow after insert on t for each statement execute function slow(); "
        "notify headrace, 'reload'"
    )
    wait_until(lambda: "read the catalog again" in admin.output)

    def pending() -> int:
        match = re.search(r"^headrace_pending_rows (\S+)", client.get("/metrics").text, re.MULTILINE)
        assert match is not None
        return int(float(match[1]))

    def post(n: int) -> int:
        return client.post("/rest/v1/t", json={"n": n}).status_code

    # Each of 20 clients of their own would need longer to begin than the first row needs to be stored.
    with httpx2.Client(base_url=admin.url, timeout=30, verify=False) as client, ThreadPoolExecutor(20) as clients:
        answers = [clients.submit(post, n) for n in range(20)]
        wait_until(lambda: pending() == 20)
        admin.child.send_signal(signal.SIGTERM)
        assert [answer.result() for answer in answers] == [201] * 20
    assert admin.child.wait(30) == 0
    again = start(folder=admin.folder)
    assert again.url
    assert again.psql("select count(*) from t") == "20"


def test_sighup_reads_the_catalog(start: Callable[..., Process]) -> None:
    """The signal that operators use for "look again"."""
    process = start()
    assert process.url
    process.child.send_signal(signal.SIGHUP)
    wait_until(lambda: "read the catalog again" in process.output)
    assert process.end(signal.SIGTERM) == 0


def test_a_database_that_cannot_be_reached_is_said_in_one_line(start: Callable[..., Process], tmp_path: Path) -> None:
    """No traceback for a wrong host: one line, and the service keeps trying."""
    process = start(HEADRACE_DSN=f"postgresql://nobody@/nothing?host={tmp_path}")
    assert httpx2.get(f"{process.url}/readyz").status_code == 503
    assert httpx2.get(f"{process.url}/livez").status_code == 200
    assert process.output.count("cannot reach the database ") == 1
    assert "Traceback" not in process.output
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("HEADRACE_PORT", "eighty"), ("HEADRACE_FLUSH_SLOTS", "0"), ("HEADRACE_SCHEMAS", "")]
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, value: str, tmp_path: Path) -> None:
    """One line that names the variable, and no service."""
    environment = {**os.environ, name: value}
    command = [HEADRACE, "serve"]
    if name == "HEADRACE_PORT":
        command += ["--host", "127.0.0.1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name}: ")
    assert "Traceback" not in done.stderr


def test_a_misspelt_setting_is_pointed_out(start: Callable[..., Process]) -> None:
    """HEADRACE_PROT=9000 would otherwise do nothing, silently."""
    process = start(HEADRACE_PROT="9000")
    assert process.url
    assert "HEADRACE_PROT is not a setting" in process.output


def test_a_port_that_is_taken(start: Callable[..., Process]) -> None:
    """One line says so, the status is not 0, and the database that was started for it stops again."""
    first = start()
    port = first.url.rpartition(":")[2]
    second = start("--port", port)
    assert second.child.wait(30) != 0
    wait_until(lambda: "address already in use" in second.output.lower())
    assert "Traceback" not in second.output
    assert postmaster(second.folder) is None


def test_another_program_has_the_fast_lane_too(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """`uvicorn.run` with the app and the protocol by name: what gunicorn's workers do as well."""
    program = """
        import uvicorn
        from service.http.protocol import Protocol

        Protocol._hand_over = None  # who uses the other lane fails
        uvicorn.run("service.app:app", http="service.http.protocol:Protocol", port=0, log_level="info")
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "HEADRACE_DSN": postgres.dsn},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    url = next(match[1] for line in child.stderr if (match := re.search(r"running on (\S+)", line)))
    response = httpx2.post(f"{url}/rest/v1/no_such_table", json={})
    assert (response.status_code, response.json()["code"]) == (404, "PGRST205")
    child.send_signal(signal.SIGTERM)
    _, rest = child.communicate(timeout=30)
    assert "Traceback" not in rest
