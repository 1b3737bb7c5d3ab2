"""The COPY way: rows that are COPY text already, written in one message exchange on a raw connection.

Owns the one call of asyncpg's private `_copy_in`. Must not know requests or what errors mean to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sql.target import Target

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


async def copy(connection: Connection, target: Target, payload: bytes) -> None:
    """Write COPY text and commit. Raises what asyncpg raises; a server error means that nothing was stored.

    `_copy_in` sends its statement as a simple query, so a statement put before the COPY in the same string runs in the
    same implicit transaction, without another round trip. `copy_to_table`, which is public, allows neither that nor the
    DEFAULT option. It takes bytes for a file name, hence the memoryview. Guarded by `tests/sql/test_copy.py`.
    """
    # asyncpg sends the data without waiting for the server to ask for it: a connection that is lost at any time after
    # this call has begun leaves it unknown whether the rows are stored.
    statement = target.statement
    await connection._copy_in(statement, memoryview(payload), None)  # type: ignore[attr-defined] # noqa: SLF001
