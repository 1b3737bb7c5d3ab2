"""One JSON value → the text of one COPY field. The rules are those of PostgreSQL's `json_to_record`.

A string goes to the type's input function as it is, a number keeps its digits, `null` is NULL, json columns take the
JSON itself, array columns also take JSON arrays. Must not know rows or tables.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from sql.catalog import Column, Kind
from sql.errors import Fault, Rejected

NULL = "\\N"
"""How the text format of COPY writes NULL."""

DEFAULT = "\\D"
"""What our COPY statements declare to mean "the column's default"; data cannot look like it, its backslashes double."""

_decode_string = msgspec.json.Decoder(str).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


def escape(text: str) -> str:
    """Escape a field for the text format of COPY. Raises `Rejected` for U+0000, which PostgreSQL cannot store."""
    if text.isprintable() and "\\" not in text:  # one pass in C for nearly every value
        return text
    if "\0" in text:
        # COPY would say 22021; json_to_record, whose rules these are, says this.
        raise Rejected(Fault("22P05", "unsupported Unicode escape sequence", "\\u0000 cannot be converted to text."))
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def text_field(raw: Raw) -> str:
    """Any JSON value → a field for a type that reads text: strings are unquoted, everything else is its source."""
    source = str(raw, "utf-8")
    if source[0] == '"':
        return escape(_decode_string(raw))
    return NULL if source == "null" else escape(source)


def json_field(raw: Raw) -> str:
    """Any JSON value → a field for json and jsonb: the source as it is, `null` as SQL NULL."""
    source = str(raw, "utf-8")
    return NULL if source == "null" else escape(source)


def array_field(column: Column) -> Callable[[Raw], str]:
    """The function that turns a JSON value into a field for this array column.

    Nested JSON arrays are further dimensions. A string is an array literal already.
    """
    delimiter = column.delimiter

    def field(raw: Raw) -> str:
        source = str(raw, "utf-8")
        if source[0] != "[":
            return text_field(raw)
        return escape(_array_literal(raw, delimiter))

    return field


def _array_literal(raw: Raw, delimiter: str) -> str:
    return "{" + delimiter.join([_array_element(item, delimiter) for item in _decode_array(raw)]) + "}"


def _array_element(raw: Raw, delimiter: str) -> str:
    source = str(raw, "utf-8")
    first = source[0]
    if first == "[":
        return _array_literal(raw, delimiter)
    if first == '"':
        return _quoted(_decode_string(raw))
    if first == "{":
        return _quoted(source)
    return "NULL" if source == "null" else source  # a number, true or false


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


FIELD_OF: dict[Kind, Callable[[Raw], str]] = {
    Kind.TEXT: text_field,
    Kind.INTEGER: text_field,
    Kind.NUMBER: text_field,
    Kind.BOOLEAN: text_field,
    Kind.JSON: json_field,
    Kind.COMPOSITE: text_field,
}
"""The field function of each kind that needs to know nothing else of its column."""


def field_function(column: Column) -> Callable[[Raw], str]:
    """The function that turns any JSON value into a COPY field for this column."""
    return array_field(column) if column.kind is Kind.ARRAY else FIELD_OF[column.kind]
