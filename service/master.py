"""The master of several workers: what they share, and which of them listens where.

Gunicorn's arbiter starts, ends and replaces workers, and calls what is here at each step; `service/gunicorn.py` says at
which. Owns the sockets, the folder of their numbers, and the PostgreSQL that comes with the service. Must not know what
a worker does.

Each worker listens on a socket of its own (SO_REUSEPORT), so that the kernel spreads connections evenly: of a socket
that all share, the idlest worker takes whatever comes in one go. All of these sockets are the master's, and stay open
while workers come and go. Who has connected but was not let in yet waits for the next worker of that socket; if it
were closed, the kernel would reset the connection.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import logging
import mmap
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gunicorn.app.base import BaseApplication

from service.app import create_app
from service.commands.arguments import Mistakes, read_settings
from service.embedded import EmbeddedError, EmbeddedPostgres
from service.http.listening import TlsError, bind, listen, where
from service.observing.workers import Workers
from service.server import check_files
from service.settings import unknown_variables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gunicorn.arbiter import Arbiter

    from service.settings import Settings
    from service.worker import Worker

logger = logging.getLogger("service")

_TAKEN_SECONDS = 3.0
"""An address may be taken for so long at the start: workers whose master was killed need a second to notice."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made in it is private
"""A folder in memory, where there is one: workers write to theirs five times a second."""


class Listener(socket.socket):
    """A listening socket that gunicorn can show in its log."""

    @classmethod
    def of(cls, listening: socket.socket) -> Listener:
        """The same socket. It may be handed to a program that takes the place of this one (SIGUSR2)."""
        listener = cls(fileno=listening.detach())
        listener.setblocking(False)
        listener.set_inheritable(True)
        return listener

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.getsockname()[:2]
        return host, port

    def __str__(self) -> str:
        """As an address in a log."""
        return where(*self.address)


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """Where one worker listens: one socket for each address."""

    listeners: tuple[Listener, ...]

    def close(self) -> None:
        """Who still serves it has copies of the sockets."""
        for listener in self.listeners:
            listener.close()


class Master:
    """What outlives workers. Its process is the only one that opens and closes; workers have copies, by the fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = os.getpid()
        self._generation = 0  # of workers; SIGHUP begins another one
        self._addresses: list[tuple[str, int]] = []
        self._places: list[Place] = []
        self._before: dict[str, str | None] = {}  # environment variables that are given to workers, as they were
        self._folder: Path | None = None  # that of the workers, if it is ours
        self._present: Workers | None = None
        self._embedded: EmbeddedPostgres | None = None
        self._has_served = mmap.mmap(-1, 1)  # one for all processes
        self._has_failed = False  # whether the worker that has ended last could not start
        self._word, write = os.pipe()  # whoever takes the byte that is in it tells the operator
        os.write(write, b"!")
        os.close(write)

    @property
    def has_own_database(self) -> bool:
        """Whether the PostgreSQL is the one that comes with the service."""
        return self._embedded is not None

    @property
    def is_here(self) -> bool:
        """Whether the master lives; asked by workers, which must not serve without it."""
        return os.getppid() == self._pid

    def first_to_tell(self) -> bool:
        """Whether no other worker has told the operator yet why workers cannot start: once is enough."""
        return os.read(self._word, 1) != b""

    @property
    def has_served(self) -> bool:
        """Whether any worker has begun to serve, so that one that cannot start is no reason to end the others."""
        return self._has_served[0] != 0

    def serves(self, worker: Worker) -> None:
        """A worker has begun."""
        self._has_served[0] = worker.has_begun[0] = 1

    # ---------------------------------------------------------------- called by gunicorn, in the master

    def begin(self, arbiter: Arbiter) -> None:
        """Make what the workers share. Raises `RuntimeError`, at which gunicorn ends with what it says."""
        self._pid = os.getpid()
        atexit.register(self.end)
        for name in unknown_variables(os.environ):
            logger.warning("%s is not a setting and has no effect", name)
        self._guard(arbiter)
        try:
            self._open_sockets(arbiter)
            self._make_folder(arbiter)
            self._start_database()
        except (OSError, ValueError, EmbeddedError) as error:
            raise RuntimeError(str(error)) from error

    def _guard(self, arbiter: Arbiter) -> None:
        """Have SIGHUP do nothing while new workers could not start: certificates that are half written, for example."""
        reload = arbiter.handle_hup

        def handle_hup() -> None:
            try:
                check_files(read_settings())
            except (Mistakes, TlsError) as error:
                logger.error("nothing is reloaded: %s", error)  # noqa: TRY400 - it is for the operator
            else:
                reload()

        arbiter.handle_hup = handle_hup  # type: ignore[method-assign]

    def workers_change(self, arbiter: Arbiter, count: int) -> None:
        """There are to be so many workers. Those that are too many end in the order in which they were started."""
        self._give("HEADRACE_WORKERS", str(max(1, count)))  # for the budget of connections
        too_many = len(self._places) - count
        if too_many <= 0:
            return
        ages = {worker.place: worker.age for worker in _workers(arbiter)}
        for place in sorted(self._places, key=lambda place: ages.get(place, 0))[:too_many]:
            # Its worker is the last one to have it open, and lets everybody in before it closes it.
            place.close()
            self._places.remove(place)
        self._show(arbiter)

    def reload(self, arbiter: Arbiter) -> None:
        """Workers that are started from now on take the places of those that end."""
        self._generation += 1
        if self._places and self._wanted(arbiter) != self._addresses:
            for listener in arbiter.LISTENERS:  # gunicorn has made these
                listener.close()
            self._open_sockets(arbiter, held=self._addresses)

    def place(self, arbiter: Arbiter, worker: Worker) -> None:
        """Give a new worker its place: one that has no worker of this generation, or else another one."""
        worker.generation = self._generation
        worker.has_begun = mmap.mmap(-1, 1)
        worker.is_patient = self._has_failed
        if not self._addresses:
            return  # all have the same sockets
        taken = [other.place for other in _workers(arbiter) if other.generation == self._generation]
        place = next((place for place in self._places if place not in taken), None)
        if place is None:
            # Nobody is let in before it listens, which is when the worker is ready.
            place = Place(tuple(Listener.of(bind(*address)) for address in self._bound()))
            self._places.append(place)
            self._show(arbiter)
        worker.place = place
        worker.sockets = list(place.listeners)

    def left(self, arbiter: Arbiter, worker: Worker) -> None:
        """A worker has ended. If it could not even start, maybe the next one cannot: nobody shall wait at its place."""
        self._has_failed = self.has_served and not worker.has_begun[0]
        place = worker.place
        others = [other.place for other in _workers(arbiter) if other is not worker]
        if self._has_failed and place in self._places and place not in others and len(self._places) > 1:
            self._places.remove(place)
            self._show(arbiter)
            place.close()

    def before_exec(self, arbiter: Arbiter) -> None:
        """The program that takes the place of this one makes its own things, but for the sockets."""
        for name, value in self._before.items():
            arbiter.cfg.env_orig.pop(name, None)
            if value is not None:
                arbiter.cfg.env_orig[name] = value

    def end(self) -> None:
        """Take down what the workers shared, when they are gone."""
        if os.getpid() != self._pid:
            return  # a worker leaves, which has this from the fork
        if self._embedded is not None:
            self._embedded.stop()
            self._embedded = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # ---------------------------------------------------------------- called by gunicorn, in a worker

    def forked(self, worker: Worker) -> None:
        """Keep only what is this worker's."""
        for place in self._places:
            if place is not worker.place:
                place.close()
        if self._present is not None:
            self._present.forget()

    def worker_ends(self) -> None:
        """If the master is gone, the last worker takes along what nobody else would remove."""
        if self._folder is not None and not self.is_here and Workers.nobody_in(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)

    # ---------------------------------------------------------------- what the workers share

    def _open_sockets(self, arbiter: Arbiter, held: Sequence[tuple[str, int]] = ()) -> None:
        """One place for each worker; or, where that cannot be, nothing, and gunicorn opens one socket for all. `held`
        addresses are those of workers that are about to end. Raises `OSError`, `ValueError`.
        """
        addresses = self._wanted(arbiter)
        self._addresses = [] if _is_given_sockets() or not hasattr(socket, "SO_REUSEPORT") else addresses
        self._places = []
        if not self._addresses:
            return
        inherited = [Listener.of(_socket_of(number)) for number in _inherited()]
        size = len(self._addresses)
        if inherited and len(inherited) % size == 0:
            admin_port = self._settings.admin_port
            groups = sorted(inherited, key=lambda listener: (listener.address[1] == admin_port, listener.address))
            each = len(inherited) // size
            self._places = [Place(tuple(groups[place::each])) for place in range(each)]
        else:
            self._addresses = [at if at in held else _claimed(*at) for at in self._addresses]
        while len(self._places) < max(1, arbiter.num_workers):
            self._places.append(Place(tuple(Listener.of(listen(*at, reuse_port=True)) for at in self._bound())))
        self._addresses = addresses
        self._show(arbiter)

    def _wanted(self, arbiter: Arbiter) -> list[tuple[str, int]]:
        """Where to listen, if all of it is TCP; the address for operators is the last."""
        found = [address for address in arbiter.cfg.address if isinstance(address, tuple)]
        if len(found) < len(arbiter.cfg.address):
            return []
        settings = self._settings
        if settings.admin_port is None:
            return found
        if settings.admin_port == 0:
            raise ValueError("HEADRACE_ADMIN_PORT: with several workers it cannot be left to the kernel")
        if settings.admin_port in [port for _, port in found]:
            raise ValueError("HEADRACE_ADMIN_PORT must be another port than the one for clients")
        return [*found, (settings.admin_host, settings.admin_port)]

    @property
    def has_admin_sockets(self) -> bool:
        """Whether the last socket of each place is for operators."""
        return bool(self._addresses) and self._settings.admin_port is not None

    def _bound(self) -> Sequence[tuple[str, int]]:
        """The addresses as they are, where a port was left to the kernel."""
        return [listener.address for listener in self._places[0].listeners] if self._places else self._addresses

    def _show(self, arbiter: Arbiter) -> None:
        """Tell gunicorn which sockets there are. It closes them when it ends."""
        listeners = [listener for place in self._places for listener in place.listeners]
        arbiter.LISTENERS = listeners  # type: ignore[assignment,misc] # gunicorn's own are no sockets, but look alike

    def _make_folder(self, arbiter: Arbiter) -> None:
        folder = self._settings.workers_dir
        if folder is None:
            memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
            folder = self._folder = Path(tempfile.mkdtemp(prefix="headrace-workers-", dir=memory))
            self._give("HEADRACE_WORKERS_DIR", str(folder))
        # As long as the master is there, the numbers of dead workers are those of this service, even if all are dead.
        self._present = Workers(folder)
        if self._folder is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, arbiter.cfg.uid, arbiter.cfg.gid)  # gunicorn may run workers as another user

    def _start_database(self) -> None:
        if self._settings.dsn is None:
            self._embedded = EmbeddedPostgres.start(self._settings.data_dir)
            asyncio.run(self._embedded.create_demo_table())
            self._give("HEADRACE_DSN", self._embedded.dsn)

    def _give(self, name: str, value: str) -> None:
        self._before.setdefault(name, os.environ.get(name))
        os.environ[name] = value


class Application(BaseApplication):
    """Gunicorn without its command line, for `headrace serve --workers`."""

    def load_config(self) -> None:
        """Take the settings of `service/gunicorn.py`."""
        from service import gunicorn  # noqa: PLC0415 - it reads the environment

        for name, value in vars(gunicorn).items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The app."""
        return create_app()


def _workers(arbiter: Arbiter) -> list[Worker]:
    return cast("list[Worker]", list(arbiter.WORKERS.values()))


# -------------------------------------------------------------------- sockets


def _is_given_sockets() -> bool:
    """Whether systemd has opened the sockets for us; gunicorn takes those."""
    return os.environ.get("LISTEN_PID") == str(os.getpid())


def _inherited() -> list[int]:
    """The sockets of the program whose place this one takes (SIGUSR2)."""
    return [int(number) for number in os.environ.pop("GUNICORN_FD", "").split(",") if number]


def _socket_of(number: int) -> socket.socket:
    return socket.socket(fileno=number)


def _claimed(host: str, port: int) -> tuple[str, int]:
    """The address, if nobody else listens there; the kernel would let any program of this user join. Raises `OSError`.

    If it is for the kernel to choose the port, the one that it has chosen.
    """
    until = time.monotonic() + _TAKEN_SECONDS
    while True:
        try:
            with Listener.of(listen(host, port)) as probe:
                return probe.address
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise
            time.sleep(0.1)
