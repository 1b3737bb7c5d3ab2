"""What the OpenAPI description says of all tables alike: parameters, headers, answers, and the service's own paths.

Pure data, and the words for it. Must not know tables; `pages/openapi.py` puts it together with them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

JSON = "application/json"


def ref(kind: str, name: str) -> JsonObject:
    """A reference to a component."""
    return {"$ref": f"#/components/{kind}/{name}"}


SUMMARY = "Brings rows to PostgreSQL."

DESCRIPTION = """\
Rows are stored by `POST` to the path of their table. Requests that wait for the same table are written together, and
each is answered after the commit that holds its rows. The dialect is that of PostgREST, as far as writing goes.

A request is stored as a whole or not at all. The rows of an array all have the same keys; with the parameter `columns`
they need not. A column that no row has takes its default; `null` is NULL.

A value is what PostgreSQL's `json_to_record` takes: a string is read by the column's type, so all types also take what
they take in SQL; a number keeps its digits, and an integer is written without a point or an exponent. The schemas below
are narrower where a type's syntax is. No string may hold the character U+0000.

NDJSON has one row on each line; it may also be called `application/ndjson` or `application/jsonl`. In CSV the first
line has the names of the columns, and a bare `NULL` is NULL. A field of CSV or of a form is a string. With
`Content-Encoding: gzip` or `zstd` the body is compressed.
"""

STORED = """\
The rows are committed. 200 if `resolution=merge-duplicates` has only updated rows, else 201. There is a body with
`return=representation`, or if rows are in quarantine.
"""

_PREFER = """\
Preferences, separated by commas. Those that were honoured are in `Preference-Applied`; others are ignored.

- `return=minimal` (default): no body. `return=headers-only`: `Location`, if one row was stored and its table has a
  primary key. `return=representation`: the stored rows, as `select` and `order` say.
- `resolution=merge-duplicates`: a row whose key is there already updates that row. `resolution=ignore-duplicates`: it
  is dropped.
- `missing=default`: a key that is in `columns` but not in a row takes the column's default. `missing=null`: NULL.
- `count=exact`: `Content-Range` tells how many rows were stored.
- `handling=strict`: a preference that is not known is an error (400).
- `timezone=NAME`: the time zone of the transaction.
- `tx=rollback`: store nothing, where the service allows that.
- `respond-async`: an answer (202) before the commit, if there is no `return=`. Bad rows go to quarantine.
- `wait=SECONDS`: a deadline that is shorter than the service's own.
- `server-timing`: the answer says where its time went, in `Server-Timing`.
- `bad-rows=quarantine`: good rows are stored, bad ones kept aside and named in the answer.
"""

NAME = r'([A-Za-z_][A-Za-z0-9_$]*|"[^"\\]+")'
"""A name in a list, but for a few that are rare."""

PARAMETERS: JsonObject = {
    "Prefer": {
        "name": "Prefer",
        "in": "header",
        "description": _PREFER,
        "schema": {"type": "string"},
        "examples": {
            text: {"value": text}
            for text in (
                "return=representation",
                "return=headers-only",
                "return=minimal",
                "return=representation, count=exact",
                "resolution=merge-duplicates",
                "resolution=ignore-duplicates",
                "missing=default",
                "handling=strict, timezone=UTC",
                "bad-rows=quarantine",
                "respond-async",
                "wait=5",
            )
        },
    },
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Makes the request safe to send again: it is stored once, and answered as the first time. 409 "
        "while the first one is under way, 422 for another request with the same key.",
        "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    },
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "The name of the request, 1 to 128 printable ASCII characters. It comes back with the answer, "
        "and is in the service's log and beside bad rows in quarantine. Anything else is ignored.",
        "schema": {"type": "string"},
    },
    "select": {
        "name": "select",
        "in": "query",
        "style": "form",
        "explode": False,
        "description": "The columns of the representation: `column`, `alias:column`, `column::type`; without it, all.",
        "schema": {
            "type": "array",
            "items": {"type": "string", "pattern": rf"^(\*|({NAME}:)?{NAME}(::[a-z_][a-z0-9_]*)?)$"},
        },
    },
    "order": {
        "name": "order",
        "in": "query",
        "style": "form",
        "explode": False,
        "description": "The order of the representation: `column`, `column.desc`, `column.asc.nullslast`.",
        "schema": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "pattern": rf"^{NAME}(\.(asc|desc))?(\.nulls(first|last))?$"},
        },
    },
}
SHARED_PARAMETERS = [ref("parameters", name) for name in PARAMETERS]

_TEXT_OR_NULL = {"type": ["string", "null"]}

SCHEMAS: JsonObject = {
    "Error": {
        "type": "object",
        "description": "`code` is a SQLSTATE, a code of PostgREST (`PGRST…`) or one of Headrace (`HR…`).",
        "properties": {
            "code": {"type": "string"},
            "message": {"type": "string"},
            "details": _TEXT_OR_NULL,
            "hint": _TEXT_OR_NULL,
        },
        "required": ["code", "message", "details", "hint"],
        "additionalProperties": False,
    },
    "InPart": {
        "type": "object",
        "description": "The answer to `bad-rows=quarantine` if there are bad rows: the first hundred, and why.",
        "properties": {
            "stored": {"type": "integer", "minimum": 0},
            "quarantined": {
                "type": "array",
                "maxItems": 100,
                "items": {
                    "type": "object",
                    "properties": {
                        "row": {"type": "integer", "minimum": 1},
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "details": _TEXT_OR_NULL,
                        "column": _TEXT_OR_NULL,
                    },
                    "required": ["row", "code", "message", "details", "column"],
                    "additionalProperties": False,
                },
            },
            "request_id": {"type": "string"},
        },
        "required": ["stored", "quarantined", "request_id"],
        "additionalProperties": False,
    },
    "Selected": {"type": "object", "description": "What `select` names, or a row without its nulls."},
}


def _header(description: str, *, required: bool = False, **schema: Any) -> JsonObject:
    header: JsonObject = {"description": description, "schema": {"type": "string", **schema}}
    return {**header, "required": True} if required else header


HEADERS: JsonObject = {
    "Content-Range": _header("`*/` and how many rows were stored, or `*`.", required=True, pattern=r"^\*/(\*|[0-9]+)$"),
    "Preference-Applied": _header("The preferences that were honoured."),
    "X-Request-Id": _header("The name of the request, if it had one."),
    "Server-Timing": _header("With `server-timing`: `queue`, `write` and `total`, in milliseconds."),
    "Location": _header("With `return=headers-only`: the row, by its primary key."),
    "Content-Profile": _header("The schema, if several are exposed."),
    "Idempotency-Replayed": _header("The request was sent before, with this key.", enum=["true"]),
    "Headrace-Quarantined": _header("How many rows are in quarantine.", type="integer"),
    "Headrace-Quarantined-Rows": _header("Which, counted from 1: the first hundred.", pattern="^[0-9]+(,[0-9]+)*$"),
    "Headrace-Row": _header("The bad row, counted from 1.", type="integer"),
    "Headrace-Column": _header("The column of the bad value."),
    "Proxy-Status": _header("The code again.", required=True),
    "Retry-After": _header("Seconds to wait before the request is sent again.", type="integer"),
    "Accept-Encoding": _header("How a body may be compressed."),
    "Allow": _header("The methods that there are."),
    "WWW-Authenticate": _header("How to say who asks."),
}


def _headers(*names: str) -> JsonObject:
    return {name: ref("headers", name) for name in names}


STORED_HEADERS = _headers(
    "Content-Range",
    "Preference-Applied",
    "Location",
    "Content-Profile",
    "Idempotency-Replayed",
    "Headrace-Quarantined",
    "Headrace-Quarantined-Rows",
    "X-Request-Id",
    "Server-Timing",
)


def _problem(description: str, *headers: str) -> JsonObject:
    return {
        "description": description,
        "headers": _headers("Proxy-Status", "X-Request-Id", "Server-Timing", *headers),
        "content": {JSON: {"schema": ref("schemas", "Error")}},
    }


# Status → the name of the response, and what it says.
_ANSWERS: dict[str, tuple[str, JsonObject]] = {
    "202": (
        "Accepted",
        {
            "description": "With `respond-async`: the rows are in the service's memory, nothing more.",
            "headers": _headers("Content-Range", "Preference-Applied", "X-Request-Id", "Server-Timing"),
        },
    ),
    "400": (
        "BadRequest",
        _problem(
            "The body, the query, a header or a row is not what it should be. Nothing is stored.",
            "Headrace-Row",
            "Headrace-Column",
        ),
    ),
    "401": (
        "Unauthorized",
        _problem(
            "A credential is missing or not valid, or the service's role may not write to the table.",
            "WWW-Authenticate",
        ),
    ),
    "403": ("Forbidden", _problem("The credential, or the service's role, may not do that.")),
    "404": ("NotFound", _problem("There is no such table any more.")),
    "405": ("MethodNotAllowed", _problem("The database is read-only.", "Allow")),
    "406": (
        "NotAcceptable",
        _problem(
            "The schema is not exposed, `Accept` names nothing that there is, or one row was wanted and it is not one."
        ),
    ),
    "408": ("Timeout", _problem("The request did not arrive in time. Nothing is stored.")),
    "409": (
        "Conflict",
        _problem(
            "A unique key is there already, a foreign key leads nowhere, or a request with this `Idempotency-Key` is "
            "under way.",
            "Headrace-Row",
            "Headrace-Column",
            "Retry-After",
        ),
    ),
    "413": ("TooLarge", _problem("The body is larger than the service takes.")),
    "414": ("UriTooLong", _problem("The URL is longer than the service takes.")),
    "415": (
        "UnsupportedCoding",
        _problem("The body is compressed in a way that the service does not know.", "Accept-Encoding"),
    ),
    "422": ("KeyReused", _problem("The `Idempotency-Key` was used before, for another request.")),
    "429": ("TooManyRows", _problem("Too many rows wait already. Nothing is stored.", "Retry-After")),
    "431": ("HeadTooLarge", _problem("The head of the request is larger than the service takes.")),
    "500": ("Failed", _problem("The database refused the rows as such, or there is a bug in Headrace.")),
    "501": ("NoKeys", _problem("This service keeps no idempotency keys.")),
    "503": (
        "Unavailable",
        _problem(
            "The database is away or busy, or the service stops: nothing is stored, try again after `Retry-After`. "
            "Without that header, it is not known whether the rows are stored.",
            "Retry-After",
        ),
    ),
}
RESPONSES: JsonObject = dict(_ANSWERS.values())
SHARED_RESPONSES: JsonObject = {status: ref("responses", name) for status, (name, _) in _ANSWERS.items()}

SECURITY_SCHEMES: JsonObject = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a JSON Web Token."},
    "apikey": {
        "type": "apiKey",
        "in": "header",
        "name": "apikey",
        "description": "The same. `Authorization` goes first.",
    },
}
SECURITY: list[JsonObject] = [{"bearer": []}, {"apikey": []}, {}]
"""Any of these will do, the last one (nothing) where writing without a credential is allowed."""

# -------------------------------------------------------------------- the service itself

SERVICE = "service"

_READINESS = {
    "type": "object",
    "properties": {
        "status": {"type": "string", "enum": ["ready", "unavailable", "draining"]},
        "database": {"type": "string", "description": "`up`, or why it is not."},
        "pending_rows": {"type": "integer", "minimum": 0},
        "pending_bytes": {"type": "integer", "minimum": 0},
    },
    "required": ["status", "database", "pending_rows", "pending_bytes"],
    "additionalProperties": False,
}


def _get(operation: str, summary: str, responses: JsonObject) -> JsonObject:
    get = {"operationId": operation, "tags": [SERVICE], "summary": summary, "security": [], "responses": responses}
    return {"get": get}


def _answer(description: str, media_type: str, schema: JsonObject) -> JsonObject:
    return {"description": description, "content": {media_type: {"schema": schema}}}


SERVICE_PATHS: JsonObject = {
    "/livez": _get(
        "livez",
        "Whether the process serves at all",
        {
            "200": _answer(
                "It does.",
                JSON,
                {"type": "object", "properties": {"status": {"const": "alive"}}, "required": ["status"]},
            )
        },
    ),
    "/readyz": _get(
        "readyz",
        "Whether rows can be written now, and if not, why",
        {
            "200": _answer("They can.", JSON, _READINESS),
            "503": _answer("They cannot, or the service stops.", JSON, _READINESS),
        },
    ),
    "/metrics": _get(
        "metrics",
        "Numbers for Prometheus",
        {"200": _answer("Prometheus' text format.", "text/plain", {"type": "string"})},
    ),
}
