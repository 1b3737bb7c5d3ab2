"""What Schemathesis must be told of Headrace, and why. Loaded by its command line, in a process of its own.

Bodies that it cannot write, formats of PostgreSQL, and the few things that OpenAPI has no words for.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
import schemathesis
from hypothesis import strategies as st

if TYPE_CHECKING:
    from schemathesis import Case, HookContext, Response
    from schemathesis.core.failures import Failure

# -------------------------------------------------------------------- formats

_TIMES_OF_DAY = st.times().map(lambda time: time.isoformat())
_OFFSETS = st.sampled_from(["Z", "+00:00", "-03:30", "+15:59", "-15:59"])
"""RFC 3339 has more, up to 23:59. PostgreSQL refuses them."""

_FORMATS = {
    "array-literal": st.just("{}"),
    "date-time-local": st.datetimes().map(lambda moment: moment.isoformat()),
    "date-time": st.tuples(st.datetimes().map(lambda moment: moment.isoformat()), _OFFSETS).map("".join),
    "time-local": _TIMES_OF_DAY,
    "time": st.tuples(_TIMES_OF_DAY, _OFFSETS).map("".join),
    "interval": st.integers(-1000, 1000).map(lambda days: f"{days} days"),
    "inet": st.ip_addresses().map(str),
    "money": st.decimals(-1000, 1000, places=2).map(str),
}
for _name, _strategy in _FORMATS.items():
    schemathesis.openapi.format(_name, _strategy)

# -------------------------------------------------------------------- bodies


def _rows(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@schemathesis.serializer("application/x-ndjson")
def _lines(_context: object, value: Any) -> bytes:
    return "".join([f"{json.dumps(row)}\n" for row in _rows(value)]).encode()


@schemathesis.serializer("application/msgpack")
def _msgpack(_context: object, value: Any) -> bytes:
    return msgspec.msgpack.encode(_with_small_integers(value))


def _with_small_integers(value: Any) -> Any:
    """MessagePack has integers of 64 bits; larger ones of JSON become strings of their digits."""
    match value:
        case dict():
            return {name: _with_small_integers(each) for name, each in value.items()}
        case list():
            return [_with_small_integers(each) for each in value]
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case _:
            return value


@schemathesis.serializer("text/csv")
def _csv(_context: object, value: Any) -> bytes:
    if isinstance(value, str):  # the example
        return value.encode()
    rows = [row for row in _rows(value) if isinstance(row, dict)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    csv.writer(text).writerows([names, *([_field(row.get(name)) for name in names] for row in rows)])
    return text.getvalue().encode()


def _field(value: Any) -> str:
    if value is None:
        return "NULL"
    return value if isinstance(value, str) else json.dumps(value)


# -------------------------------------------------------------------- requests

_PREFERENCES = [
    "return=minimal",
    "return=representation",
    "return=headers-only",
    "return=representation, count=exact",
    "return=representation, resolution=ignore-duplicates",
    "return=representation, resolution=merge-duplicates",
    "resolution=merge-duplicates, missing=default",
    "handling=strict, timezone=UTC, tx=rollback",
    "wait=5",
]
_FOR_BAD_ROWS = ["respond-async", "bad-rows=quarantine"]
"""With these a request with bad rows is a success as well."""

_ACCEPTED = ["*/*", "application/json", "text/csv", "application/vnd.pgrst.array+json;nulls=stripped"]

_numbers = itertools.count()


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Let the good parts of a request agree with each other: OpenAPI describes each one for itself."""
    if case.method != "POST" or case.meta is None:
        return
    bad = {location.value for location, component in case.meta.components.items() if component.mode.is_negative}
    if "header" not in bad:
        _mend_headers(case, _PREFERENCES if bad else [*_PREFERENCES, *_FOR_BAD_ROWS])
    elif any(preference in case.headers.get("Prefer", "") for preference in _FOR_BAD_ROWS):
        del case.headers["Prefer"]
    if "body" not in bad:
        _mend_body(case)
    if "query" not in bad:
        _mend_query(case)


def _mend_headers(case: Case[Any], preferences: list[str]) -> None:
    # Among all strings, which Prefer may be, those that mean something would never be found.
    chosen = zlib.crc32(repr((case.body, sorted(case.query.items()))).encode())
    case.headers["Accept"] = _ACCEPTED[chosen % len(_ACCEPTED)]
    if "Prefer" in case.headers:
        case.headers["Prefer"] = preferences[chosen % len(preferences)]
    if "Idempotency-Key" in case.headers:  # it stands for one request
        case.headers["Idempotency-Key"] = f"key {next(_numbers)}"


def _mend_body(case: Case[Any]) -> None:
    # The rows of an array have the same keys, and an upsert does not have the same row twice.
    body = _with_integers(case.body)
    if isinstance(body, list):
        body = [row for row in body if row.keys() == body[0].keys()]
        body = body[:1] if "merge" in case.headers.get("Prefer", "") else body
    case.body = body


def _mend_query(case: Case[Any]) -> None:
    # What is listed is there, once there is something to be listed from. Lists of one name only: at this point of
    # time, Schemathesis would repeat the parameter for each one.
    row = next((row for row in _rows(case.body) if isinstance(row, dict)), {})
    first = list(row)[:1]
    wanted = {"columns": first if len(row) == 1 else [], "select": first, "order": first}
    for name in ("columns", "select", "order", "on_conflict"):
        if name in case.query:
            del case.query[name]
            if wanted.get(name):
                case.query[name] = wanted[name]


def _with_integers(value: Any) -> Any:
    """Numbers without `.0`, where that is all they have behind the point: JSON Schema calls them integers."""
    match value:
        case dict():
            return {name: _with_integers(each) for name, each in value.items()}
        case list():
            return [_with_integers(each) for each in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case _:
            return value


# -------------------------------------------------------------------- answers


@schemathesis.hook
def filter_failure(_context: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Which failures count."""
    match type(failure).__name__:
        case "MissingContentType" | "MalformedJson":
            # Without return=representation there is no body, with the status of those that have one.
            return bool(response.content) or response.status_code >= 300
        case "MissingHeaderNotRejected":
            return response.status_code != 404  # without Content-Profile it is the path of another table
        case "AcceptedNegativeData":
            return case.operation.path not in _LENIENT and case.media_type != "text/csv"  # where all is text
        case _:
            return True


_LENIENT = {"/rest/v1/lenient", "/rest/v1/lenient_view"}
"""Tables of types that take more than a schema can say: 0 is half a year of `interval`, [[1]] is an `int[]`, and a
`varchar(5)` takes any JSON that is short."""
