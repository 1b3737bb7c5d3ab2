"""A command's connection to the database: opened, closed whatever happens, its troubles in one line.

Must not know what is done with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from sql import Unavailable, one_line

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_CONNECT_SECONDS = 10.0


class DatabaseError(Exception):
    """Why nothing can be done, as one line."""


@asynccontextmanager
async def connected(dsn: str, application_name: str) -> AsyncIterator[Connection]:
    """A connection. What goes wrong with it becomes a `DatabaseError`."""
    try:
        connection = await asyncpg.connect(
            dsn, timeout=_CONNECT_SECONDS, server_settings={"application_name": application_name}
        )
    except (asyncpg.exceptions.ClientConfigurationError, ValueError):
        # The words of these may quote a part of the password.
        raise DatabaseError("the DSN is not a connection URL that can be read") from None
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise DatabaseError(f"cannot reach the database: {one_line(error)}") from error
    try:
        yield connection
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Unavailable) as error:
        raise DatabaseError(one_line(error)) from error
    finally:
        connection.terminate()
