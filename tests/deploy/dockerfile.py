"""Reads a Dockerfile and carries it out without Docker, in a folder: what can be replayed there, and what cannot.

The folder stands for the root of the image. Absolute paths below `/opt` and the working directory are moved into it;
what changes the system (users) is left out, and the tests see to it that nothing else is.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

BASE = re.compile(r"python:\d+\.\d+-slim")
_OF_THE_SYSTEM = re.compile(r"^(groupadd|useradd) ")
_OFFLINE = re.compile(r"NewConnectionError|NameResolutionError|Timeout|ProxyError|ConnectionReset|from versions: none")
_SECONDS = 150


class Offline(Exception):
    """A command needs the network, and there is none; the text says which."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of it, continuations joined."""

    name: str
    text: str


def instructions(text: str) -> list[list[Instruction]]:
    """Stage by stage."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    stages: list[list[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append(Instruction(name, rest.strip()))
    return stages


def only(stage: list[Instruction], name: str) -> str:
    """What the one instruction of this name says."""
    (instruction,) = (instruction for instruction in stage if instruction.name == name)
    return instruction.text


def command(text: str) -> list[str]:
    """The words of CMD, or of the CMD of a HEALTHCHECK."""
    words: list[str] = json.loads(text[text.index("[") :])
    return words


def admitted(ignore: str, path: str) -> bool:
    """Whether .dockerignore leaves this path to the builder."""
    result = True
    for line in ignore.splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            result = line.startswith("!")
    return result


@dataclass(slots=True)
class Image:
    """What has been built so far."""

    root: Path
    context: Path
    python: Path
    """The folder of `python` and `pip`, which the base image has in its PATH."""
    folder: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def build(self, stages: list[list[Instruction]]) -> None:
        """Carry out all stages. Raises `Offline`."""
        for stage in stages:
            self.environment = {"PATH": f"{self.python}:/usr/bin:/bin"}
            self.folder = "/"
            for instruction in stage:
                self._carry_out(instruction)

    def inside(self, text: str) -> str:
        """The same with absolute paths below the root."""
        return re.sub(r"(?<![\w./:])/(?=opt/|build\b)", f"{self.root}/", text)

    def _carry_out(self, instruction: Instruction) -> None:
        text = instruction.text
        match instruction.name:
            case "FROM":
                assert BASE.match(text), text
            case "ENV":
                for word in shlex.split(self.inside(text)):
                    name, _, value = word.partition("=")
                    self.environment[name] = value.replace("$PATH", self.environment["PATH"])
            case "WORKDIR":
                self.folder = text
                (self.root / text.lstrip("/")).mkdir(parents=True)
            case "COPY":
                self._copy(shlex.split(text))
            case "RUN":
                self._run(text)
            case "USER" | "EXPOSE" | "HEALTHCHECK" | "CMD":
                pass  # of containers, not of the image
            case _:
                raise AssertionError(f"{instruction} cannot be replayed")

    def _run(self, text: str) -> None:
        commands = [part.strip() for part in text.split("&&")]
        if all(_OF_THE_SYSTEM.match(part) for part in commands):
            self.left_out += commands
            return
        # The cache of whoever runs the tests may be used: an image must not have one, here it saves the network.
        environment = {name: value for name, value in self.environment.items() if name != "PIP_NO_CACHE_DIR"}
        passed = {name: os.environ[name] for name in os.environ if name == "HOME" or name.startswith("PIP_")}
        done = subprocess.run(
            ["/bin/sh", "-c", self.inside(text)],
            cwd=self.root / self.folder.lstrip("/"),
            env={**passed, **environment},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode and _OFFLINE.search(done.stdout + done.stderr):
            raise Offline(text)
        assert done.returncode == 0, done.stdout + done.stderr

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        if sources[0].startswith("--from="):
            assert sources[1:] == [target], (
                "an environment of Python cannot be moved, and all stages are one folder here"
            )
            return
        ignore = (self.context / ".dockerignore").read_text("utf-8")
        place = self.root / (target if target.startswith("/") else f"{self.folder}/{target}").lstrip("/")
        for source in sources:
            assert admitted(ignore, source), f"{source} is kept from the builder"
            path = self.context / source
            if path.is_dir():
                shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, place / path.name if place.is_dir() else place)

    def make_read_only(self) -> None:
        """For everybody: a container's root file system may be so."""
        for path in [self.root, *_all_below(self.root)]:
            path.chmod((path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0)) & ~0o222)


def _all_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_symlink())
