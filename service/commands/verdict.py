"""What an answer of the service means for the rows of a request, as `headrace load` sees it: answer in, `Verdict` out.

Pure. Knows the HTTP dialect only; what it does not recognise it takes for "nobody knows".
"""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto

import httpx2
import msgspec

from service.commands.rowfile import Row


class Kind(Enum):
    """What an answer says about the rows of its request."""

    STORED = auto()
    LATER = auto()  # not stored; worth trying again in `seconds`
    UNKNOWN = auto()  # nobody knows
    ROW = auto()  # not stored, because of row `row`
    SOME_ROW = auto()  # not stored, because of a row that nobody named
    TOO_LARGE = auto()  # not stored; fewer rows may be
    REQUEST = auto()  # not stored, and no other rows would be


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, judged. `row` counts from 1 within the request, 0 is none."""

    kind: Kind
    message: str = ""
    seconds: float = 0.0
    row: int = 0
    column: str | None = None


class _Problem(msgspec.Struct):
    """The body of whatever is not a success."""

    code: str = ""
    message: str = ""
    details: str | None = None
    hint: str | None = None


_REQUEST_STATUSES = frozenset({401, 403, 404, 405, 406, 407, 408, 415})
_REQUEST_CODES = frozenset({"PGRST204", "428C9"})  # an unknown column, and one that takes no values


def judge(response: httpx2.Response) -> Verdict:
    """What an answer means for the rows of its request."""
    if response.status_code in (200, 201):
        return Verdict(Kind.STORED)
    problem = _problem(response)
    kind = _kind(response, problem)
    row = response.headers.get("headrace-row", "")
    words = " ".join(filter(None, [problem.message, problem.details and f"({problem.details})", problem.hint]))
    return Verdict(
        kind=kind,
        # One line for a terminal, whatever the value was that it quotes.
        message="".join([char if char.isprintable() else " " for char in words]),
        seconds=_seconds(response.headers.get("retry-after", "1")),
        row=int(row) if row.isascii() and row.isdigit() else 0,
        column=response.headers.get("headrace-column"),
    )


def _kind(response: httpx2.Response, problem: _Problem) -> Kind:  # noqa: PLR0911 - a table
    match response.status_code:
        case status if status < 300:
            return Kind.UNKNOWN  # 202 and the like promise nothing
        case 413:
            return Kind.TOO_LARGE
        case 429:
            return Kind.LATER
        case 503:
            return Kind.LATER if "retry-after" in response.headers else Kind.UNKNOWN
        case status if status < 400 or status in _REQUEST_STATUSES or problem.code in _REQUEST_CODES:
            return Kind.REQUEST
        case status if status >= 500 and (len(problem.code) != 5 or problem.code.startswith("HR")):
            return Kind.UNKNOWN  # with a SQLSTATE the database has judged the rows, so it has not stored them
        case _:
            return Kind.ROW if "headrace-row" in response.headers else Kind.SOME_ROW


def _problem(response: httpx2.Response) -> _Problem:
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = _Problem(message=" ".join(response.text.split())[:200])  # a proxy's page
    problem.message = problem.message or f"HTTP {response.status_code} {response.reason_phrase}"
    return problem


def _seconds(retry_after: str) -> float:
    """RFC 9110 section 10.2.3: whole seconds or a date."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 1.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def divide(rows: list[Row], verdict: Verdict) -> tuple[Row | None, list[list[Row]]]:
    """A request that was not stored because of its rows: the row that is refused, if known, and what to send again."""
    if verdict.kind is Kind.ROW and 1 <= verdict.row <= len(rows):
        rest = rows[: verdict.row - 1] + rows[verdict.row :]
        return rows[verdict.row - 1], [rest] if rest else []
    if len(rows) == 1:
        return rows[0], []
    middle = len(rows) // 2
    return None, [rows[:middle], rows[middle:]]
