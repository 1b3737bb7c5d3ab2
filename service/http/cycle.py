"""What uvicorn's request cycle sees of a connection that is ours: a transport and a flow control of its own.

Owns that nothing a cycle does ends the connection at the wrong moment. Must not know where in a request it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from service.http.wire import CONTINUE

if TYPE_CHECKING:
    import asyncio

    from uvicorn.protocols.http.flow_control import FlowControl


class CycleFlow:
    """What the cycle controls the flow by. It resumes reading only if more of the body `is_wanted`."""

    def __init__(self, flow: FlowControl, is_wanted: Callable[[], bool]) -> None:
        self._flow = flow
        self._is_wanted = is_wanted
        self.drain = flow.drain

    @property
    def write_paused(self) -> bool:
        """Whether the client does not read."""
        return self._flow.write_paused

    def resume_reading(self) -> None:
        """More of the body is wanted."""
        if self._is_wanted():
            self._flow.resume_reading()


class CycleTransport:
    """What the cycle writes its answer to: it must not close while the client still sends.

    Nothing is written once it `is_over`; `told_to_go_on` is called with a 100, and `end` instead of closing.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        is_over: Callable[[], bool],
        told_to_go_on: Callable[[], object],
        end: Callable[[], object],
    ) -> None:
        self._transport = transport
        self._is_over = is_over
        self._told_to_go_on = told_to_go_on
        self._end = end
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Pass it on."""
        if self._is_over():
            return
        if data == CONTINUE:
            self._told_to_go_on()
        self._transport.write(data)

    def close(self) -> None:
        """Close when the client has had a chance to read."""
        self._end()
