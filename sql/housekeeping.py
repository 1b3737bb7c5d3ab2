"""Housekeeping: what nobody needs any more in schema headrace is deleted.

Owns when and how much. Must not know what it is for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from sql.budget import HOUSEKEEPING_NAME
from sql.connect import SLOT_NAME, Timeouts, connect
from sql.errors import one_line
from sql.ledger import ROW_KEPT_SECONDS

logger = logging.getLogger(__name__)

_SECONDS = 60.0
_AT_ONCE = 10_000

# A session may be hidden (of another role, behind a pooler): a slot that is alive makes its row anew.
_DEAD_SLOTS = f"""
    delete from headrace.ledger as l where at < now() - make_interval(secs => $1) and not exists (
        select from pg_stat_activity where application_name = '{SLOT_NAME} ' || l.slot
    )
"""

_SIGN_OUT = """
    delete from headrace.ledger where slot in (
        select slot from headrace.ledger where slot = any($1::uuid[]) for update skip locked
    )
"""

_SIGN_OUT_SECONDS = 1.0
"""A process that ends is waited for."""

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
    connection = await connect(dsn, timeouts, HOUSEKEEPING_NAME)
    try:
        if not await connection.fetchval("select to_regclass('headrace.idempotency_at') is not null"):
            return 0
        await connection.execute(_DEAD_SLOTS, max(ROW_KEPT_SECONDS, 2 * timeouts.doubt_seconds))
        deleted = 0
        while True:
            keys = await connection.fetch(_OLD_KEYS, timeouts.key_seconds)
            deleted += len(keys)
            if len(keys) < _AT_ONCE:
                return deleted
    finally:
        connection.terminate()


async def sign_out(dsn: str, timeouts: Timeouts, rows: Sequence[str]) -> None:
    """Delete the rows of slots that have ended in good order, and whose writes have all been judged.

    One that is locked belongs to a write that may yet be committed, and stays. So do all if the database does not
    answer at once: they are deleted by and by.
    """
    with suppress(Exception):
        async with asyncio.timeout(_SIGN_OUT_SECONDS):
            connection = await connect(dsn, timeouts, HOUSEKEEPING_NAME)
            try:
                await connection.execute(_SIGN_OUT, rows)
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
