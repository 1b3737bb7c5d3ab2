"""The JavaScript clients, as tests call them: chains of methods go to one Node process and come back as what they gave.

Knows how the process is talked to (caller.mjs is the other end), not what is called.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "node_modules" / ".package-lock.json"
"""What npm writes when it has installed everything."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave: the fields of the clients' own result, or what was thrown."""

    data: Any = None
    error: dict[str, Any] | None = None
    count: int | None = None
    status: int = 0
    thrown: dict[str, Any] | None = None


class Node:
    """A Node process that makes one call at a time."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program, FOLDER / "caller.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # advice about newer versions of Node
            encoding="utf-8",
        )

    def call(self, client: str, url: str, chain: list[list[Any]]) -> Result:
        """Make the call, and wait for what it gives."""
        fields = self._ask({"client": client, "url": url, "chain": chain})
        return Result(**{name: fields[name] for name in Result.__slots__ if name in fields})

    def hang_up(self) -> None:
        """Close the connections that it keeps for later calls: a service that stops would wait for those."""
        self._ask({})

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"Node has ended: `node {FOLDER / 'caller.mjs'}` says why"
        fields: dict[str, Any] = json.loads(line)
        return fields

    def stop(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


class Chain:
    """A JavaScript client, and any chain of methods from there on. Awaiting it makes the call.

    `client.from_("items").insert({"name": "bolt"}).select()` is what it looks like; only `from` has an underscore.
    """

    def __init__(
        self, call: Callable[[list[list[Any]]], Coroutine[Any, Any, Result]], steps: list[list[Any]] | None = None
    ) -> None:
        self._call = call
        self._steps = steps or []

    def __getattr__(self, method: str) -> Callable[..., Chain]:
        return lambda *args: Chain(self._call, [*self._steps, [method.rstrip("_"), *args]])

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._call(self._steps).__await__()


def client(node: Node, name: str, url: str) -> Chain:
    """The client of that name for the service at that URL."""

    async def call(chain: list[list[Any]]) -> Result:
        return await anyio.to_thread.run_sync(partial(node.call, name, url, chain))

    return Chain(call)


def bigint(number: int) -> dict[str, str]:
    """A number as a BigInt."""
    return {"$bigint": str(number)}
