"""A target: what one batch writes to. Rows may share a batch exactly if they have the same target object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property, lru_cache
from typing import cast

from sql.catalog import Kind, Table
from sql.encoded import Payload, decode_row
from sql.options import PLAIN, Missing, Options
from sql.statements import (
    copy_statement,
    recordset_statement,
    returning_statement,
    values_of,
    values_statement,
)


class Way(Enum):
    """How the rows reach the table."""

    COPY = auto()  # COPY FROM STDIN; answers nothing but success
    RECORDSET = auto()  # INSERT … SELECT FROM json_to_recordset
    RECORDSET_RETURNING = auto()  # the same, answering what was stored
    NONE = auto()  # no rows are left, only what is written beside them


def way_of(table: Table, options: Options, *, copy_default: bool) -> Way:
    """The way of rows that have columns. COPY knows neither conflicts nor answers."""
    if options.answers:
        return Way.RECORDSET_RETURNING
    copyable = table.copyable and options.conflict is None and (copy_default or options.missing is not Missing.DEFAULT)
    return Way.COPY if copyable else Way.RECORDSET


@dataclass(frozen=True, eq=False)
class Target:
    """A table, the columns that the rows have, the way of writing and what is asked of it. Compared by identity: see
    `Targets`.

    `copy_default` says whether COPY has a marker for "the default here" (PostgreSQL 16), `is_apart` that it is the one
    for senders of bad rows.
    """

    table: Table
    columns: tuple[str, ...]
    way: Way
    copy_default: bool
    options: Options = PLAIN
    is_apart: bool = False

    @cached_property
    def apart(self) -> Target:
        """The same for rows of whoever has sent bad ones lately: finding those must not hold up everybody else's."""
        return self if self.is_apart else replace(self, is_apart=True)

    @cached_property
    def is_shareable(self) -> bool:
        """Whether rows that would go by COPY may as well go as constants, in one round trip with those of others.

        A constant for an array is read without the type's modifier, which is applied afterwards. To intervals this
        makes a difference: for `interval year[]`, {5} would be five seconds, and so no year.
        """
        kinds = [self.table.columns[name] for name in self.columns]
        arrays = [column.type for column in kinds if column.kind is Kind.ARRAY]
        plain = all(type_.endswith("[]") and (type_ == "interval[]" or "interval" not in type_) for type_ in arrays)
        return self.way is Way.COPY and plain and not self.is_apart and not self.options.time_zone

    @cached_property
    def serial(self) -> tuple[str, str] | None:
        """What no two batches may be written to at once, if there is such a thing: the table, if rows are changed. Two
        that change the same rows in another order wait for each other, for a second, until PostgreSQL ends one of them.
        """
        return (self.table.schema, self.table.name) if self.options.merges else None

    @cached_property
    def is_marked(self) -> bool:
        """Whether returned rows say which of the given rows they are: fewer may return, or in another order."""
        options, table = self.options, self.table
        ordered = options.returning is not None and bool(options.returning.order)
        filtered = (options.conflict is not None or table.filtering_triggers) and not table.insert_rules
        return self.way is Way.RECORDSET_RETURNING and (ordered or filtered)

    @cached_property
    def casts(self) -> bool:
        """Whether a good row may fail for what is returned of it."""
        returning = self.options.returning
        return returning is not None and any(item.cast is not None for item in returning.items)

    @cached_property
    def order(self) -> tuple[str, str, tuple[str, ...]]:
        """Where it stands among targets that are written together: always in the same order, so that two
        transactions do not wait for each other in turn.
        """
        return self.table.schema, self.table.name, self.columns

    @cached_property
    def statement(self) -> str:
        """The statement that writes a batch alone: a COPY, or an INSERT of which parameter $1 is the rows."""
        if self.way is Way.COPY:
            return copy_statement(self.table, self.columns, copy_default=self.copy_default)
        return returning_statement(self.table, self.columns, self.options, marked=self.is_marked)

    def text(self, payloads: Sequence[Payload], rows: int) -> str:
        """The same rows as SQL without parameters, so that several targets share one round trip. May be empty."""
        match self.way:
            case Way.NONE:
                return ""
            case Way.COPY:
                return self._values_statement + values_of(_joined(payloads, b""))
            case _:
                return recordset_statement(self.table, self.columns, self.options, _joined(payloads, b","), rows)

    def each(self, payload: Payload, raws: Sequence[bytes]) -> list[str]:
        """The rows of one request as an INSERT each; `raws` are the same rows as they came."""
        if self.way is Way.COPY and self.is_shareable:
            return [self._values_statement + values_of(line) for line in _joined([payload], b"").split("\n")[:-1]]
        return [recordset_statement(self.table, self._columns_of(raw), self.options, raw.decode(), 1) for raw in raws]

    def _columns_of(self, raw: bytes) -> tuple[str, ...]:
        """Those that one row has, which in newline-delimited JSON may be fewer."""
        if self.options.missing is not Missing.NOTHING:
            return self.columns
        keys = decode_row(raw).keys()
        return tuple(name for name in self.columns if name in keys)

    @cached_property
    def _values_statement(self) -> str:
        return values_statement(self.table, self.columns)


@lru_cache(maxsize=1_000)
def nothing_target(schema: str, table: str) -> Target:
    """What a request goes to of which nothing is left but bad rows. Its payload is empty."""
    return Target(Table(schema, table, {}), (), Way.NONE, copy_default=False)


def _joined(payloads: Sequence[Payload], between: bytes) -> str:
    """Payloads as one text. They are UTF-8: their codec has seen to that."""
    try:
        whole = between.join(cast("Sequence[bytes]", payloads))
    except TypeError:  # a large one is in pieces
        whole = between.join([payload if isinstance(payload, bytes) else b"".join(payload) for payload in payloads])
    return whole.decode()


class Targets:
    """The targets of one table: one object for each combination of columns and options."""

    _MAX = 1_000  # a producer with random keys must not grow memory; forgetting them only means smaller batches

    def __init__(self, table: Table, *, copy_default: bool) -> None:
        self._table = table
        self._copy_default = copy_default
        self._targets: dict[tuple[tuple[str, ...], Options], Target] = {}

    def get(self, columns: tuple[str, ...], options: Options = PLAIN) -> Target:
        """The one target of this combination."""
        target = self._targets.get((columns, options))
        if target is None:
            if len(self._targets) >= self._MAX:
                self._targets.clear()
            # Rows of defaults only go by recordset: a COPY without columns would mean all of them.
            way = way_of(self._table, options, copy_default=self._copy_default)
            if way is Way.COPY and not columns:
                way = Way.RECORDSET
            target = self._targets[columns, options] = Target(self._table, columns, way, self._copy_default, options)
        return target
