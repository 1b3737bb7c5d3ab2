"""Ingest: what a request asks for → rows to write → the answer. The one dialect that all lanes speak.

Owns tables by name, media types, preferences and success answers. Pure: does no I/O, holds no request and knows no
server; `posting.py` carries a request through.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import cast

import msgspec

from service import prefer
from service.prefer import Preferences
from service.problems import JSON, Answer, Problem, Refused, refusal
from sql import (
    BadRow,
    Catalog,
    CatalogMissing,
    CopyCodec,
    Encoded,
    Fault,
    LineReader,
    RecordCodec,
    Rejected,
    Stored,
    Table,
    Target,
    Targets,
    Way,
    is_array,
    lines_in_pieces,
    salvaging,
    unknown_table,
)

_JSON_TYPES = frozenset({"", "application/json", "*/*"})
_LINES_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})

# PostgREST sends the range of what it returns; of a write without a count it says that it does not count.
_UNCOUNTED = ("content-range", "*/*")

_NAMED_MAX = 100
"""Bad rows that an answer names; all of them are in the quarantine."""


class Request(msgspec.Struct, frozen=True):
    """What a request says before its body. `schema` is the `Content-Profile`, `query` what follows the question mark in
    the URL, as it came; each is "" where there is none. `cross_origin`: it has an `Origin`.
    """

    table: str
    content_type: str = ""
    prefer: str = ""
    schema: str = ""
    query: str = ""
    accept: str = ""
    content_encoding: str = ""
    cross_origin: bool = False


def request_of(table: str, query: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Request:
    """The request for a table with these headers, their names in lower case.

    Of `Prefer`, `Accept` and `Content-Encoding` all lines count, of the others the first.
    """
    content_type = schema = None
    lists: dict[bytes, list[str]] = {}
    cross_origin = False
    for name, value in headers:
        if name in _LISTS:
            lists.setdefault(name, []).append(value.decode("latin-1"))
        elif name == b"content-type" and content_type is None:
            content_type = value.decode("latin-1")
        elif name == b"content-profile" and schema is None:
            schema = value.decode("latin-1")
        elif name == b"origin":
            cross_origin = True
    prefer, accept, encoding = (",".join(lists.get(name, ())) for name in _LISTS)
    return Request(
        table, content_type or "", prefer, schema or "", query.decode("latin-1"), accept, encoding, cross_origin
    )


_LISTS = (b"prefer", b"accept", b"content-encoding")


class Marks(msgspec.Struct, frozen=True):
    """What a request says of itself alone: its `Idempotency-Key` headers as they came, and its `X-Request-Id`."""

    keys: tuple[bytes, ...] = ()
    request_id: bytes = b""


NO_MARKS = Marks()


def marks_of(headers: Iterable[tuple[bytes, bytes]]) -> Marks:
    """The marks in these headers, their names in lower case; `NO_MARKS` itself if there are none."""
    keys: list[bytes] = []
    request_id = b""
    for name, value in headers:
        if name == b"idempotency-key":
            keys.append(value.strip())
        elif name == b"x-request-id" and not request_id:
            request_id = value.strip()
    return Marks(tuple(keys), request_id) if keys or request_id else NO_MARKS


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


class Plan:
    """What all requests that say the same before their bodies have in common: how to read rows, and what to answer.

    `wait_seconds` is how long they may wait, `accepted` the answer before the commit, `nothing` the one to a request
    without rows. `salvages` says that bad rows do not fail their request. `version` is that of the catalog it goes by.
    """

    def __init__(self, route: _Route, preferences: Preferences, version: int, *, lines: bool, seconds: float) -> None:
        self.table = route.table
        self.version = version
        wait = preferences.wait_seconds
        self.respond_async = preferences.respond_async
        self.salvages = preferences.quarantine
        self.is_extra = preferences.is_extra
        # Who has a 202 does not wait, and nobody could tell him that his rows were given up.
        self.wait_seconds = math.inf if self.respond_async else seconds if wait is None else min(wait, seconds)
        self.lines = lines
        headers = _success_headers(preferences)
        self.accepted = Answer(202, headers)
        self._stored = Answer(201, headers)
        self._returning = preferences.returning
        self.nothing = self.accepted if self.respond_async else self.stored(None)
        self._targets = route.targets
        table = route.table
        self._way = Way.RECORDSET_RETURNING if preferences.returning else Way.COPY if table.copyable else Way.RECORDSET
        self._copy = route.copy if self._way is Way.COPY else None
        self._codec: CopyCodec | RecordCodec = self._copy or route.records
        # Most bodies have the same columns as the one before: 0.2 µs for looking the target up.
        self._columns: tuple[str, ...] | None = None
        self._target: Target | None = None

    def encode(self, body: bytes) -> Encoded:
        """The rows of a whole body, not a large one. Raises `Rejected`, `TooLarge`."""
        if self.lines:
            if self._copy is None:
                return cast("RecordCodec", self._codec).lines(body)
            reader = self._copy.lines()
            reader.feed(body)
            return reader.finish()
        if body.startswith(b"{") or not is_array(body):
            return self._codec.one(body)
        return self._codec.array(body)

    def encoding(self, body: bytes) -> Generator[None, None, Encoded]:
        """The rows of a whole body of any size. Yields between pieces of the work. Raises `Rejected`, `TooLarge`."""
        if not self.lines:
            return (yield from self._codec.array_steps(body)) if is_array(body) else self._codec.one(body)
        if self._copy is None:
            return (yield from cast("RecordCodec", self._codec).lines_steps(body))
        reader = self._copy.lines()
        for piece in lines_in_pieces(body):
            reader.feed(piece)
            yield
        return (yield from reader.finishing())

    def reader(self) -> Reader:
        """A reader for a body that arrives in pieces."""
        return Reader(self, self._copy.lines() if self.lines and self._copy else None)

    def salvaging(self, body: bytes) -> Generator[None, None, tuple[Encoded, list[BadRow]]]:
        """The rows of a whole body that are good, and those that are not. Yields between pieces of the work.

        Raises `Rejected`, `TooLarge`.
        """
        return salvaging(self._codec, body, lines=self.lines)

    def target_of(self, encoded: Encoded) -> Target:
        """What the rows are written to. Their payload is nothing if they have no columns."""
        columns = encoded.columns
        if columns is self._columns and self._target is not None:
            return self._target
        # Rows of defaults only: a COPY without columns would mean all of them.
        way = Way.RECORDSET if self._way is Way.COPY and not columns else self._way
        self._columns, self._target = columns, self._targets.get(columns, way)
        return self._target

    def stored(self, result: object) -> Answer:
        """The answer after the commit. `result` is what the slot returned: None, or the stored rows as JSON texts."""
        if not self._returning:
            return self._stored
        rows = cast("Sequence[str]", result or ())
        return Answer(201, (*self._stored.headers, ("content-type", JSON)), f"[{','.join(rows)}]".encode())

    def answer(self, stored: Stored, rows: int, request_id: str) -> Answer:
        """The answer to a request that brought more than its `rows`: a key, or leave to keep bad ones."""
        answer = self.stored(stored.result)
        headers, body = answer.headers, answer.body
        bad = stored.bad
        if bad:
            named = ",".join([str(row.row) for row in bad[:_NAMED_MAX]])
            headers = (*headers, ("headrace-quarantined", str(len(bad))), ("headrace-quarantined-rows", named))
            if not self._returning:
                headers = (*headers, ("content-type", JSON))
                reasons = [
                    _Quarantined(row.row, fault.code, fault.message, fault.details, fault.column)
                    for row, fault in ((row, row.fault) for row in bad[:_NAMED_MAX])
                ]
                body = msgspec.json.encode(_InPart(rows - len(bad), reasons, request_id))
        if stored.replayed:
            headers = (*headers, ("idempotency-replayed", "true"))
        return Answer(201, headers, body)


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


class Reader:
    """Turns the chunks of a body into rows: lines as they arrive; a JSON value when it is complete."""

    def __init__(self, plan: Plan, lines: LineReader | None) -> None:
        self._plan = plan
        self._lines = lines
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk. Raises `Rejected`."""
        if self._lines is None:
            self._chunks.append(chunk)
        else:
            self._lines.feed(chunk)

    def finishing(self) -> Generator[None, None, Encoded]:
        """The rows, after the last chunk. Yields between pieces of the work. Raises `Rejected`, `TooLarge`."""
        if self._lines is None:
            body = b"".join(self._chunks)
            self._chunks.clear()
            return (yield from self._plan.encoding(body))
        return (yield from self._lines.finishing())


class Ingest:
    """Plans requests by the newest catalog; `version` counts the catalogs.

    `schemas` are the exposed ones, the default first. A request's rows may take `bytes_max` bytes, and wait for
    `seconds_max` seconds. `quarantines` says whether there is a place for bad rows.
    """

    # A producer of ever new headers must not grow memory.
    _PLANS_MAX = 4096
    _PLANNED_CHARACTERS_MAX = 512

    def __init__(self, schemas: Sequence[str], *, seconds_max: float, bytes_max: int, quarantines: bool = True) -> None:
        self.version = 0
        self.catalog: Catalog | None = None
        """The newest."""
        self.quarantines = quarantines
        self._schemas = tuple(schemas)
        self.seconds_max = seconds_max
        self._bytes_max = bytes_max
        self._routes: dict[tuple[str, str], _Route] | None = None
        self._plans: dict[Request, Plan] = {}

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
        self.catalog = catalog
        self._plans.clear()
        self.version += 1

    def plan(self, request: Request) -> Plan:
        """Look at everything but the body. Raises `CatalogMissing`, `Refused`, or `Rejected` for an unknown table."""
        plan = self._plans.get(request)
        if plan is None:
            plan = self._plan(request)
            if len(self._plans) >= self._PLANS_MAX:
                self._plans.clear()
            if (
                sum(map(len, (request.content_type, request.prefer, request.query, request.accept)))
                <= self._PLANNED_CHARACTERS_MAX
            ):
                self._plans[request] = plan
        return plan

    def _plan(self, request: Request) -> Plan:
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
        if preferences.quarantine and not self.quarantines:
            preferences = replace(preferences, quarantine=False)
        return Plan(route, preferences, self.version, lines=lines, seconds=self.seconds_max)


def _success_headers(preferences: Preferences) -> tuple[tuple[str, str], ...]:
    applied = preferences.applied
    if preferences.quarantine:
        applied = (*applied, "bad-rows=quarantine")
    if preferences.wait_seconds is not None and not preferences.respond_async:
        applied = (*applied, f"wait={preferences.wait_seconds:.0f}")
    return (_UNCOUNTED, ("preference-applied", ", ".join(applied))) if applied else (_UNCOUNTED,)


def is_miss(error: Exception) -> bool:
    """Whether the catalog did not have a name, so that a newer one might."""
    return isinstance(error, Rejected) and error.fault.code in ("PGRST204", "PGRST205")
