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

_DIMENSIONS_MAX = 6
"""MAXDIM of PostgreSQL; also keeps the recursion into nested arrays short."""

_decode_string = msgspec.json.Decoder(str).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_encode_string = msgspec.json.Encoder().encode


def escape(text: str) -> str:
    """Escape a field for the text format of COPY. Raises `Rejected` for U+0000, which PostgreSQL cannot store."""
    if text.isprintable() and "\\" not in text:  # one pass in C for nearly every value
        return text
    if "\0" in text:
        raise nul()
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def nul() -> Rejected:
    """The refusal of U+0000. COPY would say 22021; json_to_record, whose rules these are, says this."""
    return Rejected(Fault("22P05", "unsupported Unicode escape sequence", "\\u0000 cannot be converted to text."))


def source_of(raw: Raw) -> str:
    """The JSON itself. Raises `Rejected` for U+0000 anywhere in it: json_to_record does, though json could store it."""
    source = str(raw, "utf-8")
    # Two backslashes mean one, and the text `u0000` behind it is no escape. Ten times as fast as a regular expression.
    if "\\u0000" in source and "\\u0000" in source.replace("\\\\", ""):
        raise nul()
    return source


def text_field(raw: Raw) -> str:
    """Any JSON value → a field for a type that reads text: strings are unquoted, everything else is its source."""
    source = source_of(raw)
    if source[0] == '"':
        return escape(_decode_string(raw))
    return NULL if source == "null" else escape(source)


def plain_text(raw: Raw) -> str | None:
    """What a type that reads text is given for a JSON value, not escaped for COPY; None for `null`."""
    source = str(raw, "utf-8")
    if source[0] == '"':
        return _decode_string(raw) if "\\" in source else source[1:-1]
    return None if source == "null" else source


def json_field(raw: Raw) -> str:
    """Any JSON value → a field for json and jsonb: the source as it is, `null` as SQL NULL."""
    source = _json(raw)
    return NULL if source == "null" else escape(source)


def _json(raw: Raw) -> str:
    """The JSON for a json type. A string gets the fewest escapes possible; inside objects and arrays they stay."""
    source = source_of(raw)
    if source[0] == '"' and "\\" in source:
        return _encode_string(_decode_string(raw)).decode()
    return source


def array_field(column: Column) -> Callable[[Raw], str]:
    """The function that turns a JSON value into a field for this array column.

    Nested JSON arrays are further dimensions, as deep as the first element goes; arrays below that are elements. A
    string is an array literal already.
    """
    element = _json_element if column.json_elements else _element
    is_plain = not column.json_elements and column.delimiter == ","

    def field(raw: Raw) -> str:
        source = source_of(raw)
        if source[0] == '"' or source == "null":
            return text_field(raw)
        dimensions = source.count("[", 0, len(source) - len(source.lstrip("[ \t\r\n")))
        if dimensions > _DIMENSIONS_MAX:
            message = f"number of array dimensions ({dimensions}) exceeds the maximum allowed ({_DIMENSIONS_MAX})"
            raise Rejected(Fault("54000", message, column=column.name))
        if is_plain and dimensions == 1 and "\\" not in source and "{" not in source and source.find("[", 1) < 0:
            # The elements are written alike in JSON and in a literal. Taken apart, millions of them fill the memory.
            inner = source[1:-1]
            return "{}" if inner.isspace() else escape("{" + inner + "}")
        return escape(literal(raw, dimensions))

    def literal(raw: Raw, dimensions: int) -> str:
        if str(raw, "utf-8")[0] != "[":
            hint = f'See the value of key "{column.name}".'
            raise Rejected(Fault("22P02", "expected JSON array", hint=hint, column=column.name))
        items = _decode_array(raw)
        if dimensions == 1:
            parts = [element(item) for item in items]
        else:
            parts = [literal(item, dimensions - 1) for item in items]
            if all(part == "{}" for part in parts):
                return "{}"  # before PostgreSQL 17, the input function knows no other empty array
        return "{" + column.delimiter.join(parts) + "}"

    return field


def _element(raw: Raw) -> str:
    source = str(raw, "utf-8")
    first = source[0]
    if first == '"':
        return _quoted(_decode_string(raw))
    if first in "{[":
        return _quoted(source)
    return "NULL" if source == "null" else source  # a number, true or false


def _json_element(raw: Raw) -> str:
    source = _json(raw)
    return "NULL" if source == "null" else _quoted(source)


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
