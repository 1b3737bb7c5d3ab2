"""Ingest: what a request asks for → rows in the batcher → the answer. The one dialect that all lanes speak.

Owns tables by name, media types, preferences and success answers. Does no I/O and knows no server: a lane hands over
the parts of a request and sends the `Answer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from service import prefer
from service.prefer import Preferences
from service.problems import JSON, Answer, Problem, Refused, refusal
from sql import (
    Catalog,
    CatalogMissing,
    CopyCodec,
    Encoded,
    Fault,
    RecordCodec,
    Rejected,
    Table,
    Target,
    Targets,
    Way,
    is_array,
    unknown_table,
)

if TYPE_CHECKING:
    from service.settings import Settings

_JSON_TYPES = frozenset({"", "application/json", "*/*"})
_LINES_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

# PostgREST sends the range of what it returns; of a write without a count it says that it does not count.
_UNCOUNTED = ("content-range", "*/*")


@dataclass(frozen=True, slots=True)
class Request:
    """What a lane knows of a request before its body. `schema` is the `Content-Profile`, "" where there is none."""

    table: str
    content_type: str = ""
    prefer: str = ""
    schema: str = ""


@dataclass(frozen=True, slots=True)
class Write:
    """A request as the batcher needs it. `rows` may be 0: then there is nothing to write and success is sure."""

    target: Target
    payload: bytes
    rows: int
    wait_seconds: float
    preferences: Preferences


class Body(Protocol):
    """Turns the chunks of a body into rows."""

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk. Raises `Rejected`."""

    def finish(self) -> Encoded:
        """All rows. Raises `Rejected`."""


class _Route:
    """A table with its targets, and its codecs: made when first needed, since most tables are never written."""

    def __init__(self, table: Table, *, copy_default: bool, bytes_max: int) -> None:
        self.table = table
        self.copy_default = copy_default
        self.targets = Targets(table, copy_default=copy_default)
        self._bytes_max = bytes_max
        self._copy: CopyCodec | None = None
        self._records: RecordCodec | None = None

    @property
    def copy(self) -> CopyCodec:
        if self._copy is None:
            self._copy = CopyCodec(self.table, copy_default=self.copy_default, bytes_max=self._bytes_max)
        return self._copy

    @property
    def records(self) -> RecordCodec:
        if self._records is None:
            self._records = RecordCodec(self.table)
        return self._records


class _WholeBody:
    """A body that is one JSON value (or is wanted as such), kept until it is complete."""

    def __init__(self, codec: CopyCodec | RecordCodec, *, lines: bool) -> None:
        self._codec = codec
        self._lines = lines
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> Encoded:
        body = b"".join(self._chunks)
        if self._lines:
            return cast("RecordCodec", self._codec).lines(body)
        return self._codec.array(body) if is_array(body) else self._codec.one(body)


class Plan:
    """One request on its way: `feed` it the body, then `finish` for what to write."""

    def __init__(self, route: _Route, preferences: Preferences, *, lines: bool, seconds: float) -> None:
        self._route = route
        self._preferences = preferences
        self._seconds = seconds
        table = route.table
        self._way = Way.RECORDSET_RETURNING if preferences.returning else Way.COPY if table.copyable else Way.RECORDSET
        if self._way is not Way.COPY:
            self._body: Body = _WholeBody(route.records, lines=lines)
        elif lines:
            self._body = route.copy.lines()
        else:
            self._body = _WholeBody(route.copy, lines=False)

    @property
    def table(self) -> Table:
        """The table that the request names."""
        return self._route.table

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk of the body. Raises `Rejected`."""
        self._body.feed(chunk)

    def finish(self) -> Write:
        """The rows, after the last chunk. Raises `Rejected`."""
        encoded = self._body.finish()
        way, payload = self._way, encoded.payload
        if way is Way.COPY and encoded.rows and not encoded.columns:
            # Rows of defaults only: a COPY without columns would mean all of them.
            way, payload = Way.RECORDSET, b""
        wait = self._preferences.wait_seconds
        return Write(
            target=self._route.targets.get(encoded.columns, way),
            payload=payload,
            rows=encoded.rows,
            wait_seconds=self._seconds if wait is None else min(wait, self._seconds),
            preferences=self._preferences,
        )


class Ingest:
    """Plans requests by the newest catalog."""

    def __init__(self, settings: Settings) -> None:
        self._seconds = settings.request_seconds_max
        self._bytes_max = settings.pending_bytes_max
        self._schemas = settings.schemas
        self._routes: dict[tuple[str, str], _Route] | None = None

    def publish(self, catalog: Catalog) -> None:
        """Plan by this catalog from now on. A table that is as before keeps its codecs and shares its batches."""
        known, default = self._routes or {}, catalog.copy_default
        routes: dict[tuple[str, str], _Route] = {}
        for name, table in catalog.tables.items():
            route = known.get(name)
            if route is None or route.table != table or route.copy_default != default:
                route = _Route(table, copy_default=default, bytes_max=self._bytes_max)
            routes[name] = route
        self._routes = routes

    def plan(self, request: Request) -> Plan:
        """Look at everything but the body. Raises `CatalogMissing`, `Refused`, or `Rejected` for an unknown table."""
        if self._routes is None:
            raise CatalogMissing
        schema = request.schema or self._schemas[0]
        if schema not in self._schemas:
            hint = f"Only the following schemas are exposed: {', '.join(self._schemas)}"
            raise Refused(Problem(406, Fault("PGRST106", f"Invalid schema: {schema}", hint=hint)))
        media_type = request.content_type.partition(";")[0].strip().lower()
        lines = media_type in _LINES_TYPES
        if not lines and media_type not in _JSON_TYPES:
            raise Refused(refusal(400, "PGRST102", f"Content-Type not acceptable: {media_type}"))
        route = self._routes.get((schema, request.table))
        if route is None:
            raise unknown_table(schema, request.table)
        preferences = prefer.parse(request.prefer) if request.prefer else prefer.NONE
        return Plan(route, preferences, lines=lines, seconds=self._seconds)


def accepted(write: Write) -> Answer:
    """The answer before the commit, for who asked for it."""
    return Answer(202, tuple(_success_headers(write)))


def stored(write: Write, result: object) -> Answer:
    """The answer after the commit. `result` is what the slot returned: None, or the stored rows as JSON texts."""
    headers = _success_headers(write)
    if not write.preferences.returning:
        return Answer(201, tuple(headers))
    headers.append(("content-type", JSON))
    rows = cast("Iterable[str]", result or ())
    return Answer(201, tuple(headers), f"[{','.join(rows)}]".encode())


def _success_headers(write: Write) -> list[tuple[str, str]]:
    headers = [_UNCOUNTED]
    applied = write.preferences.applied
    if write.preferences.wait_seconds is not None:
        applied = (*applied, f"wait={write.wait_seconds:g}")
    if applied:
        headers.append(("preference-applied", ", ".join(applied)))
    return headers


def is_miss(error: Rejected) -> bool:
    """Whether the catalog did not have a name, so that a newer one might."""
    return error.fault.code in ("PGRST204", "PGRST205")
