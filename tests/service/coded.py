"""Rows in each kind of body that the service takes, and bodies in each content coding."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import msgpack  # type: ignore[import-untyped]
import msgspec

from service.bodies.media import media_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Rows = Sequence[Mapping[str, str | None]]


def csv_of(rows: Rows) -> bytes:
    """CSV, with NULL for None."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(rows[0])
    writer.writerows([["NULL" if value is None else value for value in row.values()] for row in rows])
    return file.getvalue().encode()


def lines_of(rows: Rows) -> bytes:
    """NDJSON."""
    return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)


def msgpack_of(value: object) -> bytes:
    """MessagePack, by its inventors' library."""
    packed: bytes = msgpack.packb(value)
    return packed


def form_of(rows: Rows) -> bytes:
    """The first row as a form."""
    return urlencode([(key, str(value)) for key, value in rows[0].items()]).encode()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of body: its media type, and how rows are written in it. `single`: it has room for one."""

    media_type: str
    write: Callable[[Rows], bytes]
    single: bool = False


KINDS = {
    "a JSON object": Kind("application/json", lambda rows: msgspec.json.encode(rows[0]), single=True),
    "a JSON array": Kind("application/json", msgspec.json.encode),
    "NDJSON": Kind("application/x-ndjson", lines_of),
    "CSV": Kind("text/csv; charset=utf-8", csv_of),
    "a form": Kind("application/x-www-form-urlencoded", form_of, single=True),
    "a MessagePack map": Kind("application/x-msgpack", lambda rows: msgpack_of(rows[0]), single=True),
    "a MessagePack array": Kind("application/msgpack", msgpack_of),
}


def gzip_of(body: bytes) -> bytes:
    """Always the same for the same body: gzip writes the time, unless it is told one."""
    return gzip.compress(body, mtime=0)


def zstd_of(body: bytes, *, window_log: int | None = None) -> bytes:
    """One frame, with a checksum, and a window of so many bytes (their logarithm) if a size is given."""
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    if window_log is not None:
        options |= {zstd.CompressionParameter.window_log: window_log}
    return zstd.compress(body, options=options)


def skippable(data: bytes) -> bytes:
    """A zstd frame that means nothing (RFC 8878 section 3.1.2)."""
    return b"\x50\x2a\x4d\x18%b%b" % (len(data).to_bytes(4, "little"), data)


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip_of,
    "X-GZip": gzip_of,
    "zstd": zstd_of,
    "gzip, zstd": lambda body: zstd_of(gzip_of(body)),
    "zstd,identity,gzip": lambda body: gzip_of(zstd_of(body)),
    "gzip,gzip": lambda body: gzip_of(gzip_of(body)),
}
"""By the header that says so: the coding that was applied first stands first."""


def decoded(chunks: Iterable[bytes], content_type: str, content_encoding: str = "", bytes_max: int = 1 << 25) -> bytes:
    """What the service reads rows from when such a body has arrived."""
    return b"".join(media_of(content_type, content_encoding).decoded(chunks, bytes_max, lambda _size: None))
