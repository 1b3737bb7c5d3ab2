"""What tests of slots share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sql import Catalog, Slot, Timeouts
from sql.catalog import load
from tests.harness import Connection


@pytest.fixture
async def slot(db: Connection, dsn: str) -> AsyncIterator[Slot]:
    """A slot that is open, and a table t."""
    await db.execute("create table t (n int check (n < 100), id int generated always as identity)")

    async def changed() -> Catalog:
        return await load(db, ["public"])

    slot = Slot(dsn, Timeouts(lock_seconds=0.3), changed)
    await slot.open()
    yield slot
    await slot.close()
