r"""The rows that are sent: request bodies and the file of `psql \copy`, all made from the same row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TIMESTAMP = "2026-11-21T10:00:00Z"
CONTENT_TYPES = {"object": "application/json", "array": "application/json", "ndjson": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Body:
    """What one request carries. `bytes_min` makes each row that long, by its status; 0 leaves it at about 100 bytes."""

    kind: Literal["object", "array", "ndjson"] = "object"
    rows: int = 1
    bytes_min: int = 0

    @property
    def content_type(self) -> str:
        """The media type of the request."""
        return CONTENT_TYPES[self.kind]

    def encode(self) -> bytes:
        """The bytes of the body."""
        rows = [json_row(f"pump-{number % 100}", number, self.bytes_min) for number in range(self.rows)]
        return join(self.kind, rows)


ONE_ROW = Body()


def json_row(device_id: str, number: int, bytes_min: int = 0) -> bytes:
    """A row as JSON, as an encoder without spaces writes it."""
    row = (
        f'{{"device_id":"{device_id}","ts":"{TIMESTAMP}","temperature":{number % 40}.5,"humidity":40.25,"status":"ok"}}'
    )
    return (row[:-2] + "k" * (bytes_min - len(row)) + '"}').encode()


def join(kind: str, rows: list[bytes]) -> bytes:
    """The rows as a body of this kind."""
    match kind:
        case "array":
            return b"[" + b",".join(rows) + b"]"
        case "ndjson":
            return b"\n".join(rows) + b"\n"
        case _:
            (row,) = rows
            return row


def copy_lines(rows: int) -> bytes:
    """As many of the same rows as lines of COPY's text format, by thousands as a bulk request has them."""
    thousand = "".join(
        f"pump-{number % 100}\t{TIMESTAMP}\t{number % 40}.5\t40.25\tok\n" for number in range(1000)
    ).encode()
    return thousand * (rows // 1000)
