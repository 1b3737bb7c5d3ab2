"""Connecting to PostgreSQL, and how long it may take for what.

Owns what a connection is set to. Must not know what it is used for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from sql.errors import Unavailable, one_line

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

SLOT_NAME = "headrace slot"
"""The beginning of the `application_name` of connections that write."""

_NOTICES_CLIENT = """
    select set_config('client_connection_check_interval', '1s', false)
    where current_setting('server_version_num')::int >= 140000
"""
"""A backend that waits for a lock or runs a trigger would not notice by itself that its client has gone."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the database may take, and how long things are kept there.

    `statement_seconds` and `lock_seconds` are enforced by the server, so that their end is a clean one;
    `connect_seconds` is ours, and `answer_seconds` is when a silent connection is given up. For `doubt_seconds` it is
    tried to find out whether a write was committed. Idempotency keys are known for `key_seconds`.
    """

    connect_seconds: float = 5.0
    statement_seconds: float = 20.0
    lock_seconds: float = 5.0
    doubt_seconds: float = 20.0
    key_seconds: float = 86_400.0

    @property
    def shared_lock_seconds(self) -> float:
        """How long a locked table may hold up the others that it is written with."""
        return min(self.lock_seconds, 0.1)

    @property
    def shared_statement_seconds(self) -> float:
        """How long a slow table may. A small batch takes some milliseconds; what takes longer is written alone."""
        return min(self.statement_seconds, 0.25)

    @property
    def answer_seconds(self) -> float:
        """After the server should have given up by itself."""
        return self.statement_seconds + 5.0


async def connect(dsn: str, timeouts: Timeouts, application_name: str) -> Connection:
    """A connection for writing. Raises `Unavailable` with one line that says why not."""
    connection = None
    try:
        async with asyncio.timeout(timeouts.connect_seconds):
            connection = await asyncpg.connect(dsn, server_settings={"application_name": application_name})
            await connection.execute(
                f"set statement_timeout = '{milliseconds(timeouts.statement_seconds)}';"
                f"set lock_timeout = '{milliseconds(timeouts.lock_seconds)}'"
            )
            with suppress(asyncpg.InvalidParameterValueError):  # its operating system has no way to find out
                await connection.execute(_NOTICES_CLIENT)
    except (asyncpg.exceptions.ClientConfigurationError, ValueError) as error:
        # The words of these may quote a part of the password.
        raise Unavailable("the DSN is not a connection URL that can be read") from error
    except BaseException as error:
        if connection is not None:
            connection.terminate()
        if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)):
            raise Unavailable(one_line(error)) from error
        raise
    return connection


def is_abandoned(context: Mapping[str, object]) -> bool:
    """Whether an event loop's complaint is about a future that asyncpg left behind when its connection was cut.

    The write that it belonged to has been judged by another exception, so nobody needs to hear of it again.
    """
    return "future" in context and isinstance(context.get("exception"), asyncpg.PostgresConnectionError)


def milliseconds(seconds: float) -> str:
    """As PostgreSQL writes a time-out; 0 would mean: without limit."""
    return f"{max(1, round(seconds * 1000))}ms"
