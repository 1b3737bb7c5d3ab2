"""A shape: one set of columns that rows have, with a decoder and a line function generated for exactly that set.

Owns the fast way from a JSON object to a line of COPY text. A row whose values are of kinds that it does not expect is
refused by its decoder; the codec then takes the row apart value by value (`values.py`), which handles everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, TypeAlias, cast

import msgspec
from msgspec import UNSET, Raw, Struct

from sql.catalog import Kind, Table
from sql.errors import Fault, Rejected
from sql.values import DEFAULT, NULL, escape, field_function, nul, source_of, text_field

# What msgspec must find in the JSON for the fast way; anything else makes it raise, and the row goes the slow way.
# Strings are welcome everywhere: whatever comes from a CSV file is one.
_FIELD_TYPES: dict[Kind, object] = {
    Kind.TEXT: str | None,
    Kind.INTEGER: int | str | None,
    Kind.BOOLEAN: bool | str | None,
    Kind.NUMBER: Raw,
    Kind.JSON: Raw,
    Kind.ARRAY: Raw,
}

_RAW_NULL = Raw(b"null")

FieldFunction: TypeAlias = Callable[[Raw], str]

_UNNAMEABLE = frozenset('\\"') | frozenset(map(chr, range(32)))
"""Characters that msgspec cannot have in the name of a field."""


class Shape:
    """The columns of a row, in the table's order. Raises `Rejected` if one of them takes no values."""

    _absent: tuple[str, ...] | None = None
    """What is written for each column that a row does not have; None: the row is of another shape."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._kinds = [table.columns[name].kind for name in columns]
        for name in columns:
            _refuse_generated(table, name)
        self.fields = [(name, field_function(table.columns[name])) for name in columns]
        self.rows_seen = 0

    @property
    def compilable(self) -> bool:
        """Whether a decoder can be generated: JSON has names for its columns and COPY can write them."""
        return Kind.COMPOSITE not in self._kinds and not any(_UNNAMEABLE.intersection(name) for name in self.columns)

    def line(self, values: Mapping[str, Raw]) -> str:
        """A decoded row as a line of COPY text, value by value. Raises `Rejected`."""
        return "\t".join([field(values[name]) for name, field in self.fields]) + "\n"

    @cached_property
    def _code(self) -> _Code:
        own = {i: self.fields[i][1] for i, kind in enumerate(self._kinds) if kind in (Kind.JSON, Kind.ARRAY)}
        return _code_for(self.columns, tuple(self._kinds), tuple(own.items()), self._absent)

    @cached_property
    def decode_row(self) -> Callable[[bytes], Struct]:
        """One JSON object."""
        return msgspec.json.Decoder(self._code.row_type).decode

    @cached_property
    def decode_rows(self) -> Callable[[bytes], list[Struct]]:
        """A JSON array of objects."""
        return msgspec.json.Decoder(list[self._code.row_type]).decode  # type: ignore[name-defined] # made at run time

    @cached_property
    def decode_lines(self) -> Callable[[bytes], list[Struct]]:
        """JSON objects behind one another."""
        return msgspec.json.Decoder(self._code.row_type).decode_lines

    def line_function(self, source: bytes) -> Callable[[Struct], str]:
        """The generated function from a struct that was decoded from `source` to its line. May raise `Rejected`.

        JSON cannot hold a control character but by an escape sequence, so a source without a backslash has no value
        that needs escaping for COPY. Looking for one costs 0.1 µs a request, escaping five values 0.3 µs a row.
        """
        return self._plain_line if source.find(b"\\") < 0 else self._escaping_line

    @cached_property
    def _plain_line(self) -> Callable[[Struct], str]:
        return self._code.plain_line

    @cached_property
    def _escaping_line(self) -> Callable[[Struct], str]:
        return self._code.escaping_line


class ListedShape(Shape):
    """The columns that a request has listed. Its rows may lack some of them, and have other keys, which are dropped.

    What a row lacks is NULL, or with `defaults` the column's default.
    """

    def __init__(self, table: Table, columns: Sequence[str], *, defaults: bool) -> None:
        super().__init__(table, columns)
        # COPY takes the marker only where there is a default.
        absent = tuple([DEFAULT if defaults and table.columns[name].has_default else NULL for name in columns])
        self._absent = absent
        self._fields = [(*field, text) for field, text in zip(self.fields, absent, strict=True)]
        self._names = frozenset(columns)

    def line(self, values: Mapping[str, Raw]) -> str:
        """A decoded row as a line of COPY text, value by value. Raises `Rejected`."""
        for name, value in values.items():
            if name not in self._names:  # json_to_record reads what it drops, too
                source_of(value)
                if "\0" in name:
                    raise nul()
        fields = [field(values[name]) if name in values else absent for name, field, absent in self._fields]
        return "\t".join(fields) + "\n"

    def line_function(self, source: bytes) -> Callable[[Struct], str]:
        """As for other shapes. Raises `Rejected` and `UnicodeDecodeError` also for what may be wrong with others.

        Where msgspec drops a value it does not look at UTF-8 and U+0000. Doing that here costs 0.02 µs a request.
        """
        if not source.isascii():
            source.decode()
        if source.find(b"\\") < 0:
            return self._plain_line
        if source.find(b"\\u0000") >= 0:
            raise nul()
        return self._escaping_line


class _Code:
    """What is generated for columns of these names and kinds.

    `own` are the functions of fields that need one, `absent` what stands for a column that a row lacks, if it may.
    """

    def __init__(
        self,
        columns: tuple[str, ...],
        kinds: tuple[Kind, ...],
        own: dict[int, FieldFunction],
        absent: tuple[str, ...] | None,
    ) -> None:
        self._columns = columns
        self._kinds = kinds
        self._own = own
        self._absent = absent

    @cached_property
    def row_type(self) -> type[Struct]:
        """A struct that accepts exactly rows with these columns, or whatever keys they have if some may be absent."""
        return msgspec.defstruct(
            "Row",
            [self._field(i, _FIELD_TYPES[kind]) for i, kind in enumerate(self._kinds)],
            rename={f"c{i}": name for i, name in enumerate(self._columns)},
            forbid_unknown_fields=self._absent is None,
            gc=False,  # rows refer to no rows; saves the collector a visit to each of a large array
        )

    def _field(self, number: int, type_: Any) -> tuple[str, type] | tuple[str, type, object]:
        """A field of the struct; with a value for rows that lack it, if they may."""
        name = f"c{number}"
        if self._absent is None:
            return name, type_
        if self._absent[number] == DEFAULT:
            return name, type_, UNSET
        return name, type_, _RAW_NULL if type_ is Raw else None

    @cached_property
    def plain_line(self) -> Callable[[Struct], str]:
        """For rows whose strings need no escaping."""
        return self._generate_line(string="{}")

    @cached_property
    def escaping_line(self) -> Callable[[Struct], str]:
        """For all others."""
        return self._generate_line(string="escape({})")

    def _generate_line(self, string: str) -> Callable[[Struct], str]:
        """Write and compile the line function, as `dataclasses` does for `__init__`: 0.4 µs a row instead of 0.8.

        Only field numbers go into the source text, no name from outside.
        """
        scope: dict[str, object] = {
            "NULL": NULL,
            "DEFAULT": DEFAULT,
            "UNSET": UNSET,
            "BOOLEANS": {None: NULL, True: "t", False: "f"},
            "escape": escape,
            "text_field": text_field,
            "text": str,
            "UTF8": "utf-8",
            "NO_NUMBER": '"[{n',  # what a JSON string, array, object or null begins with
        }
        fields: list[str] = []
        for i, kind in enumerate(self._kinds):
            value = f"row.c{i}"
            match kind:
                case Kind.TEXT:
                    fields.append(f"NULL if {value} is None else {string.format(value)}")
                case Kind.INTEGER:
                    fields.append(
                        f"NULL if {value} is None else {string.format(value)} if {value}.__class__ is str else {value}"
                    )
                case Kind.BOOLEAN:
                    fields.append(f"BOOLEANS.get({value}) or {string.format(value)}")
                case Kind.NUMBER:  # a JSON number is its own text; in place, as a call would take 0.1 µs of 0.8 a row
                    fields.append(f"s if (s := text({value}, UTF8))[0] not in NO_NUMBER else text_field({value})")
                case Kind.JSON | Kind.ARRAY:
                    scope[f"field{i}"] = self._own[i]
                    fields.append(f"field{i}({value})")
                case Kind.COMPOSITE:
                    raise AssertionError("`compilable` is False")
            if self._absent is not None and self._absent[i] == DEFAULT:
                fields[i] = f"DEFAULT if {value} is UNSET else {fields[i]}"
        line = "\\t".join(f"{{{field}}}" for field in fields)
        exec(f'def line(row): return f"{line}\\n"', scope)  # noqa: S102 - see the docstring
        return cast("Callable[[Struct], str]", scope["line"])


@lru_cache(maxsize=1024)
def _code_for(
    columns: tuple[str, ...],
    kinds: tuple[Kind, ...],
    own: tuple[tuple[int, FieldFunction], ...],
    absent: tuple[str, ...] | None,
) -> _Code:
    """Tables that are alike share their code: a thousand of each would not fit into a processor's cache."""
    return _Code(columns, kinds, dict(own), absent)


def _refuse_generated(table: Table, name: str) -> None:
    """COPY accepts explicit values for GENERATED ALWAYS identity columns; INSERT and we do not."""
    column = table.columns[name]
    message = f'cannot insert a non-DEFAULT value into column "{name}"'
    if column.identity == "always":
        raise Rejected(
            Fault(
                "428C9",
                message,
                f'Column "{name}" is an identity column defined as GENERATED ALWAYS.',
                "Use OVERRIDING SYSTEM VALUE to override.",
                column=name,
            )
        )
    if column.generated:
        raise Rejected(Fault("428C9", message, f'Column "{name}" is a generated column.', column=name))
