"""The configuration for gunicorn: `gunicorn -c python:service.gunicorn service.app:app`.

Owns the values of gunicorn's settings, by way of ours; its command line has the last word. Read once by the master:
SIGHUP starts new workers, which read the environment, files and certificates again, but not this. The modules of the
service are loaded here, before any worker is forked, so that a worker starts in a moment, and none has others than the
rest. New code needs a new master (SIGUSR2, or a restart).
"""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import TYPE_CHECKING

from service.commands.arguments import read_settings
from service.http.listening import where
from service.master import Master
from service.observing import logs
from service.worker import MARGIN_SECONDS, Worker

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

_settings = read_settings()
_master = Master(_settings)

bind = where(_settings.host, _settings.port)
workers = _settings.workers
worker_class = Worker
wsgi_app = "service.app:app"
proc_name = "headrace"

# Each turn of a worker's event loop takes milliseconds, so one of half a minute is none that will ever end; and no
# request waits longer than 10 s. A machine that is suspended does not count: clocks stand still.
timeout = 30
graceful_timeout = math.ceil(_settings.drain_seconds_max) + MARGIN_SECONDS
# There is nothing that a worker would have to be replaced for, and clients had to connect again each time.
max_requests = 0

# Where workers say that they live, several times a second: a disk that is busy must not look like a worker that hangs.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - the file has no name
# A server for gunicorn's own tool, in a thread of the master: what it shows, the dashboard and /metrics show as well.
control_socket_disable = True

loglevel = _settings.log_level
logconfig_dict = logs.for_gunicorn(_settings.log_format, _settings.log_level)


def on_starting(server: Arbiter) -> None:
    """Before anything else."""
    _master.begin(server)


def nworkers_changed(server: Arbiter, new_value: int, _old_value: int | None) -> None:
    """At the start, with SIGTTIN and SIGTTOU, and with SIGHUP."""
    _master.workers_change(server, new_value)


def on_reload(server: Arbiter) -> None:
    """With SIGHUP, before new workers are started."""
    _master.reload(server)


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """In the master, before each worker."""
    worker.master = _master
    _master.place(server, worker)
    gc.freeze()  # what is there now stays shared with the worker: its collector does not touch it


def post_fork(_server: Arbiter, worker: Worker) -> None:
    """In the worker, before anything else."""
    _master.forked(worker)


def child_exit(server: Arbiter, worker: Worker) -> None:
    """In the master, when a worker has ended."""
    _master.left(server, worker)


def pre_exec(server: Arbiter) -> None:
    """With SIGUSR2, in what is going to be the new master."""
    _master.before_exec(server)


def on_exit(_server: Arbiter) -> None:
    """When all workers have ended."""
    _master.end()
