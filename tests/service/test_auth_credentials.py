"""Credentials: what was found out is remembered for as long as it holds, and not a moment longer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.auth import credentials as module
from service.auth.credentials import CREDENTIAL_BYTES_MAX, Credentials
from service.auth.keys import NewKey, new_key
from service.auth.principal import Grants, Principal
from service.auth.tokens import Verifier
from service.problems import Refused
from sql import CatalogWatch, Timeouts, api_keys
from sql.api_keys import Wanted
from tests.harness import Connection
from tests.roles import role_in
from tests.service.minting import SECRET, mint, options, public, rsa_key, write_jwks, write_secret


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not wait for a second each time."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.02)


@asynccontextmanager
async def watching(dsn: str | None, verifier: Verifier | None = None) -> AsyncIterator[tuple[Credentials, list[int]]]:
    """Credentials that look, and the generations that they told of."""
    told: list[int] = []
    watch = None
    if dsn is not None:
        watch = CatalogWatch(dsn, ["public"], Timeouts(), lambda _: None, lambda _: 0.05)
    found = Credentials(watch, verifier, lambda: told.append(found.generation))
    tasks = [asyncio.create_task(run()) for run in ([watch.run, found.run] if watch else [found.run])]
    await found.tried()
    try:
        yield found, told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds; the test's time limit ends the wait."""
    while not condition():  # noqa: ASYNC110 - a condition of any kind has no event to wait for
        await asyncio.sleep(0.005)


async def make_key(db: Connection, name: str = "pump", **more: Any) -> NewKey:
    """A key that is kept."""
    key = new_key()
    await api_keys.create(db, Wanted(key.id, name, more.pop("grants", ["public.events:insert"]), **more), key.digest)
    return key


def refusal(credentials: Credentials, authorization: str, apikey: str = "") -> tuple[int, str, str]:
    """Status, code and message; what was shown is not repeated."""
    with pytest.raises(Refused) as caught:
        credentials.principal(authorization, apikey)
    problem = caught.value.problem
    shown = authorization.partition(" ")[2] or apikey
    assert not shown or shown not in repr(problem) + str(caught.value) + repr(credentials)
    return problem.status, problem.fault.code, problem.fault.message


def name_of(credentials: Credentials, shown: str) -> str | None:
    """Who shows it; None if he is refused."""
    try:
        principal = credentials.principal(f"Bearer {shown}", "")
    except Refused:
        return None
    assert principal is not None
    return principal.name


# -------------------------------------------------------------------- API keys


async def test_a_key_while_it_lives(db: Connection, dsn: str) -> None:
    """Made, used, revoked, while the service runs; that there was one is not forgotten."""
    async with watching(dsn) as (credentials, told):
        assert (credentials.known, credentials.exist) == (True, False)
        key = await make_key(db, rows_per_second=7.0, queue_share=0.25)
        await eventually(lambda: credentials.exist)
        principal = credentials.principal(f"Bearer {key.text}", "")
        assert principal is not None
        assert (principal.name, principal.expires_at) == ("key pump", None)
        assert (principal.rows_per_second, principal.queue_share) == (7.0, 0.25)
        assert principal.grants == Grants.parse(["public.events"])
        generation = credentials.generation
        await api_keys.revoke(db, "pump")
        await eventually(lambda: name_of(credentials, key.text) is None)
        assert refusal(credentials, f"Bearer {key.text}") == (401, "PGRST301", "API key invalid")
        assert credentials.generation > generation
        assert told == list(range(1, credentials.generation + 1))
        await db.execute("drop table headrace.api_keys")
        await eventually(lambda: credentials.generation > told[-2] and credentials._fingerprint == "absent")
        assert credentials.exist, "who drops the table must not open the service for everybody"


async def test_where_a_key_may_stand(db: Connection, dsn: str) -> None:
    """As Supabase's clients send it: both headers, of which the first counts."""
    key, other = await make_key(db), await make_key(db, "other")
    async with watching(dsn) as (credentials, _):

        def name(authorization: str, apikey: str = "") -> str | None:
            principal = credentials.principal(authorization, apikey)
            return None if principal is None else principal.name

        for scheme in ("Bearer", "bearer", "BEARER"):
            assert name(f"{scheme} {key.text}") == "key pump"
        assert name(f"Bearer   {key.text} ") == "key pump"
        assert name("", key.text) == "key pump"
        assert name("Basic abc", key.text) == "key pump"
        assert name(f"Bearer {other.text}", key.text) == "key other"
        assert name("") is None
        assert name("Basic abc") is None
        assert refusal(credentials, f"Bearer {key.text}x", other.text)[:2] == (401, "PGRST301")
        for empty in ("Bearer", "Bearer ", "bearer   "):
            assert refusal(credentials, empty, key.text) == (
                401,
                "PGRST301",
                "Empty JWT is sent in Authorization header",
            )
        assert refusal(credentials, "Bearer a.b.c")[:2] == (401, "PGRST301")
        assert refusal(credentials, "Bearer hr_" + "x" * CREDENTIAL_BYTES_MAX)[2].startswith("The credential is longer")


async def test_a_key_expires(db: Connection, dsn: str) -> None:
    """At its moment, for who is remembered too, and whoever remembers him is told."""
    seconds = 0.4
    key = await make_key(db, expires_days=seconds / 86_400)
    async with watching(dsn) as (credentials, told):
        before = len(told)
        principal = credentials.principal("", key.text)
        assert principal is not None
        assert principal.expires_at is not None
        assert credentials.principal("", key.text) is principal
        await eventually(lambda: len(told) > before)
        assert time.time() >= principal.expires_at
        assert refusal(credentials, "", key.text) == (401, "PGRST303", "API key expired")


async def test_a_key_that_was_written_by_hand(db: Connection, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that makes no sense is refused, and takes nothing from the others."""
    bad, good = await make_key(db, "bad", grants=["everything"]), await make_key(db)
    for nonsense in ("expires_at = 'infinity'", "grants = array[null]", "rows_per_second = 1e-300"):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute(f"update headrace.api_keys set {nonsense} where name = 'bad'")
    async with watching(dsn) as (credentials, _):
        assert name_of(credentials, good.text) == "key pump"
        assert name_of(credentials, bad.text) is None
    assert "API key bad is refused: 'everything' is no grant" in caplog.text


async def test_keys_are_good_while_the_database_is_away(db: Connection, dsn: str) -> None:
    """Rows wait for it then; their senders are no strangers for that."""
    key = await make_key(db)
    async with watching(dsn) as (credentials, _):
        assert name_of(credentials, key.text) == "key pump"
        name = await db.fetchval("select current_database()")
        admin = await asyncpg.connect(dsn.replace(f"/{name}?", "/postgres?"))
        await admin.execute(f'alter database "{name}" allow_connections false')
        try:
            await admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
            database = credentials._database
            assert database is not None
            await eventually(lambda: not database.is_connected)
            for _ in range(5):
                await credentials._look()
            assert (credentials.known, credentials.exist) == (True, True)
            credentials._forget()
            assert name_of(credentials, key.text) == "key pump"
            assert refusal(credentials, "", new_key().text)[0] == 401
        finally:
            await admin.execute(f'alter database "{name}" allow_connections true')
            await admin.close()


async def test_keys_that_nobody_has_read_yet() -> None:
    """To say 401 then would have clients throw good keys away."""
    async with watching("postgresql://nobody@127.0.0.1:1/x") as (credentials, _):
        assert (credentials.known, credentials.exist) == (False, False)
        assert refusal(credentials, "", new_key().text)[:2] == (503, "HR509")


async def test_keys_that_the_role_may_not_read(db: Connection, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, with what to grant; until then nobody is let in, and nobody is told that his key is bad."""
    key = await make_key(db)
    async with role_in(db, dsn) as role, watching(role.dsn) as (credentials, _):
        for _ in range(5):
            await credentials._look()
        assert (credentials.known, credentials.exist) == (False, True), "the door is not open because of that"
        assert refusal(credentials, "", key.text)[:2] == (503, "HR509")
        errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert len([text for text in errors if "grant select on headrace.api_keys to" in text]) == 1
        await db.execute(f"grant usage on schema headrace to {role.name}")
        await db.execute(f"grant select on headrace.api_keys to {role.name}")
        await eventually(lambda: credentials.known)
        assert name_of(credentials, key.text) == "key pump"
        await db.execute(f"revoke select on headrace.api_keys from {role.name}")
        await eventually(lambda: not credentials.known)
        assert refusal(credentials, "", key.text)[:2] == (503, "HR509"), "it may have been revoked"
        await db.execute(f"grant select on headrace.api_keys to {role.name}")
        await eventually(lambda: credentials.known)
        await db.execute("alter table headrace.api_keys rename column grants to rights")
        await db.execute("update headrace.api_keys set revoked_at = now()")
        await eventually(lambda: not credentials.known)
        assert "headrace.api_keys is not as this version made it" in caplog.text


async def test_the_first_key_closes_the_door_for_a_role_that_may_not_read_it(db: Connection, dsn: str) -> None:
    """Made by an administrator, after the service has started and has found no keys."""
    async with role_in(db, dsn) as role, watching(role.dsn) as (credentials, told):
        assert (credentials.known, credentials.exist) == (True, False)
        before = len(told)
        await make_key(db)
        await eventually(lambda: len(told) > before)
        assert (credentials.known, credentials.exist) == (False, True)


# -------------------------------------------------------------------- tokens


@pytest.fixture
def verifier(tmp_path: Path) -> Verifier:
    """Takes HS256, and RS256 by a key that may be exchanged."""
    return Verifier(
        options(secret=write_secret(tmp_path / "secret"), jwks=write_jwks(tmp_path / "jwks", public(rsa_key(), "r1")))
    )


async def test_a_token_needs_no_database(verifier: Verifier) -> None:
    """Nor does it matter whether keys are known; and where no keys are kept, nobody waits for them."""
    async with watching("postgresql://nobody@127.0.0.1:1/x", verifier) as (credentials, _):
        assert credentials.exist
        assert name_of(credentials, mint()) == "jwt pump-7"
    async with watching(None, verifier) as (credentials, _):
        assert (credentials.known, credentials.exist) == (True, True)
        assert name_of(credentials, mint()) == "jwt pump-7"
        assert refusal(credentials, "", new_key().text)[:2] == (401, "PGRST301")


async def test_a_token_is_verified_once(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what makes it cheap; one that was refused is not remembered, whatever is sent."""
    verified: list[str] = []
    verify = verifier.verify

    def counted(token: str) -> Principal:
        verified.append(token)
        return verify(token)

    monkeypatch.setattr(verifier, "verify", counted)
    async with watching(None, verifier) as (credentials, _):
        token = mint()
        assert credentials.principal(f"Bearer {token}", "") is credentials.principal("", token)
        assert verified == [token]
        for _ in range(3):
            assert refusal(credentials, "Bearer x.y.z")[0] == 401
        assert verified == [token, "x.y.z", "x.y.z", "x.y.z"]
        assert list(credentials._remembered) == [token]


async def test_what_is_remembered_has_a_limit(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last stay; moments of expiry have a limit too, beyond which all are asked again."""
    monkeypatch.setattr(module, "_REMEMBERED_MAX", 2)
    async with watching(None, verifier) as (credentials, told):
        first, second, third = (mint(sub=name) for name in ("a", "b", "c"))
        for token in (first, second, first, third):
            assert name_of(credentials, token)
        assert list(credentials._remembered) == [first, third]
        assert told == []
        monkeypatch.setattr(module, "_ENDS_MAX", len(credentials._ends))
        assert name_of(credentials, second)
        assert told == [1]
        assert list(credentials._remembered) == [second]
        assert len(credentials._ends) == 1


async def test_a_token_is_taken_until_it_expires(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one for which there was no more room here: who remembers its owner elsewhere is told."""
    monkeypatch.setattr(module, "_REMEMBERED_MAX", 1)
    end = int(time.time()) + 2
    async with watching(None, verifier) as (credentials, told):
        short, long = mint(exp=end), mint()
        assert name_of(credentials, short) == "jwt pump-7"
        assert name_of(credentials, long)
        assert list(credentials._remembered) == [long]
        await eventually(lambda: bool(told))
        assert time.time() >= end
        assert refusal(credentials, "", short) == (401, "PGRST303", "JWT expired")
        assert name_of(credentials, long)


async def test_an_expired_token_is_not_taken_from_memory(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the timer is late, because something else holds up the event loop."""
    async with watching(None, verifier) as (credentials, _):
        end = int(time.time()) + 60
        token = mint(exp=end)
        principal = credentials.principal("", token)
        monkeypatch.setattr(time, "time", lambda: float(end))
        renewed = Principal("jwt renewed", Grants())
        monkeypatch.setattr(verifier, "verify", lambda _: renewed)
        assert credentials.principal("", token) is renewed is not principal


async def test_a_clock_that_is_set(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer is not trusted for longer than a minute, for the wall clock may go another way."""
    async with watching(None, verifier) as (credentials, told):
        assert name_of(credentials, mint(exp=int(time.time()) + 86_400))
        loop = asyncio.get_running_loop()
        timer = credentials._timer
        assert timer is not None
        assert timer.when() <= loop.time() + module._TIMER_SECONDS_MAX + 1  # uvloop counts in milliseconds
        credentials._ring_out()
        assert told == []
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 86_400)
        credentials._ring_out()
        assert told == [1]
        assert not credentials._remembered


async def test_key_files_are_read_again(verifier: Verifier, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is taken out is no key any more; a file that cannot be read changes nothing, and is told of once."""
    async with watching(None, verifier) as (credentials, told):
        old, new = mint(rsa_key(), "RS256"), mint(rsa_key("b"), "RS256")
        assert (name_of(credentials, old), name_of(credentials, new)) == ("jwt pump-7", None)
        (tmp_path / "jwks").unlink()
        await eventually(lambda: "JWT keys stay as they were" in caplog.text)
        assert name_of(credentials, old)
        assert told == []
        write_jwks(tmp_path / "next", public(rsa_key("b"), "r2"), {"kty": "oct", "k": "x"}).replace(tmp_path / "jwks")
        await eventually(lambda: bool(told))
        assert (name_of(credentials, old), name_of(credentials, new)) == (None, "jwt pump-7")
        credentials.request_reload()
        await eventually(lambda: len(told) == 2)
    assert caplog.text.count("JWT keys stay as they were") == 1
    assert "is not used: key 2 is a shared secret" in caplog.text


async def test_nothing_secret_is_told(
    db: Connection, dsn: str, verifier: Verifier, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in what is logged, at any level, nor in what a debugger shows first."""
    caplog.set_level(logging.DEBUG)
    key, token = await make_key(db), mint()
    async with watching(dsn, verifier) as (credentials, _):
        assert name_of(credentials, key.text)
        assert name_of(credentials, token)
        refusal(credentials, f"Bearer {key.text}x")
        refusal(credentials, f"Bearer {token}x")
        told = caplog.text + repr(credentials) + str(credentials)
    for secret in (key.text, key.text.rpartition("_")[2], key.digest.hex(), *token.split(".")[1:], SECRET):
        assert secret not in told
