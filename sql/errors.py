"""What PostgreSQL says, as meanings: SQLSTATE → what a writer must do about it. The only reader of asyncpg exceptions.

HTTP statuses are not decided here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum, auto

import asyncpg


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in the words of PostgreSQL, or of the catalog and the codec where they judge in its place.

    `code` is a SQLSTATE or a code of the write dialect. `row` counts from 1 within the request, `column` is a name;
    both are None where unknown.
    """

    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    row: int | None = None
    column: str | None = None

    def at(self, row: int, column: str | None = None) -> Fault:
        """The same fault, found in this row (counted from 1) and, if it is known, column."""
        return replace(self, row=row, column=column or self.column)


class SqlError(Exception):
    """Base of what this package raises or returns as an outcome. Nothing of the rows concerned was stored, except
    where a subclass says otherwise.
    """


class Rejected(SqlError):
    """The rows of one request cannot be stored as they are: a final verdict with its reason."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class Unavailable(SqlError):
    """The database is away or too busy; trying again later may help. Nothing was stored."""


class Crowded(Unavailable):
    """There is no room for another connection. Those that there are can be used."""


class Unconfirmed(SqlError):
    """A commit was reported for which no synchronous standby was waited: it may be lost with this server."""


class TableChanged(SqlError):
    """The table is not what it was when the rows were encoded; nothing was stored. Encoding them again may help."""


class KeyReused(SqlError):
    """The idempotency key belongs to another request; nothing of this one was stored."""

    def __init__(self) -> None:
        super().__init__("the key was used for another request")


class InDoubt(SqlError):
    """The connection was lost in the middle of something. Once there is a new one, the slot can find out and go on."""


class OutcomeUnknown(SqlError):
    """The connection was lost before the answer to a commit arrived, and nothing says whether the rows are stored."""

    def __init__(self) -> None:
        super().__init__("the connection was lost during the commit: the rows may or may not be stored")


class TooLarge(SqlError):
    """The rows of one request take more bytes than may ever wait (their source may be much shorter)."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"more than {bytes_max} bytes of rows in one request")
        self.bytes_max = bytes_max


class CatalogMissing(SqlError):
    """The catalog has not been loaded yet, so nothing is known about any table."""


class Meaning(Enum):
    """What a failed statement calls for."""

    ROW = auto()  # one row is bad: its request fails, the others are written without it
    TABLE_CHANGED = auto()  # what we know about the table is out of date: read the catalog, judge again
    BUSY = auto()  # nothing stored, the connection is usable: try again later
    AWAY = auto()  # the connection is unusable
    REQUEST = auto()  # the statement as such fails, whatever the rows: every request in it gets this answer
    BUG = auto()  # not foreseen


# The classes and codes of https://www.postgresql.org/docs/current/errcodes-appendix.html, most specific first.
_MEANINGS: dict[str, Meaning] = {
    "42P01": Meaning.TABLE_CHANGED,  # undefined_table
    "42703": Meaning.TABLE_CHANGED,  # undefined_column
    "42804": Meaning.TABLE_CHANGED,  # datatype_mismatch
    "42809": Meaning.TABLE_CHANGED,  # wrong_object_type: the table became a view
    "42P10": Meaning.TABLE_CHANGED,  # the column became a generated one
    "3F000": Meaning.TABLE_CHANGED,  # the schema is gone
    "42704": Meaning.TABLE_CHANGED,  # undefined_object: a type is gone
    "22P04": Meaning.TABLE_CHANGED,  # bad_copy_file_format: a column lost its default, which our marker asks for
    "0A000": Meaning.TABLE_CHANGED,  # feature_not_supported: row-level security was switched on
    "428C9": Meaning.ROW,  # generated_always
    "42846": Meaning.REQUEST,  # cannot_coerce: there is no such cast, of what is returned
    "40003": Meaning.AWAY,  # statement_completion_unknown
    "55000": Meaning.REQUEST,  # object_not_in_prerequisite_state: the view takes no rows
    "55P03": Meaning.BUSY,  # lock_not_available
    "57014": Meaning.BUSY,  # query_canceled: statement_timeout, pg_cancel_backend
    "25006": Meaning.BUSY,  # read_only_sql_transaction: a failover is on its way
    "54001": Meaning.ROW,  # statement_too_complex: JSON that nests too deep
    "P0001": Meaning.ROW,  # raise_exception
    "08": Meaning.AWAY,
    "22": Meaning.ROW,
    "23": Meaning.ROW,
    "40": Meaning.BUSY,
    "44": Meaning.ROW,
    "53": Meaning.BUSY,
    "54": Meaning.ROW,
    "57": Meaning.AWAY,
    "58": Meaning.BUSY,
}


_RAISE = "exec_stmt_raise"
"""The function in PostgreSQL's source that carries out RAISE in PL/pgSQL (src/pl/plpgsql/src/pl_exec.c). An error that
is passed on, by RAISE alone, keeps the function that it comes from."""


_NO_RIGHT = "aclcheck_error"
"""The function that refuses who lacks a right (src/backend/catalog/aclchk.c). A policy that a row violates has the same
SQLSTATE."""


def unknown_table(schema: str, name: str) -> Rejected:
    """The dialect's answer to a name that is no table."""
    return Rejected(Fault("PGRST205", f"Could not find the table '{schema}.{name}' in the schema cache"))


def unknown_column(table: str, name: str) -> Rejected:
    """The dialect's answer to a key that is no column."""
    message = f"Could not find the '{name}' column of '{table}' in the schema cache"
    return Rejected(Fault("PGRST204", message, column=name))


def meaning_of(error: BaseException) -> Meaning:
    """What an exception raised by asyncpg (or by the socket below it) calls for."""
    if isinstance(error, asyncpg.PostgresError):
        return _meaning_of_refusal(error)
    if isinstance(error, (OSError, asyncpg.InterfaceError, TimeoutError)):
        return Meaning.AWAY
    if isinstance(error, asyncpg.InternalClientError) and "cannot switch to state" in str(error):
        return Meaning.AWAY  # the server's last words, that it closes the connection, came before what it was sent
    return Meaning.BUG


def _meaning_of_refusal(error: asyncpg.PostgresError) -> Meaning:
    if error.server_source_function == _RAISE:
        return Meaning.ROW  # the word of a trigger or a function, which may raise any SQLSTATE
    if error.server_source_function == _NO_RIGHT:
        return Meaning.REQUEST
    state = error.sqlstate or ""
    # Whatever is in no table is the same in another language than PL/pgSQL.
    found = _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or Meaning.ROW
    if found is Meaning.AWAY and getattr(error, "severity_en", None) == "ERROR":
        # So may be this, or a foreign server is away: the connection is not, and the transaction is rolled back.
        return Meaning.ROW
    return found


def as_error(error: Exception) -> Exception:
    """The same, but what PostgreSQL has raised is an error: SQLSTATEs of the classes 01 and 02, which a function may
    raise too, are warnings to asyncpg.
    """
    if not isinstance(error, asyncpg.PostgresWarning):
        return error
    found = asyncpg.PostgresError(error.message)
    found.__dict__.update(error.__dict__)
    return found


_NO_ROOM = re.compile(
    "no more connections allowed|too many clients already|too many connections for|remaining connection slots are"
)
"""How PgBouncer says so, or passes on that PostgreSQL does: its own SQLSTATE is 08P01 whatever the matter is."""


def unavailable(error: BaseException, reason: str = "") -> Unavailable:
    """What an exception that was met while connecting means, in one line."""
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    is_crowded = state == "53300" or (state == "08P01" and _NO_ROOM.search(str(error)) is not None)
    return (Crowded if is_crowded else Unavailable)(reason or one_line(error))


def fault_of(error: asyncpg.PostgresError) -> Fault:
    """The words of a server error. CONTEXT is left out: in a shared batch it can quote somebody else's rows."""
    details = _text(error.detail)
    return Fault(
        code=error.sqlstate or "XX000",
        message=_text(error.message) or str(error),
        details=details,
        hint=_text(error.hint),
        column=_text(error.column_name),
    )


def not_singular(count: int) -> Fault:
    """The dialect's answer to who wants exactly one row, which `count` are not."""
    return Fault("PGRST116", "Cannot coerce the result to a single JSON object", f"The result contains {count} rows")


def is_of_time_zone(error: asyncpg.PostgresError) -> bool:
    """Whether an error says that there is no such time zone, not in a function but where a transaction sets it."""
    return error.sqlstate == "22023" and '"TimeZone"' in str(error) and not isinstance(error.context, str)


def one_line(error: BaseException) -> str:
    """An exception as one line for people: its text, or its name where it has none."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def line_of(error: asyncpg.PostgresError, relation: str) -> tuple[int, str | None] | None:
    """Which line of a COPY into `relation` an error speaks of: (line counted from 1, column or None), or None.

    The CONTEXT field is a stack of frames, innermost first. The frame of COPY is the first one where a type's input
    function failed, and ends with the value, which may contain anything, even lines that look like a frame. Below a
    trigger it is the last one and quotes the raw line, where line ends are escaped. Below a function that a domain
    calls it is the last one and ends with the value. So the first frame is believed, or the only one if it is the last;
    of two, one is somebody's value. In other languages than English nothing is recognised.
    """
    prefix = f"COPY {relation}, line "
    before, *frames = f"\n{_text(error.context) or ''}".split(f"\n{prefix}")
    if frames and (not before or (len(frames) == 1 and "\n" not in frames[0])):
        match = re.match(r"(\d+)(?:, column (.+?))?(?:: \"|: null input|$)", frames[0], re.DOTALL)
        if match:
            return int(match[1]), match[2]
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
