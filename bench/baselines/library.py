"""The story's app with Headrace as its library: FastAPI, the same models, one `insert` where the session was.

As its author would write it from the README. `python -m bench.baselines.library PORT`, with the database in
HEADRACE_DSN.
"""

from __future__ import annotations

import sys
from datetime import datetime

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from headrace import Headrace

headrace = Headrace()
app = FastAPI(lifespan=headrace.lifespan)


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


@app.post("/rest/v1/events", status_code=201)
async def create_event(event: EventIn) -> EventId:
    """Store one row."""
    row = await headrace.insert("events", event, returning="id")
    return EventId(id=row["id"])


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning"
    )
