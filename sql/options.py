"""Options: what a request may ask of a write beyond storing its rows, and what it is told. Part of the key of a lane.

Must not know how a client says it, nor the SQL that does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Conflict:
    """What becomes of a row whose key is there already. `columns` are those of a unique key, the arbiter.

    `merge`: the stored row gets the values of the new one; else the new one is dropped.
    """

    columns: tuple[str, ...]
    merge: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One item of what is returned. `column` may be "*", for all of them; `cast` is a type's name."""

    column: str
    alias: str | None = None
    cast: str | None = None

    @property
    def label(self) -> str:
        """The name that it has in the answer."""
        return self.alias or self.column


@dataclass(frozen=True, slots=True)
class Sort:
    """One column to sort returned rows by. `nulls_first` is None for PostgreSQL's default."""

    column: str
    descending: bool = False
    nulls_first: bool | None = None


class Form(Enum):
    """How a returned row is written."""

    JSON = auto()
    JSON_STRIPPED = auto()  # without keys whose value is null
    CSV = auto()  # as PostgreSQL writes a record, without its parentheses


@dataclass(frozen=True, slots=True)
class Returning:
    """What is returned of each stored row, and in which order; without `items` only that it was stored."""

    items: tuple[Item, ...] = ()
    order: tuple[Sort, ...] = ()
    form: Form = Form.JSON


class Missing(Enum):
    """What becomes of a column that a row lacks."""

    NOTHING = auto()  # it cannot happen, or the row is written without that column
    NULL = auto()
    DEFAULT = auto()


@dataclass(frozen=True, slots=True)
class Options:
    """What a write does beyond storing rows.

    `singular`: a request that stores any number of rows but one fails. `rollback`: nothing is kept. `time_zone` is the
    transaction's, "" for the session's.
    """

    conflict: Conflict | None = None
    returning: Returning | None = None
    missing: Missing = Missing.NOTHING
    singular: bool = False
    rollback: bool = False
    time_zone: str = ""

    @property
    def merges(self) -> bool:
        """Whether rows that are there already are changed."""
        return self.conflict is not None and self.conflict.merge

    @property
    def answers(self) -> bool:
        """Whether more must be known of a write than that it succeeded."""
        return self.returning is not None or self.singular or self.rollback or self.merges

    def intent(self, listed: tuple[str, ...] | None) -> Intent | None:
        """What is left to remember of it, with the columns that were listed, if there is anything."""
        if listed is None and self.conflict is None and not self.time_zone:
            return None
        conflict = self.conflict or Conflict((), merge=False)
        return Intent(listed, self.missing is Missing.DEFAULT, conflict.columns, conflict.merge, self.time_zone)


class Intent(Struct, frozen=True, omit_defaults=True):
    """How a row that is kept for later was to be written, as JSON has it. See `Conflict` and `Missing`.

    Of its keys only `columns` count, if they are not None, and what it lacks of these is NULL or, with `defaults`,
    their default.
    """

    columns: tuple[str, ...] | None = None
    defaults: bool = False
    conflict: tuple[str, ...] = ()
    merge: bool = False
    time_zone: str = ""

    @property
    def options(self) -> Options:
        """The same for a write."""
        missing = Missing.NOTHING
        if self.columns is not None:
            missing = Missing.DEFAULT if self.defaults else Missing.NULL
        return Options(Conflict(self.conflict, self.merge) if self.conflict else None, missing=missing)


PLAIN = Options()

EVERYTHING = Returning((Item("*"),))
"""All columns of each stored row, as JSON."""


class Written(Struct, frozen=True):
    """What became of one request's rows: `count` were stored, `inserted` of them new, the others changed rows that were
    there. `rows` is what is returned of each, empty if that is nothing.
    """

    rows: Sequence[str]
    count: int
    inserted: int
