"""The `Prefer` header (RFC 7240) as far as writing rows uses it. Pure: text in, a frozen value out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the client prefers. `wait_seconds` is None where it did not say.

    `applied` is for `Preference-Applied`; whether bad rows are really kept, and how long is really waited, is for
    others to add.
    """

    returning: bool = False
    respond_async: bool = False
    quarantine: bool = False
    wait_seconds: float | None = None
    applied: tuple[str, ...] = ()

    @property
    def is_extra(self) -> bool:
        """Whether a request with these needs more than its rows written and an answer."""
        return self.respond_async or self.quarantine


NONE = Preferences()


@lru_cache(maxsize=256)  # clients send one of a handful of values, over and over
def parse(header: str) -> Preferences:
    """Read all `Prefer` lines, joined by commas. The first of each kind wins; what is not understood is ignored."""
    seen: dict[str, str] = {}
    for item in header.split(","):
        name, _, value = item.partition(";")[0].partition("=")
        seen.setdefault(name.strip().lower(), value.strip().strip('"'))
    applied = []
    returning = seen.get("return")
    if returning in ("minimal", "representation"):
        applied.append(f"return={returning}")
    # Who asks for a return, if only for return=minimal, waits for it; PostgREST clients that send both expect a 201.
    respond_async = "respond-async" in seen and returning is None
    if respond_async:
        applied.append("respond-async")
    wait = seen.get("wait", "")
    wait_seconds = float(wait) if wait.isascii() and wait.isdigit() and len(wait) < 10 else None
    quarantine = seen.get("bad-rows") == "quarantine"
    return Preferences(returning == "representation", respond_async, quarantine, wait_seconds, tuple(applied))
