"""PostgreSQL: the catalog, the row codec, the ways to write, and what errors mean. Knows neither HTTP nor batching."""

from sql import api_keys, quarantine
from sql.budget import REMEDY, BudgetExceeded, Demand, Room, shortages
from sql.catalog import (
    COPY_DEFAULT_VERSION,
    SERVER_VERSION_MIN,
    Catalog,
    Column,
    Key,
    Kind,
    Table,
    ValueType,
    quote_identifier,
)
from sql.catalog import load as load_catalog
from sql.checkup import Checkup, NotReached, Pooler, Server, examine
from sql.codec import CopyCodec, LineReader
from sql.connect import Timeouts, is_abandoned, open_session
from sql.dsn import BadDsn
from sql.encoded import Encoded, Payload, in_order, is_array
from sql.errors import (
    CatalogMissing,
    Crowded,
    Fault,
    InDoubt,
    KeyReused,
    OutcomeUnknown,
    Rejected,
    SqlError,
    TableChanged,
    TooLarge,
    Unavailable,
    not_singular,
    one_line,
    unknown_table,
)
from sql.housekeeping import keep_clean, sign_out
from sql.options import EVERYTHING, PLAIN, Conflict, Form, Item, Missing, Options, Returning, Sort, Written
from sql.own_schema import QUARANTINE_COUNTED_MAX, Contents, OwnSchema
from sql.pieces import lines_in_pieces
from sql.record_codec import RecordCodec
from sql.rights import Rights, rights_of
from sql.salvage import BadRow, Extra, IdempotencyKey, Salvage, Stored, rows_of_body, salvaging
from sql.slot import Slot
from sql.target import Target, Targets, Way, nothing_target, way_of
from sql.vitals import QUARANTINE_ROWS_MAX, Vitals
from sql.watch import CHANNEL, CatalogWatch
from sql.work import Rows

__all__ = [
    "CHANNEL",
    "COPY_DEFAULT_VERSION",
    "EVERYTHING",
    "PLAIN",
    "QUARANTINE_COUNTED_MAX",
    "QUARANTINE_ROWS_MAX",
    "REMEDY",
    "SERVER_VERSION_MIN",
    "BadDsn",
    "BadRow",
    "BudgetExceeded",
    "Catalog",
    "CatalogMissing",
    "CatalogWatch",
    "Checkup",
    "Column",
    "Conflict",
    "Contents",
    "CopyCodec",
    "Crowded",
    "Demand",
    "Encoded",
    "Extra",
    "Fault",
    "Form",
    "IdempotencyKey",
    "InDoubt",
    "Item",
    "Key",
    "KeyReused",
    "Kind",
    "LineReader",
    "Missing",
    "NotReached",
    "Options",
    "OutcomeUnknown",
    "OwnSchema",
    "Payload",
    "Pooler",
    "RecordCodec",
    "Rejected",
    "Returning",
    "Rights",
    "Room",
    "Rows",
    "Salvage",
    "Server",
    "Slot",
    "Sort",
    "SqlError",
    "Stored",
    "Table",
    "TableChanged",
    "Target",
    "Targets",
    "Timeouts",
    "TooLarge",
    "Unavailable",
    "ValueType",
    "Vitals",
    "Way",
    "Written",
    "api_keys",
    "examine",
    "in_order",
    "is_abandoned",
    "is_array",
    "keep_clean",
    "lines_in_pieces",
    "load_catalog",
    "not_singular",
    "nothing_target",
    "one_line",
    "open_session",
    "quarantine",
    "quote_identifier",
    "rights_of",
    "rows_of_body",
    "salvaging",
    "shortages",
    "sign_out",
    "unknown_table",
    "way_of",
]
