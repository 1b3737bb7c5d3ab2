"""Housekeeping: what nobody needs any more in schema headrace is deleted.

Owns when and how much. Must not know what it is for.
"""

from __future__ import annotations

import asyncio
import logging

from sql.connect import Timeouts, connect
from sql.errors import one_line

logger = logging.getLogger(__name__)

_SECONDS = 60.0
_AT_ONCE = 10_000

# A slot that is alive uses its row once a day at least.
_DEAD_SLOTS = "delete from headrace.ledger where at < now() - interval '7 days'"

_OLD_KEYS = f"""
    delete from headrace.idempotency where key in (
        select key from headrace.idempotency where at < now() - make_interval(secs => $1)
        order by at limit {_AT_ONCE} for update skip locked
    ) returning key
"""


async def clean(dsn: str, timeouts: Timeouts) -> int:
    """Delete the rows of slots that are no more, and idempotency keys that are too old; how many keys.

    Raises `Unavailable` and what asyncpg raises.
    """
    connection = await connect(dsn, timeouts, "headrace housekeeping")
    try:
        if not await connection.fetchval("select to_regclass('headrace.idempotency_at') is not null"):
            return 0
        await connection.execute(_DEAD_SLOTS)
        deleted = 0
        while True:
            keys = await connection.fetch(_OLD_KEYS, timeouts.key_seconds)
            deleted += len(keys)
            if len(keys) < _AT_ONCE:
                return deleted
    finally:
        connection.terminate()


async def keep_clean(dsn: str, timeouts: Timeouts) -> None:
    """Clean once a minute, or less often while the database cannot be reached. Runs until it is cancelled."""
    pause = _SECONDS
    while True:
        await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(timeouts.answer_seconds):
                await clean(dsn, timeouts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no reason to stop writing
            logger.info("could not clean up in schema headrace: %s", one_line(error))
            pause = min(pause * 2, 16 * _SECONDS)
        else:
            pause = _SECONDS
