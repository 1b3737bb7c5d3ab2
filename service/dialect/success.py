"""The answer to a request whose rows are stored: status, headers, and the rows if they were asked for.

Owns what PostgREST's clients read in a success. Pure: must not know how the rows were written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec
from msgspec import Raw

from service.dialect.accept import Accepted, Shape
from service.dialect.prefer import Preferences
from service.problems import JSON, Answer
from sql import BadRow, Conflict, Item, Stored, Table, Written

_VARY = ("vary", "Accept, Prefer, Range")

_NAMED_MAX = 100
"""Bad rows that an answer names; all of them are in the quarantine."""

_decode_row = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants to hear. `items` are what is returned of each row, `key` the columns of the primary key;
    `headers` come with every success, `profile` is the schema to name with returned rows, "" for none.
    """

    table: Table
    preferences: Preferences
    accepted: Accepted
    items: tuple[Item, ...]
    key: tuple[str, ...]
    conflict: Conflict | None
    tx_override: bool
    profile: str
    headers: tuple[tuple[str, str], ...]


class Success:
    """Makes the answers to requests that wish the same. `accepted` is the one before the commit."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        preferences = wish.preferences
        self._returns = preferences.returning == "representation"
        # Who says what he wants returned gets that and no more: some read only so much of an answer.
        self._names = not any(item.startswith("return=") for item in preferences.given)
        self._locates = preferences.returning == "headers-only" and bool(wish.key)
        self._counts = preferences.count in ("exact", "estimated")
        self._merges = wish.conflict is not None and wish.conflict.merge
        applied = ", ".join(preferences.applied(resolution=wish.conflict is not None, tx=wish.tx_override))
        self._headers = (*([("preference-applied", applied)] if applied else []), _VARY, *wish.headers)
        self._uncounted = (("content-range", "*/*"), *self._headers)
        self.accepted = Answer(202, self._uncounted)
        self._plain = Answer(201, self._uncounted)
        self._is_plain = not (self._returns or self._locates or self._counts or self._merges)

    def answer(self, written: Written | None, rows: int) -> Answer:
        """The answer after the commit, of a request that had `rows` rows; what is known beside that is `written`."""
        if self._is_plain:
            return self._plain
        if written is None:
            written = Written((), rows, rows)
        headers = self._uncounted
        if self._counts:
            headers = (("content-range", f"*/{written.count}"), *self._headers)
        if self._locates and written.count == 1 and written.rows:
            headers = (*headers, ("location", self._location(written.rows[0])))
        status = 200 if self._merges and not written.inserted else 201
        if not self._returns:
            return Answer(status, headers)
        if self._wish.profile:
            headers = (*headers, ("content-profile", self._wish.profile))
        headers = (*headers, ("content-type", self._wish.accepted.media_type))
        return Answer(status, headers, self._body(written.rows))

    def answer_extra(self, stored: Stored, rows: int, request_id: str) -> Answer:
        """The answer to a request that brought more than its `rows`: a key, or leave to keep bad ones."""
        bad = stored.bad
        answer = self.answer(stored.result, rows - len(bad))
        headers, body = answer.headers, answer.body
        if bad:
            named = ",".join([str(row.row) for row in bad[:_NAMED_MAX]])
            headers = (*headers, ("headrace-quarantined", str(len(bad))), ("headrace-quarantined-rows", named))
            if self._names:
                headers = (*headers, ("content-type", JSON))
                stored_rows = rows - len(bad) if stored.result is None else stored.result.count
                body = _in_part(stored_rows, bad, request_id)
        if stored.replayed:
            headers = (*headers, ("idempotency-replayed", "true"))
        return Answer(answer.status, headers, body)

    def _body(self, rows: Sequence[str]) -> bytes:
        match self._wish.accepted.shape:
            case Shape.ARRAY:
                return f"[{','.join(rows)}]".encode()
            case Shape.OBJECT:
                return "".join(rows).encode()  # there is one
            case Shape.CSV:
                names = [
                    name
                    for item in self._wish.items
                    for name in (self._wish.table.columns if item.column == "*" else (item.label,))
                ]
                return "\n".join([",".join(names), *rows]).encode()

    def _location(self, row: str) -> str:
        """Where PostgREST would have the row: its key as filters."""
        values = _decode_row(row)
        filters = [f"{quote(name, safe='')}={_filter(bytes(values[name]))}" for name in self._wish.key]
        return f"/{quote(self._wish.table.name, safe='')}?{'&'.join(filters)}"


def _filter(value: bytes) -> str:
    if value == b"null":
        return "is.null"
    text = _decode_string(value) if value.startswith(b'"') else value.decode()
    return quote(f"eq.{text}", safe="")


class _Quarantined(msgspec.Struct):
    """A bad row, as the answer names it."""

    row: int
    code: str
    message: str
    details: str | None
    column: str | None


class _InPart(msgspec.Struct):
    """The body of an answer to a request of which not all is stored."""

    stored: int
    quarantined: list[_Quarantined]
    request_id: str


def _in_part(stored: int, bad: Sequence[BadRow], request_id: str) -> bytes:
    reasons = [
        _Quarantined(row.row, fault.code, fault.message, fault.details, fault.column)
        for row, fault in ((row, row.fault) for row in bad[:_NAMED_MAX])
    ]
    return msgspec.json.encode(_InPart(stored, reasons, request_id))
