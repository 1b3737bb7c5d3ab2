"""Who somebody is, once it has been proved, and what he may do with which tables.

Owns the words by which grants are written down. Must not know how anything is proved, nor what is then done with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Right(StrEnum):
    """What may be done with a table. An upsert that changes rows needs insert and update, returned rows need select."""

    INSERT = "insert"
    UPDATE = "update"
    SELECT = "select"


ROWS_PER_SECOND_MIN = 0.001
"""A row in a quarter of an hour. Whoever means less means nothing."""

GRANTS_MAX = 1_000
"""Grants of one principal. They are kept in memory for each that is known."""

_NAME = r'[^\s.:,*"]+|"(?:[^"]|"")+"'
_find_grants = re.compile(r'(?:"(?:[^"]|"")*"|[^\s"])+|"').findall
_match_grant = re.compile(rf"(?:\*|({_NAME})\.(?:\*|({_NAME})))(?::([a-z,]+))?").fullmatch


class GrantMalformed(ValueError):
    """The text is no grant."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights to one table, to all of a schema (`table` is None), or to all that are exposed (`schema` is too)."""

    schema: str | None
    table: str | None
    rights: frozenset[Right]

    @classmethod
    def parse(cls, text: str) -> Grant:
        """Read `schema.table`, `schema.*` or `*`, with `:insert,update,select`; without rights it is `insert` alone.

        Names are as in URLs: case counts. One with `.`, `:`, `,`, `*`, `"` or a space stands in quotes as in SQL.
        Raises `GrantMalformed`.
        """
        found = _match_grant(text)
        if found is None:
            raise GrantMalformed(
                f"{text!r} is no grant: expected schema.table, schema.* or *, then :insert,update,select or nothing"
            )
        schema, table, words = found.groups()
        try:
            rights = frozenset(map(Right, words.split(","))) if words else frozenset({Right.INSERT})
        except ValueError:
            raise GrantMalformed(f"{text!r} grants what there is not: the rights are insert, update, select") from None
        return cls(_unquoted(schema), _unquoted(table), rights)

    def __str__(self) -> str:
        """As `parse` reads it."""
        where = "*" if self.schema is None else f"{_quoted(self.schema)}.{_quoted(self.table)}"
        return f"{where}:{','.join(right for right in Right if right in self.rights)}"


@dataclass(frozen=True, slots=True)
class Grants:
    """All that a principal may do. A table has the rights of every grant that is about it."""

    all: tuple[Grant, ...] = ()
    _rights: frozenset[tuple[str | None, str | None, Right]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rights = frozenset((grant.schema, grant.table, right) for grant in self.all for right in grant.rights)
        object.__setattr__(self, "_rights", rights)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Grants:
        """Read grants. Raises `GrantMalformed`."""
        grants = tuple(dict.fromkeys(map(Grant.parse, texts)))
        if len(grants) > GRANTS_MAX:
            raise GrantMalformed(f"these are more than {GRANTS_MAX} grants")
        return cls(grants)

    @classmethod
    def of_text(cls, text: str) -> Grants:
        """Read grants with blanks between them. Raises `GrantMalformed`."""
        return cls.parse(_find_grants(text))

    def allows(self, schema: str, table: str, right: Right) -> bool:
        """Whether this may be done with this table."""
        rights = self._rights
        return (schema, table, right) in rights or (schema, None, right) in rights or (None, None, right) in rights


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who has proved who he is. Nothing in it is a secret."""

    name: str
    """`key NAME` or `jwt SUB`: printable, and not long."""
    grants: Grants
    expires_at: float | None = None
    """Unix time, from which on he has to prove it again."""
    rows_per_second: float | None = None
    """What he may write, through each worker. None: as much as comes."""
    queue_share: float = 0.5
    """The part of the pending rows and bytes that his requests may take up at once: more than 0, up to 1."""


def _unquoted(name: str | None) -> str | None:
    return name[1:-1].replace('""', '"') if name is not None and name.startswith('"') else name


def _quoted(name: str | None) -> str:
    if name is None:
        return "*"
    return name if re.fullmatch(_NAME, name) and not name.startswith('"') else '"' + name.replace('"', '""') + '"'
