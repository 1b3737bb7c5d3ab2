"""Request bodies as they arrive: within limits on size and time, on the memory of all together, and on stopping.

Owns reading in the FastAPI lane. Must not know what is in a body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from batching import Closed, QueueFull
from service.problems import Refused, body_late, body_too_large, problem_of

if TYPE_CHECKING:
    from starlette.requests import Request as HttpRequest

    from service.settings import Settings


class Bodies:
    """All bodies that are held at the moment."""

    def __init__(self, settings: Settings) -> None:
        self.body_bytes_max = settings.body_bytes_max
        self.body_seconds_max = settings.body_seconds_max
        self.stopping = False
        self._held = 0
        self._held_max = settings.pending_bytes_max
        self._open: set[Body] = set()

    def open(self, http: HttpRequest) -> Body:
        """The body of a request; it counts until it is closed."""
        body = Body(http, self)
        self._open.add(body)
        return body

    def stop(self) -> None:
        """Wait for no more: what has not arrived yet is refused, so that a slow sender cannot hold up the end."""
        self.stopping = True
        for body in self._open:
            body.wait_no_more()

    def hold(self, size: int) -> None:
        """Count so many bytes more, or fewer. Raises `Refused` if that is too much."""
        if size > 0 and self._held + size > self._held_max:
            raise Refused(problem_of(QueueFull(retry_seconds=1)))
        self._held += size

    def forget(self, body: Body) -> None:
        """The body is closed."""
        self._open.discard(body)


class Body:
    """The chunks of one body. Can be gone through again, unless it was large."""

    _KEPT_BYTES_MAX = 64 * 1024

    def __init__(self, http: HttpRequest, bodies: Bodies) -> None:
        declared = http.headers.get("content-length", "")
        self._declared = int(declared) if declared.isdigit() and len(declared) < 20 else 0
        self._stream = http.stream()
        self._bodies = bodies
        self._chunks: list[bytes] = []
        self._size = 0
        self._timeout: asyncio.Timeout | None = None
        self.complete = False
        """Whether all chunks are here to be gone through again."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks, those that are here already first. Raises `Refused`, and `ClientDisconnect` of starlette."""
        if self._declared > self._bodies.body_bytes_max:
            raise Refused(body_too_large(self._bodies.body_bytes_max))
        for known in self._chunks:
            yield known
            await asyncio.sleep(0)  # others run between the pieces of a large body
        deadline = asyncio.get_running_loop().time() + self._bodies.body_seconds_max
        while not self.complete:
            chunk = await self._next(deadline)
            if chunk is None:
                self.complete = True
                return
            self._size += len(chunk)
            if self._size > self._bodies.body_bytes_max:
                raise Refused(body_too_large(self._bodies.body_bytes_max))
            self._bodies.hold(len(chunk))
            self._chunks.append(chunk)
            yield chunk

    async def _next(self, deadline: float) -> bytes | None:
        """The next chunk, or None after the last one."""
        try:
            async with asyncio.timeout_at(deadline) as self._timeout:
                if self._bodies.stopping:
                    self.wait_no_more()
                return await anext(self._stream)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            if self._bodies.stopping:
                raise Refused(problem_of(Closed())) from None
            raise Refused(body_late(self._bodies.body_seconds_max)) from None
        finally:
            self._timeout = None

    def wait_no_more(self) -> None:
        """If a chunk is waited for, end that."""
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def forget_if_large(self) -> None:
        """Free the memory of a large body; its rows are encoded, and looking at it again is a rare need."""
        if self._size > self._KEPT_BYTES_MAX:
            self._free()
            self.complete = False

    def close(self) -> None:
        """Free its memory."""
        self._free()
        self._bodies.forget(self)

    def _free(self) -> None:
        self._bodies.hold(-sum(map(len, self._chunks)))
        self._chunks.clear()
