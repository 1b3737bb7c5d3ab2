"""A command's connection to the database: opened, closed whatever happens, its troubles in one line.

Must not know what is done with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from sql import BadDsn, Unavailable, one_line, open_session

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_CONNECT_SECONDS = 10.0


class DatabaseError(Exception):
    """Why nothing can be done, as one line."""


@asynccontextmanager
async def connected(dsn: str, application_name: str) -> AsyncIterator[Connection]:
    """A connection. What goes wrong with it becomes a `DatabaseError`."""
    try:
        connection = await open_session(dsn, _CONNECT_SECONDS, application_name)
    except BadDsn as error:
        raise DatabaseError(str(error)) from None
    except Unavailable as error:
        raise DatabaseError(f"cannot reach the database: {error}") from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as error:
        raise DatabaseError(one_line(error)) from error
    finally:
        connection.terminate()
