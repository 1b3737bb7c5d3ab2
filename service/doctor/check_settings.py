"""What `headrace doctor` says about the settings: names that are none, and values that do not go together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from service.doctor.findings import Finding, Group
from service.settings import MIB, Settings

_SETTINGS = Group("Settings")

_KEEP_ALIVE_SECONDS = 60
"""For so long nginx and the load balancers of the large clouds keep an idle connection."""

_BODY_RATE_MAX = 8 * MIB
"""Bytes a second: a line of 64 Mbit/s."""

_SYSTEM_SCHEMAS = frozenset({"headrace", "information_schema", "pg_catalog", "pg_toast"})

_STOP_SECONDS = 2
"""What `service.server` adds to the time for draining, to send the last answers."""


def check_mistakes(mistakes: Sequence[str]) -> Iterator[Finding]:
    """Settings that cannot be read, one line for each. The service does not start with them."""
    for mistake in mistakes:
        yield _SETTINGS.error(mistake, "correct or unset it: the service does not start like this")


def check_settings(settings: Settings, unknown: Sequence[str], workers: int = 1) -> Iterator[Finding]:
    """What is set, and what of it is suspicious for so many workers. `unknown` variables only look like settings."""
    given = sorted(f"HEADRACE_{name.upper()}" for name in settings.model_fields_set)
    yield _SETTINGS.ok(f"set: {', '.join(given)}; the others have their defaults" if given else "none is set")
    yield _times(settings)
    yield from _unknown(unknown)
    yield from _sizes(settings)
    yield from _durations(settings)
    yield from _switches(settings)
    if workers > 1 and settings.workers_dir is None:
        yield _SETTINGS.warning(
            f"each of {workers} workers shows its own numbers: /metrics tells those of whichever is asked",
            "set HEADRACE_WORKERS_DIR to a folder that they share, in memory if possible (/dev/shm/headrace)",
        )


def _times(settings: Settings) -> Finding:
    answer = settings.request_seconds_max + settings.statement_seconds_max
    stop = settings.drain_seconds_max + _STOP_SECONDS
    return _SETTINGS.ok(
        f"an answer may take {answer:g} s ({settings.request_seconds_max:g} to wait, {settings.statement_seconds_max:g}"
        f" to write), a stop {stop:g} s",
        f"have clients and proxies wait longer than {answer:g} s, and whatever stops the service longer than {stop:g} s"
        " (docker stop waits 10, Kubernetes 30)",
    )


def _unknown(names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        close = get_close_matches(name.removeprefix("HEADRACE_").lower(), Settings.model_fields, n=1)
        advice = f"did you mean HEADRACE_{close[0].upper()}? Otherwise unset it" if close else "unset it"
        yield _SETTINGS.warning(f"{name} is not a setting and has no effect", advice)


def _sizes(settings: Settings) -> Iterator[Finding]:
    batches = settings.flush_slots + 1
    for what in ("rows", "bytes"):
        batch, pending = getattr(settings, f"batch_{what}_max"), getattr(settings, f"pending_{what}_max")
        if pending < batches * batch:
            yield _SETTINGS.warning(
                f"{pending:,} pending {what} are less than {batches} batches of {batch:,}: while {settings.flush_slots}"
                " are written, the next one cannot gather",
                f"set HEADRACE_PENDING_{what.upper()}_MAX to {batches * batch} or more,"
                f" or lower HEADRACE_BATCH_{what.upper()}_MAX",
            )
    if settings.body_bytes_max > settings.pending_bytes_max:
        yield _SETTINGS.warning(
            f"a body may have {settings.body_bytes_max:,} bytes, but no more than {settings.pending_bytes_max:,} may be"
            " pending: one in between is answered 429 however often it is sent",
            f"set HEADRACE_PENDING_BYTES_MAX to {4 * settings.body_bytes_max} or so, or lower HEADRACE_BODY_BYTES_MAX",
        )
    if settings.body_bytes_max > _BODY_RATE_MAX * settings.body_seconds_max:
        yield _SETTINGS.warning(
            f"a body may have {settings.body_bytes_max / MIB:,.0f} MiB, but must arrive within"
            f" {settings.body_seconds_max:g} s: few lines are that fast",
            "raise HEADRACE_BODY_SECONDS_MAX too, or have clients send smaller bodies",
        )
    if settings.url_bytes_max > settings.head_bytes_max:
        yield _SETTINGS.warning(
            f"a URL may have {settings.url_bytes_max:,} bytes, but all of the head no more than"
            f" {settings.head_bytes_max:,}",
            "raise HEADRACE_HEAD_BYTES_MAX above HEADRACE_URL_BYTES_MAX",
        )


def _durations(settings: Settings) -> Iterator[Finding]:
    statement, lock = settings.statement_seconds_max, settings.lock_seconds_max
    if settings.drain_seconds_max < statement:
        yield _SETTINGS.warning(
            f"a stopping service waits {settings.drain_seconds_max:g} s, but a batch may take {statement:g} s to be"
            " written: the requests of one that is cut off are told HR506, that nobody knows",
            f"set HEADRACE_DRAIN_SECONDS_MAX to {statement + 5:g} or more, or lower HEADRACE_STATEMENT_SECONDS_MAX",
        )
    if lock >= statement:
        yield _SETTINGS.warning(
            f"a batch may wait {lock:g} s for a lock, but must be written within {statement:g} s: a locked table looks"
            " like a slow one",
            "set HEADRACE_LOCK_SECONDS_MAX well below HEADRACE_STATEMENT_SECONDS_MAX",
        )
    reconnect = settings.connect_seconds_max + settings.retry_seconds_max
    if settings.doubt_seconds_max < reconnect:
        yield _SETTINGS.warning(
            f"a write in doubt is given up after {settings.doubt_seconds_max:g} s, but connecting again may take"
            f" {reconnect:g} s: clients are told HR506 where a moment later it would be known",
            f"set HEADRACE_DOUBT_SECONDS_MAX to {2 * reconnect:g} or more",
        )
    if settings.keep_alive_seconds <= _KEEP_ALIVE_SECONDS:
        yield _SETTINGS.warning(
            f"idle connections are closed after {settings.keep_alive_seconds:g} s; nginx and most load balancers keep"
            f" theirs {_KEEP_ALIVE_SECONDS} s, and answer 502 when a request meets the closing",
            "set HEADRACE_KEEP_ALIVE_SECONDS to more than your proxy keeps them, if there is one",
        )
    longest = settings.request_seconds_max + statement + settings.doubt_seconds_max
    if settings.idempotency_seconds < longest and not settings.at_least_once:
        yield _SETTINGS.warning(
            f"an Idempotency-Key is forgotten after {settings.idempotency_seconds:g} s, but a request may take"
            f" {longest:g} s: a repeat may be stored again",
            "set HEADRACE_IDEMPOTENCY_SECONDS to as long as clients try again, an hour at least",
        )


def _switches(settings: Settings) -> Iterator[Finding]:
    for name in sorted(_SYSTEM_SCHEMAS.intersection(settings.schemas)):
        what = "the service's own tables" if name == "headrace" else "PostgreSQL's own tables"
        yield _SETTINGS.error(
            f"schema {name} is exposed: whoever reaches the service may write to {what}",
            "take it out of HEADRACE_SCHEMAS",
        )
    if settings.flush_slots == 1:
        yield _SETTINGS.warning(
            f"with one flush slot, one locked table holds up all others for {settings.lock_seconds_max:g} s at a time",
            "set HEADRACE_FLUSH_SLOTS to 2 or more, if there is more than one table",
        )
    if settings.at_least_once:
        yield _SETTINGS.warning(
            "HEADRACE_AT_LEAST_ONCE: a batch whose commit is in doubt is written again, perhaps for the second time;"
            " there are no idempotency keys and no quarantine",
            "unset it, unless unique keys in the tables make repeated rows harmless",
        )
    if settings.tx_override:
        yield _SETTINGS.warning(
            "HEADRACE_TX_OVERRIDE: a client that sends Prefer: tx=rollback is answered 201, and nothing is stored",
            "unset it, unless this is a service for trying out",
        )
    if not settings.fast_lane:
        yield _SETTINGS.warning(
            "HEADRACE_FAST_LANE is off: FastAPI takes the rows, at a multiple of the CPU", "unset it, or set it to true"
        )
    if settings.log_level == "error":
        yield _SETTINGS.warning(
            "HEADRACE_LOG_LEVEL=error: that the database is away, or that accepted rows went to quarantine, is not"
            " logged",
            "set it to warning",
        )
