"""The door at the start: a service that strangers reach does not start without credentials, unless it is told to."""

from __future__ import annotations

import sys

import anyio
import pytest

from service.auth.keys import NewKey, new_key
from service.lifespan import StartRefused
from sql import api_keys
from sql.api_keys import Wanted
from tests.harness import Connection, run_service

NOWHERE = "postgresql://127.0.0.1:1/nowhere"


async def key(db: Connection, *grants: str) -> NewKey:
    """A key that is kept."""
    made = new_key()
    await api_keys.create(db, Wanted(made.id, "pump", grants), made.digest)
    return made


async def test_a_service_that_others_reach_needs_credentials(dsn: str) -> None:
    """Else whoever finds the port may fill the database."""
    with pytest.raises(StartRefused, match=r"others reach 0\.0\.0\.0, and there is no credential yet: create one"):
        async with run_service(dsn=dsn, host="0.0.0.0"):
            pytest.fail("it has started")


async def test_it_says_so_in_one_line(dsn: str) -> None:
    """An operator must not have to read a traceback."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "serve"]
    done = await anyio.run_process([*command, "--port", "0", "--host", "0.0.0.0", "--dsn", dsn], check=False)
    assert done.returncode == 1
    assert done.stderr.decode().strip().splitlines()[-1].endswith("(HEADRACE_ANONYMOUS_WRITES=allow)")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("anonymous", ["allow", "refuse"])
async def test_it_starts_if_told_so_in_as_many_words(dsn: str, db: Connection, anonymous: str) -> None:
    """To refuse everybody is a decision too: keys may come later."""
    await db.execute("create table t (n int)")
    async with run_service(dsn=dsn, host="0.0.0.0", anonymous_writes=anonymous) as service:
        assert (await service.post("t", {"n": 1})).status_code == (201 if anonymous == "allow" else 401)


async def test_it_starts_with_a_key(dsn: str, db: Connection) -> None:
    """And lets in who shows it, for what it grants."""
    await db.execute("create table t (n int)")
    await db.execute("create table u (n int)")
    secret = (await key(db, "public.t")).text
    async with run_service(dsn=dsn, host="0.0.0.0") as service:
        proof = f"Bearer {secret}"
        assert (await service.post("t", {"n": 1})).status_code == 401
        assert (await service.post("t", {"n": 1}, authorization=proof)).status_code == 201
        assert (await service.post("u", {"n": 1}, authorization=proof)).status_code == 403
        assert (await service.post("t", {"n": 2}, apikey=secret)).status_code == 201
    assert await db.fetchval("select sum(n) from t") == 3


async def test_a_key_that_is_made_closes_the_door_and_one_that_is_revoked_opens_nothing(
    dsn: str, db: Connection, lane: str
) -> None:
    """While the service runs, without a restart; also for heads that it knows."""
    await db.execute("create table t (n int)")
    async with run_service(dsn=dsn, fast_lane=lane == "fast") as service:
        assert (await service.post("t", {"n": 1})).status_code == 201
        made = await key(db, "public.t")
        await service.eventually(lambda: service.service.credentials.exist)
        proof = f"Bearer {made.text}"
        assert (await service.post("t", {"n": 1})).status_code == 401
        assert (await service.post("t", {"n": 1}, authorization=proof)).status_code == 201
        generation = service.service.credentials.generation
        await api_keys.revoke(db, "pump")
        await service.eventually(lambda: service.service.credentials.generation > generation)
        assert (await service.post("t", {"n": 1}, authorization=proof)).status_code == 401
        assert (await service.post("t", {"n": 1})).status_code == 401


async def test_while_the_keys_are_not_known_nobody_writes() -> None:
    """With the database away nobody can tell who may; the service waits for it as it always does."""
    async with run_service(dsn=NOWHERE, host="0.0.0.0") as service:
        assert (await service.post("t", {})).status_code == 503
        assert (await service.post("t", {}, apikey="hr_x_y")).status_code == 503
    async with run_service(dsn=NOWHERE) as service:
        assert (await service.post("t", {})).status_code == 503
