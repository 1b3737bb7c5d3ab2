"""What the service's role may do with the exposed tables. Read by `rights.sql`, for the command line.

PostgreSQL is the judge when rows are written; this is what an operator should know before.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import asyncpg

_RIGHTS_SQL = (resources.files("sql") / "rights.sql").read_text("utf-8")


class Rights(Struct, frozen=True):
    """What the role may do with one table or view. `inserts`, `updates` and `selects` are about all of its columns.

    Whatever else it may do, it cannot name the table unless it `enters` its schema. Views are not looked behind.
    """

    schema: str
    name: str
    enters: bool
    inserts: bool
    inserts_some: bool
    """Whether it may insert into some columns at least."""
    updates: bool
    selects: bool
    denied_sequences: Sequence[str]
    """Those that defaults take values from (`serial`), as SQL names them, if it may not."""
    denied_identities: Sequence[str]
    """The same of identity columns, which matter only to `missing=default`."""
    unlogged: bool
    """Whether the table is emptied after a crash of the server."""

    @property
    def may_insert(self) -> bool:
        """Whether there are rows that it may insert."""
        return self.enters and self.inserts_some


async def rights_of(connection: asyncpg.Connection[asyncpg.Record], schemas: Sequence[str]) -> list[Rights]:
    """The rights to whatever takes rows in these schemas, in their order and by name. Raises what asyncpg raises."""
    return [Rights(**record) for record in await connection.fetch(_RIGHTS_SQL, list(schemas))]
