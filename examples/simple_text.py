"""Headrace in a FastAPI app: each endpoint inserts by itself, and the rows of all of them share batches.

    .venv/bin/uvicorn examples.simple_text:app
    curl http://127.0.0.1:8000/test-insert
    curl http://127.0.0.1:8000/texts -H 'Content-Type: application/json' -d '[{"text": "one"}, {"text": "two"}]'

The database is that of HEADRACE_DSN; without, the app starts a PostgreSQL of its own in `.headrace/`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from headrace import Headrace, HeadraceError

headrace = Headrace(embedded=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Headrace, and what the app has beside it: here the table, which elsewhere is there already."""
    async with headrace.lifespan(app):
        connection = await asyncpg.connect(headrace.dsn)
        await connection.execute(
            "create table if not exists simple_text "
            "(id bigint generated always as identity primary key, text text not null check (text <> ''))"
        )
        await connection.close()
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/test-insert")
async def test_insert() -> dict[str, Any]:
    """One row."""
    return await headrace.insert("simple_text", {"text": "Test"}, returning="id")


class Text(BaseModel):
    """A row as a client sends it."""

    text: str


@app.post("/texts", status_code=201)
async def create_texts(texts: Annotated[list[Text], Field(min_length=1)]) -> list[dict[str, Any]]:
    """Several rows, of which all are stored or none."""
    return await headrace.insert("simple_text", texts, returning=["id", "text"], deadline_seconds=2)


@app.exception_handler(HeadraceError)
async def not_stored(_request: Request, error: HeadraceError) -> JSONResponse:
    """What the client is told if an insert fails, wherever that was."""
    later = {} if error.retry_seconds is None else {"Retry-After": str(max(1, math.ceil(error.retry_seconds)))}
    return JSONResponse({"detail": error.message, "code": error.code, "row": error.row}, error.status, later)
