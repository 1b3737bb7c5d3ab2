"""A service that answers as it is told, for what a real one does only on a bad day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CREATED = "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"


class FakeService:
    """Answers what it is told, request by request, and 201 from then on. An empty answer closes the connection.

    `barrier` holds answers back until so many requests have arrived. Heads are kept in lower case.
    """

    def __init__(self, *answers: str) -> None:
        self.answers = iter(answers)
        self.arrivals: list[float] = []
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.barrier: asyncio.Barrier | None = None
        self.url = ""

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[FakeService]:
        """Listen on the port, or on a free one."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                self.heads.append(head)
                size = next(line for line in head.splitlines() if line.startswith("content-length:")).split(":")[1]
                self.bodies.append(await reader.readexactly(int(size)))
                self.arrivals.append(asyncio.get_running_loop().time())
                if self.barrier is not None:
                    await self.barrier.wait()
                answer = next(self.answers, CREATED)
                if not answer:
                    break
                writer.write(answer.encode())
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def refusal_of(status: str, *headers: str) -> str:
    """An answer in the service's form."""
    body = '{"code": "HR000", "message": "not now", "details": null, "hint": null}'
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", body])
