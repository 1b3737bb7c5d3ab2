"""A service in the test's event loop, and what a test needs to talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from service.lifespan import Service
from service.server import Server
from service.settings import Settings

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = object


class Running:
    """A service that listens, and a client for it."""

    def __init__(self, service: Service, server: Server, client: httpx2.AsyncClient) -> None:
        self.service = service
        self.server = server
        self.client = client

    async def post(self, table: str, body: object, **headers: str) -> httpx2.Response:
        """POST rows: bytes as they are (JSON unless the headers say otherwise), anything else as JSON.

        `prefer="…"` and the like become headers.
        """
        names = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
        if isinstance(body, bytes):
            return await self.client.post(f"/rest/v1/{table}", content=body, headers=names)
        return await self.client.post(f"/rest/v1/{table}", json=body, headers=names)

    async def lines(self, table: str, body: bytes, **headers: str) -> httpx2.Response:
        """POST NDJSON."""
        return await self.post(table, body, content_type="application/x-ndjson", **headers)

    @asynccontextmanager
    async def gathering(self, db: Connection, table: str, requests: int) -> AsyncIterator[None]:
        """Requests that are sent inside share batches: the table is locked until so many of them are pending."""
        async with db.transaction():
            await db.execute(f"lock table {table} in exclusive mode")
            yield
            await self.eventually(lambda: self.service.batcher.statistics().pending_submissions >= requests)

    async def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; the test's time limit ends the wait."""
        while not condition():  # noqa: ASYNC110 - a condition of any kind has no event to wait for
            await asyncio.sleep(0.005)


@asynccontextmanager
async def run_service(**settings: Any) -> AsyncIterator[Running]:
    """A service with these settings on a free port, stopped as SIGTERM stops it."""
    listening: asyncio.Future[tuple[Service, str]] = asyncio.get_running_loop().create_future()
    server = Server(Settings(port=0, **settings), lambda service, url: listening.set_result((service, url)))
    serving = asyncio.create_task(server.serve())
    ends: list[asyncio.Future[Any]] = [serving, listening]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    service, url = await listening
    limits = httpx2.Limits(max_connections=None)
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            yield Running(service, server, client)
    finally:
        server.should_exit = True
        await serving


async def rows_of(db: Connection, query: str) -> list[tuple[Any, ...]]:
    """What a query gives, as plain tuples."""
    return [tuple(record) for record in await db.fetch(query)]


Start = Callable[..., AbstractAsyncContextManager[Running]]
"""`run_service`, as a fixture that tests take."""
