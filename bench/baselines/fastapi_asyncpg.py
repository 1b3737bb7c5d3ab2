"""FastAPI and asyncpg without an ORM: a pool of 20 connections, one INSERT for each request.

What many arrive at after the first round of tuning.
`python -m bench.baselines.fastapi_asyncpg PORT`, with the database in BENCH_DSN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

INSERT = """
insert into events (device_id, ts, temperature, humidity, status) values ($1, $2, $3, $4, $5) returning id
"""


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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the pool."""
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=20, max_size=20) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/rest/v1/events", status_code=201)
async def create_event(event: EventIn, request: Request) -> EventId:
    """Store one row."""
    pool: asyncpg.Pool = request.app.state.pool
    row_id = await pool.fetchval(INSERT, event.device_id, event.ts, event.temperature, event.humidity, event.status)
    return EventId(id=row_id)


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning"
    )
