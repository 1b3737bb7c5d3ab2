"""`headrace doctor`: looks at settings, machine and database, and says what to do.

Gathers facts and hands them to the checks (`check_*.py`). Must not judge, and never prints the DSN.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio

from service.doctor import findings
from service.doctor.check_access import check_access
from service.doctor.check_database import check_connections, check_database, check_no_dsn, check_reach
from service.doctor.check_edge import check_edge
from service.doctor.check_machine import check_machine
from service.doctor.check_settings import check_mistakes, check_settings
from service.doctor.check_tables import check_own, check_tables
from service.doctor.findings import Finding
from service.doctor.machine import Machine, machine_of
from service.embedded import EmbeddedError, running_dsn
from service.http.listening import TlsError
from service.settings import Settings
from sql import Checkup, NotReached, Pooler, examine

if TYPE_CHECKING:
    from service.http.tls import Certificate


async def run(settings: Settings, unknown: Sequence[str], *, as_json: bool) -> bool:
    """Look at everything, and print what was found; whether there is no error.

    `unknown` are variables that look like settings.
    """
    return report(await findings_of(settings, unknown), as_json=as_json)


def report_mistakes(mistakes: Sequence[str], *, as_json: bool) -> bool:
    """The settings cannot be read, one line for each mistake, so nothing else can be looked at."""
    return report(list(check_mistakes(mistakes)), as_json=as_json)


def report(found: Sequence[Finding], *, as_json: bool) -> bool:
    """Print findings; whether there is no error."""
    findings.show(found, as_json=as_json)
    return not findings.is_bad(found)


async def findings_of(settings: Settings, unknown: Sequence[str]) -> list[Finding]:
    """All findings, group by group."""
    seen: list[Checkup | NotReached | EmbeddedError] = []

    async def look_at_database() -> None:
        seen.append(await _look_at_database(settings))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_at_database)
        machine = await machine_of(settings.host, settings.port, tls=settings.tls is not None)
    return [
        *check_settings(settings, unknown),
        *check_machine(settings, machine, settings.workers),
        *_judge_access(settings, seen[0]),
        *check_edge(settings, _certificate(settings), datetime.now(UTC)),
        *_judge(settings, seen[0], machine),
    ]


def _certificate(settings: Settings) -> Certificate | TlsError | None:
    """What clients are shown, or why there is nothing to show."""
    if settings.tls is None:
        return None
    from service.http.tls import check  # noqa: PLC0415 - reading certificates takes a library that others need not load

    try:
        return check(settings.tls)
    except TlsError as error:
        return error


async def _look_at_database(settings: Settings) -> Checkup | NotReached | EmbeddedError:
    try:
        dsn = settings.dsn or running_dsn(settings.data_dir)
        return await examine(dsn, settings.schemas, settings.connect_seconds_max)
    except (NotReached, EmbeddedError) as error:
        return error


def _judge_access(settings: Settings, seen: Checkup | NotReached | EmbeddedError) -> Iterator[Finding]:
    """What is to be said of who may write."""
    if isinstance(seen, Checkup):
        return check_access(settings, seen.own, seen.contents)
    return check_access(settings, None, None)


def _judge(settings: Settings, seen: Checkup | NotReached | EmbeddedError, machine: Machine) -> Iterator[Finding]:
    """What is to be said of the database."""
    if isinstance(seen, EmbeddedError):
        yield check_no_dsn(str(seen), has_embedded=machine.has_embedded)
        return
    if isinstance(seen, NotReached):
        yield check_reach(seen)
        return
    role = seen.server.role
    yield from check_database(settings, seen)
    if seen.room is not None and seen.server.pooler is Pooler.NONE:
        yield from check_connections(settings.connection_demand, seen.room)
    if seen.rights is not None:
        yield from check_tables(settings.schemas, seen.schemas_missing, seen.rights, role)
    if seen.own is not None:
        yield from check_own(settings, seen.own, seen.contents, role, seen.server.database)
