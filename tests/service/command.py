"""The command line in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command has ended."""

    status: int
    said: str
    complaint: str


def unstyled(text: str) -> str:
    """What is read of it in a terminal, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


async def headrace(*arguments: str, **variables: str) -> Ended:
    """Run `headrace` with these arguments, and environment variables beside those of the test."""
    command = [sys.executable, "-c", "from service.cli import main; main()", *arguments]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, check=False, timeout=50, env={**os.environ, **variables}
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())
