"""The tables that rows can be sent to, for a form that sends some: where to, which columns, an example. Pure."""

from __future__ import annotations

from urllib.parse import quote

from msgspec import Struct

from service.pages.rowschema import example_row, is_required
from sql import PLAIN, Catalog, Column, Way, way_of


class ListedColumn(Struct, frozen=True):
    """A column. `default` is as PostgreSQL writes it; "identity" for one of those."""

    name: str
    type: str
    required: bool
    default: str | None
    comment: str | None


class ListedTable(Struct, frozen=True):
    """A table. `profile` is the schema, where a request has to name it. `way` is that of a plain insert."""

    schema: str
    table: str
    path: str
    profile: str
    kind: str
    way: str
    comment: str | None
    columns: list[ListedColumn]
    example: dict[str, object]


def table_list(catalog: Catalog, prefix: str, default_schema: str) -> list[ListedTable]:
    """All tables and views that take rows, by schema and name."""
    return [
        ListedTable(
            schema=table.schema,
            table=table.name,
            path=f"{prefix}/{quote(table.name, safe='')}",
            profile="" if table.schema == default_schema else table.schema,
            kind="view" if table.is_view else "table",
            way="copy" if way_of(table, PLAIN, copy_default=catalog.copy_default) is Way.COPY else "recordset",
            comment=table.comment,
            columns=[_listed(column) for column in table.columns.values()],
            example=example_row(table),
        )
        for _, table in sorted(catalog.tables.items())
        if table.insertable
    ]


def _listed(column: Column) -> ListedColumn:
    default = "identity" if column.identity is not None else column.default
    return ListedColumn(column.name, column.type, is_required(column), default, column.comment)
