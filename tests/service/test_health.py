"""Health and numbers: what probes, Prometheus and people at a prompt get."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.harness import Connection, Running, Start


async def numbers(headrace: Running) -> dict[str, float]:
    """All samples of /metrics by name and labels."""
    response = await headrace.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", response.text, re.MULTILINE)
    return {name: float(value) for name, value in samples}


async def test_alive_and_ready(headrace: Running) -> None:
    """What a load balancer asks every few seconds."""
    response = await headrace.client.get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})
    response = await headrace.client.get("/readyz")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ready", "database": "up", "pending_rows": 0, "pending_bytes": 0},
    )


async def test_draining_is_not_ready(headrace: Running) -> None:
    """A balancer must stop sending before the listening socket closes; a producer that comes late is told."""
    headrace.service.stop_accepting()
    response = await headrace.client.get("/readyz")
    assert (response.status_code, response.json()["status"]) == (503, "draining")


async def test_a_database_that_takes_no_writes_is_not_ready(db: Connection, dsn: str, start: Start) -> None:
    """A standby answers, so only a look at it tells; requests would fail one by one."""
    name = await db.fetchval("select current_database()")
    async with start(dsn=dsn) as headrace:
        await db.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await headrace.eventually(lambda: headrace.service.live.vitals is not None)
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'headrace catalog'"
        )
        await headrace.eventually(lambda: headrace.service.live.read_only)
        response = await headrace.client.get("/readyz")
        assert (response.status_code, response.json()["database"]) == (503, "the database is read-only")
        assert (await headrace.client.get("/dashboard/glance")).json()["status"] == "away"
        await db.execute("set default_transaction_read_only = off")
        await db.execute(f'alter database "{name}" set default_transaction_read_only = off')
        await db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'headrace catalog'"
        )
        while (await headrace.client.get("/readyz")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_stopping_service_refuses_rows(db: Connection, headrace: Running) -> None:
    """503 with Retry-After: another instance, or the next one, will take them."""
    await db.execute("create table t (n int)")
    headrace.service.stop_accepting()
    response = await headrace.post("t", {"n": 1})
    assert (response.status_code, response.json()["code"]) == (503, "HR505")
    assert response.headers["retry-after"] == "1"


async def test_requests_and_rows_are_counted_by_outcome(db: Connection, headrace: Running) -> None:
    """The first thing an operator looks at."""
    await db.execute("create table t (n int)")
    await headrace.post("t", [{"n": n} for n in range(5)])
    await headrace.post("t", {"n": 1}, prefer="respond-async")
    await headrace.post("t", [{"n": 1}, {"n": "x"}])
    await headrace.post("nope", {"n": 1})
    await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)
    found = await numbers(headrace)
    assert found['headrace_requests_total{outcome="committed",table="public.t"}'] == 2
    assert found['headrace_rows_total{outcome="committed",table="public.t"}'] == 6
    assert found['headrace_requests_total{outcome="rejected",table="public.t"}'] == 1
    assert found['headrace_rows_total{outcome="rejected",table="public.t"}'] == 2
    assert found['headrace_requests_total{outcome="rejected",table=""}'] == 1, "its name is anybody's invention"
    assert "nope" not in str(found)
    assert found['headrace_refusals_total{code="22P02",status="400"}'] == 1
    assert found['headrace_refusals_total{code="PGRST205",status="404"}'] == 1
    assert found['headrace_request_seconds_count{outcome="committed"}'] == 2
    assert found["headrace_queue_seconds_count"] == 2
    assert found['headrace_table_batches_total{table="public.t"}'] == 3
    assert found["headrace_batch_rows_count"] == 3
    assert found["headrace_batch_rows_sum"] == 8
    assert found['headrace_flush_seconds_count{result="ended"}'] == 3
    assert found["headrace_database_up"] == 1


async def test_the_queue_is_shown_as_it_is(db: Connection, headrace: Running) -> None:
    """What waits and what is on its way, in rows and bytes."""
    await db.execute("create table t (n int)")
    async with headrace.gathering(db, "t", requests=10):
        sent = [asyncio.create_task(headrace.post("t", [{"n": 1}, {"n": 2}])) for _ in range(10)]
        await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 10)
        found = await numbers(headrace)
        assert found["headrace_pending_requests"] == 10
        assert found["headrace_pending_rows"] == 20
        assert found["headrace_pending_bytes"] == 40  # "1\n2\n" each
        assert 0 < found["headrace_queued_rows"] < 20
    await asyncio.gather(*sent)
    assert (await numbers(headrace))["headrace_pending_rows"] == 0


async def test_what_was_accepted_with_202_and_could_not_be_stored_is_logged(
    db: Connection, dsn: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no quarantine, nobody else is left to tell; the operator must be able to find it."""
    await db.execute("create table t (n int)")
    async with start(dsn=dsn, at_least_once=True) as headrace:
        await _lose_a_row(headrace, caplog)


async def _lose_a_row(headrace: Running, caplog: pytest.LogCaptureFixture) -> None:
    assert (await headrace.post("t", {"n": "x"}, prefer="respond-async")).status_code == 202
    await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 0)
    assert '1 rows for "public"."t" that were accepted with 202 could not be stored: 22P02' in caplog.text
    assert (await numbers(headrace))['headrace_rows_total{outcome="rejected",table="public.t"}'] == 1
