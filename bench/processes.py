"""Processes that are ended whatever happens: on success, on an error, on Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
"""Where the environment's programs are."""
_STOP_SECONDS = 15
"""After this a process that was asked to stop is killed."""
_READY_SECONDS = 30
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run it on uvloop. Ctrl-C, SIGTERM and SIGHUP cancel it, once, so that it ends what it has started.

    Raises KeyboardInterrupt then. A signal that our parent has us ignore (nohup) stays ignored.
    """

    async def cancellable() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(main)
        signals = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

        def cancel() -> None:
            if not task.cancelling():
                task.cancel()

        for number in signals:
            loop.add_signal_handler(number, cancel)
        return await task

    try:
        return uvloop.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


class ProcessError(Exception):
    """A process did not start or ended with an error; the text has the end of what it said."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process of ours, and the file that it writes its messages to."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def said(self) -> str:
        """The end of its messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None, *, piped: bool = False
) -> AsyncIterator[Running]:
    """Run it for the length of the block. `piped`: its standard input and output are ours, else it has neither.

    In a session of its own, so that Ctrl-C reaches us only and things end in their order.
    """
    with log.open("ab") as messages:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else messages,
            stderr=messages,
            env=dict(os.environ if variables is None else variables),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield Running(process, log)
    finally:
        await asyncio.shield(_end(process))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    else:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def output_of(
    command: Sequence[str], seconds: float, variables: Mapping[str, str] | None = None, *, check: bool = True
) -> str:
    """Run it to its end and return its standard output. Raises `ProcessError`, also if it takes longer."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ if variables is None else variables),
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError as error:
        raise ProcessError(f"{command[0]} took longer than {seconds:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if check and process.returncode != 0:
        raise ProcessError(f"{' '.join(command)} ended with {process.returncode}:\n{errors.decode(errors='replace')}")
    return output.decode()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def listens(server: Running, port: int) -> None:
    """Wait until the server takes connections. Raises `ProcessError` if it ends or takes too long."""
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while server.process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass
    raise ProcessError(f"a server did not start; the end of its messages:\n{server.said()}")
