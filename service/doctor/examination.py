"""`headrace doctor`: looks at settings, machine and database, and says what to do.

Gathers facts and hands them to the checks (`check_*.py`). Must not judge, and never prints the DSN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import anyio

from service.doctor import findings
from service.doctor.check_database import check_connections, check_database, check_no_dsn, check_reach
from service.doctor.check_machine import check_machine
from service.doctor.check_settings import check_mistakes, check_settings
from service.doctor.check_tables import check_own, check_tables
from service.doctor.findings import Finding
from service.doctor.machine import Machine, machine_of
from service.embedded import EmbeddedError, running_dsn
from service.settings import Settings
from sql import Checkup, NotReached, examine


async def run(settings: Settings, unknown: Sequence[str], *, workers: int, as_json: bool) -> bool:
    """Look at everything, and print what was found; whether there is no error.

    `unknown` are variables that look like settings.
    """
    return report(await findings_of(settings, unknown, workers), as_json=as_json)


def report_mistakes(mistakes: Sequence[str], *, as_json: bool) -> bool:
    """The settings cannot be read, one line for each mistake, so nothing else can be looked at."""
    return report(list(check_mistakes(mistakes)), as_json=as_json)


def report(found: Sequence[Finding], *, as_json: bool) -> bool:
    """Print findings; whether there is no error."""
    findings.show(found, as_json=as_json)
    return not findings.is_bad(found)


async def findings_of(settings: Settings, unknown: Sequence[str], workers: int) -> list[Finding]:
    """All findings, group by group."""
    seen: list[Checkup | NotReached | EmbeddedError] = []

    async def look_at_database() -> None:
        seen.append(await _look_at_database(settings))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_at_database)
        machine = await machine_of(settings.host, settings.port)
    return [
        *check_settings(settings, unknown, workers),
        *check_machine(settings, machine, workers),
        *_judge(settings, seen[0], machine, workers),
    ]


async def _look_at_database(settings: Settings) -> Checkup | NotReached | EmbeddedError:
    try:
        dsn = settings.dsn or running_dsn(settings.data_dir)
        return await examine(dsn, settings.schemas, settings.connect_seconds_max)
    except (NotReached, EmbeddedError) as error:
        return error


def _judge(
    settings: Settings, seen: Checkup | NotReached | EmbeddedError, machine: Machine, workers: int
) -> Iterator[Finding]:
    """What is to be said of the database."""
    if isinstance(seen, EmbeddedError):
        yield check_no_dsn(str(seen), has_embedded=machine.has_embedded)
        return
    if isinstance(seen, NotReached):
        yield check_reach(seen)
        return
    role = seen.server.role
    yield from check_database(settings, seen)
    if seen.room is not None:
        yield from check_connections(settings, seen.room, workers)
    if seen.rights is not None:
        yield from check_tables(settings.schemas, seen.schemas_missing, seen.rights, role)
    if seen.own is not None:
        yield from check_own(settings, seen.own, seen.contents, role, seen.server.database)
