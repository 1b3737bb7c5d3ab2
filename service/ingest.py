"""Ingest: what a request asks for → a plan, by the newest catalog. The one dialect that all lanes speak.

Owns tables by name, media types, and the order in which a request is looked at. Pure: does no I/O, holds no request and
knows no server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from service.bodies.media import media_of
from service.dialect import prefer
from service.dialect.accept import parse as parse_accept
from service.dialect.query import parse as parse_query
from service.http.cors import CORS_HEADERS
from service.observing.counting import Counts
from service.observing.numbers import TableNumbers
from service.plan import Asked, Plan, Route
from service.problems import Problem, Refused
from sql import Catalog, CatalogMissing, Fault, in_order, unknown_table


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


class Ingest:
    """Plans requests by the newest catalog; `version` counts the catalogs.

    `schemas` are the exposed ones, the default first. A request's rows may take `bytes_max` bytes, and wait for
    `seconds_max` seconds. `quarantines` says whether there is a place for bad rows, `tx_override` whether a request
    may have its rows rolled back. `counts` has the numbers of the tables.
    """

    # A producer of ever new headers must not grow memory.
    _PLANS_MAX = 4096
    _PLANNED_CHARACTERS_MAX = 2048  # with the limit before, 8 MiB; a list of columns can be long

    def __init__(  # noqa: PLR0913 - the last ones are what hardly any test gives
        self,
        schemas: Sequence[str],
        *,
        seconds_max: float,
        bytes_max: int,
        quarantines: bool = True,
        tx_override: bool = False,
        counts: Counts | None = None,
    ) -> None:
        self.version = 0
        self._counts = counts or Counts()
        self.catalog: Catalog | None = None
        """The newest."""
        self.quarantines = quarantines
        self._tx_override = tx_override
        self._schemas = tuple(schemas)
        self.seconds_max = seconds_max
        self._bytes_max = bytes_max
        self._routes: dict[tuple[str, str], Route] | None = None
        self._plans: dict[Request, Plan] = {}

    def publish(self, catalog: Catalog) -> None:
        """Plan by this catalog from now on. A table that is as before keeps its codecs and shares its batches."""
        known, default = self._routes or {}, catalog.copy_default
        routes: dict[tuple[str, str], Route] = {}
        for name, table in catalog.tables.items():
            route = known.get(name)
            if route is None or route.table != table or route.copy_default != default:
                numbers = self._counts.table(*name)
                route = Route(table, numbers, copy_default=default, bytes_max=self._bytes_max)
            routes[name] = route
        self._routes = routes
        self.catalog = catalog
        self._plans.clear()
        self.version += 1

    def numbers_of(self, request: Request) -> TableNumbers:
        """The numbers that a request without a plan counts for."""
        route = (self._routes or {}).get((request.schema or self._schemas[0], request.table))
        return self._counts.nowhere if route is None else route.numbers

    def plan(self, request: Request) -> Plan:
        """Look at everything but the body. Raises `CatalogMissing`, `Refused`, or `Rejected` for an unknown table."""
        plan = self._plans.get(request)
        if plan is None:
            plan = self._plan(request)
            if len(self._plans) >= self._PLANS_MAX:
                self._plans.clear()
            said = (request.content_type, request.content_encoding, request.prefer, request.query, request.accept)
            if sum(map(len, said)) <= self._PLANNED_CHARACTERS_MAX:
                self._plans[request] = plan
        return plan

    def _plan(self, request: Request) -> Plan:
        """What is looked at in which order is as in PostgREST, but that the body comes last."""
        if self._routes is None:
            raise CatalogMissing
        schema = request.schema or self._schemas[0]
        if schema not in self._schemas:
            hint = f"Only the following schemas are exposed: {', '.join(self._schemas)}"
            raise Refused(Problem(406, Fault("PGRST106", f"Invalid schema: {schema}", hint=hint)))
        query = parse_query(request.query)
        media = media_of(request.content_type, request.content_encoding)
        route = self._routes.get((schema, request.table))
        if route is None:
            raise unknown_table(schema, request.table)
        preferences = prefer.parse(request.prefer) if request.prefer else prefer.NONE
        if preferences.quarantine and not self.quarantines:
            preferences = replace(preferences, quarantine=False)
        if self._tx_override and preferences.tx == "rollback":  # nothing is kept, so there is nothing to wait for
            preferences = replace(preferences, quarantine=False, respond_async=False)
        columns = None
        if query.columns is not None and not media.names_columns:
            columns = in_order(route.table, query.columns)
        if preferences.strict and preferences.unknown:
            details = f"Invalid preferences: {', '.join(preferences.unknown)}"
            raise Refused(Problem(400, Fault("PGRST122", "Invalid preferences given with handling=strict", details)))
        accepted = parse_accept(request.accept)
        profile = schema if request.schema or len(self._schemas) > 1 else ""
        asked = Asked(
            query,
            preferences,
            accepted,
            columns,
            media=media,
            seconds=self.seconds_max,
            tx_override=self._tx_override,
            profile=profile,
            headers=CORS_HEADERS if request.cross_origin else (),
        )
        return Plan(route, asked, self.version)
