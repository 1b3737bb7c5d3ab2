"""Problems: every answer that is not a success, and the one table of HTTP statuses.

Owns which status and headers an error gets. The body is always `{"code", "message", "details", "hint"}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgspec

from batching import Closed, DeadlinePassed, FlushCut, QueueFull, RateExceeded, ShareFull, SinkAway
from batching import TooLarge as TooLargeToWait
from service.observing.numbers import Outcome
from sql import CatalogMissing, Fault, KeyReused, OutcomeUnknown, Rejected, TableChanged, TooLarge, Unavailable

JSON = "application/json; charset=utf-8"

# SQLSTATE or its class → status, most specific first; whatever is not here is 400. As PostgREST has it:
# https://docs.postgrest.org/en/stable/references/errors.html
_STATUSES: dict[str, int] = {
    "21000": 500,
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "42501": 401,  # for who has proved who he is, it is 403: see `for_known`
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53400": 500,
    "57P01": 503,
    "P0001": 400,
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "53": 503,
    "54": 500,
    "55": 500,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "XX": 500,
    "PGRST000": 503,
    "PGRST002": 503,
    "PGRST106": 406,
    "PGRST107": 406,
    "PGRST116": 406,
    "PGRST117": 405,
    "PGRST125": 404,
    "PGRST205": 404,
    "PGRST301": 401,
    "PGRST302": 401,
    "PGRST303": 401,
}

# Codes of our own.
NOT_HTTP = "HR400"
LATE = "HR408"
KEY_UNDER_WAY = "HR409"
TOO_LARGE = "HR413"
UNKNOWN_CODING = "HR415"
KEY_REUSED = "HR422"
TOO_FAST = "HR427"
SHARE_FULL = "HR428"
QUEUE_FULL = "HR429"
INTERNAL = "HR500"
NO_KEYS = "HR501"
NOT_IN_TIME = "HR503"
TABLE_CHANGED = "HR504"
STOPPING = "HR505"
UNKNOWN = "HR506"
CROWDED = "HR507"
WATCHED = "HR508"
API_KEYS_UNKNOWN = "HR509"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One HTTP answer. Header names are lower case; Content-Length is left to whoever sends it.

    `close` says that the connection ends with it: not all of the request has been read. `is_unique` says that no other
    request will get the same one.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    close: bool = False
    is_unique: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal. `retry_seconds` becomes `Retry-After` (RFC 9110 section 10.2.3), rounded up to whole seconds."""

    status: int
    fault: Fault
    retry_seconds: float | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())

    @property
    def outcome(self) -> Outcome:
        """The word for it in the metrics."""
        if self.fault.code == UNKNOWN:
            return "unknown"
        if self.status in (429, 503):
            return "shed"
        return "rejected" if self.status < 500 else "failed"

    @property
    def answer(self) -> Answer:
        """The problem as it goes to the client.

        `Proxy-Status` names PostgREST, since its clients look for the code there when they cannot read the body.
        """
        fault = self.fault
        body = msgspec.json.encode(
            {"code": fault.code, "message": fault.message, "details": fault.details, "hint": fault.hint}
        )
        headers = [("content-type", JSON), ("proxy-status", f"PostgREST; error={fault.code}"), *self.headers]
        if self.retry_seconds is not None:
            headers.append(("retry-after", str(math.ceil(min(max(1, self.retry_seconds), _RETRY_SECONDS_MAX)))))
        if fault.row is not None:
            headers.append(("headrace-row", str(fault.row)))
        if fault.column is not None and fault.column.isascii() and fault.column.isprintable():
            headers.append(("headrace-column", fault.column))
        return Answer(self.status, tuple(headers), body)


class Refused(Exception):
    """The request is answered with a problem; nothing of it was stored."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.fault.message)
        self.problem = problem


def refusal(status: int, code: str, message: str, *, hint: str | None = None) -> Problem:
    """A problem of the HTTP layer."""
    return Problem(status, Fault(code, message, hint=hint))


def body_too_large(limit: int, as_what: str = "") -> Problem:
    """A body over the limit, as it came or when it is `as_what`."""
    return refusal(413, TOO_LARGE, f"The request body is larger than {limit} bytes{as_what and f' when {as_what}'}")


def body_malformed(message: str, details: str | None = None, *, row: int | None = None) -> Problem:
    """A body that is not what its head says. `row` is the one that is to blame, counted from 1."""
    return Problem(400, Fault("PGRST102", message, details, row=row))


def codings_refused(message: str) -> Problem:
    """A `Content-Encoding` that is not taken; what is, the answer says (RFC 9110 section 15.5.16)."""
    return Problem(415, Fault(UNKNOWN_CODING, message), headers=(("accept-encoding", "gzip, zstd"),))


def body_late(seconds: float) -> Problem:
    """A body that did not arrive in time."""
    return refusal(408, LATE, f"The request body did not arrive within {seconds:g} seconds")


def head_late(seconds: float) -> Problem:
    """A head that did not arrive in time."""
    return refusal(408, LATE, f"The head of the request did not arrive within {seconds:g} seconds")


def head_too_large(limit: str) -> Problem:
    """A head over one of its limits."""
    return refusal(431, "HR431", f"The head of the request has more than {limit}")


def url_too_long(limit: int) -> Problem:
    """A URL over the limit."""
    return refusal(414, "HR414", f"The URL is longer than {limit} bytes")


def bad_header(message: str) -> Problem:
    """A header that is not what it should be."""
    return refusal(400, NOT_HTTP, message)


def key_under_way() -> Problem:
    """An idempotency key whose request has no outcome yet."""
    return Problem(409, Fault(KEY_UNDER_WAY, "A request with this Idempotency-Key is still under way"), 1)


def key_reused() -> Problem:
    """An idempotency key that stands for another request."""
    return refusal(422, KEY_REUSED, "This Idempotency-Key was used before, for another request")


def keys_not_kept() -> Problem:
    """An idempotency key for a service without tables of its own."""
    message = "Idempotency-Key is not supported: this service stores rows at least once (HEADRACE_AT_LEAST_ONCE)"
    return refusal(501, NO_KEYS, message, hint="Send the request without it, and expect that rows may be stored twice.")


def path_unknown() -> Problem:
    """A path at which there is nothing."""
    return refusal(404, "PGRST125", "Invalid path specified in request URL")


def method_unsupported(method: str, allowed: Iterable[str]) -> Problem:
    """A path that takes other methods."""
    fault = Fault("PGRST117", f"Unsupported HTTP method: {method}")
    return Problem(405, fault, headers=(("allow", ", ".join(sorted(allowed))),))


def for_known(problem: Problem) -> Problem:
    """The same for somebody who has proved who he is: proving it again would not help him."""
    if problem.status != 401:
        return problem
    return replace(problem, status=403, headers=tuple(header for header in problem.headers if header not in CHALLENGE))


def crowded() -> Problem:
    """More connections at once than the server was told to serve."""
    return Problem(503, Fault(CROWDED, "Too many connections at once; nothing was stored"), 1)


def watched_by_many() -> Problem:
    """More viewers of the dashboard than are served."""
    return Problem(503, Fault(WATCHED, "Too many dashboards are open at once"), 10)


MALFORMED_HTTP = refusal(400, NOT_HTTP, "Invalid HTTP request received")
"""Bytes that are no HTTP request."""

INTERNAL_ERROR = refusal(500, INTERNAL, "Internal error")
"""A bug of ours. What it was is in the log, not in the answer."""


def problem_of(error: BaseException) -> Problem:  # noqa: C901, PLR0911, PLR0912 - a table, whose rows are types
    """What an error means to the client whose rows it concerns."""
    match error:
        case Refused(problem=problem):
            return problem
        case Rejected(fault=fault):
            status = _status(fault.code, fault.message)
            return Problem(status, fault, 1 if status == 503 else None, CHALLENGE if status == 401 else ())
        case ShareFull(retry_seconds=seconds):
            message = "Too many rows of this credential are waiting to be written"
            return Problem(429, Fault(SHARE_FULL, message), seconds)
        case RateExceeded(retry_seconds=seconds):
            return Problem(429, Fault(TOO_FAST, "This credential has written as many rows as it may"), seconds)
        case QueueFull(retry_seconds=seconds):
            return Problem(429, Fault(QUEUE_FULL, "Too many rows are waiting to be written"), seconds)
        case TooLarge(bytes_max=limit):
            return refusal(413, TOO_LARGE, f"More than {limit} bytes of rows in one request")
        case TooLargeToWait(what=what, limit=limit):
            return refusal(413, TOO_LARGE, f"More than {limit} {what} in one request")
        case SinkAway(retry_seconds=seconds):
            # Why not is for /readyz and the log: it may name hosts and roles, and this goes to anybody.
            return Problem(503, Fault("PGRST000", "The database cannot be written to now"), seconds)
        case TableChanged():
            return Problem(503, Fault(TABLE_CHANGED, "The table was changed meanwhile; nothing was stored"), 0)
        case Unavailable():
            message = "The database cannot take the rows now; nothing was stored"
            return Problem(503, Fault("PGRST000", message, str(error)), 1)
        case KeyReused():
            return key_reused()
        case CatalogMissing():
            return Problem(503, Fault("PGRST002", "The tables are not known yet: the database cannot be reached"), 1)
        case DeadlinePassed(reason=reason):
            message = "The rows could not be written in time; nothing was stored"
            return Problem(503, Fault(NOT_IN_TIME, message, None if reason is None else str(reason)), 1)
        case Closed():
            return Problem(503, Fault(STOPPING, "The service is stopping; nothing was stored"), 1)
        case OutcomeUnknown() | FlushCut():
            # Deliberately without Retry-After: trying again may store the rows twice.
            hint = "Look whether the rows are there before sending them again."
            message = "The connection to the database was lost while committing: the rows may or may not be stored"
            return refusal(503, UNKNOWN, message, hint=hint)
        case _:
            return INTERNAL_ERROR


def is_expected(error: BaseException) -> bool:
    """Whether `problem_of` has words for an error; what it has none for is a bug of ours."""
    return problem_of(error) is not INTERNAL_ERROR


_RETRY_SECONDS_MAX = 86_400
"""Nobody waits longer."""

CHALLENGE = (("www-authenticate", "Bearer"),)
"""What a 401 must say (RFC 9110 section 15.5.2)."""


def _status(code: str, message: str = "") -> int:
    """The status for a SQLSTATE or a code of the dialect. Of a few, the message tells who is to blame."""
    if code.startswith("PT"):
        # A trigger may choose the status: raise sqlstate 'PT402'. Below 400 it would say that the row is stored.
        return int(code[2:]) if re.fullmatch("PT[45][0-9][0-9]", code) else 500
    if code == "21000" and message.endswith("requires a WHERE clause"):
        return 400  # the words of pg-safeupdate
    if code == "22023" and message.startswith("role ") and message.endswith(" does not exist"):
        return 401
    return _STATUSES.get(code) or _STATUSES.get(code[:2]) or 400
