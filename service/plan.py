"""A plan: what all requests that say the same before their bodies have in common.

Owns how their rows are read, what is asked of the write, and the answer to a success. Pure: does no I/O, holds no
request and knows no server; `posting.py` carries a request through.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import cast

from service.bodies.media import Media
from service.dialect.accept import Accepted, Shape
from service.dialect.prefer import Preferences
from service.dialect.query import Query
from service.dialect.success import Success, Wish
from service.observing.numbers import COMMITTED, ROLLED_BACK, TableNumbers
from service.problems import Answer
from sql import (
    BadRow,
    Conflict,
    CopyCodec,
    Encoded,
    Fault,
    Form,
    Item,
    LineReader,
    Missing,
    Options,
    RecordCodec,
    Rejected,
    Returning,
    Stored,
    Table,
    Target,
    Targets,
    Way,
    Written,
    is_array,
    lines_in_pieces,
    not_singular,
    salvaging,
    way_of,
)


class Route:
    """A table with its targets, and its codecs: made when first needed, since most tables are never written."""

    _CODECS_MAX = 256  # a producer of ever new lists of columns must not grow memory

    def __init__(self, table: Table, numbers: TableNumbers, *, copy_default: bool, bytes_max: int) -> None:
        self.table = table
        self.numbers = numbers
        self.copy_default = copy_default
        self.targets = Targets(table, copy_default=copy_default)
        self._bytes_max = bytes_max
        self._codecs: dict[tuple[object, ...], CopyCodec | RecordCodec] = {}

    def codec(self, options: Options, columns: tuple[str, ...] | None) -> CopyCodec | RecordCodec:
        """The codec for rows that are written like this; `columns` are those that count, None for all."""
        is_copy = way_of(self.table, options, copy_default=self.copy_default) is Way.COPY
        key = options.conflict.columns if options.conflict is not None and options.conflict.merge else ()
        name = (is_copy, columns, options.missing, key)
        codec = self._codecs.get(name)
        if codec is None:
            if len(self._codecs) >= self._CODECS_MAX:
                self._codecs.clear()
            codec = self._codecs[name] = self._new(columns, key, options, is_copy=is_copy)
        return codec

    def _new(
        self, columns: tuple[str, ...] | None, key: tuple[str, ...], options: Options, *, is_copy: bool
    ) -> CopyCodec | RecordCodec:
        defaults = options.missing is Missing.DEFAULT
        if not is_copy:
            return RecordCodec(self.table, columns=columns, defaults=defaults, key=key)
        return CopyCodec(
            self.table,
            copy_default=self.copy_default,
            bytes_max=self._bytes_max,
            columns=columns,
            defaults=defaults,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What requests ask for, read and checked against the table. `media` is what their bodies are, `columns` are the
    keys to take from those, None for all. `seconds` is how long any request may wait. `headers`
    come with every success, `profile` is the schema to name with returned rows.
    """

    query: Query
    preferences: Preferences
    accepted: Accepted
    columns: tuple[str, ...] | None
    media: Media
    seconds: float
    tx_override: bool
    profile: str
    headers: tuple[tuple[str, str], ...]


class Plan:
    """How to read the rows of such requests, where to write them, and what to answer.

    `wait_seconds` is how long they may wait, `accepted` the answer before the commit. `salvages` says that bad rows do
    not fail their request. `version` is that of the catalog it goes by. `decodes` says that bodies must go through
    `media.decoded` before their rows are read; all of it here is about what comes out there. `intent` is how bad rows
    that are kept were to be written. `numbers` are what they count for, `outcome` is that of a success there.
    `is_plain` says that such requests ask for nothing but rows to be written and the usual answer.
    """

    def __init__(self, route: Route, asked: Asked, version: int) -> None:
        preferences = asked.preferences
        self.table = table = route.table
        self.numbers = route.numbers
        self.version = version
        wait = preferences.wait_seconds
        self.respond_async = preferences.respond_async
        self.salvages = preferences.quarantine
        self.is_plain = not (preferences.is_extra or preferences.server_timing)
        # Who has a 202 does not wait, and nobody could tell him that his rows were given up.
        self.wait_seconds = (
            math.inf if self.respond_async else asked.seconds if wait is None else min(wait, asked.seconds)
        )
        self.media = asked.media
        self.decodes = not asked.media.is_plain
        self.lines = asked.media.lines
        conflict = _conflict(table, asked)
        # Whether the number of rows that are stored is known before.
        is_certain = conflict is None and not table.filtering_triggers
        self._is_singular = asked.accepted.shape is Shape.OBJECT
        self._checks_number = self._is_singular and is_certain
        options = _options(table, asked, conflict, is_certain=is_certain)
        wish = Wish(
            table,
            preferences,
            asked.accepted,
            () if options.returning is None else options.returning.items,
            table.primary_key,
            options.conflict,
            asked.tx_override,
            asked.profile,
            asked.headers,
        )
        self._success = Success(wish)
        self.accepted = self._success.accepted
        self._options = options
        self.outcome = ROLLED_BACK if options.rollback else COMMITTED
        self.intent = options.intent(asked.columns)
        self._targets = route.targets
        self._codec = route.codec(options, asked.columns)
        self._copy = self._codec if isinstance(self._codec, CopyCodec) else None
        # Most bodies have the same columns as the one before: 0.2 µs for looking the target up.
        self._columns: tuple[str, ...] | None = None
        self._target: Target | None = None

    # ---------------------------------------------------------------- reading

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

    # ---------------------------------------------------------------- writing

    def target_of(self, encoded: Encoded) -> Target:
        """What the rows are written to. Raises `Rejected` if they are not as many as may be answered."""
        if self._checks_number and encoded.rows != 1:
            raise Rejected(not_singular(encoded.rows))
        columns = encoded.columns
        if columns is self._columns and self._target is not None:
            return self._target
        self._columns, self._target = columns, self._targets.get(columns, self._options)
        return self._target

    # ---------------------------------------------------------------- answers

    def nothing(self) -> Answer:
        """The answer to a request without rows. Raises `Rejected` if there must be one."""
        if self.respond_async:
            return self.accepted
        if self._is_singular:
            raise Rejected(not_singular(0))
        return self.stored(None, 0)

    def stored(self, result: object, rows: int) -> Answer:
        """The answer after the commit of `rows` rows. `result` is what the slot returned."""
        return self._success.answer(cast("Written | None", result), rows)

    def stored_extra(self, stored: Stored, rows: int, request_id: str) -> Answer:
        """The answer to a request that brought more than its `rows`: a key, or leave to keep bad ones."""
        return self._success.answer_extra(stored, rows, request_id)


class Reader:
    """Turns the chunks of a body into rows: lines as they arrive; a JSON value when it is complete."""

    def __init__(self, plan: Plan, lines: LineReader | None) -> None:
        self._plan = plan
        self._lines = lines
        self._chunks: list[bytes] = []

    @property
    def collects(self) -> bool:
        """Whether it keeps the chunks until the body is complete, instead of encoding them."""
        return self._lines is None

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


def _options(table: Table, asked: Asked, conflict: Conflict | None, *, is_certain: bool) -> Options:
    """What is asked of the write. Raises `Rejected` for columns that are none."""
    query, preferences = asked.query, asked.preferences
    missing = Missing.NOTHING
    if asked.columns is not None:
        missing = Missing.DEFAULT if preferences.missing_default else Missing.NULL
    returning: Returning | None = None
    if preferences.returning != "minimal":
        _check_columns(table, [item.column for item in query.select if item.column != "*"])
    if preferences.returning == "representation":
        _check_columns(table, [sort.column for sort in query.order])
        returning = Returning(query.select, query.order, _form(asked.accepted))
    elif preferences.returning == "headers-only" and table.primary_key:
        returning = Returning(tuple(Item(name) for name in table.primary_key))
    elif preferences.count in ("exact", "estimated") and not is_certain:
        returning = Returning()
    return Options(
        conflict=conflict,
        returning=returning,
        missing=missing,
        singular=asked.accepted.shape is Shape.OBJECT and not is_certain,
        rollback=asked.tx_override and preferences.tx == "rollback",
        time_zone=preferences.time_zone,
    )


def _conflict(table: Table, asked: Asked) -> Conflict | None:
    """What a row may be in conflict with: the columns that the request names, or the primary key."""
    if asked.preferences.merge is None:
        return None
    columns = asked.query.on_conflict or table.primary_key
    for name in columns:
        if name not in table.columns:
            raise Rejected(Fault("42703", f'column "{name}" does not exist'))
    return Conflict(columns, asked.preferences.merge) if columns else None


def _check_columns(table: Table, names: list[str]) -> None:
    for name in names:
        if name not in table.columns:
            raise Rejected(Fault("42703", f"column {table.name}.{name} does not exist"))


def _form(accepted: Accepted) -> Form:
    if accepted.shape is Shape.CSV:
        return Form.CSV
    return Form.JSON_STRIPPED if accepted.stripped else Form.JSON


def is_miss(error: Exception) -> bool:
    """Whether the catalog did not have a name, so that a newer one might."""
    return isinstance(error, Rejected) and error.fault.code in ("PGRST204", "PGRST205", "42703")
