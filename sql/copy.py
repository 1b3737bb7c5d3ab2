"""The COPY way: rows that are COPY text already, written in one message exchange on a raw connection.

Owns the one call of asyncpg's private `_copy_in`. Must not know requests or what errors mean to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, cast

from sql.encoded import Payload
from sql.target import Target

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


async def copy(connection: Connection, target: Target, payloads: Sequence[Payload], before: str = "") -> None:
    """Write COPY text and commit, with the SQL `before` in the same transaction. Raises what asyncpg raises; a server
    error means that nothing was stored.

    `_copy_in` sends its statement as a simple query, so what is put before the COPY in the same string runs in the same
    implicit transaction, without another round trip. `copy_to_table`, which is public, allows neither that nor the
    DEFAULT option. It takes bytes for a file name, hence the memoryview. Guarded by `tests/sql/test_copy.py`.
    """
    # asyncpg sends the data without waiting for the server to ask for it: a connection that is lost at any time after
    # this call has begun leaves it unknown whether the rows are stored.
    source: memoryview | AsyncIterator[bytes]
    try:
        source = memoryview(b"".join(cast("Sequence[bytes]", payloads)))
    except TypeError:  # a large one is in pieces
        source = _pieces(payloads)
    await connection._copy_in(before + target.statement, source, None)  # type: ignore[attr-defined] # noqa: SLF001


async def _pieces(payloads: Sequence[Payload]) -> AsyncIterator[bytes]:
    """A large payload goes piece by piece, no faster than the connection takes it: joined, it would be there twice."""
    for payload in payloads:
        for piece in (payload,) if isinstance(payload, bytes) else payload:
            yield piece
