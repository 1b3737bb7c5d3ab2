"""The COPY way: rows that are COPY text already, written in one message exchange on a raw connection.

Owns the statement and the one call of asyncpg's private `_copy_in`. Must not know requests or what errors mean to them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import asyncpg

from sql.catalog import quote_identifier
from sql.errors import Unavailable, one_line
from sql.target import Target
from sql.values import DEFAULT, NULL

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@lru_cache(maxsize=4096)
def copy_statement(target: Target) -> str:
    """The COPY statement for a target. https://www.postgresql.org/docs/current/sql-copy.html"""
    columns = ", ".join(quote_identifier(name) for name in target.columns)
    default = f", default '{DEFAULT}'" if target.catalog.copy_default else ""
    return f"copy {target.table.identifier} ({columns}) from stdin (format text, null '{NULL}'{default})"


class _Payload:
    """The payload as an asynchronous iterator, which knows whether asyncpg may have sent any of it."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.taken = False

    def __aiter__(self) -> _Payload:
        return self

    async def __anext__(self) -> bytes:
        if self.taken:
            raise StopAsyncIteration
        self.taken = True
        return self._payload


async def copy(connection: Connection, target: Target, payload: bytes) -> None:
    """Write COPY text and commit. Raises what asyncpg raises; a server error means that nothing was stored.

    A connection that is found lost before any data is sent raises `Unavailable`: nothing was stored then either, while
    afterwards nobody knows.

    `_copy_in` sends its statement as a simple query and the data right behind it, without waiting for the server to ask
    for it. So a statement put before the COPY in the same string runs in the same implicit transaction, without another
    round trip. `copy_to_table`, which is public, allows neither that nor the DEFAULT option. Guarded by
    `tests/sql/test_copy.py`.
    """
    source = _Payload(payload)
    try:
        await connection._copy_in(copy_statement(target), source, None)  # type: ignore[attr-defined] # noqa: SLF001
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError) as error:
        if source.taken:
            raise
        raise Unavailable(one_line(error)) from error
