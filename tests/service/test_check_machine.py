"""What is said of the machine and the address; and the facts about them, as they are here."""

from __future__ import annotations

import asyncio
import resource
import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from service.doctor import machine as machine_facts
from service.doctor.check_machine import check_machine
from service.doctor.findings import Finding, Level
from service.doctor.machine import Address, Machine, State, machine_of
from service.settings import MIB, Settings
from tests.harness import Running, Start
from tests.service.certificates import Authority

ROOMY = Machine(
    files=65_536,
    files_most=65_536,
    memory_bytes=8192 * MIB,
    cores=4,
    has_embedded=True,
    address=Address("127.0.0.1", 8000, State.FREE),
)


def complaints(workers: int = 1, settings: Settings | None = None, **facts: Any) -> list[Finding]:
    """Whatever is not fine about such a machine."""
    machine = structs.replace(ROOMY, **facts)
    found = check_machine(settings or Settings(), machine, workers)
    return [each for each in found if each.level is not Level.OK]


def test_a_roomy_machine_is_fine() -> None:
    """Nothing to do."""
    assert complaints(workers=4) == []
    assert complaints(memory_bytes=None) == []


@pytest.mark.parametrize(
    ("files", "files_most", "said", "advised"),
    [
        (1024, 1_048_576, "only 1,024 files may be open", "ulimit -n 65536 in a shell, LimitNOFILE=65536"),
        (1024, 2048, "those beyond 768 are refused", "ulimit -n 2048 in"),
        (4095, 4095, "only 4,095 files", "started: LimitNOFILE=65536"),
        (16, 16, "those beyond 12 are refused", "LimitNOFILE"),
    ],
)
def test_too_few_files(files: int, files_most: int, said: str, advised: str) -> None:
    """Clients are refused long before the service has enough to do."""
    (found,) = complaints(files=files, files_most=files_most)
    assert found.level is Level.WARNING
    assert said in found.text
    assert advised in (found.advice or "")
    assert complaints(files=4096) == []


def test_more_connections_than_files() -> None:
    """Those beyond are closed in silence, which nobody would look for there."""
    (found,) = complaints(files=5000, files_most=5000, settings=Settings(connections_max=4969))
    assert "connections beyond 4,968 are closed without an answer" in found.text
    assert complaints(files=5000, settings=Settings(connections_max=4968)) == []
    assert complaints(files=1024, settings=Settings(connections_max=500)) == []


def test_too_little_memory() -> None:
    """The system ends the service under overload, when it has most to lose. What is advised must help."""
    assert complaints(memory_bytes=612 * MIB) == []
    (found,) = complaints(memory_bytes=512 * MIB)
    assert found.text.startswith("one worker may take 612 MiB at most; there are 512 MiB")
    advised = int((found.advice or "").split()[3])
    settings = Settings(pending_bytes_max=advised)
    assert advised > 200 * MIB
    assert complaints(memory_bytes=512 * MIB, settings=settings) == []
    (found,) = complaints(workers=3, memory_bytes=1024 * MIB)
    assert found.text.startswith("3 workers may take 1,836 MiB")


def test_more_workers_than_cores() -> None:
    """They gain nothing."""
    (found,) = complaints(workers=5)
    assert found.text == "5 workers are more than the 4 cores of this machine: they take turns"


@pytest.mark.parametrize(
    ("address", "level", "words"),
    [
        (Address("127.0.0.1", 8000, State.FREE), Level.OK, "127.0.0.1:8000 is free"),
        (Address("127.0.0.1", 0, State.FREE), Level.OK, "the service picks a free port"),
        (Address("::1", 8000, State.READY, "0 rows"), Level.OK, "a service runs at [::1]:8000 and is ready; 0 rows"),
        (Address("localhost", 8000, State.UNREADY, "away"), Level.ERROR, "cannot store rows: away"),
        (Address("127.0.0.1", 8000, State.TAKEN), Level.ERROR, "something else listens on 127.0.0.1:8000"),
        (Address("127.0.0.1", 80, State.UNUSABLE, "no"), Level.ERROR, "nobody can listen on 127.0.0.1:80: no"),
    ],
)
def test_what_is_at_the_address(address: Address, level: Level, words: str) -> None:
    """Only an error keeps the service from starting or working there."""
    found = next(iter(check_machine(Settings(), structs.replace(ROOMY, address=address), 1)))
    assert found.level is level
    assert words in found.text


def test_who_wants_a_certificate_of_clients_cannot_be_asked(tmp_path: Path) -> None:
    """It is the service itself, most likely; that something else listens there would send its operator astray."""
    pair = Authority(tmp_path).sign("service")
    settings = Settings(**pair.settings, tls_client_ca_file=pair.certificate)
    taken = structs.replace(ROOMY, address=Address("127.0.0.1", 8000, State.TAKEN))
    found = next(iter(check_machine(settings, taken, 1)))
    assert found.level is Level.WARNING
    assert "cannot be asked: clients need a certificate" in found.text


# -------------------------------------------------------------------- facts


async def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the operating system says."""
    found = await machine_of("127.0.0.1", 0)
    assert (found.files, found.files_most) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert found.has_embedded
    assert found.cores >= 1
    assert found.memory_bytes is not None
    assert found.memory_bytes > 100 * MIB
    monkeypatch.setattr(machine_facts, "_group_limits", lambda: ["max", "123456", "99999999"])
    assert (await machine_of("127.0.0.1", 0)).memory_bytes == 123_456


async def address(host: str, port: int) -> tuple[State, str]:
    """What is there."""
    found = (await machine_of(host, port)).address
    return found.state, found.words


async def test_a_free_address_and_one_that_cannot_be() -> None:
    """It is tried, and left as it was."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    for _ in range(2):
        assert await address("127.0.0.1", port) == (State.FREE, "")
    assert await address("127.0.0.1", 0) == (State.FREE, "")
    assert await address("192.0.2.1", 0) == (State.UNUSABLE, "Cannot assign requested address")
    assert await address("-.invalid", port) == (State.UNUSABLE, "there is no host of that name")


async def test_a_service_that_runs_there(headrace: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked how it is, at the address for everybody too, and not by way of the proxy of the operator's shell."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    port = headrace.client.base_url.port
    assert port is not None
    assert await address("127.0.0.1", port) == (State.READY, "0 rows are pending")
    assert await address("0.0.0.0", port) == (State.READY, "0 rows are pending")
    headrace.service.batcher.close()
    assert await address("127.0.0.1", port) == (State.UNREADY, "draining")


async def test_a_service_whose_database_is_away(start: Start) -> None:
    """It says why, and so does the finding."""
    async with start(dsn="postgresql://u:hunter-2@127.0.0.1:1/x") as running:
        port = running.client.base_url.port
        assert port is not None
        state, words = await address("127.0.0.1", port)
    assert state is State.UNREADY
    assert "Connect call failed" in words or "onnection refused" in words
    assert "hunter" not in words


@pytest.mark.parametrize(
    "says", [b"220 mail.example.org ESMTP\r\n", b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", b""]
)
async def test_something_else_that_listens_there(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says, or if it says nothing."""
    monkeypatch.setattr(machine_facts, "_ASK_SECONDS", 0.2)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(says)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        assert await address("127.0.0.1", server.sockets[0].getsockname()[1]) == (State.TAKEN, "")
