"""Calls of the library's `insert`: what one asks for → a request of the dialect; the answer's body → rows.

Owns what is the same for all calls with the same parameters. Must not know how rows are sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec

from batching import DeadlinePassed
from service.ingest import Request
from service.library.errors import exception_of
from service.library.returned import Reader
from service.lifespan import Service
from service.problems import problem_of
from sql import Table, Unavailable, unknown_table

Names: TypeAlias = str | Sequence[str]
"""One name, or several."""

_BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Parameters(msgspec.Struct, frozen=True):
    """What a call asks for beside its rows, as `Headrace.insert` has it; names are None, one, or a tuple."""

    table: str
    returning: str | tuple[str, ...] | None = None
    on_conflict: str | tuple[str, ...] | None = None
    ignore_duplicates: bool = False
    columns: str | tuple[str, ...] | None = None
    schema: str | None = None

    @property
    def returns_all(self) -> bool:
        """Whether all columns are to be returned."""
        return self.returning is not None and "*" in _tuple(self.returning)

    def request(self) -> Request:
        """The same as a request says it. Raises ValueError."""
        prefer, query = [], []
        if self.returning is not None:
            prefer.append("return=representation")
            query.append(f"select={'*' if self.returns_all else _list(self.returning)}")
        if self.on_conflict is not None:
            query.append(f"on_conflict={_list(self.on_conflict)}")
        if self.ignore_duplicates:
            prefer.append("resolution=ignore-duplicates")
        elif self.on_conflict is not None:
            prefer.append("resolution=merge-duplicates")
        if self.columns is not None:
            prefer.append("missing=default")
            query.append(f"columns={_list(self.columns)}")
        return Request(self.table, prefer=",".join(prefer), schema=self.schema or "", query="&".join(query))


class Call:
    """What all calls with the same parameters have in common. `schema` is the table's. Raises ValueError."""

    def __init__(self, parameters: Parameters, schema: str) -> None:
        self.request = parameters.request()
        self._schema = schema
        returning = parameters.returning
        self._returning = None if returning is None or parameters.returns_all else _tuple(returning)
        self._reader: Reader | None = None

    def table_in(self, service: Service) -> Table | None:
        """The table, by the newest catalog."""
        catalog = service.ingest.catalog
        return None if catalog is None else catalog.tables.get((self._schema, self.request.table))

    async def find_table(self, service: Service, expires: float | None) -> Table:
        """The table, by a catalog that is read now. Raises `HeadraceError`."""
        seconds = service.ingest.seconds_max
        if expires is not None:
            seconds = min(seconds, expires - service.batcher.clock())
        try:
            async with asyncio.timeout(seconds):
                await service.watch.after_miss()
        except TimeoutError:
            raise exception_of(problem_of(DeadlinePassed())) from None
        except Unavailable as error:
            raise exception_of(problem_of(error)) from error
        table = self.table_in(service)
        if table is None:
            raise exception_of(problem_of(unknown_table(self._schema, self.request.table)))
        return table

    def rows(self, table: Table, body: bytes) -> list[dict[str, Any]] | None:
        """The rows in the body of an answer about this table; None if none were asked for."""
        if not body:
            return None
        if self._reader is None or self._reader.table is not table:
            self._reader = Reader(table, self._returning)
        return self._reader.rows(body)


def names_of(names: Names | None) -> str | tuple[str, ...] | None:
    """Names as a `Parameters` has them."""
    return names if names is None or isinstance(names, str) else tuple(names)


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _list(names: str | tuple[str, ...]) -> str:
    """Names as a list in a query."""
    if not names:
        raise ValueError("a list of columns is empty")
    return ",".join([quote(_quoted(name), safe="") for name in _tuple(names)])


def _quoted(name: str) -> str:
    if _BARE_NAME.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
