"""A role of a test's own: it may log in, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.harness import Connection


@dataclass(frozen=True, slots=True)
class Role:
    """Its name as SQL writes it, and how to connect as it, with a password that nobody should see."""

    name: str
    dsn: str


PASSWORD = "hunter-2"


@asynccontextmanager
async def role_in(db: Connection, dsn: str) -> AsyncIterator[Role]:
    """A role in the test's database, as long as it is needed."""
    name = f"{await db.fetchval('select current_database()')}_role"
    await db.execute(f"create role {name} login")
    try:
        yield Role(name, dsn.replace("postgres@", f"{name}:{PASSWORD}@"))
    finally:
        await db.execute(f"drop owned by {name} cascade; drop role {name}")
