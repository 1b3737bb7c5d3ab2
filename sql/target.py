"""A target: what one batch writes to. Rows may share a batch exactly if they have the same target object."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from sql.catalog import Catalog, Table


class Way(Enum):
    """How the rows reach the table."""

    COPY = auto()  # COPY FROM STDIN; answers nothing but success
    RECORDSET = auto()  # INSERT … SELECT FROM json_to_recordset
    RECORDSET_RETURNING = auto()  # the same, answering the stored rows


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A table, the columns that the rows have, and the way of writing. Compared by identity: see `Targets`."""

    catalog: Catalog
    table: Table
    columns: tuple[str, ...]
    way: Way


class Targets:
    """Keeps one `Target` for each combination, for as long as the catalog that they were made from is the newest."""

    _MAX = 10_000  # combinations of tables and columns; forgetting them only means smaller batches

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._targets: dict[tuple[str, str, tuple[str, ...], Way], Target] = {}

    def get(self, table: Table, columns: tuple[str, ...], way: Way) -> Target:
        """The one target of this combination."""
        key = (table.schema, table.name, columns, way)
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= self._MAX:
                self._targets.clear()
            target = self._targets[key] = Target(self._catalog, table, columns, way)
        return target
