"""PostgreSQL: the catalog, the row codec, the ways to write, and what errors mean. Knows neither HTTP nor batching."""

from sql.catalog import Catalog, Column, Key, Kind, Table, quote_identifier
from sql.codec import CopyCodec, Encoded, LineReader, Payload, RecordCodec, is_array
from sql.errors import (
    CatalogMissing,
    Fault,
    OutcomeUnknown,
    Rejected,
    SqlError,
    TableChanged,
    TooLarge,
    Unavailable,
    unknown_table,
)
from sql.slot import Rows, Slot, Timeouts, is_abandoned
from sql.target import Target, Targets, Way
from sql.watch import CHANNEL, CatalogWatch

__all__ = [
    "CHANNEL",
    "Catalog",
    "CatalogMissing",
    "CatalogWatch",
    "Column",
    "CopyCodec",
    "Encoded",
    "Fault",
    "Key",
    "Kind",
    "LineReader",
    "OutcomeUnknown",
    "Payload",
    "RecordCodec",
    "Rejected",
    "Rows",
    "Slot",
    "SqlError",
    "Table",
    "TableChanged",
    "Target",
    "Targets",
    "Timeouts",
    "TooLarge",
    "Unavailable",
    "Way",
    "is_abandoned",
    "is_array",
    "quote_identifier",
    "unknown_table",
]
