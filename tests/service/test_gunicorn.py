"""Several workers as an operator starts them: by gunicorn's command line, and by ours."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import httpx2
import pytest

from service.embedded import EmbeddedPostgres
from tests.faults.process import GUNICORN, HEADRACE, parents
from tests.harness import database_folder, empty_database
from tests.service.certificates import Authority
from tests.service.test_process import EVENT, postmaster, wait_until

CONFIGURED = (str(GUNICORN), "-c", "python:service.gunicorn", "service.app:app")
_NO_REUSEPORT = "import socket; del socket.SO_REUSEPORT; from gunicorn.app.wsgiapp import run; run()"


class Process:
    """A command that runs, with what it has printed so far."""

    def __init__(self, folder: Path, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self.folder = folder
        self.child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "HEADRACE_PORT": "0", **environment},
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
    def workers(self) -> set[int]:
        """Their process ids."""
        return {pid for pid, parent in parents().items() if parent == self.child.pid}

    def url(self) -> str:
        """Where it listens, once it has said so."""
        found = None
        while found is None:
            wait_until(lambda: "listens on" in self.output or self.child.poll() is not None)
            assert self.child.poll() is None, self.output
            found = re.search(r"listens on (http://[\d.:]+)\b", self.output)
        return found[1]

    def ended(self) -> int:
        """Its status, when it and all of its workers have ended."""
        status = self.child.wait(40)
        self._reader.join(40)
        return status

    def end(self, number: int) -> int:
        """Send it a signal, and wait."""
        self.child.send_signal(number)
        return self.ended()


Run = Callable[..., Process]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts commands; whatever is left of them is ended."""
    started: list[Process] = []
    with ExitStack() as folders:

        def run_command(*command: str, folder: Path | None = None, **environment: str) -> Process:
            process = Process(folder or folders.enter_context(database_folder()), command, environment)
            started.append(process)
            return process

        yield run_command
        for process in started:
            if process.child.poll() is None:
                process.end(signal.SIGTERM)


@pytest.fixture
def dsn(postgres: EmbeddedPostgres) -> Iterator[str]:
    """An empty database, for tests without an event loop."""
    with asyncio.Runner() as runner:
        database = empty_database(postgres.dsn)
        yield runner.run(database.__aenter__())
        runner.run(database.__aexit__(None, None, None))


def _store(url: str) -> int:
    return httpx2.post(f"{url}/rest/v1/events", json=EVENT).status_code


async def _ledger_rows(folder: Path) -> int:
    connection = await asyncpg.connect(host=str(folder / ".headrace" / "socket"), user="postgres", database="postgres")
    count: int = await connection.fetchval("select count(*) from headrace.ledger")
    await connection.close()
    return count


def test_gunicorn_brings_a_database_with_it(run: Run) -> None:
    """One command gives several workers and one PostgreSQL, which ends with them and nothing else."""
    process = run(*CONFIGURED, HEADRACE_WORKERS="2", HEADRACE_FLUSH_SLOT="3")
    url = process.url()
    assert process.output.count("HEADRACE_FLUSH_SLOT is not a setting") == 1
    assert f"Headrace listens on {url} with 2 workers" in process.output
    assert "PostgreSQL of its own" in process.output
    assert [_store(url) for _ in range(20)] == [201] * 20
    wait_until(lambda: len(process.workers) == 2)
    pid = postmaster(process.folder)
    before = process.workers
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(process.workers - {min(before)}) == 2)
    assert postmaster(process.folder) == pid, "a worker's end is not the master's"
    assert _store(url) == 201
    assert process.end(signal.SIGTERM) == 0
    assert postmaster(process.folder) is None
    assert "Traceback" not in process.output


def test_the_database_of_a_master_that_was_killed(run: Run) -> None:
    """It runs on for nobody, and the next start goes on with it."""
    process = run(*CONFIGURED, HEADRACE_WORKERS="2")
    assert _store(process.url()) == 201
    workers = process.workers
    assert process.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not workers & set(parents()))
    again = run(*CONFIGURED, folder=process.folder)
    assert _store(again.url()) == 201
    assert again.end(signal.SIGTERM) == 0
    assert postmaster(process.folder) is None


def test_workers_leave_nothing_in_the_ledger(run: Run) -> None:
    """They come and go all the time; each would leave a row for each of its slots."""
    process = run(str(HEADRACE), "serve", "--workers", "2")
    assert _store(process.url()) == 201
    wait_until(lambda: asyncio.run(_ledger_rows(process.folder)) == 4)
    before = process.workers
    process.child.send_signal(signal.SIGHUP)
    wait_until(lambda: len(process.workers) == 2 and not process.workers & before)
    wait_until(lambda: asyncio.run(_ledger_rows(process.folder)) == 4)
    assert process.end(signal.SIGTERM) == 0


def test_headrace_serve_with_workers(run: Run) -> None:
    """Without gunicorn's command line, and with its own; the folder that the workers share goes with them."""
    process = run(str(HEADRACE), "serve", "--workers", "2", HEADRACE_LOG_FORMAT="json")
    url = process.url()
    wait_until(lambda: len(process.workers) == 2)
    assert [_store(url) for _ in range(10)] == [201] * 10
    lines = [json.loads(line) for line in process.output.splitlines()]
    (first,) = (line for line in lines if line["message"].startswith("Headrace listens on"))
    assert (first["url"], first["workers"]) == (url, 2)
    folder = next(
        Path(link).parent
        for link in (str(file.readlink()) for file in Path(f"/proc/{process.child.pid}/fd").iterdir())
        if "headrace-workers-" in link
    )
    assert folder.exists()
    assert folder.stat().st_mode & 0o077 == 0
    assert process.end(signal.SIGINT) == 0
    assert not folder.exists()
    for line in process.output.splitlines():
        json.loads(line)


def test_gunicorns_own_options_have_the_last_word(run: Run, dsn: str) -> None:
    """Who knows gunicorn expects that, and the budget of connections must know the number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("-w", "3", "-b", f"127.0.0.1:{port}")
    process = run(*CONFIGURED, *options, HEADRACE_WORKERS="1", HEADRACE_PORT="8000", HEADRACE_DSN=dsn)
    assert process.url() == f"http://127.0.0.1:{port}"
    assert f"listens on http://127.0.0.1:{port} with 3 workers" in process.output
    wait_until(lambda: len(process.workers) == 3)
    assert process.end(signal.SIGTERM) == 0


def test_another_address_after_sighup(run: Run, dsn: str, tmp_path: Path) -> None:
    """A configuration of one's own may read it from wherever it likes."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    where = tmp_path / "address"
    where.write_text(f"127.0.0.1:{ports[0]}")
    own = tmp_path / "own.py"
    own.write_text(f"from service.gunicorn import *\nbind = open({str(where)!r}).read()\nworkers = 2\n")
    process = run(str(GUNICORN), "-c", str(own), HEADRACE_DSN=dsn)
    assert process.url() == f"http://127.0.0.1:{ports[0]}"
    wait_until(lambda: len(process.workers) == 2)
    before = process.workers
    where.write_text(f"127.0.0.1:{ports[1]}")
    process.child.send_signal(signal.SIGHUP)
    wait_until(lambda: len(process.workers) == 2 and not process.workers & before)
    for _ in range(20):
        assert httpx2.get(f"http://127.0.0.1:{ports[1]}/livez").status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{ports[0]}/livez")
    assert process.end(signal.SIGTERM) == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    "command",
    [
        (*CONFIGURED, "-b", "unix:headrace.sock"),
        (sys.executable, "-c", _NO_REUSEPORT, *CONFIGURED[1:], "-b", "127.0.0.1:0"),
    ],
    ids=["a socket of the file system", "a system without SO_REUSEPORT"],
)
def test_one_socket_for_all(run: Run, dsn: str, command: tuple[str, ...]) -> None:
    """Where there cannot be one for each, they share it."""
    process = run(*command, HEADRACE_WORKERS="2", HEADRACE_DSN=dsn)
    wait_until(lambda: "listens on" in process.output and "\n" in process.output.split("listens on")[1])
    if "unix:" in command[-1]:
        transport = httpx2.HTTPTransport(uds=str(process.folder / "headrace.sock"))
        client = httpx2.Client(transport=transport, base_url="http://headrace")
    else:
        client = httpx2.Client(base_url=process.url())
    with client:
        for number in (signal.SIGHUP, signal.SIGTERM):
            assert client.get("/livez", headers={"connection": "close"}).status_code == 200
            before = process.workers
            process.child.send_signal(number)
            wait_until(lambda before=before: not process.workers & before)  # type: ignore[misc]
    assert process.ended() == 0
    assert "Traceback" not in process.output


def test_a_setting_that_makes_no_sense(run: Run) -> None:
    """One message, with its name."""
    process = run(*CONFIGURED, HEADRACE_FLUSH_SLOTS="none")
    assert process.ended() == 1
    assert "HEADRACE_FLUSH_SLOTS" in process.output
    assert "Traceback" not in process.output


def test_a_port_that_is_taken(run: Run, dsn: str) -> None:
    """With SO_REUSEPORT the kernel would let a second service in, and clients would find now one, now the other."""
    first = run(*CONFIGURED, HEADRACE_WORKERS="2", HEADRACE_DSN=dsn)
    port = first.url().rpartition(":")[2]
    second = run(*CONFIGURED, HEADRACE_PORT=port, HEADRACE_DSN=dsn)
    assert second.ended() == 1
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in second.output.lower()
    assert "Traceback" not in second.output


def test_a_worker_that_cannot_start(run: Run, dsn: str) -> None:
    """The master ends as well, and says why once: the next worker could not start either."""
    process = run(*CONFIGURED, "-e", "HEADRACE_FLUSH_SLOTS=none", HEADRACE_WORKERS="3", HEADRACE_DSN=dsn)
    assert process.ended() == 3, process.output
    assert process.output.count("cannot start: HEADRACE_FLUSH_SLOTS") == 1
    assert "Traceback" not in process.output


def test_a_database_that_cannot_be_started(run: Run, tmp_path: Path) -> None:
    """The same of the master itself."""
    (tmp_path / "file").touch()
    process = run(*CONFIGURED, HEADRACE_WORKERS="2", HEADRACE_DATA_DIR=str(tmp_path / "file" / "data"))
    assert process.ended() == 1
    assert "none can be kept in" in process.output
    assert "Traceback" not in process.output


def test_gunicorns_certificates_are_refused(run: Run, dsn: str) -> None:
    """They would have no effect, and rows would be sent without TLS."""
    process = run(*CONFIGURED, "--certfile", __file__, HEADRACE_DSN=dsn)
    assert process.ended() == 1
    assert "HEADRACE_TLS_CERTIFICATE_FILE" in process.output


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_tls_and_an_admin_address(run: Run, dsn: str, tmp_path: Path) -> None:
    """Each worker has both sockets from the master, and SIGHUP brings the new certificate without losing anybody."""
    authority, admin = Authority(tmp_path), _port()
    pair, renewed = authority.sign("first"), authority.sign("second")
    process = run(
        *CONFIGURED, HEADRACE_WORKERS="2", HEADRACE_DSN=dsn, HEADRACE_ADMIN_PORT=str(admin), **pair.environment
    )
    wait_until(lambda: "listens on" in process.output or process.child.poll() is not None)
    found = re.search(r"listens on (https://127\.0\.0\.1:(\d+))\b", process.output)
    assert found is not None, process.output
    assert f"http://127.0.0.1:{admin}/dashboard" in process.output
    wait_until(lambda: len(process.workers) == 2)

    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", int(found[2])))

    before, certificate = process.workers, shown()
    assert httpx2.get(f"http://127.0.0.1:{admin}/metrics").status_code == 200
    assert httpx2.get(f"{found[1]}/metrics", verify=False).status_code == 404
    good = pair.key.read_bytes()
    pair.key.write_text("half of a k")
    process.child.send_signal(signal.SIGHUP)
    wait_until(lambda: "nothing is reloaded" in process.output)
    assert process.workers == before
    os.kill(min(before), signal.SIGKILL)  # its successor cannot start, and the other one serves
    wait_until(lambda: process.output.count("cannot start: ") >= 2)
    assert max(before) in process.workers
    for _ in range(10):  # who comes now does not wait for a worker that may never come
        assert httpx2.get(f"{found[1]}/livez", verify=False).status_code == 200
    pair.key.write_bytes(good)
    wait_until(lambda: len(process.workers) == 2 and process.output.count(" serves") >= 2)
    pair.certificate.write_bytes(renewed.certificate.read_bytes())
    pair.key.write_bytes(renewed.key.read_bytes())
    before = process.workers
    process.child.send_signal(signal.SIGHUP)
    wait_until(lambda: len(process.workers) == 2 and not process.workers & before)
    assert shown() != certificate
    assert httpx2.get(f"http://127.0.0.1:{admin}/metrics").status_code == 200
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("bind", ["127.0.0.1:{admin}", "0.0.0.0:{admin}"])
def test_clients_and_operators_have_ports_of_their_own(run: Run, dsn: str, bind: str) -> None:
    """Else clients would be taken for operators, and TLS would be off in silence."""
    admin = _port()
    options = ("-b", bind.format(admin=admin))
    process = run(*CONFIGURED, *options, HEADRACE_DSN=dsn, HEADRACE_ADMIN_PORT=str(admin))
    assert process.ended() == 1
    assert "HEADRACE_ADMIN_PORT must be another port" in process.output
    assert "Traceback" not in process.output


def test_an_address_that_others_reach_needs_credentials(run: Run, dsn: str) -> None:
    """Also if it is gunicorn's own option that says so, and another address is this machine's."""
    process = run(*CONFIGURED, "-b", "127.0.0.1:0", "-b", "0.0.0.0:0", HEADRACE_WORKERS="2", HEADRACE_DSN=dsn)
    assert process.ended() == 3
    assert process.output.count("others reach 0.0.0.0, and there is no credential yet") == 1
    assert "Traceback" not in process.output


def test_the_worker_without_its_configuration(run: Run, dsn: str) -> None:
    """It would have nothing to listen on, and be started again and again."""
    process = run(str(GUNICORN), "-k", "service.worker.Worker", "service.app:app", HEADRACE_DSN=dsn)
    assert process.ended() == 1
    assert "gunicorn -c python:service.gunicorn" in process.output


def test_a_dsn_that_is_given_overrules_the_file(run: Run, dsn: str, tmp_path: Path) -> None:
    """As for one process."""
    file = tmp_path / "dsn"
    file.write_text("postgresql://127.0.0.1:1/nowhere")
    process = run(str(HEADRACE), "serve", "--workers", "2", "--dsn", dsn, HEADRACE_DSN_FILE=str(file))
    assert httpx2.get(f"{process.url()}/readyz").status_code == 200
    assert process.end(signal.SIGTERM) == 0
