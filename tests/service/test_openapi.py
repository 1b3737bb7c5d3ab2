"""The description of the tables: what it says of a real catalog, and when it says something else."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from service import problems
from service.dialect import prefer
from service.pages import docs
from service.pages.components import PARAMETERS
from service.pages.openapi import document
from sql.catalog import load
from tests.harness import Connection, Running, Start

ROOT = Path(__file__).parent.parent.parent
STATIC = ROOT / "service" / "static"

TYPES = """
create type mood as enum ('calm', 'happy');
create type place as (name text, height int);
create domain code as varchar(3);
create domain needed as text not null;
create domain pair as int[];
"""


async def described(db: Connection, ddl: str, *schemas: str) -> dict[str, Any]:
    """The description after these statements."""
    await db.execute(ddl)
    found: dict[str, Any] = msgspec.json.decode(
        document(await load(db, schemas or ("public",)), prefix="/rest/v1", version="1.2.3")
    )
    return found


def parameter(description: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    """A parameter of a table's operation that is its own."""
    parameters = description["paths"][path]["post"]["parameters"]
    (found,) = (each for each in parameters if each.get("name") == name)
    return dict(found)


def references(value: object) -> Iterator[str]:
    """Where a document refers to."""
    match value:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


# -------------------------------------------------------------------- columns

ANYTHING = ["string", "number", "boolean", "object", "array", "null"]

COLUMNS: dict[str, dict[str, Any]] = {
    "smallint": {"type": ["integer", "string", "null"], "minimum": -(2**15), "maximum": 2**15 - 1, "format": "int16"},
    "integer": {"pattern": "^-?[0-9]{1,9}$", "format": "int32"},
    "bigint": {"type": ["integer", "string", "null"], "maximum": 2**63 - 1, "pattern": "^-?[0-9]{1,18}$"},
    "real": {"type": ["number", "string", "null"], "format": "float"},
    "double precision": {"type": ["number", "string", "null"], "format": "double"},
    "numeric": {"type": ["number", "string", "null"]},
    "numeric(6,2)": {"minimum": -9999.99, "maximum": 9999.99, "pattern": r"^(-?[0-9]{1,4}(\.[0-9]{1,2})?|NaN)$"},
    "numeric(3,0)": {"minimum": -999, "maximum": 999, "pattern": "^(-?[0-9]{1,3}|NaN)$"},
    "numeric(20,2)": {"exclusiveMinimum": -1e18, "exclusiveMaximum": 1e18},
    "numeric(2,-3)": {"type": ["number", "null"], "exclusiveMaximum": 1e5},
    "numeric(2,4)": {"type": ["number", "null"], "exclusiveMaximum": 0.01},
    "boolean": {"type": ["boolean", "string", "integer", "null"]},
    "text": {"type": ANYTHING},
    "character varying": {"type": ANYTHING},
    "character varying(5)": {"type": ["string", "null"], "maxLength": 5},
    "character(2)": {"type": ["string", "null"], "maxLength": 2},
    "code": {"type": ["string", "null"], "maxLength": 3},
    "needed": {"type": ANYTHING[:-1]},
    "mood": {"type": ["string", "null"], "enum": ["calm", "happy", None]},
    "uuid": {"type": ["string", "null"], "format": "uuid"},
    "jsonb": {"type": ANYTHING},
    "date": {"type": ["string", "null"], "format": "date"},
    "timestamp with time zone": {"format": "date-time"},
    "timestamp without time zone": {"format": "date-time-local"},
    "bytea": {"pattern": r"^\\x([0-9A-Fa-f]{2})*$"},
    "bit(3)": {"pattern": "^[01]{3}$"},
    "bit varying(3)": {"pattern": "^[01]{0,3}$"},
    "tsvector": {"type": ["string", "null"], "format": "tsvector"},
    "lseg": {"type": ["string", "null"], "format": "lseg"},
    "place": {"type": ["object", "null"]},
    "text[]": {
        "type": ["array", "string", "null"],
        "format": "array-literal",
        "items": {"type": ["string", "number", "boolean", "object", "null"]},
    },
    "mood[]": {"items": {"type": ["string", "null"], "enum": ["calm", "happy", None]}},
    "code[]": {"items": {"type": ["string", "null"], "maxLength": 3}},
    "pair": {"type": ["array", "string", "null"]},
    "place[]": {"type": ["array", "null"], "items": {"type": ["object", "array", "null"]}},
}
"""What is said of the values of types, as `format_type` writes them; more may be said."""


async def test_a_column_says_what_values_it_takes(db: Connection) -> None:
    """Forms and clients are made from it: a value that is said to fit and does not fails in production."""
    columns = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(COLUMNS))
    description = await described(db, f"{TYPES} create table t ({columns})")
    properties = description["components"]["schemas"]["t"]["properties"]
    for (type_, expected), schema in zip(COLUMNS.items(), properties.values(), strict=True):
        assert schema["description"] == f"`{type_}`"
        assert {keyword: schema.get(keyword) for keyword in expected} == expected, type_


async def test_a_column_says_whether_it_must_be_sent(db: Connection) -> None:
    """Who leaves out what is required, or sends what is read-only, gets an error."""
    ddl = """
    create domain needed as text not null;
    create table t (
        always int generated always as identity, by_default int generated by default as identity, serial serial,
        computed int generated always as (1) stored, filled int not null default 7, free text,
        asked int not null, asked_by_type needed, "a ""name"", quoted" int
    )
    """
    description = await described(db, ddl)
    schema = description["components"]["schemas"]["t"]
    assert schema["required"] == ["asked", "asked_by_type"]
    assert [name for name, column in schema["properties"].items() if column.get("readOnly")] == ["always", "computed"]
    text_schema = description["components"]["schemas"]["t.text"]
    assert text_schema["required"] == ["asked", "asked_by_type"]
    assert "always" not in text_schema["properties"]
    assert parameter(description, "/rest/v1/t", "columns")["schema"]["items"]["enum"] == [
        *("by_default", "serial", "filled", "free", "asked", "asked_by_type"),
        r'"a \"name\", quoted"',
    ]


async def test_defaults_and_comments_are_told(db: Connection) -> None:
    """They are all that a newcomer has to understand a table by."""
    ddl = """
    create table t (
        number int default -7, price numeric default 1.50, flag boolean default true, word text default 'it''s',
        mail varchar(9) default 'x', moment timestamptz default now(), list text[] default '{}',
        document json default '{}'
    );
    comment on table t is 'All of it.'; comment on column t.word is 'A word.'
    """
    description = await described(db, ddl)
    schema = description["components"]["schemas"]["t"]
    columns = schema["properties"]
    assert {name: column["default"] for name, column in columns.items() if "default" in column} == {
        "number": -7, "price": 1.5, "flag": True, "word": "it's", "mail": "x",
    }  # fmt: skip
    assert columns["moment"]["description"] == "`timestamp with time zone`, default `now()`"
    assert columns["word"]["description"] == "`text`. A word."
    assert schema["description"] == description["paths"]["/rest/v1/t"]["post"]["description"] == "All of it."


# Values that go in, at the ends of what types can hold.
EXTREMES = """
create table t (
    small smallint, big bigint, real real, double double precision, exact numeric, price numeric(6, 2), flag boolean,
    mood mood, code code, document jsonb, words text[], numbers int[], bytes bytea, moment timestamptz, day date,
    local timestamp, time time, zoned timetz, id int generated always as identity, text text not null default 'x'
);
insert into t (small, big, real, double, exact, price, flag, mood, code, document, words, numbers, bytes, moment, day,
    local, time, zoned)
values
    (32767, 9223372036854775807, 3.4028235e38, 1.7976931348623157e308, 1e100, 9999.99, true, 'calm', 'abc', '{"a": 1}',
     '{a,NULL}', '{{1,2},{3,4}}', '\\xff', '2026-11-21 10:00:00.123456+00', '2026-11-21', '2026-11-21 10:00', '10:00',
     '10:00+02'),
    (-32768, -9223372036854775808, 'NaN', '-Infinity', 'NaN', 'NaN', false, 'happy', '', '1', '{}', '{}', '', null,
     '9999-12-31', null, '23:59:59.999999', null)
"""


async def test_what_comes_back_is_as_the_schema_says(db: Connection) -> None:
    """One schema serves both directions, so it must hold for what PostgreSQL writes as well."""
    description = await described(db, TYPES + EXTREMES.replace("'{{1,2},{3,4}}'", "'{1,2}'"))
    validator = jsonschema_rs.Draft202012Validator(
        description["components"]["schemas"]["t"], validate_formats=True, ignore_unknown_formats=True
    )
    rows = await db.fetch("select row_to_json(t)::text from t")
    assert [[str(error) for error in validator.iter_errors(msgspec.json.decode(row[0]))] for row in rows] == [[], []]


# -------------------------------------------------------------------- tables


async def test_every_name_has_a_path_of_its_own(db: Connection) -> None:
    """A name may hold anything; paths, operations and components may not, and must not become the same."""
    names = ["events", "Order Items", "Order_Items", "a/b", "{x}", "Ü", "Error", "events.text", "Order_Items_2"]
    ddl = ";".join(f'create table "{name}" (a int)' for name in names)
    description = await described(db, ddl)
    assert {path for path in description["paths"] if path.startswith("/rest")} == {
        f"/rest/v1/{name}"
        for name in (
            *("events", "Order%20Items", "Order_Items", "a%2Fb", "%7Bx%7D", "%C3%9C", "Error", "events.text"),
            "Order_Items_2",
        )
    }
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == len(names) + 3
    assert all(re.fullmatch("[A-Za-z0-9._-]+", name) for name in description["components"]["schemas"])
    assert len(description["components"]["schemas"]) == 2 * len(names) + 3


async def test_every_reference_leads_somewhere(db: Connection) -> None:
    """A document with a broken reference is not read at all by most tools; what nobody refers to is too much."""
    description = await described(
        db, "create schema b; create table t (a int primary key); create table b.t (b int)", "public", "b"
    )
    targets = set(references(description))
    targets |= {f"#/components/securitySchemes/{name}" for one in description["security"] for name in one}
    components = {f"#/components/{kind}/{name}" for kind, named in description["components"].items() for name in named}
    assert targets == components


async def test_a_table_elsewhere_needs_its_schema_named(db: Connection) -> None:
    """The path alone leads to the first schema; tables of one name are told apart by the header."""
    ddl = """
    create schema b; create table here (a int); create table two (a int); create table b.two (b text not null);
    create table b.there (c int)
    """
    description = await described(db, ddl, "public", "b")
    profiles = {
        name: (found["schema"]["enum"], found["required"])
        for name in ("here", "two", "there")
        for found in [parameter(description, f"/rest/v1/{name}", "Content-Profile")]
    }
    assert profiles == {"here": (["public"], False), "two": (["public", "b"], False), "there": (["b"], True)}
    two = description["paths"]["/rest/v1/two"]["post"]
    assert two["tags"] == ["public", "b"]
    rows = [{"$ref": "#/components/schemas/two"}, {"$ref": "#/components/schemas/b.two"}]
    assert two["requestBody"]["content"]["application/x-ndjson"]["schema"]["items"] == {"anyOf": rows}
    assert "Several schemas" in two["description"]


async def test_views_are_there_if_rows_can_go_through_them(db: Connection) -> None:
    """To describe what always fails helps nobody."""
    ddl = """
    create table t (a int primary key, b int not null);
    create view good as select a, b, a + b as sum from t;
    create view bad as select count(*) from t
    """
    description = await described(db, ddl)
    assert "/rest/v1/bad" not in description["paths"]
    columns = description["components"]["schemas"]["good"]["properties"]
    assert [name for name, column in columns.items() if column.get("readOnly")] == ["sum"]


async def test_the_keys_of_a_table_are_examples_for_on_conflict(db: Connection) -> None:
    """Any other list of columns is refused by an upsert."""
    description = await described(db, 'create table t (a int, "b c" int, d int unique, primary key (a, "b c"))')
    examples = parameter(description, "/rest/v1/t", "on_conflict")["examples"]
    assert [example["value"] for example in examples.values()] == [["a", "b c"], ["d"]]


# -------------------------------------------------------------------- what is shared


def test_every_preference_is_described() -> None:
    """One that is not described is not used."""
    described_ones = set(re.findall(r"`([a-z-]+)(?:=|`)", PARAMETERS["Prefer"]["description"]))
    assert set(prefer._KNOWN) - {"max-affected"} <= described_ones, "max-affected does nothing when rows are inserted"


async def test_every_status_is_described(db: Connection) -> None:
    """Clients are made from it; an answer that is not described makes them fail in a way of their own."""
    description = await described(db, "create table t (a int)")
    statuses = set(description["paths"]["/rest/v1/t"]["post"]["responses"])
    assert {str(status) for status in problems._STATUSES.values()} <= statuses
    source = (ROOT / "service" / "problems.py").read_text("utf-8")
    assert set(re.findall(r"(?:refusal|Problem)\((\d{3})", source)) <= statuses


# -------------------------------------------------------------------- the service


async def test_the_example_of_each_body_is_stored(db: Connection, headrace: Running) -> None:
    """It is what people try first. In forms and CSV everything is a string."""
    ddl = """
    create table t (
        n int not null, at timestamptz not null, price numeric(6, 2), code code, words text[], mood mood, bits bit(2),
        document jsonb, id int generated always as identity
    )
    """
    await db.execute(TYPES + ddl + "; notify headrace, 'reload'")
    await headrace.eventually(lambda: headrace.service.ingest.version == 2)
    description = (await headrace.client.get("/openapi.json")).json()
    content = description["paths"]["/rest/v1/t"]["post"]["requestBody"]["content"]
    bodies = {
        "application/json": lambda example: {"json": example},
        "application/x-ndjson": lambda rows: {"content": "\n".join(msgspec.json.encode(row).decode() for row in rows)},
        "text/csv": lambda text: {"content": text},
        "application/x-www-form-urlencoded": lambda fields: {"data": fields},
        "application/msgpack": None,
    }
    assert set(bodies) == set(content)
    for media_type, arguments in bodies.items():
        if arguments is not None:
            response = await headrace.client.post(
                "/rest/v1/t", **arguments(content[media_type]["example"]), headers={"content-type": media_type}
            )
            assert (response.status_code, response.text) == (201, ""), media_type
    assert await db.fetchval("select count(distinct (n, at, words)) from t") == 2
    assert await db.fetchval("select count(*) from t") == 6


async def test_the_description_is_made_once_for_each_catalog(
    db: Connection, dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making it costs 0.1 s for 1,000 tables; one that is out of date would be wrong."""
    made = []

    def counted(*arguments: Any, **options: Any) -> bytes:
        made.append(1)
        return document(*arguments, **options)

    monkeypatch.setattr(docs, "document", counted)
    async with start(dsn=dsn) as headrace:
        first = await headrace.client.get("/openapi.json")
        assert "/rest/v1/late" not in first.json()["paths"]
        assert (await headrace.client.get("/openapi.json")).content == first.content
        assert len(made) == 1
        await db.execute("create table late (a int); notify headrace, 'reload'")
        await headrace.eventually(lambda: headrace.service.ingest.version == 2)
        assert "/rest/v1/late" in (await headrace.client.get("/openapi.json")).json()["paths"]
    assert len(made) == 2


async def test_a_change_that_only_the_description_shows_is_noticed(db: Connection, headrace: Running) -> None:
    """A comment or a new label changes no table that rows are written to."""
    await db.execute("create type mood as enum ('calm'); create table t (mood mood); notify headrace, 'reload'")
    await headrace.eventually(lambda: headrace.service.ingest.version == 2)
    for statement in ("alter type mood add value 'happy'", "comment on column t.mood is 'How it is.'"):
        version = headrace.service.ingest.version
        await db.execute(statement)
        await headrace.eventually(lambda version=version: headrace.service.ingest.version > version)  # type: ignore[misc] # mypy does not see the default
    column = (await headrace.client.get("/openapi.json")).json()["components"]["schemas"]["t"]["properties"]["mood"]
    assert (column["enum"], column["description"]) == (["calm", "happy", None], "`mood`. How it is.")


async def test_without_a_catalog_there_is_no_description(start: Start) -> None:
    """One without tables would be believed."""
    async with start(dsn="postgresql://127.0.0.1:1/nowhere") as headrace:
        response = await headrace.client.get("/openapi.json")
        assert (response.status_code, response.json()["code"]) == (503, "PGRST002")
        assert int(response.headers["retry-after"]) >= 1
        assert (await headrace.client.get("/docs")).status_code == 200


async def test_pages_of_other_origins_cannot_read_the_description(headrace: Running) -> None:
    """What is in the database of a developer's machine is not for every page that his browser shows."""
    response = await headrace.client.get("/openapi.json", headers={"origin": "http://elsewhere.example"})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_the_page_needs_nothing_from_elsewhere(headrace: Running) -> None:
    """In many places where databases are there is no way to the internet."""
    page = await headrace.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert "http" not in policy
    assert "//" not in page.text
    files = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.text)
    assert len(files) == 3
    for name in files:
        file = await headrace.client.get(f"/{name}")
        assert (file.status_code, file.headers["content-encoding"]) == (200, "gzip")
        plain = await headrace.client.get(f"/{name}", headers={"accept-encoding": "br, gzip;q=0"})
        assert plain.content == file.content
        assert "content-encoding" not in plain.headers
        assert plain.headers["vary"] == "Accept-Encoding"
        assert "@import" not in plain.text or name.endswith(".js")
    for nowhere in ("/redoc", "/docs/docs.html", "/docs/../app.py"):
        assert (await headrace.client.get(nowhere)).status_code == 404


def test_the_version_of_swagger_ui_is_the_one_that_is_written_down() -> None:
    """Whoever looks for known holes in it goes by that."""
    bundle = gzip.decompress((STATIC / "swagger-ui-bundle.js.gz").read_bytes()).decode()
    written = re.search(r"swagger-ui-dist (\d+\.\d+\.\d+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert written is not None
    assert f'PACKAGE_VERSION:"{written[1]}"' in bundle
    for licence in ("swagger-ui.LICENSE.txt", "swagger-ui.NOTICE.txt", "swagger-ui-bundle.js.LICENSE.txt"):
        assert (STATIC / licence).stat().st_size
