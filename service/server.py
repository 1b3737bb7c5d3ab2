"""The server that `headrace serve` runs: uvicorn, with our signals and our order of stopping.

SIGTERM, SIGINT and SIGQUIT finish what was accepted and end with status 0 (uvicorn would end by the signal itself); who
sends a second SIGINT, or gunicorn's master when it has no more time, has it end in a second. SIGHUP reads the catalog,
keys and certificates again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio
import uvicorn

from service.app import create_app
from service.http.listening import Arriving, Clients, listen, where
from service.http.protocol import Protocol
from service.lifespan import STATE, Service, running

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from fastapi import FastAPI

    from service.http.tls import Tls
    from service.settings import Settings

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
"""Once in ten ticks uvicorn makes a new date for the answers."""

_LOOK_SECONDS = 0.01
"""How often it looks, while it stops, whether the last connection is gone."""

_ACCEPTING_TURNS = 2
"""Turns of the event loop in which clients that have connected already are let in; closing would reset them. After it,
so many more in which those who were let in last become connections, which are told then as all others are."""

_BEAT_SECONDS = 0.5
"""Between two signs of life. Within this time, too, it is noticed that the master is gone."""

_HURRY_SECONDS = 0.5
"""For what is pending when there is no more time: gunicorn's master kills after two seconds."""


def spare_the_collector() -> None:
    """Have this process look for cyclic garbage seldom: requests leave none, and the search took some 3 % of the CPU.

    What is there now (modules, the app, the catalog) stays for good and is never gone through again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class Server(uvicorn.Server):
    """Runs the service of these settings. `started` is called with it and its URL once it listens.

    `app` is the one that serves what is not for the fast lane, if there is one already. `operators` are those of the
    sockets that are for them, if they were opened already. `beat` is called twice a second
    as long as the event loop turns, from the first step of starting to the last of stopping; if it is false, the server
    stops. Raises `TlsError` if there is a certificate that cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        started: Callable[[Service, str], None] = lambda _service, _url: None,
        *,
        app: FastAPI | None = None,
        operators: Sequence[socket.socket] = (),
        beat: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._app = app or create_app(settings)
        self._on_start = started
        self._beat = beat
        self._for_operators = operators
        self._stopped_by: int | None = None
        self._service: Service | None = None
        self._stopping = asyncio.Event()
        self._tls = _tls(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._operators: list[asyncio.Server] = []
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
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=list(settings.proxies),
                timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type] # a float will do
                # Requests get their answer within the drain time; the seconds more are for sending it.
                timeout_graceful_shutdown=math.ceil(settings.drain_seconds_max) + 2,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens; known once it has started."""
        name = self.servers[0].sockets[0].getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{where(*name[:2])}"

    @property
    def operators_url(self) -> str:
        """Where operators find the dashboard; known once it has started."""
        return f"http://{where(*self._operators[0].sockets[0].getsockname()[:2])}" if self._operators else self.url

    async def _serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        beating = asyncio.create_task(self._keep_beating())
        try:
            async with running(self._settings) as service:
                self._service = service
                await super()._serve(sockets)
        finally:
            beating.cancel()

    async def _keep_beating(self) -> None:
        while True:
            if not self._beat():
                self.should_exit = True
            await asyncio.sleep(_BEAT_SECONDS)

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
        """Listen, then say so. If an address cannot be had, it is logged why, and `started` stays False."""
        self.lifespan.state[STATE] = self._service  # what an app's own lifespan would put there
        await super().startup([])  # uvicorn could not have some speak TLS and others not
        try:
            await self._listen(sockets)
        except OSError as error:
            logger.error("%s", error)  # noqa: TRY400 - where in asyncio it was is of no use
            for listening in self.servers:
                listening.close()
            self.started = False
            self.should_exit = True  # ends `_serve` in the ordinary way, so that the service is taken down properly
        if self.started and self._service is not None:
            self._on_start(self._service, self.url)

    async def _listen(self, sockets: list[socket.socket] | None) -> None:
        """Let clients in, and operators if they have an address of their own. Theirs speaks plain HTTP."""
        settings = self._settings
        parts = {"config": self.config, "server_state": self.server_state, "app_state": self.lifespan.state}
        protocol: Callable[[], asyncio.Protocol] = partial(_chosen(settings), **parts)
        context = None if self._tls is None else self._tls.context
        if context is not None and self._service is not None:
            protocol = partial(Arriving, protocol, self._service.connections)
        clients = Clients(protocol, context, settings.head_seconds_max)
        ours = None if sockets is None else [each for each in sockets if each not in self._for_operators]
        theirs = list(self._for_operators)
        self.servers = await clients.let_in(settings.host, settings.port, ours)
        if settings.admin_port is None or self._service is None:
            return
        if not theirs:  # several workers, none of which was given one, share the port
            theirs = [listen(settings.admin_host, settings.admin_port, reuse_port=sockets is not None)]
        self._service.connections.admin_port = theirs[0].getsockname()[1]
        self._operators = await Clients(partial(Protocol, **parts)).let_in("", 0, theirs)
        self.servers += self._operators

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listening sockets, answer what is on its way, and finish what was accepted.

        Instead of uvicorn's, which sleeps for 0.1 s in any case, and again whenever it finds a connection.
        """
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for _ in range(_ACCEPTING_TURNS):
            await asyncio.sleep(0)
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
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hurry, service, tasks.cancel_scope)
            with anyio.move_on_after(seconds / 4):
                await service.connections.quiet()
            service.stop_accepting()
            await service.batcher.drain(max(0.0, ends - anyio.current_time()))
            tasks.cancel_scope.cancel()

    async def _hurry(self, service: Service, slowly: anyio.CancelScope) -> None:
        """If there is no more time, answer what is pending within a second, stored or not."""
        while not self.force_exit:  # noqa: ASYNC110 - a signal's handler cannot wake anybody
            await anyio.sleep(_LOOK_SECONDS)
        service.stop_accepting()
        await service.batcher.drain(_HURRY_SECONDS)
        slowly.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; restore the handlers, and do not raise the signals again, afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), self.handle_exit)
        handlers = {**ends, signal.SIGHUP: self._reload}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        """End in good order; at once, if a terminal's Ctrl-C says so again.

        Gunicorn's master, too, is ended by Ctrl-C, and passes it on as SIGQUIT, which then says nothing new. If it does
        so after SIGTERM, it means: at once.
        """
        if self._stopped_by is None:
            self._stopped_by = sig
            self.should_exit = True
        elif sig == signal.SIGINT or (sig == signal.SIGQUIT and self._stopped_by == signal.SIGTERM):
            self.force_exit = True

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        if self._service is not None:
            self._service.request_reload()
        if self._tls is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._tls.reload)  # a handler of a signal must not log


def check_files(settings: Settings) -> None:
    """Whether a service could start with the files that these settings name. Raises `TlsError`."""
    _tls(settings)


def _tls(settings: Settings) -> Tls | None:
    if settings.tls is None:
        return None
    from service.http.tls import Tls  # noqa: PLC0415 - reading certificates takes a library that others need not load

    return Tls(settings.tls, http2=settings.http2)


def _chosen(settings: Settings) -> Callable[..., asyncio.Protocol]:
    """What a connection begins with."""
    if not settings.http2:
        return Protocol
    from service.http.http2 import ByChoice  # noqa: PLC0415 - who does without need not have the parser

    return ByChoice
