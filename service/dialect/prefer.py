"""The `Prefer` header (RFC 7240) as far as writing rows uses it. Pure: text in, a frozen value out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the client prefers.

    `returning` is "minimal", "headers-only" or "representation". `merge` is whether the rows that are there already are
    updated or left alone; None: neither was asked for. `count` is "exact", "planned", "estimated" or "", `tx` "commit",
    "rollback" or "". `strict` says that `unknown`, what is not understood and as it was written, is an error.
    `time_zone` is "" and `wait_seconds` None where the client did not say.
    """

    returning: str = "minimal"
    merge: bool | None = None
    missing_default: bool = False
    count: str = ""
    tx: str = ""
    strict: bool = False
    time_zone: str = ""
    unknown: tuple[str, ...] = ()
    respond_async: bool = False
    quarantine: bool = False
    wait_seconds: float | None = None
    server_timing: bool = False
    given: tuple[str, ...] = ()
    """Those of PostgREST that were understood, as `name=value`, in the order in which they are acknowledged."""

    @property
    def is_extra(self) -> bool:
        """Whether a request with these needs more than its rows written and the usual answer."""
        return self.respond_async or self.quarantine

    def applied(self, *, resolution: bool = True, tx: bool = True) -> tuple[str, ...]:
        """The items of `Preference-Applied`.

        Leave out what had no effect: `resolution` where the table has nothing to resolve by, `tx` where the end of the
        transaction is not the client's to choose.
        """
        applied = [
            item
            for item in self.given
            if (resolution or not item.startswith("resolution=")) and (tx or not item.startswith("tx="))
        ]
        if self.respond_async:
            applied.append("respond-async")
        if self.quarantine:
            applied.append("bad-rows=quarantine")
        if self.wait_seconds is not None and not self.respond_async:
            applied.append(f"wait={self.wait_seconds:.0f}")
        if self.server_timing:
            applied.append("server-timing")
        return tuple(applied)


NONE = Preferences()


def _one_of(*values: str) -> Callable[[str], bool]:
    return frozenset(values).__contains__


def _anything(_value: str) -> bool:
    return True


def _is_wait(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 10


# Those of PostgREST, in the order in which it acknowledges them, and what their values may be.
_ACKNOWLEDGED: dict[str, Callable[[str], bool]] = {
    "resolution": _one_of("merge-duplicates", "ignore-duplicates"),
    "missing": _one_of("default", "null"),
    "return": _one_of("minimal", "headers-only", "representation"),
    "count": _one_of("exact", "planned", "estimated"),
    "tx": _one_of("commit", "rollback"),
    "handling": _one_of("strict", "lenient"),
    "timezone": bool,  # whether there is such a zone is for PostgreSQL to say
}
_KNOWN: dict[str, Callable[[str], bool]] = _ACKNOWLEDGED | {
    "max-affected": _anything,  # PostgREST takes it and does nothing with it when rows are inserted
    "respond-async": _anything,
    "bad-rows": _one_of("quarantine"),
    "wait": _is_wait,
    "server-timing": _anything,
}


@lru_cache(maxsize=256)  # clients send one of a handful of values, over and over
def parse(header: str) -> Preferences:
    """Read all `Prefer` lines, joined by commas. The first of each kind that is understood wins."""
    seen: dict[str, str] = {}
    unknown = []
    for item in header.split(","):
        name, _, value = item.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        known = _KNOWN.get(name)
        if known is not None and known(value):
            seen.setdefault(name, value)
        elif item.strip():
            unknown.append(item.strip())
    if not (seen or unknown):
        return NONE
    resolution = seen.get("resolution")
    return Preferences(
        returning=seen.get("return", "minimal"),
        merge=None if resolution is None else resolution == "merge-duplicates",
        missing_default=seen.get("missing") == "default",
        count=seen.get("count", ""),
        tx=seen.get("tx", ""),
        strict=seen.get("handling") == "strict",
        time_zone=seen.get("timezone", ""),
        unknown=tuple(unknown),
        # Who asks for a return, if only for the minimal one, waits: PostgREST clients that send both expect a 201.
        respond_async="respond-async" in seen and "return" not in seen,
        quarantine="bad-rows" in seen,
        wait_seconds=float(seen["wait"]) if "wait" in seen else None,
        server_timing="server-timing" in seen,
        given=tuple([f"{name}={seen[name]}" for name in _ACKNOWLEDGED if name in seen]),
    )
