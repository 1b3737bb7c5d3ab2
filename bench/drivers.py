"""The programs that make the load: wrk for the maximum, oha for constant rates. Where one is missing, the other helps.

Owns how they are called and what their output means. Must not know who is measured.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import output_of

WRK_SCRIPT = Path(__file__).parent / "wrk" / "post.lua"
HINTS = {
    "wrk": "wrk is not installed: `apt-get install wrk` or `brew install wrk`",
    "oha": "oha is not installed: `cargo install --locked oha` or `brew install oha`",
}
_GRACE_SECONDS = 30
"""How much longer than its load a driver may take before it is ended."""


class DriverError(Exception):
    """The driver is missing, or did not do what it was told."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds."""

    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True)
class Load:
    """What a driver counted. `errors` are by status, or by what happened if there was none."""

    driver: str
    seconds: float
    ok: int
    errors: dict[str, int]
    latency: Latency

    @property
    def per_second(self) -> float:
        """Answers of success per second."""
        return self.ok / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Shot:
    """The same body to each of the URLs in turn; without `per_second` as fast as answers come."""

    urls: tuple[str, ...]
    body: Path
    content_type: str
    connections: int
    seconds: int
    prefer: str = ""
    authorization: str = ""
    per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Drivers:
    """The drivers that were found on the PATH."""

    wrk: str | None = field(default_factory=lambda: shutil.which("wrk"))
    oha: str | None = field(default_factory=lambda: shutil.which("oha"))

    def hints(self) -> list[str]:
        """A line for each one that is missing."""
        return [HINTS[name] for name, path in (("wrk", self.wrk), ("oha", self.oha)) if path is None]

    async def versions(self) -> dict[str, str]:
        """Name → version."""
        found = {}
        if self.wrk is not None:  # which exits with 1 after this
            found["wrk"] = version_in(await output_of([self.wrk, "-v"], seconds=5, check=False))
        if self.oha is not None:
            found["oha"] = version_in(await output_of([self.oha, "--version"], seconds=5))
        return found

    async def maximum(self, shot: Shot) -> Load:
        """As much as goes."""
        if self.wrk is not None:
            return await self._wrk(shot)
        return await self.constant(shot)

    async def constant(self, shot: Shot) -> Load:
        """At a constant rate, whether answers come or not (or at the maximum, without `per_second`)."""
        if self.oha is None:
            raise DriverError(HINTS["oha"])
        targets = await _written(shot.body.with_suffix(".urls"), shot.urls)
        command = [self.oha, "--no-tui", "--output-format", "json", "-z", f"{shot.seconds}s", "-w"]
        command += ["-c", str(shot.connections), "-m", "POST", "-T", shot.content_type, "-D", str(shot.body)]
        command += ["-H", f"Prefer: {shot.prefer}"] if shot.prefer else []
        command += ["-H", f"Authorization: {shot.authorization}"] if shot.authorization else []
        # From the time a request was due, not from when a connection was free for it: a client would feel that too.
        command += ["-q", f"{shot.per_second:.0f}", "--latency-correction"] if shot.per_second is not None else []
        command += ["--urls-from-file", str(targets)] if len(shot.urls) > 1 else [shot.urls[0]]
        return read_oha(await output_of(command, seconds=shot.seconds + _GRACE_SECONDS))

    async def _wrk(self, shot: Shot) -> Load:
        assert self.wrk is not None
        base = "/".join(shot.urls[0].split("/")[:3])
        paths = await _written(shot.body.with_suffix(".paths"), [url.removeprefix(base) for url in shot.urls])
        # One thread sends more than any of the contenders takes, and leaves more of a small machine to them.
        command = [self.wrk, "-t1", f"-c{shot.connections}", f"-d{shot.seconds}s", "--timeout", "10s"]
        command += ["-s", str(WRK_SCRIPT), base, "--", str(shot.body), shot.content_type, shot.prefer, str(paths)]
        command.append(shot.authorization)
        return read_wrk(await output_of(command, seconds=shot.seconds + _GRACE_SECONDS))


def version_in(text: str) -> str:
    """The first number with dots: `wrk debian/4.1.0-3 [epoll] …` → 4.1.0."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return found[0] if found else "unknown"


def read_wrk(output: str) -> Load:
    """What `post.lua` printed after wrk's own words."""
    found: dict[str, int] | None = None
    for line in output.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
    if found is None:
        raise DriverError(f"wrk said nothing that could be read:\n{output}")
    kinds = {"status": "not 2xx", "connect": "connect", "read": "read", "write": "write", "timeout": "timeout"}
    return Load(
        driver="wrk",
        seconds=found["microseconds"] / 1e6,
        ok=found["requests"] - found["status"],
        errors={kind: found[name] for name, kind in kinds.items() if found[name]},
        latency=Latency(*(found[name] / 1e3 for name in ("p50", "p90", "p99", "p999", "max"))),
    )


def read_oha(output: str) -> Load:
    """Oha's JSON. Where there was no answer at all it has null for times."""
    try:
        found: dict[str, Any] = json.loads(output)
        statuses: dict[str, int] = found["statusCodeDistribution"]
        percentiles: dict[str, float | None] = found["latencyPercentiles"]
        summary: dict[str, float | None] = found["summary"]
    except (json.JSONDecodeError, KeyError) as error:
        raise DriverError(f"oha said nothing that could be read:\n{output}") from error
    times = [percentiles[name] for name in ("p50", "p90", "p99", "p99.9")] + [summary["slowest"]]
    errors = {status: count for status, count in statuses.items() if not status.startswith("2")}
    return Load(
        driver="oha",
        seconds=summary["total"] or 0.0,
        ok=sum(count for status, count in statuses.items() if status.startswith("2")),
        errors=errors | {kind: count for kind, count in found.get("errorDistribution", {}).items() if count},
        latency=Latency(*((seconds or 0.0) * 1e3 for seconds in times)),
    )


async def _written(path: Path, lines: tuple[str, ...] | list[str]) -> Path:
    await asyncio.to_thread(path.write_text, "\n".join(lines) + "\n")
    return path
