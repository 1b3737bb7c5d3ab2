"""The `Accept` header (RFC 9110 section 12.5.1): how stored rows are answered. Pure: text in, a frozen value out.

Owns which media types there are, and which of them a client gets. Must not know how rows are written in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from service.problems import JSON, Refused, refusal


class Shape(Enum):
    """What the stored rows are put into."""

    ARRAY = auto()
    OBJECT = auto()  # one row, and no other number of them
    CSV = auto()


@dataclass(frozen=True, slots=True)
class Accepted:
    """How stored rows are answered. `media_type` is the Content-Type; `stripped`: without keys whose value is null."""

    media_type: str
    shape: Shape
    stripped: bool = False


ROWS = Accepted(JSON, Shape.ARRAY)
"""What a client gets that does not say."""

_OBJECT_TYPE = "application/vnd.pgrst.object+json"
_ARRAY_TYPE = "application/vnd.pgrst.array+json"
_OBJECT = Accepted(f"{_OBJECT_TYPE}; charset=utf-8", Shape.OBJECT)
_CSV = Accepted("text/csv; charset=utf-8", Shape.CSV)

# As PostgREST has it, the array type without its parameter is plain JSON, and says so.
_TYPES = {
    "*/*": ROWS,
    "application/*": ROWS,
    "application/json": ROWS,
    _ARRAY_TYPE: ROWS,
    _OBJECT_TYPE: _OBJECT,
    "application/vnd.pgrst.object": _OBJECT,
    "text/*": _CSV,
    "text/csv": _CSV,
}
_STRIPPED = {
    Shape.ARRAY: Accepted(f"{_ARRAY_TYPE};nulls=stripped; charset=utf-8", Shape.ARRAY, stripped=True),
    Shape.OBJECT: Accepted(f"{_OBJECT_TYPE};nulls=stripped; charset=utf-8", Shape.OBJECT, stripped=True),
}


def parse(header: str) -> Accepted:
    """Read all `Accept` lines, joined by commas. Raises `Refused` if none of what they name can be had."""
    if not header.strip(" \t,"):
        return ROWS
    ranges = sorted((_Range(text) for text in header.split(",") if text.strip()), key=_Range.rank)
    for wanted in ranges:
        accepted = wanted.accepted
        if accepted is not None and wanted.weight > 0:
            return accepted
    names = ", ".join([wanted.name for wanted in ranges])
    raise Refused(refusal(406, "PGRST107", f"None of these media types are available: {names}"))


class _Range:
    """One media range with its parameters. `name` is what was written, without the weight."""

    def __init__(self, text: str) -> None:
        media_type, *parameters = (part.strip() for part in text.split(";"))
        self.weight = 1.0
        kept = []
        for parameter in parameters:
            if parameter[:2].lower() == "q=":
                self.weight = _weight(parameter[2:])
            else:
                kept.append(parameter)
        self.name = ";".join((media_type, *kept))
        self.accepted = _TYPES.get(media_type.lower())
        if media_type.lower() in (_OBJECT_TYPE, _ARRAY_TYPE) and "nulls=stripped" in kept and self.accepted:
            self.accepted = _STRIPPED[self.accepted.shape]

    def rank(self) -> tuple[float, int]:
        """The heaviest first; of those that weigh the same, what says more: a parameter counts, a star against it."""
        return -self.weight, self.name.count("*") - self.name.count(";")


def _weight(text: str) -> float:
    """A weight from 0 to 1; 1 for what is none (RFC 9110 section 12.4.2 has up to three decimals)."""
    whole, _, decimals = text.strip().partition(".")
    if whole not in ("0", "1") or len(decimals) > 3 or (decimals and not (decimals.isascii() and decimals.isdigit())):
        return 1.0
    return min(1.0, float(f"{whole}.{decimals or 0}"))
