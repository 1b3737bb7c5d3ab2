"""JSON Schema of a table's rows: what may be sent for each column, and what comes back (they are one schema).

Owns what is said of PostgreSQL's types. Where a type takes more than a schema can say, the schema is narrower than the
type: what it allows is stored, unless a constraint is against it. Pure. Must not know HTTP, nor how rows are read.

Formats are those of https://spec.openapis.org/registry/format/ where there is one; else the type's name in PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from sql import Column, Kind, Table, ValueType

JsonSchema: TypeAlias = dict[str, Any]

ARRAY_LITERAL = "array-literal"
"""The format of a string that is an array: `{1,2}`."""

_ANYTHING = ["string", "number", "boolean", "object", "array"]
_VARIABLE_HEADER = 4
"""VARHDRSZ of PostgreSQL, which is added to the modifiers of types of variable length."""

_EXACT_DIGITS = 15
"""So many decimal digits survive in the floats that JSON numbers are for most readers."""

# -------------------------------------------------------------------- types


def _integer(bits: int) -> JsonSchema:
    """Integers, or their digits: as many as are never too many."""
    largest = 2 ** (bits - 1) - 1
    return {
        "type": ["integer", "string"],
        "format": f"int{bits}",
        "minimum": -largest - 1,
        "maximum": largest,
        "pattern": f"^-?[0-9]{{1,{len(str(largest)) - 1}}}$",
    }


_REAL_LEAST = 2.0**-150
"""Up to this a number would become 0, and is refused, 0 itself excepted."""

_REAL_MOST = 2.0**128 - 2.0**103
"""What is larger would become infinite, and is refused."""


def _real(_modifier: int) -> JsonSchema:
    return {
        "type": ["number", "string"],
        "format": "float",
        "minimum": -_REAL_MOST,
        "maximum": _REAL_MOST,
        "not": {"type": "number", "minimum": -_REAL_LEAST, "maximum": _REAL_LEAST, "not": {"const": 0}},
        "pattern": r"^(-?[0-9]{1,38}(\.[0-9]{1,30})?|NaN|-?Infinity)$",
    }


def _double(_modifier: int) -> JsonSchema:
    pattern = r"^(-?[0-9]{1,300}(\.[0-9]{1,300})?|NaN|-?Infinity)$"
    return {"type": ["number", "string"], "format": "double", "pattern": pattern}


def _numeric(modifier: int) -> JsonSchema:
    if modifier < _VARIABLE_HEADER:
        return {"type": ["number", "string"], "pattern": r"^(-?[0-9]{1,1000}(\.[0-9]{1,1000})?|NaN|-?Infinity)$"}
    precision = (modifier - _VARIABLE_HEADER) >> 16
    scale = (((modifier - _VARIABLE_HEADER) & 0x7FF) ^ 0x400) - 0x400  # 11 bits with a sign
    whole = precision - scale
    limits = {}
    if 0 <= scale <= precision <= _EXACT_DIGITS:  # the next larger one is rounded to one digit more
        largest = float(f"{'9' * whole or '0'}.{'9' * scale or '0'}") if scale else 10**whole - 1
        limits = {"minimum": -largest, "maximum": largest}
    else:
        limits = {"exclusiveMinimum": -(10.0 ** min(whole, 308)), "exclusiveMaximum": 10.0 ** min(whole, 308)}
    if whole < 1 or scale < 0:
        return {"type": "number", **limits}
    decimals = rf"(\.[0-9]{{1,{scale}}})?" if scale else ""
    return {"type": ["number", "string"], **limits, "pattern": f"^(-?[0-9]{{1,{whole}}}{decimals}|NaN)$"}


def _text(_modifier: int) -> JsonSchema:
    return {"type": _ANYTHING}


def _limited_text(modifier: int) -> JsonSchema:
    # What is no string would be stored as its JSON, if that is short enough, which a schema cannot say.
    if modifier < _VARIABLE_HEADER:
        return {"type": _ANYTHING}
    return {"type": "string", "maxLength": modifier - _VARIABLE_HEADER}


def _bits(modifier: int) -> JsonSchema:
    return {"type": "string", "pattern": f"^[01]{{{max(modifier, 1)}}}$"}


def _varying_bits(modifier: int) -> JsonSchema:
    return {"type": "string", "pattern": "^[01]*$" if modifier < 1 else f"^[01]{{0,{modifier}}}$"}


def _string(name: str) -> Callable[[int], JsonSchema]:
    return lambda _modifier: {"type": "string", "format": name}


def _always(schema: JsonSchema) -> Callable[[int], JsonSchema]:
    return lambda _modifier: dict(schema)


_BOOLEAN = {
    "type": ["boolean", "string", "integer"],
    "enum": [True, False, "true", "false", "t", "f", "yes", "no", "y", "n", "on", "off", "1", "0", 1, 0],
}
_OID = {"type": ["integer", "string"], "minimum": 0, "maximum": 2**32 - 1, "pattern": "^[0-9]{1,9}$"}
_BYTES = {"type": "string", "pattern": r"^\\x([0-9A-Fa-f]{2})*$"}

# The type's name in pg_type → (what it takes beside null, by its modifier; an example).
_TYPES: dict[str, tuple[Callable[[int], JsonSchema], Any]] = {
    "bool": (_always(_BOOLEAN), True),
    "int2": (_always(_integer(16)), 7),
    "int4": (_always(_integer(32)), 42),
    "int8": (_always(_integer(64)), 42),
    "oid": (_always(_OID), 42),
    "float4": (_real, 21.5),
    "float8": (_double, 21.5),
    "numeric": (_numeric, 0.5),
    "money": (_string("money"), "1.50"),
    "text": (_text, "text"),
    "citext": (_text, "text"),
    "varchar": (_limited_text, "text"),
    "bpchar": (_limited_text, "text"),
    "json": (_text, {"key": "value"}),
    "jsonb": (_text, {"key": "value"}),
    "date": (_string("date"), "2026-11-21"),
    "time": (_string("time-local"), "10:00:00"),
    "timetz": (_string("timetz"), "10:00:00Z"),  # it comes back without minutes in its offset, so it is no `time`
    "timestamp": (_string("date-time-local"), "2026-11-21T10:00:00"),
    "timestamptz": (_string("date-time"), "2026-11-21T10:00:00Z"),
    "interval": (_string("interval"), "1 hour"),
    "uuid": (_string("uuid"), "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
    "bytea": (_always(_BYTES), "\\xdeadbeef"),
    "bit": (_bits, "1"),
    "varbit": (_varying_bits, "1"),
    "inet": (_string("inet"), "192.0.2.1"),
    "cidr": (_string("cidr"), "192.0.2.0/24"),
    "macaddr": (_string("macaddr"), "08:00:2b:01:02:03"),
    "xml": (_string("xml"), "<element/>"),
    "tsvector": (_string("tsvector"), "a text"),
    "point": (_string("point"), "(1,2)"),
    "int4range": (_string("int4range"), "[1,10)"),
    "int8range": (_string("int8range"), "[1,10)"),
    "numrange": (_string("numrange"), "[0.5,1.5)"),
    "daterange": (_string("daterange"), "[2026-11-21,2026-11-22)"),
    "tstzrange": (_string("tstzrange"), "[2026-11-21T10:00:00Z,2026-11-21T11:00:00Z)"),
}


def _value_schema(value: ValueType) -> JsonSchema:
    if value.labels:
        return {"type": "string", "enum": list(value.labels)}
    known = _TYPES.get(value.name)
    return known[0](value.modifier) if known else {"type": "string", "format": value.name}


def _or_null(schema: JsonSchema) -> JsonSchema:
    types = schema["type"]
    schema["type"] = [*types, "null"] if isinstance(types, list) else [types, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


# -------------------------------------------------------------------- columns and rows


def takes_values(column: Column) -> bool:
    """Whether a row may bring a value for it."""
    return column.insertable and not column.generated and column.identity != "always"


def is_required(column: Column) -> bool:
    """Whether a row must bring a value for it: without one it would be NULL, which it must not be."""
    return column.not_null and not column.has_default and not column.generated


def row_schema(table: Table) -> JsonSchema:
    """The schema of a row. Columns that take no values are `readOnly`: they are in answers only."""
    schema = _object(table, {name: column_schema(column) for name, column in table.columns.items()})
    return {**schema, "description": table.comment} if table.comment else schema


def text_row_schema(table: Table) -> JsonSchema:
    """The schema of a row whose values are all strings, as they are in CSV and forms."""
    columns = table.columns.items()
    return _object(table, {name: _text_schema(column) for name, column in columns if takes_values(column)})


def _object(table: Table, properties: JsonSchema) -> JsonSchema:
    required = [name for name, column in table.columns.items() if is_required(column)]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _text_schema(column: Column) -> JsonSchema:
    """What of a column's schema is about strings."""
    schema = column_schema(column)
    text: JsonSchema = {"type": "string"}
    if "string" not in schema["type"]:
        text["format"] = column.value.name
    elif "format" in schema and not {"integer", "number"}.intersection(schema["type"]):
        text["format"] = schema["format"]
    text.update((keyword, schema[keyword]) for keyword in ("pattern", "maxLength") if keyword in schema)
    if "enum" in schema:
        text["enum"] = [value for value in schema["enum"] if isinstance(value, str)]
    if "examples" in schema:
        text["examples"] = [as_text(value) for value in schema["examples"]]
    return text


def column_schema(column: Column) -> JsonSchema:
    """The schema of one column's values."""
    schema = _array_schema(column) if column.value.is_array else _element_schema(column)
    if not column.not_null:
        schema = _or_null(schema)
    words = f"`{column.type}`"
    if column.generated:
        words += ", generated"
    elif column.identity is not None:
        words += f", generated {column.identity} as identity"
    elif column.default is not None:
        constant = _constant(column)
        if constant is None:
            words += f", default `{column.default}`"
        else:
            schema["default"] = constant
    schema["description"] = f"{words}. {column.comment}" if column.comment else words
    if not takes_values(column):
        schema["readOnly"] = True
    elif (example := example_of(column)) is not None:
        schema["examples"] = [example]
    return schema


def _element_schema(column: Column) -> JsonSchema:
    return {"type": "object"} if column.kind is Kind.COMPOSITE else _value_schema(column.value)


def _array_schema(column: Column) -> JsonSchema:
    if column.kind is Kind.COMPOSITE:
        return {"type": "array", "items": {"type": ["object", "array", "null"]}}
    items = _element_schema(column)
    if "array" in items["type"]:  # an array in an array would be one more dimension
        items["type"] = [name for name in items["type"] if name != "array"]
    return {"type": ["array", "string"], "format": ARRAY_LITERAL, "items": _or_null(items)}


_NUMBER = re.compile(r"\(?'?(-?[0-9]+(?:\.[0-9]+)?)'?\)?(?:::[a-z ]+)?")
_TEXT = re.compile(r"'((?:[^'\\]|'')*)'::[^\[]+")
_WORDS = {"true": True, "false": False}


def _constant(column: Column) -> bool | float | str | None:
    """The default as JSON, if it is a constant."""
    default = column.default or ""
    if column.value.is_array:
        return None
    if column.kind is Kind.BOOLEAN:
        return _WORDS.get(default)
    if column.kind in (Kind.INTEGER, Kind.NUMBER):
        number = _NUMBER.fullmatch(default)
        return None if number is None else float(number[1]) if "." in number[1] else int(number[1])
    text = _TEXT.fullmatch(default) if column.kind is Kind.TEXT else None
    return None if text is None else text[1].replace("''", "'")


# -------------------------------------------------------------------- examples


def example_row(table: Table) -> dict[str, Any]:
    """A row with a value for each column that takes one and has no default, as far as its type has an example."""
    row = {}
    for name, column in table.columns.items():
        if takes_values(column) and not column.has_default:
            example = example_of(column)
            if example is not None or is_required(column):
                row[name] = "…" if example is None else example
    return row


def example_of(column: Column) -> Any:
    """A value for a column; None if nothing is known of its type."""
    value = column.value
    example = value.labels[0] if value.labels else _TYPES.get(value.name, (None, None))[1]
    if column.kind is Kind.COMPOSITE or example is None:
        return None
    if value.name in ("varchar", "bpchar") and value.modifier >= _VARIABLE_HEADER:
        example = example[: value.modifier - _VARIABLE_HEADER]
    elif value.name == "bit":
        example *= max(value.modifier, 1)
    elif value.name == "numeric" and value.modifier >= _VARIABLE_HEADER:
        example = 0
    return [example] if value.is_array else example


def as_text(value: Any) -> str:
    """An example as PostgreSQL reads it from a string."""
    if isinstance(value, list):
        return f"{{{','.join(map(as_text, value))}}}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
