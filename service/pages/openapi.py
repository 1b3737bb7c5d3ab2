"""The OpenAPI description: a path for each table of a catalog, what may be sent there, and what is answered.

Pure: a catalog in, a document out. What a row may be is in `pages/rowschema.py`. Whatever tables have in common stands
once, below `components`. Must not know when the catalog changes or how the document is served.

OpenAPI has no words for a few things; the document says them in sentences. Two tables of one name in two schemas have
one path, and the header Content-Profile, not the path, tells them apart. All rows of an array have the same keys. An
answer to `Prefer: return=minimal` has no body.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from service.pages.components import (
    DESCRIPTION,
    HEADERS,
    JSON,
    NAME,
    PARAMETERS,
    RESPONSES,
    SCHEMAS,
    SECURITY,
    SECURITY_SCHEMES,
    SERVICE,
    SERVICE_PATHS,
    SHARED_PARAMETERS,
    SHARED_RESPONSES,
    STORED,
    STORED_HEADERS,
    SUMMARY,
    JsonObject,
    ref,
)
from service.pages.rowschema import as_text, example_row, row_schema, takes_values, text_row_schema
from sql import Catalog, Table

_LINES = "application/x-ndjson"
_CSV = "text/csv"
_FORM = "application/x-www-form-urlencoded"
_MSGPACK = "application/msgpack"
_ONE_ROW = "application/vnd.pgrst.object+json"
_STRIPPED = "application/vnd.pgrst.array+json;nulls=stripped"


@dataclass(frozen=True, slots=True)
class _Named:
    """The tables of one name, one for each schema that has it, and what the schemas of their rows are called."""

    name: str
    tables: tuple[Table, ...]
    rows: tuple[str, ...]

    @property
    def schemas(self) -> list[str]:
        """Where they are."""
        return [table.schema for table in self.tables]

    def row_schemas(self) -> Iterator[tuple[str, JsonObject]]:
        """The schemas of their rows, by name."""
        for table, row in zip(self.tables, self.rows, strict=True):
            yield row, row_schema(table)
            yield f"{row}.text", text_row_schema(table)


def document(catalog: Catalog, *, prefix: str, version: str) -> bytes:
    """The description of a service that has these tables below `prefix` and is of this version, as JSON.

    It is put together from pieces: to write, and to let go of, one large structure would stop other threads for 0.2 s
    if there are 1,000 tables.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    default, *others = catalog.schemas
    for named in _named(catalog):
        paths[f"{prefix}/{quote(named.name, safe='')}"] = _piece({"post": _operation(named, default)})
        schemas.update((name, _piece(schema)) for name, schema in named.row_schemas())
        stored[named.rows[0]] = _piece(_stored(named))
    tags = [
        {"name": default, "description": f"Schema `{default}`."},
        *({"name": name, "description": f"Schema `{name}`: say `Content-Profile: {name}`."} for name in others),
        {"name": SERVICE, "description": "The service itself."},
    ]
    return _encode({
        "openapi": "3.1.0",
        "info": {"title": "Headrace", "version": version, "summary": SUMMARY, "description": DESCRIPTION},
        "tags": tags,
        "security": SECURITY,
        "paths": {**paths, **SERVICE_PATHS},
        "components": {
            "schemas": {**schemas, **SCHEMAS},
            "parameters": PARAMETERS,
            "headers": HEADERS,
            "responses": {**stored, **RESPONSES},
            "securitySchemes": SECURITY_SCHEMES,
        },
    })  # fmt: skip


_encode = msgspec.json.Encoder().encode


def _piece(value: JsonObject) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _named(catalog: Catalog) -> Iterator[_Named]:
    tables_of: dict[str, list[Table]] = {}
    for table in catalog.tables.values():
        if table.insertable:
            tables_of.setdefault(table.name, []).append(table)
    taken = {*SCHEMAS, *RESPONSES}
    for name, tables in tables_of.items():
        rows = []
        for table in tables:
            # Names of components may hold few characters, so two may become the same.
            full = name if table.schema == catalog.schemas[0] else f"{table.schema}.{name}"
            plain = row = re.sub(r"[^A-Za-z0-9._-]", "_", full)
            number = 1
            while taken.intersection((row, f"{row}.text")):
                number += 1
                row = f"{plain}_{number}"
            taken.update((row, f"{row}.text"))
            rows.append(row)
        yield _Named(name, tuple(tables), tuple(rows))


def _operation(named: _Named, default_schema: str) -> JsonObject:
    schemas = named.schemas
    words = [table.comment for table in named.tables if table.comment]
    if len(schemas) > 1:
        words.append(f"Several schemas have a table of this name: {', '.join(f'`{name}`' for name in schemas)}.")
    return {
        "operationId": f"insert_{named.rows[0]}",
        "tags": schemas,
        "summary": f"Store rows in {named.name}",
        **({"description": "\n\n".join(words)} if words else {}),
        "parameters": [_profile(schemas, default_schema), *SHARED_PARAMETERS, _columns(named), _on_conflict(named)],
        "requestBody": {"required": True, "content": _content(named)},
        "responses": {
            "200": ref("responses", named.rows[0]),
            "201": ref("responses", named.rows[0]),
            **SHARED_RESPONSES,
        },
    }


def _profile(schemas: Sequence[str], default: str) -> JsonObject:
    return {
        "name": "Content-Profile",
        "in": "header",
        "required": default not in schemas,
        "description": f"The schema; without it, `{default}`.",
        "schema": {"type": "string", "enum": list(schemas)},
    }


def _columns(named: _Named) -> JsonObject:
    columns = {name: None for table in named.tables for name, column in table.columns.items() if takes_values(column)}
    item: JsonObject = {"type": "string"}
    if columns:
        item["enum"] = [_listed(name) for name in columns]
    words = "The keys to take from the rows of a JSON body: others are dropped, and one that a row lacks is NULL."
    return _list_parameter("columns", words, item)


def _on_conflict(named: _Named) -> JsonObject:
    words = "The columns of the unique key that `Prefer: resolution=` goes by; without it, the primary key."
    parameter = _list_parameter("on_conflict", words, {"type": "string", "pattern": f"^{NAME}$"})
    keys = {key.columns: None for table in named.tables for key in table.keys}
    if keys:
        parameter["examples"] = {", ".join(columns): {"value": [_listed(name) for name in columns]} for columns in keys}
    return parameter


def _list_parameter(name: str, words: str, item: JsonObject) -> JsonObject:
    return {
        "name": name,
        "in": "query",
        "style": "form",
        "explode": False,
        "description": words,
        "schema": {"type": "array", "minItems": 1, "items": item},
    }


def _listed(name: str) -> str:
    """A name as it stands in a list of them."""
    if re.fullmatch(r"[A-Za-z0-9_$]([A-Za-z0-9_$ -]*[A-Za-z0-9_$])?", name):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


# -------------------------------------------------------------------- bodies


def _content(named: _Named) -> JsonObject:
    row = _any_of([ref("schemas", row) for row in named.rows])
    text_row = _any_of([ref("schemas", f"{row}.text") for row in named.rows])
    content: JsonObject = {
        JSON: {"schema": {"oneOf": [row, _several(row)]}},
        _LINES: {"schema": _several(row)},
        _CSV: {"schema": {**_several({**text_row, "minProperties": 1}), "minItems": 1}},  # it names columns
        _FORM: {"schema": text_row},
        _MSGPACK: {"schema": {"oneOf": [row, _several(row)]}},
    }
    example = example_row(named.tables[0])
    if example:
        rows = [example, {name: value + 1 if type(value) is int else value for name, value in example.items()}]
        texts = [{name: as_text(value) for name, value in row.items()} for row in rows]
        for media_type, value in {JSON: example, _LINES: rows, _CSV: _csv(texts), _FORM: texts[0]}.items():
            content[media_type]["example"] = value
    return content


def _any_of(schemas: list[JsonObject]) -> JsonObject:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _several(schema: JsonObject) -> JsonObject:
    return {"type": "array", "items": schema}


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([rows[0].keys(), *(row.values() for row in rows)])
    return text.getvalue()


def _stored(named: _Named) -> JsonObject:
    row = _any_of([*(ref("schemas", row) for row in named.rows), ref("schemas", "Selected")])
    return {
        "description": STORED,
        "headers": STORED_HEADERS,
        "content": {
            JSON: {"schema": {"anyOf": [_several(row), ref("schemas", "InPart")]}},
            _ONE_ROW: {"schema": row},
            _STRIPPED: {"schema": _several(row)},
            _CSV: {"schema": {"type": "string"}},
        },
    }
