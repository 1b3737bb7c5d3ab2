"""What is wrong, in words, and what to do about it. Pure: numbers in, troubles out.

Owns from when on a number is a trouble. Must not know how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from service.observing.glance import Point, Problem
from service.observing.numbers import Numbers, State
from sql import QUARANTINE_ROWS_MAX, Vitals

Status = Literal["ok", "busy", "full", "away", "draining"]

_FULL = 0.9
_BUSY = 0.5
"""From these parts of its limits on a queue is full, and busy."""

_OLD_SECONDS = 1.0
_LATE_MS = 100.0
_SKEW_SECONDS = 1.0

_TOO_MUCH = "The database takes fewer rows than arrive: see what makes flushes slow, or slow down the producers."


class Background(NamedTuple):
    """What is known beside the numbers: why the database is away, how it was when it was last seen, and since when
    there are numbers (since 1970).
    """

    reason: str | None
    vitals: Vitals | None
    since: float


class Trouble(NamedTuple):
    """A problem, and the status that it is a reason for; "ok" if the service does its work all the same."""

    status: Status
    problem: Problem


def troubles(
    numbers: Numbers, point: Point, background: Background, *, shed: int, quarantined: int
) -> Iterator[Trouble]:
    """All that is wrong. In the second of the `point`, `shed` requests were refused with 429 or 503, and `quarantined`
    rows went to quarantine.
    """
    state = numbers.state
    if state.draining:
        which = (
            "The service is" if state.draining == state.workers else f"{state.draining} of {state.workers} workers are"
        )
        yield _warning("draining", f"{which} stopping", "What was accepted is finished; nothing new is taken.")
    yield from _of_reach(state, background)
    if not state.away:
        yield from _of_queue(state, shed=0 if state.draining else shed)
    if point.failed:
        text = "Requests fail, or end without anybody knowing whether their rows are stored"
        yield _error("ok", text, "The service's log has the reasons.")
    if point.lag_ms >= _LATE_MS:
        text = f"The event loop was {point.lag_ms:.0f} ms late"
        yield _warning("ok", text, "The worker is out of CPU: run more workers, or send smaller bodies.")
    if background.vitals is not None:
        yield from _of_database(background.vitals)
    if quarantined:
        text = f"{quarantined} bad rows went to quarantine just now"
        yield _warning("ok", text, "`headrace quarantine list` shows them, with reasons.")
    if numbers.unbalanced_requests or numbers.unbalanced_rows:
        text = f"The numbers do not add up: {numbers.unbalanced_requests} requests, {numbers.unbalanced_rows} rows"
        yield _error("ok", text, "This is a bug in Headrace. Please report it, with the log.")


def status_of(found: Sequence[Trouble]) -> Status:
    """The worst of them."""
    statuses = {trouble.status for trouble in found}
    worst: tuple[Status, ...] = ("draining", "away", "full", "busy")
    return next((status for status in worst if status in statuses), "ok")


def _of_reach(state: State, background: Background) -> Iterator[Trouble]:
    if state.away:
        yield _error(
            "away",
            f"The database is away: {background.reason or 'it cannot be written to'}",
            "Requests are refused with 503 until it is back; connecting is tried all the time. `headrace doctor` looks "
            "for the reason.",
        )
        return
    if background.vitals is not None and background.vitals.read_only:
        advice = "It is a standby, or default_transaction_read_only is on. Point the DSN at the primary."
        yield _error("away", "The database is read-only", advice)
    if state.slots_away:
        slots = state.slots_away + state.slots_busy + state.slots_idle
        text = f"{state.slots_away} of {slots} flush slots have no connection"
        yield _warning("ok", text, "PostgreSQL may be out of connections; the service's log has the reason.")


def _of_queue(state: State, *, shed: int) -> Iterator[Trouble]:
    fill = max(
        state.pending_rows / max(1, state.pending_rows_max), state.pending_bytes / max(1, state.pending_bytes_max)
    )
    if fill >= _FULL:
        yield _error("full", f"The queue is full ({fill:.0%}): requests are refused with 429", _TOO_MUCH)
    elif shed:
        yield _error("full", f"{shed} requests were refused just now with 429 or 503", _TOO_MUCH)
    elif fill >= _BUSY:
        yield _warning("busy", f"The queue is filling ({fill:.0%})", _TOO_MUCH)
    if state.oldest_seconds >= _OLD_SECONDS:
        text = f"The oldest row has waited for {state.oldest_seconds:.1f} s"
        yield _warning("busy", text, "Its table may be locked: look at pg_stat_activity for what waits.")


def _of_database(vitals: Vitals) -> Iterator[Trouble]:
    if vitals.connections >= _FULL * vitals.connections_max:
        text = f"PostgreSQL has {vitals.connections} of at most {vitals.connections_max} connections"
        advice = "Soon nobody can connect: use fewer flush slots or workers, or raise max_connections."
        yield _warning("ok", text, advice)
    if abs(vitals.skew_seconds) >= _SKEW_SECONDS:
        text = f"The clocks of the service and of the database differ by {abs(vitals.skew_seconds):.1f} s"
        yield _warning("ok", text, "Mend the time service on one of the machines.")
    if (vitals.quarantine_rows or 0) >= QUARANTINE_ROWS_MAX:
        text = f"{QUARANTINE_ROWS_MAX} rows or more are in quarantine"
        yield _warning("ok", text, "Replay or drop them (`headrace quarantine`): nothing else does.")


def _error(status: Status, text: str, advice: str) -> Trouble:
    return Trouble(status, Problem("error", text, advice))


def _warning(status: Status, text: str, advice: str) -> Trouble:
    return Trouble(status, Problem("warning", text, advice))
