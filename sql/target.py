"""A target: what one batch writes to. Rows may share a batch exactly if they have the same target object."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from sql.catalog import Kind, Table
from sql.statements import copy_statement, default_rows_statement, insert_statement, values_statement


class Way(Enum):
    """How the rows reach the table."""

    COPY = auto()  # COPY FROM STDIN; answers nothing but success
    RECORDSET = auto()  # INSERT … SELECT FROM json_to_recordset
    RECORDSET_RETURNING = auto()  # the same, answering the stored rows


@dataclass(frozen=True, eq=False)
class Target:
    """A table, the columns that the rows have, and the way of writing. Compared by identity: see `Targets`.

    `copy_default` says whether COPY has a marker for "the default here" (PostgreSQL 16).
    """

    table: Table
    columns: tuple[str, ...]
    way: Way
    copy_default: bool

    @cached_property
    def is_shareable(self) -> bool:
        """Whether rows that would go by COPY may as well go as constants, in one round trip with those of others.

        A constant for an array is read without the type's modifier, which is applied afterwards. To intervals this
        makes a difference: for `interval year[]`, {5} would be five seconds, and so no year.
        """
        kinds = [self.table.columns[name] for name in self.columns]
        arrays = [column.type for column in kinds if column.kind is Kind.ARRAY]
        plain = all(type_.endswith("[]") and (type_ == "interval[]" or "interval" not in type_) for type_ in arrays)
        return self.way is Way.COPY and plain

    @cached_property
    def order(self) -> tuple[str, str, tuple[str, ...]]:
        """Where it stands among targets that are written together: always in the same order, so that two
        transactions do not wait for each other in turn.
        """
        return self.table.schema, self.table.name, self.columns

    @cached_property
    def values_statement(self) -> str:
        """The beginning of the statement that writes a batch together with those of other targets."""
        return values_statement(self.table, self.columns)

    @cached_property
    def statement(self) -> str:
        """The statement that writes a batch; its parameters are those of `sql/copy.py` or `sql/recordset.py`."""
        if self.way is Way.COPY:
            return copy_statement(self.table, self.columns, copy_default=self.copy_default)
        returning = self.way is Way.RECORDSET_RETURNING
        if self.columns:
            return insert_statement(self.table, self.columns, returning=returning)
        return default_rows_statement(self.table, returning=returning)


class Targets:
    """The targets of one table: one object for each combination of columns and way."""

    _MAX = 1_000  # a producer with random keys must not grow memory; forgetting them only means smaller batches

    def __init__(self, table: Table, *, copy_default: bool) -> None:
        self._table = table
        self._copy_default = copy_default
        self._targets: dict[tuple[tuple[str, ...], Way], Target] = {}

    def get(self, columns: tuple[str, ...], way: Way) -> Target:
        """The one target of this combination."""
        target = self._targets.get((columns, way))
        if target is None:
            if len(self._targets) >= self._MAX:
                self._targets.clear()
            target = self._targets[columns, way] = Target(self._table, columns, way, self._copy_default)
        return target
