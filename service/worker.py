"""One of several workers: our server as a process of gunicorn's.

Owns what the two must know of each other: signs of life, the end of the master, how long stopping may take, how a
worker that cannot start says so. Must not know how other workers do.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import uvloop
from gunicorn.arbiter import Arbiter
from uvicorn_worker import UvicornWorker  # type: ignore[import-untyped]

from service.auth.caller import is_loopback
from service.commands.arguments import Mistakes, read_settings
from service.commands.banner import announce
from service.embedded import EmbeddedError
from service.http.listening import TlsError
from service.lifespan import StartRefused
from service.server import Server, spare_the_collector

if TYPE_CHECKING:
    from types import FrameType

    from gunicorn.config import Config
    from gunicorn.glogging import Logger

    from service.lifespan import Service
    from service.master import Master, Place
    from service.settings import Settings

logger = logging.getLogger("service")

MARGIN_SECONDS = 5
"""From the end of draining until gunicorn kills: two for answers to be sent, the rest to close everything."""

_AGAIN_SECONDS = 3.0
"""Before a worker tries what the one before it could not."""

_REASONS = (Mistakes, EmbeddedError, StartRefused, TlsError)
"""What is said in one line, for the operator to mend. Anything else is a bug, and has a traceback."""


class Worker(UvicornWorker):  # type: ignore[misc] # it has no types
    """Runs the service, on the sockets that the master gives it."""

    master: Master
    has_begun: mmap.mmap
    is_patient = False
    place: Place | None = None
    generation = 0
    _has_started = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.log.error_log.propagate:  # the log is ours, and has uvicorn's lines as well
            for name in ("uvicorn.error", "uvicorn.access"):
                logging.getLogger(name).propagate = True
            logging.getLogger("uvicorn.error").setLevel(logging.DEBUG if self.cfg.loglevel == "debug" else "WARNING")

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Called by the master at its start: refuse what would not do what its user expects."""
        if getattr(cfg.pre_fork, "__module__", "") != "service.gunicorn":
            raise RuntimeError("this worker needs its configuration: gunicorn -c python:service.gunicorn")
        if cfg.certfile or cfg.keyfile:
            raise RuntimeError(
                "gunicorn's certfile and keyfile have no effect here: set HEADRACE_TLS_CERTIFICATE_FILE and"
                " HEADRACE_TLS_KEY_FILE"
            )
        if cfg.graceful_timeout <= MARGIN_SECONDS:
            log.warning(
                "a graceful timeout of %d s leaves no time to finish what was accepted: give it more than %d",
                cfg.graceful_timeout,
                MARGIN_SECONDS,
            )

    def load_wsgi(self) -> None:
        """As gunicorn's, which would show a traceback for a setting that makes no sense."""
        if self.is_patient:
            time.sleep(_AGAIN_SECONDS)
        try:
            self._read = self._settings()
        except Mistakes as mistakes:
            self._cannot_start(mistakes)
        super().load_wsgi()

    def init_signals(self) -> None:
        """As uvicorn's; the server adds those that end it."""
        super().init_signals()
        signal.signal(signal.SIGABRT, self.handle_abort)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - gunicorn's signature
        """The master has missed our signs of life. Say where we are; there is no way to go on."""
        logger.critical("the event loop hangs: ending this worker", stack_info=True)
        for handler in logging.getLogger().handlers:
            handler.flush()
        os._exit(1)

    def run(self) -> None:
        """Serve until the end. A worker that fails before it has begun to serve ends the master."""
        try:
            uvloop.run(self._serve())
        except Exception as error:
            if self._has_started:
                raise
            self._cannot_start(error)
        if not self._has_started:  # it has said why
            is_to_end = not self.master.has_served and self.master.first_to_tell()
            sys.exit(Arbiter.WORKER_BOOT_ERROR if is_to_end else 0)

    async def _serve(self) -> None:
        # Where all share a socket, it is one of gunicorn's, which would log that it is closed twice.
        sockets = [getattr(shared, "sock", shared) for shared in self.sockets]
        operators = sockets[-1:] if self.master.has_admin_sockets else []
        server = self._server = Server(self._read, self._started, app=self.wsgi, operators=operators, beat=self._beat)
        if self.cfg.max_requests:
            server.config.limit_max_requests = self.max_requests
        try:
            await server.serve(sockets=sockets)
        finally:
            self.master.worker_ends()

    def _settings(self) -> Settings:
        """Those of the environment, with the time to stop that gunicorn leaves, and the address that it was given."""
        settings = read_settings()
        seconds = max(0.1, self.cfg.graceful_timeout - MARGIN_SECONDS)
        # Gunicorn's `-b` has the last word. Of several addresses the one counts that others reach.
        clients = self.sockets[:-1] if self.master.has_admin_sockets else self.sockets
        names = [getattr(shared, "sock", shared).getsockname() for shared in clients]
        hosts = ["localhost" if isinstance(name, str) else name[0] for name in names]
        host = next((each for each in hosts if not is_loopback(each)), hosts[0])
        return settings.model_copy(update={"drain_seconds_max": min(settings.drain_seconds_max, seconds), "host": host})

    def _beat(self) -> bool:
        """Give a sign of life; whether the master does."""
        self.notify()
        return self.master.is_here

    def _started(self, service: Service, url: str) -> None:
        self._has_started = True
        self.master.serves(self)
        spare_the_collector()
        if self.age == 1:
            announce(service.settings, url, self._server.operators_url, own_database=self.master.has_own_database)
        else:
            logger.info("worker %d serves", self.pid)

    def _cannot_start(self, error: Exception) -> NoReturn:
        """Say why, and end. If none has ever served, that ends the master, too: the next worker could not start either.

        The others that cannot start end without a word then. While it ends, gunicorn's master would trip over a second
        one with that status. But workers that serve must go on: what is wrong now (a file that is half written) was not
        when they were started, and in a moment another one tries again.
        """
        has_served = self.master.has_served
        if has_served or self.master.first_to_tell():
            if isinstance(error, _REASONS):
                logger.critical("cannot start: %s", error)
            else:
                logger.critical("cannot start", exc_info=error)
        elif not has_served:
            sys.exit(0)
        if has_served:
            sys.exit(0)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
