"""What is compared, as data: how each is started and what it is called.

In a command, {python} is this interpreter, {bin} its folder, {port} the port to listen on. Each finds the database in
its environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.processes import BIN


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that takes `POST /rest/v1/events`, or (without `serves`) a command that loads a file by itself.

    With several `workers`, the process is their master.
    """

    name: str
    title: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    serves: bool = True
    stores: bool = True
    metrics: bool = False
    workers: int = 1

    def arguments(self, port: int) -> list[str]:
        """The command to run."""
        return [part.format(python=sys.executable, bin=BIN, port=port) for part in self.command]

    def variables(self, dsn: str) -> dict[str, str]:
        """Its environment: ours, but with the service's own settings at their defaults."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        if not self.stores:
            return inherited
        # Some requests show a credential, and the others shall be taken all the same.
        ours = {"BENCH_DSN": dsn, "HEADRACE_DSN": dsn, "HEADRACE_ANONYMOUS_WRITES": "allow"}
        return {**inherited, **ours, **self.environment}


_HEADRACE = ("{bin}/headrace", "serve", "--port", "{port}")

CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("story", "FastAPI + SQLAlchemy", ("{python}", "-m", "bench.baselines.story", "{port}")),
        Contender(
            "fastapi-asyncpg", "FastAPI + asyncpg", ("{python}", "-m", "bench.baselines.fastapi_asyncpg", "{port}")
        ),
        Contender("library", "FastAPI + Headrace", ("{python}", "-m", "bench.baselines.library", "{port}")),
        Contender(
            "headrace-fastapi", "Headrace, FastAPI lane", _HEADRACE, {"HEADRACE_FAST_LANE": "false"}, metrics=True
        ),
        Contender("headrace", "Headrace", _HEADRACE, {"HEADRACE_FAST_LANE": "true"}, metrics=True),
        Contender(
            "two-workers",
            "Headrace, two workers",
            (*_HEADRACE, "--workers", "2"),
            {"HEADRACE_FAST_LANE": "true"},
            metrics=True,
            workers=2,
        ),
        Contender("uncounted", "Headrace without metrics", ("{python}", "-m", "bench.baselines.uncounted", "{port}")),
        Contender(
            "floor", "floor (stores nothing)", ("{python}", "-m", "bench.baselines.floor", "{port}"), stores=False
        ),
        Contender("psql-copy", "psql \\copy", ("{python}", "-m", "bench.baselines.psql_copy"), serves=False),
    )
}
