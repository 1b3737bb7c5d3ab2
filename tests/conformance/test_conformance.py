"""PostgREST's write dialect, case by case, in both lanes: alone, and in batches that others are in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import pytest

from service.embedded import EmbeddedPostgres
from tests.conformance.cases import HERE, Case, complaints, load, rows_wrong, send, shown
from tests.conformance.company import blurred, company_of, state, together
from tests.harness import Connection, Reply, Running, empty_database, run_service

CASES = load()

Services = Callable[[Case, str], Awaitable[Running]]


@pytest.fixture(scope="module")
async def dsn(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database with the tables."""
    async with empty_database(postgres.dsn) as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute((HERE / "schema.sql").read_text("utf-8"))
        await connection.close()
        yield dsn


@pytest.fixture(scope="module")
async def services(dsn: str) -> AsyncIterator[Services]:
    """Services for a case in a lane: each is started once."""
    started: dict[tuple[object, ...], Running] = {}
    async with AsyncExitStack() as stack:

        async def service(case: Case, lane: str) -> Running:
            key = (lane, *case.settings.items())
            if key not in started:
                # With one slot, whatever waits for it is in the next batch.
                settings = {"schemas": ("public", "audit"), "prefix": "", "flush_slots": 1} | case.settings
                run = run_service(dsn=dsn, fast_lane=lane == "fast", **settings)
                started[key] = await stack.enter_async_context(run)
            return started[key]

        yield service


@pytest.fixture(scope="module")
def told() -> dict[tuple[Running, bytes], Reply]:
    """What neighbours were told alone. Most of them are the same for every case."""
    return {}


@pytest.fixture
async def running(case: str, lane: str, services: Services, db: Connection) -> Running:
    """The service for the case, and tables as they are at its beginning."""
    await db.execute("select conformance.reset()")
    return await services(CASES[case], lane)


@pytest.mark.parametrize("case", CASES)
async def test_a_case(case: str, running: Running, db: Connection) -> None:
    """What clients of PostgREST have learnt to expect."""
    expected = CASES[case]
    reply = await send(running, expected.request)
    wrong = list(complaints(expected.answer, reply))
    if expected.stored is not None:
        wrong += rows_wrong(expected.stored, await db.fetch(expected.stored.sql))
    if wrong:
        pytest.fail("\n".join([f"{expected.about}:", *wrong, shown(expected.request, reply)]), pytrace=False)


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize("case", CASES)
async def test_a_case_in_company(
    case: str,
    bad: bool,  # noqa: FBT001
    running: Running,
    told: dict[tuple[Running, bytes], Reply],
    db: Connection,
) -> None:
    """Nobody notices that others are in his batch: answers and rows are those of a request that comes alone.

    When the database has refused rows of a batch, the rest of it is tried again, which uses up keys.
    """
    request = CASES[case].request
    company = company_of(request, bad=bad)
    alone = [await send(running, request)]
    rows = await state(db)
    await db.execute("select conformance.reset()")
    for each in company.others:
        if (running, each.raw) not in told:
            told[running, each.raw] = await send(running, each)
        alone.append(told[running, each.raw])
    await db.execute("select conformance.reset()")
    shared = await together(running, db, request, company)
    has_retries = bad or alone[0].status >= 400
    wrong = []
    for each, one, other in zip((request, *company.others), alone, shared, strict=True):
        may_have_other_keys = each in company.likes or (has_retries and each is request)
        if (blurred(one) != blurred(other)) if may_have_other_keys else (one != other):
            wrong += ["alone:", shown(each, one), "in company:", shown(each, other)]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)
    assert await state(db) == rows
