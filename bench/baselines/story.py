"""The story's app: FastAPI, a pydantic model, an ORM class, an AsyncSession as a dependency, one commit per request.

As its author would write it from the documentation of its libraries: neither crippled nor tuned.
`python -m bench.baselines.story PORT`, with the database in BENCH_DSN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, Identity
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The ORM's INSERT has RETURNING id by itself, because the database makes the key.
engine = create_async_engine(
    os.environ["BENCH_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1), pool_size=20, max_overflow=0
)
new_session = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


class Base(DeclarativeBase):
    """The registry of the mapped classes."""


class Event(Base):
    """A row of the table."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    device_id: Mapped[str]
    ts: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    temperature: Mapped[float | None]
    humidity: Mapped[float | None]
    status: Mapped[str | None]


class EventIn(BaseModel):
    """What a client sends."""

    device_id: str
    ts: datetime
    temperature: float | None = None
    humidity: float | None = None
    status: str | None = None


class EventId(BaseModel):
    """What it gets."""

    id: int


async def session() -> AsyncIterator[AsyncSession]:
    """One session for each request."""
    async with new_session() as current:
        yield current


@app.post("/rest/v1/events", status_code=201)
async def create_event(event: EventIn, session: Annotated[AsyncSession, Depends(session)]) -> EventId:
    """Store one row."""
    row = Event(**event.model_dump())
    session.add(row)
    await session.commit()
    return EventId(id=row.id)


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning"
    )
