"""The server that `headrace serve` runs: uvicorn, with our signals and our order of stopping.

SIGTERM and SIGINT finish what was accepted and end with status 0 (uvicorn would end by the signal itself); SIGHUP reads
the catalog again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import anyio
import uvicorn

from service.app import create_app
from service.http.protocol import Protocol
from service.lifespan import STATE, Service, running

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from service.settings import Settings

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
"""Once in ten ticks uvicorn makes a new date for the answers."""

_LOOK_SECONDS = 0.01
"""How often it looks, while it stops, whether the last connection is gone."""

_ACCEPTING_TURNS = 2
"""Turns of the event loop in which clients that have connected already are let in; closing would reset them."""


def spare_the_collector() -> None:
    """Have this process look for cyclic garbage seldom: requests leave none, and the search took some 3 % of the CPU.

    What is there now (modules, the app, the catalog) stays for good and is never gone through again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Server(uvicorn.Server):
    """Runs the service of these settings. `started` is called with it and its URL once it listens."""

    def __init__(
        self, settings: Settings, started: Callable[[Service, str], None] = lambda _service, _url: None
    ) -> None:
        self._settings = settings
        self._app = create_app(settings)
        self._on_start = started
        self._service: Service | None = None
        self._stopping = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                self._app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                http=Protocol,
                ws="none",
                lifespan="off",  # `_serve` runs the service itself, so that its errors are ours to word
                log_config=None,
                access_log=False,  # ours is another (`service/observing/access.py`)
                server_header=False,
                timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type] # a float will do
                # Requests get their answer within the drain time; the seconds more are for sending it.
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds_max) + 2,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens; known once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with running(self._settings) as service:
            self._service = service
            await super()._serve(sockets)

    @property
    def should_exit(self) -> bool:
        """Whether it is to stop. May be set at any time, also by a signal's handler."""
        return self._stopping.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._stopping.set()

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second, but a stop is noticed at once."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with anyio.move_on_after(_TICK_SECONDS):
                await self._stopping.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so. If the address cannot be had, uvicorn has logged why, and `started` stays False."""
        self.lifespan.state[STATE] = self._service  # what an app's own lifespan would put there
        try:
            await super().startup(sockets)
        except SystemExit:
            self.should_exit = True  # ends `_serve` in the ordinary way, so that the service is taken down properly
        if self.started and self._service is not None:
            self._on_start(self._service, self.url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, answer what is on its way, and finish what was accepted.

        Instead of uvicorn's, which sleeps for 0.1 s in any case, and again whenever it finds a connection.
        """
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        state = self.server_state
        for connection in tuple(state.connections):
            connection.shutdown()
        async with anyio.create_task_group() as tasks:
            if self._service is not None:
                tasks.start_soon(self._finish, self._service)
            with anyio.move_on_after(self.config.timeout_graceful_shutdown) as limit:
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(_LOOK_SECONDS)
            if limit.cancelled_caught:
                logger.error("the time to stop is over: %d connections are given up", len(state.connections))
                for task in tuple(state.tasks):
                    task.cancel()

    async def _finish(self, service: Service) -> None:
        """Let requests in until no connection has one to expect, then refuse what comes and drain."""
        seconds = self._settings.drain_seconds_max
        ends = anyio.current_time() + seconds
        with anyio.move_on_after(seconds / 4):
            await service.connections.quiet()
        service.stop_accepting()
        await service.batcher.drain(max(0.0, ends - anyio.current_time()))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; restore the handlers, and do not raise the signals again, afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {signal.SIGINT: self.handle_exit, signal.SIGTERM: self.handle_exit, signal.SIGHUP: self._reload}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        if self._service is not None:
            self._service.watch.request_reload()
