"""TLS and passwords between us and PostgreSQL: what lets one in, and what is said when it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from service.settings import Settings
from sql import NotReached, Timeouts, Unavailable, examine
from sql.connect import connect
from tests.harness import database_folder, run_service
from tests.sql.guarded import PASSWORD, Guarded, guarded_server

ESCAPED = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """A server with TLS."""
    with database_folder() as folder, guarded_server(folder, tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[Guarded]:
    """A server that asks for a password."""
    with database_folder() as folder, guarded_server(folder, tls=False) as server:
        yield server


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own files and variables have a say here."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE", "PGHOST", "PGPORT", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
async def _goodbyes_are_said(anyio_backend: object) -> AsyncIterator[None]:
    """Closing TLS takes a round trip, which must not outlive the event loop of the test."""
    del anyio_backend
    before = _sockets()
    yield
    while _sockets() > before:  # noqa: ASYNC110 - asyncpg does not wait for that, and nobody else is told
        await asyncio.sleep(0.005)


def _sockets() -> int:
    """How many this process has."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(link.readlink()).startswith("socket:")
    return found


async def lets_in(dsn: str) -> bool:
    """Connect."""
    connection = await connect(dsn, Timeouts(), "test")
    connection.terminate()
    return True


async def is_encrypted(dsn: str) -> bool:
    """Connect; whether nobody can listen."""
    connection = await connect(dsn, Timeouts(), "test")
    found: bool = await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    connection.terminate()
    return found


async def refusal(dsn: str) -> str:
    """Why it cannot be connected: one line, and no secret in it."""
    with pytest.raises(Unavailable) as refused:
        await connect(dsn, Timeouts(), "test")
    said = str(refused.value)
    assert "\n" not in said
    for secret in (PASSWORD, ESCAPED, "hunter"):
        assert secret not in f"{said}{refused.value!r}{refused.value.__cause__!r}"
    return said


# -------------------------------------------------------------------- TLS


async def test_a_server_that_is_the_one_it_says(guarded: Guarded) -> None:
    """By name and by address, with what the DSN says."""
    for host in ("localhost", "127.0.0.1"):
        assert await is_encrypted(guarded.dsn("veiled", host, sslmode="verify-full", sslrootcert=guarded.ours.file))


async def test_tls_by_the_environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """As other programs that connect to PostgreSQL take it."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(guarded.ours.file))
    assert await is_encrypted(guarded.dsn("veiled"))
    monkeypatch.setenv("PGSSLROOTCERT", str(guarded.another.file))
    assert "not to be trusted" in await refusal(guarded.dsn("veiled"))


async def test_a_server_that_may_be_anybody(guarded: Guarded) -> None:
    """It is one line, and it does not say that the DSN cannot be read."""
    dsn = guarded.dsn(f"veiled:{ESCAPED}", sslmode="verify-full", sslrootcert=guarded.another.file)
    said = await refusal(dsn)
    assert said.startswith("the certificate of the server is not to be trusted: ")
    with pytest.raises(NotReached) as refused:
        await examine(dsn, ["public"], 5)
    assert refused.value.code == "tls"


async def test_a_server_of_another_name(guarded: Guarded) -> None:
    """`verify-ca` would do with that, `verify-full` does not."""
    dsn = guarded.dsn("veiled", "127.0.0.2", sslrootcert=guarded.ours.file)
    assert await is_encrypted(f"{dsn}&sslmode=verify-ca")
    assert "not to be trusted: IP address mismatch" in await refusal(f"{dsn}&sslmode=verify-full")


async def test_a_client_that_shows_a_certificate(guarded: Guarded) -> None:
    """It needs no password. That of somebody else does not do, nor does none."""
    certificate, key = guarded.ours.issue("certified")
    dsn = guarded.dsn("certified", sslmode="verify-full", sslrootcert=guarded.ours.file)
    assert await is_encrypted(f"{dsn}&sslcert={certificate}&sslkey={key}")
    certificate, key = guarded.ours.issue("somebody")
    assert "certificate authentication failed" in await refusal(f"{dsn}&sslcert={certificate}&sslkey={key}")
    assert "certificate" in await refusal(dsn)


async def test_tls_files_that_cannot_be_used(guarded: Guarded, tmp_path: Path) -> None:
    """Which one it is, is what whoever mounts secrets wants to know."""
    dsn = guarded.dsn(f"veiled:{ESCAPED}", sslmode="verify-full")
    missing = tmp_path / "missing.crt"
    assert (
        await refusal(f"{dsn}&sslrootcert={missing}")
        == f"sslrootcert {missing} cannot be read: No such file or directory"
    )
    (tmp_path / "empty.crt").touch()
    assert (await refusal(f"{dsn}&sslrootcert={tmp_path / 'empty.crt'}")).startswith("TLS: ")
    assert f'root certificate file "{tmp_path}/.postgresql/root.crt" does not exist' in await refusal(dsn)
    certificate, _ = guarded.ours.issue("a")
    _, key = guarded.ours.issue("b")
    said = await refusal(f"{dsn}&sslrootcert={guarded.ours.file}&sslcert={certificate}&sslkey={key}")
    assert said == "TLS: key values mismatch"


async def test_an_unknown_sslmode_is_named(guarded: Guarded) -> None:
    """It is no secret."""
    assert "sslmode" in await refusal(guarded.dsn(f"veiled:{ESCAPED}", sslmode="verify"))


# -------------------------------------------------------------------- passwords


async def test_a_password_in_the_dsn(locked: Guarded) -> None:
    """By SCRAM. A wrong one is not quoted."""
    assert await lets_in(locked.dsn(f"keyed:{ESCAPED}"))
    assert "password authentication failed" in await refusal(locked.dsn(f"keyed:{ESCAPED}x"))
    assert "password authentication failed" in await refusal(locked.dsn("keyed"))


@pytest.mark.parametrize("how", ["PGPASSWORD", "PGPASSFILE", "passfile", "home"])
async def test_a_password_from_elsewhere(
    how: str, locked: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual places."""
    dsn = locked.dsn("keyed")
    path = tmp_path / (".pgpass" if how == "home" else "passwords")
    path.write_text(f"# of all servers\n*:*:*:keyed:{PASSWORD}\n")
    path.chmod(0o600)
    match how:
        case "PGPASSWORD":
            monkeypatch.setenv(how, PASSWORD)
        case "PGPASSFILE":
            monkeypatch.setenv(how, str(path))
        case "passfile":
            dsn = locked.dsn("keyed", passfile=path)
    assert await lets_in(dsn)


async def test_a_file_of_passwords_that_others_may_read(
    locked: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not used, as with other programs; but here one is told."""
    path = tmp_path / "passwords"
    path.write_text(f"*:*:*:*:{PASSWORD}\n")
    path.chmod(0o644)
    said = await refusal(locked.dsn("keyed", passfile=path))
    assert said == f"passfile {path} may be read by others, so it is not used: chmod 600 {path}"
    path.unlink()
    assert (
        await refusal(locked.dsn("keyed", passfile=path))
        == f"passfile {path} cannot be read: No such file or directory"
    )
    own = tmp_path / ".pgpass"
    own.write_text(f"*:*:*:*:{PASSWORD}\n")
    own.chmod(0o640)
    caplog.set_level(logging.WARNING)
    assert "password authentication failed" in await refusal(locked.dsn("keyed"))
    assert f"chmod 600 {own}" in caplog.text


async def test_a_dsn_from_a_file(locked: Guarded, tmp_path: Path) -> None:
    """A mounted secret, with the line end that editors leave."""
    path = tmp_path / "dsn"
    path.write_text(locked.dsn(f"keyed:{ESCAPED}") + "\n")
    settings = Settings(dsn_file=path)
    assert settings.dsn == locked.dsn(f"keyed:{ESCAPED}")
    async with run_service(dsn_file=path, at_least_once=True) as headrace:
        assert (await headrace.client.get("/readyz")).status_code == 200
