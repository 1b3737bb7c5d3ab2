"""What the library raises: the problems of `problems.py` as exceptions, in the classes that a caller tells apart.

Owns which problem is of which class. Must not know how an insert goes.
"""

from __future__ import annotations

from service.problems import INTERNAL, KEY_UNDER_WAY, Problem


class HeadraceError(Exception):
    """Base of what `Headrace.insert` raises, but for the TypeError and ValueError of values that cannot be sent.

    `code` is a SQLSTATE or one of the codes in the README's table of error answers, `status` the HTTP status that goes
    with it. `message`, `details` and `hint` are PostgreSQL's words where it has judged. `row` counts from 1 within the
    insert, `column` is a name. `retry_seconds` is when to try again. All but the first three are None where unknown.
    """

    def __init__(  # noqa: PLR0913 - the fields of a problem; who raises it has one
        self,
        code: str,
        message: str,
        status: int,
        *,
        details: str | None = None,
        hint: str | None = None,
        row: int | None = None,
        column: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = status
        self.details = details
        self.hint = hint
        self.row = row
        self.column = column
        self.retry_seconds = retry_seconds

    def __str__(self) -> str:
        where = f", row {self.row}" if self.row is not None else ""
        where += f", column {self.column}" if self.column is not None else ""
        return f"{self.message} ({self.code}{where})"


class RowsRefused(HeadraceError):
    """The rows cannot be stored as they are. Nothing of the insert is stored, and trying again does not help."""


class DuplicateKey(RowsRefused):
    """A row has a key that is there already (SQLSTATE 23505). Nothing of the insert is stored."""


class Unavailable(HeadraceError):
    """Too much waits, the database is away or busy, or the deadline has passed. Nothing is stored; trying again may
    help.
    """


class OutcomeUnknown(HeadraceError):
    """Nobody knows whether the rows are stored: the connection was lost during the commit (HR506), or there is a bug in
    Headrace (HR500).
    """


class NotRunning(HeadraceError):
    """The `Headrace` is not started yet, or stopped, or belongs to another event loop. Nothing is stored."""


def exception_of(problem: Problem) -> HeadraceError:
    """The problem as an exception of its class."""
    fault = problem.fault
    return _class_of(problem)(
        fault.code,
        fault.message,
        problem.status,
        details=fault.details,
        hint=fault.hint,
        row=fault.row,
        column=fault.column,
        retry_seconds=problem.retry_seconds,
    )


def _class_of(problem: Problem) -> type[HeadraceError]:
    if problem.fault.code == "23505":
        return DuplicateKey
    if problem.outcome == "unknown" or problem.fault.code == INTERNAL:
        return OutcomeUnknown
    may_succeed_later = problem.outcome == "shed" or problem.fault.code == KEY_UNDER_WAY
    return Unavailable if may_succeed_later else RowsRefused
