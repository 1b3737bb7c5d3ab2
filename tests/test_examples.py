"""The examples: they are what an author copies, so they must run as they are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator

import httpx2
import pytest
from fastapi import FastAPI

from tests.harness import Connection, rows_of


@pytest.fixture
async def client(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of `examples/simple_text.py`, which runs on the test's database."""
    monkeypatch.setenv("HEADRACE_DSN", dsn)
    monkeypatch.delitem(sys.modules, "examples.simple_text", raising=False)
    app: FastAPI = importlib.import_module("examples.simple_text").app
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://example") as client,
    ):
        yield client


async def test_the_endpoint_of_the_readme_stores_a_row(client: httpx2.AsyncClient, db: Connection) -> None:
    """It is the first thing that an author tries."""
    for number in (1, 2):
        response = await client.get("/test-insert")
        assert (response.status_code, response.json()) == (200, {"id": number})
    assert await rows_of(db, "select id, text from simple_text order by id") == [(1, "Test"), (2, "Test")]


async def test_models_are_rows(client: httpx2.AsyncClient, db: Connection) -> None:
    """What FastAPI has checked need not be taken apart by hand."""
    response = await client.post("/texts", json=[{"text": "one"}, {"text": "two"}])
    assert (response.status_code, response.json()) == (201, [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    assert await rows_of(db, "select text from simple_text order by id") == [("one",), ("two",)]


async def test_a_refused_row_is_an_answer_with_the_reason(client: httpx2.AsyncClient, db: Connection) -> None:
    """One handler for the whole app turns what an insert raises into what a client can use."""
    response = await client.post("/texts", json=[{"text": "one"}, {"text": ""}])
    assert (response.status_code, response.json()["code"]) == (400, "23514")
    assert "simple_text_text_check" in response.json()["detail"]
    assert await rows_of(db, "select text from simple_text") == []
