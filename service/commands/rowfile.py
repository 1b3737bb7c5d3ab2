"""Files of rows for `headrace load`: CSV or NDJSON, plain, .gz, .zip or a pipe → rows with their line numbers → chunks.

Owns what a file may look like. Must not know HTTP or what becomes of the rows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import select
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LINE_BYTES_MAX = 32 * 1024 * 1024
"""The service takes no larger body by default, so a longer line (or CSV field) is a file of another kind."""

_BUFFER_BYTES = 256 * 1024  # large reads: the stream below may be Python code with a cost for each call


class LoadError(Exception):
    """The load cannot begin, or not go on; the text says why, in words for people."""


class Format(StrEnum):
    """What a file consists of."""

    CSV = "csv"
    NDJSON = "ndjson"


_FORMATS = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON}


@dataclass(frozen=True, slots=True)
class File:
    """What to read: a path, or "-" for stdin. `member` names one file of a zip.

    `null` is how the CSV writes NULL; its `json_columns` hold JSON. Other values are sent as strings, which PostgreSQL
    reads by the column's type, but for json and jsonb a string is JSON already.
    """

    name: str
    format: Format | None = None
    member: str | None = None
    null: str = ""
    json_columns: tuple[str, ...] = ()


_UNREADABLE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError)
"""What a damaged, encrypted or missing file raises. KeyError is zipfile's for a member that the archive does not have,
NotImplementedError its word for a compression that it does not know, RuntimeError for a password."""


# -------------------------------------------------------------------- bytes


@dataclass(frozen=True, slots=True)
class Source:
    """An open file. `size` and `position` are in bytes of the file on disk; without a size there is no position.

    `interrupt` ends a read that waits for a pipe.
    """

    stream: io.BufferedIOBase
    format: Format
    size: int | None
    position: Callable[[], int]
    interrupt: Callable[[], None]


class _Pipe(io.RawIOBase):
    """A pipe or terminal whose reading can be ended from another thread, as if it were closed at the other end.

    Python waits for its threads before it exits, so one that reads from a silent pipe would keep Ctrl-C from ending us.
    """

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._wakened, self._wake = os.pipe()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        ready, _, _ = select.select([self._raw.fileno(), self._wakened], [], [])
        return 0 if self._wakened in ready else self._raw.readinto(buffer)

    def interrupt(self) -> None:
        os.write(self._wake, b".")

    def close(self) -> None:
        if not self.closed:
            os.close(self._wakened)
            os.close(self._wake)
        super().close()


@contextmanager
def open_source(file: File) -> Iterator[Source]:
    """Open a file, unpacked if its name ends in .gz or .zip. Raises `LoadError`."""
    path = PurePath(file.name)
    packing = path.suffix.lower()
    if packing in (".gz", ".zip"):
        path = path.with_suffix("")
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(_raw(file.name))
            size, position, interrupt = None, raw.tell, _nothing
            status = os.fstat(raw.fileno())
            if stat.S_ISREG(status.st_mode):
                size = status.st_size
                stream: io.BufferedIOBase = stack.enter_context(io.BufferedReader(raw, _BUFFER_BYTES))
            else:
                pipe = stack.enter_context(_Pipe(raw))
                interrupt = pipe.interrupt
                stream = stack.enter_context(io.BufferedReader(pipe, _BUFFER_BYTES))
            if packing == ".gz":
                stream = stack.enter_context(gzip.GzipFile(fileobj=stream))
            elif packing == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                member = archive.getinfo(file.member or _only_member(archive))
                unpacked = cast("zipfile.ZipExtFile", stack.enter_context(archive.open(member)))
                path = path if path.suffix.lower() in _FORMATS else PurePath(member.filename)
                size, position = member.file_size, unpacked.tell
                stream = stack.enter_context(io.BufferedReader(unpacked, _BUFFER_BYTES))
        except _UNREADABLE as error:
            raise LoadError(f"{file.name}: {_reason(error)}") from error
        form = file.format or _FORMATS.get(path.suffix.lower())
        if form is None:
            raise LoadError(f"{file.name}: the name does not tell the format; say --format csv or --format ndjson")
        yield Source(stream, form, size, position, interrupt)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error.args[0]) if error.args else type(error).__name__


def _raw(name: str) -> io.FileIO:
    if name == "-":
        return open(0, "rb", buffering=0, closefd=False)
    return Path(name).open("rb", buffering=0)


def _nothing() -> None:
    pass


def _only_member(archive: zipfile.ZipFile) -> str:
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    if len(names) != 1:
        raise LoadError(f"the archive has {len(names)} files; choose one with --member: {', '.join(names[:10])}")
    return names[0]


# -------------------------------------------------------------------- rows


class Row(NamedTuple):
    """One row as a JSON object, and the line of the file where it begins, counted from 1."""

    line: int
    data: bytes


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """A row that is not stored, and why."""

    line: int
    column: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of one request, and those of the same stretch of the file that are not fit to be sent."""

    rows: list[Row]
    refusals: list[Refusal]

    @property
    def last_line(self) -> int:
        """The line of its last row."""
        return max(self.rows[-1].line if self.rows else 0, self.refusals[-1].line if self.refusals else 0)


def read_rows(source: Source, file: File) -> Iterator[Row | Refusal]:
    """The rows of a file. Raises `LoadError` where it cannot be read on."""
    lines = _lines(source.stream)
    return csv_rows(lines, file) if source.format is Format.CSV else ndjson_rows(lines)


def ndjson_rows(lines: Iterable[bytes]) -> Iterator[Row | Refusal]:
    """Each line as it is, without its end; blank lines are left out."""
    for number, line in enumerate(lines, 1):
        if not line.isspace():
            yield Row(number, line.rstrip(b"\r\n"))


def csv_rows(lines: Iterable[bytes], file: File) -> Iterator[Row | Refusal]:
    """CSV (RFC 4180), whose first record names the columns. Raises `LoadError` if that makes no sense.

    Bytes that are not UTF-8 travel through the reader as surrogates, which the JSON encoder refuses, row by row.
    """
    csv.field_size_limit(_LINE_BYTES_MAX)
    reader = csv.reader(map(partial(str, encoding="utf-8", errors="surrogateescape"), lines), strict=True)
    names = _header(reader)
    missing = set(file.json_columns).difference(names)
    if missing:
        raise LoadError(f'the first line does not name the column "{min(missing)}"')
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
            if fields or len(names) == 1:
                yield _csv_row(line, names, fields or [""], file)  # one column: an empty field, as in PostgreSQL
        except StopIteration:
            return
        except csv.Error as error:
            yield Refusal(line, None, f"not CSV: {error}")


def _csv_row(line: int, names: list[str], fields: list[str], file: File) -> Row | Refusal:
    if len(fields) != len(names):
        return Refusal(line, None, f"number of fields: {len(fields)} instead of {len(names)}")
    values: dict[str, str | msgspec.Raw | None] = {
        name: None if value == file.null else value for name, value in zip(names, fields, strict=True)
    }
    for name in file.json_columns:
        value = values[name]
        if value is not None:
            try:
                text = bytes(msgspec.json.decode(str(value), type=msgspec.Raw))
            except (msgspec.DecodeError, UnicodeEncodeError):
                return Refusal(line, name, "not JSON")
            values[name] = msgspec.Raw(text.replace(b"\n", b" "))  # between tokens; inside strings it is escaped
    try:
        return Row(line, msgspec.json.encode(values))
    except UnicodeEncodeError:
        return Refusal(line, None, "not UTF-8")


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next(reader)
        msgspec.json.encode(names)
    except (StopIteration, csv.Error, UnicodeEncodeError) as error:
        raise LoadError(f"the first line does not name the columns: {str(error) or 'the file is empty'}") from error
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise LoadError(f'the first line names the column "{twice[0]}" twice')
    return names


def _lines(stream: io.BufferedIOBase) -> Iterator[bytes]:
    """Lines with their ends, without a byte order mark. Raises `LoadError`."""
    number = 0
    try:
        while line := stream.readline(_LINE_BYTES_MAX):
            number += 1
            if len(line) == _LINE_BYTES_MAX and not line.endswith(b"\n"):
                raise LoadError(f"line {number} is longer than {_LINE_BYTES_MAX} bytes")
            yield line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
    except _UNREADABLE as error:
        raise LoadError(f"the file cannot be read after line {number}: {_reason(error)}") from error


def chunks(rows: Iterable[Row | Refusal], rows_max: int, bytes_max: int) -> Iterator[Chunk]:
    """Rows in the order of the file, as many in one request as the limits allow (and at least one)."""
    chunk, size = Chunk([], []), 0
    for row in rows:
        if isinstance(row, Refusal):
            chunk.refusals.append(row)
        else:
            if chunk.rows and size + len(row.data) + 1 > bytes_max:
                yield chunk
                chunk, size = Chunk([], []), 0
            chunk.rows.append(row)
            size += len(row.data) + 1
        if len(chunk.rows) + len(chunk.refusals) == rows_max:  # now, not with the next row: a pipe may be silent long
            yield chunk
            chunk, size = Chunk([], []), 0
    if chunk.rows or chunk.refusals:
        yield chunk
