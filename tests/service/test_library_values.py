"""Values on their way through the library: what Python has, what PostgreSQL stores, what Python gets back."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from pydantic import BaseModel

from headrace import Headrace, RowsRefused
from service.library.python_rows import Body
from tests.harness import Connection


class _Colour(enum.StrEnum):
    RED = "red"


class _Level(enum.IntEnum):
    HIGH = 3


class _Choice(enum.Enum):
    HALF = Decimal("0.50")
    BYTES = b"a"


class _Text(str):
    __slots__ = ()


class _Moment(datetime):
    pass


class _Model(BaseModel):
    price: Decimal
    at: datetime


class _Struct(msgspec.Struct):
    a: int
    b: str | msgspec.UnsetType = msgspec.UNSET


@dataclass
class _Dataclass:
    items: list[_Struct]


@pytest.fixture
async def writer(dsn: str, db: Connection) -> AsyncIterator[Headrace]:
    """A Headrace on the test's database, whose clock is not that of UTC."""
    await db.execute("create type mood as enum ('red', 'blue')")
    await db.execute("create domain price as numeric(12, 4)")
    await db.execute(
        f"alter database {await db.fetchval('select quote_ident(current_database())')} set timezone = 'Asia/Kolkata'"
    )
    async with Headrace(dsn) as headrace:
        yield headrace


_BERLIN = ZoneInfo("Europe/Berlin")

# The column's type, the value, and the text that PostgreSQL makes of what is stored; the session's time zone is UTC.
_VALUES: list[tuple[str, Any, str | None]] = [
    ("text", "a\tb\\n\n€𝄞", "a\tb\\n\n€𝄞"),
    ("text", _Text("x"), "x"),
    ("text", _Colour.RED, "red"),
    ("text", None, None),
    ("text", 7, "7"),
    ("mood", _Colour.RED, "red"),
    ("int", 7, "7"),
    ("smallint", _Level.HIGH, "3"),
    ("numeric", 10**40, str(10**40)),
    ("numeric", Decimal("1.50"), "1.50"),
    (
        "numeric",
        Decimal("123456789012345678901234567890.12345678901234567890"),
        "123456789012345678901234567890.12345678901234567890",
    ),
    ("numeric", Decimal("1E+3"), "1000"),
    ("numeric", _Choice.HALF, "0.50"),
    ("numeric", Decimal("NaN"), "NaN"),
    ("numeric", Decimal("-sNaN"), "NaN"),
    ("numeric", Decimal("-Infinity"), "-Infinity"),
    ("price", Decimal("1.5"), "1.5000"),
    ("text", Decimal("1.50"), "1.50"),
    ("double precision", 0.1, "0.1"),
    ("double precision", 1e300, "1e+300"),
    ("double precision", math.nan, "NaN"),
    ("double precision", math.inf, "Infinity"),
    ("real", -math.inf, "-Infinity"),
    ("numeric", math.nan, "NaN"),
    ("boolean", True, "true"),
    ("timestamptz", datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC), "2026-11-21 10:00:00.123456+00"),
    ("timestamptz", datetime(2026, 7, 1, 12, tzinfo=_BERLIN), "2026-07-01 10:00:00+00"),
    ("timestamptz", datetime(1800, 1, 1, tzinfo=_BERLIN), "1799-12-31 23:06:32+00"),
    ("timestamptz", datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))), "2026-01-01 03:30:00+00"),
    ("timestamptz", _Moment(2026, 1, 1, tzinfo=UTC), "2026-01-01 00:00:00+00"),
    ("timestamptz", datetime(2026, 1, 1, 5, 30), "2026-01-01 00:00:00+00"),  # noqa: DTZ001 - the database's time zone
    ("timestamp", datetime(2026, 1, 1, 5, 30), "2026-01-01 05:30:00"),  # noqa: DTZ001 - it has no time zone
    ("timestamp", datetime(9999, 12, 31, 23, 59, 59, 999999), "9999-12-31 23:59:59.999999"),  # noqa: DTZ001 - as above
    ("date", date(2026, 11, 21), "2026-11-21"),
    ("date", date.min, "0001-01-01"),
    ("time", time(1, 2, 3, 4), "01:02:03.000004"),
    ("timetz", time(1, 2, tzinfo=timezone(timedelta(hours=2))), "01:02:00+02"),
    ("interval", timedelta(days=-1, seconds=5, microseconds=3), "-1 days +00:00:05.000003"),
    ("interval", timedelta(hours=30), "1 day 06:00:00"),
    ("uuid", UUID(int=3), "00000000-0000-0000-0000-000000000003"),
    ("bytea", b"a\x00\\", "\\x61005c"),
    ("bytea", bytearray(b""), "\\x"),
    ("bytea", _Choice.BYTES, "\\x61"),
    ("bytea", memoryview(b"ab"), "\\x6162"),
    ("jsonb", {"a": [1, None, {"b": Decimal("1.10")}], "c": "€"}, '{"a": [1, null, {"b": 1.10}], "c": "€"}'),
    ("jsonb", "text", '"text"'),
    ("jsonb", None, None),
    ("jsonb", True, "true"),
    (
        "jsonb",
        {"at": date(2026, 1, 1), "id": UUID(int=3), "colour": _Colour.RED},
        '{"at": "2026-01-01", "id": "00000000-0000-0000-0000-000000000003", "colour": "red"}',
    ),
    (
        "json",
        _Model(price=Decimal("1.10"), at=datetime(2026, 1, 1, tzinfo=UTC)),
        '{"price":1.10,"at":"2026-01-01T00:00:00+00:00"}',
    ),
    ("json", _Dataclass([_Struct(1), _Struct(2, "x")]), '{"items":[{"a":1},{"a":2,"b":"x"}]}'),
    ("int[]", [1, None, 3], "{1,NULL,3}"),
    ("int[]", (1, 2), "{1,2}"),
    ("int[]", {7}, "{7}"),
    ("int[]", [[1, 2], [3, 4]], "{{1,2},{3,4}}"),
    ("int[]", [], "{}"),
    ("text[]", ['a "b"', "c\\d", None, "NULL"], '{"a \\"b\\"","c\\\\d",NULL,"NULL"}'),
    ("float8[]", [1.5, math.nan, -math.inf], "{1.5,NaN,-Infinity}"),
    ("numeric[]", [Decimal("1.10"), Decimal("NaN")], "{1.10,NaN}"),
    ("bytea[]", [b"a", b"\\"], '{"\\\\x61","\\\\x5c"}'),
    ("timestamptz[]", [datetime(2026, 1, 1, tzinfo=UTC)], '{"2026-01-01 00:00:00+00"}'),
    ("jsonb[]", [{"a": 1}, "x"], '{"{\\"a\\": 1}","\\"x\\""}'),
]


async def _create(db: Connection, types: Sequence[str]) -> list[str]:
    """A table `t` with a column for each of the types; their names."""
    names = [f"c{place}" for place in range(len(types))]
    await db.execute(f"create table t (n int, {', '.join(map(' '.join, zip(names, types, strict=True)))})")
    return names


async def test_values_are_stored_as_they_are(writer: Headrace, db: Connection) -> None:
    """Whichever way the row takes, COPY or the other, alone or among others: nothing is rounded, shifted or lost."""
    types, values, _ = zip(*_VALUES, strict=True)
    names = await _create(db, types)
    row = dict(zip(names, values, strict=True))
    await writer.insert("t", row)
    await writer.insert("t", row, returning="n")
    await writer.insert("t", [row] * 18)
    await writer.insert("t", row)  # by now the codec has generated code for such rows
    await asyncio.gather(*[writer.insert("t", {"n": n, name: value}) for n, (name, value) in enumerate(row.items())])
    await db.execute("set timezone = 'UTC'")
    texts = ", ".join(f"{name}::text" for name in names)
    stored = await db.fetch(f"select {texts} from t where n is null")
    assert len(stored) == 21
    for record in stored:
        assert list(zip(types, values, record, strict=True)) == _VALUES
    alone = await db.fetch(f"select {texts} from t where n is not null order by n")
    assert [(*case[:2], record[n]) for n, (case, record) in enumerate(zip(_VALUES, alone, strict=True))] == _VALUES


_RETURNED: list[tuple[str, Any]] = [
    ("int", 7),
    ("bigint", 2**63 - 1),
    ("numeric", Decimal("123456789012345678901234567890.10")),
    ("numeric", Decimal("Infinity")),
    ("price", Decimal("1.5000")),
    ("double precision", 1.0),
    ("double precision", math.inf),
    ("boolean", True),
    ("text", "7"),
    ("uuid", UUID(int=3)),
    ("date", date(2026, 11, 21)),
    ("timestamp", datetime(2026, 1, 1, 5, 30)),  # noqa: DTZ001 - it has no time zone
    ("timestamptz", datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)),
    ("timestamptz(0)", datetime(2026, 11, 21, 10, tzinfo=UTC)),
    ("time", time(1, 2, 3)),
    ("interval", timedelta(days=-1, seconds=5, microseconds=300)),
    ("interval", -timedelta(hours=30)),
    ("interval", timedelta(0)),
    ("bytea", b"a\x00"),
    ("jsonb", {"a": [1, 1.5, "x", None]}),
    ("int[]", [1, None]),
    ("numeric(5,2)[]", [Decimal("1.10"), None]),
    ("float8[]", [1.0, math.inf]),
    ("timestamptz[]", [datetime(2026, 1, 1, tzinfo=UTC)]),
    ("interval[]", [timedelta(1)]),
    ("bytea[]", [b"a", None]),
    ("text[]", ["\\x61"]),
    ("int", None),
    ("numeric", None),
    ("bytea", None),
]

# A value of these has all columns of its row read one by one.
_RETURNED_ODD: list[tuple[str, Any, Any]] = [
    ("timestamptz", "infinity", "infinity"),
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("interval", "1 month 2 days", "1 mon 2 days"),
    ("interval", "2000000000 days", "2000000000 days"),
    ("timetz", "10:00:00+02", "10:00:00+02"),
    ("money", "1.50", "$1.50"),
    ("date[]", "{2026-01-01,infinity}", [date(2026, 1, 1), "infinity"]),
    ("numeric[]", [[Decimal("1.10")], [Decimal("2.20")]], [[Decimal("1.10")], [Decimal("2.20")]]),
    ("oid", "7", 7),
    ("inet", "::1", "::1"),
]


@pytest.mark.parametrize("odd", [False, True])
async def test_values_come_back_as_they_were(writer: Headrace, db: Connection, odd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What a driver would give: a numeric is a Decimal with its digits, a time stamp a datetime. A row that is
    committed must not become an exception because Python knows no year before 1; such a value stays a text.
    """
    cases = [*[(type_, value, value) for type_, value in _RETURNED], *(_RETURNED_ODD if odd else ())]
    types, values, expected = zip(*cases, strict=True)
    names = await _create(db, types)
    row = await writer.insert("t", dict(zip(names, values, strict=True)), returning=names)
    assert list(map(_seen, types, row.values())) == list(map(_seen, types, expected))


def _seen(type_: str, value: Any) -> tuple[str, type, Any]:
    """A value with its type; of a Decimal all digits count."""
    return type_, type(value), str(value) if isinstance(value, Decimal) else value


async def test_not_a_number_comes_back(writer: Headrace, db: Connection) -> None:
    """It equals nothing, so the other test cannot see it."""
    await db.execute("create table returned (f float8, n numeric)")
    row = await writer.insert("returned", {"f": math.nan, "n": Decimal("NaN")}, returning="*")
    assert math.isnan(row["f"])
    assert row["n"].is_nan()


_NO_VALUES: list[tuple[str, Any, str]] = [
    ("text", object(), "cannot store a value of type object"),
    ("text", b"a", "cannot store a value of type bytes in a column of type text"),
    ("varchar(9)", b"a", "cannot store a value of type bytes in a column of type character varying(9)"),
    ("jsonb", b"a", "cannot store a value of type bytes in a column of type jsonb"),
    ("jsonb", {"a": [b"a"]}, "cannot store a value of type bytes in a column of type jsonb"),
    ("jsonb", {1: 2.5, "b": {3}}, "cannot store a mapping with a key that is a value of type int"),
    ("int[]", [1, {"a": object()}], "cannot store a value of type object"),
    ("int", 1j, "cannot store a value of type complex"),
    ("text", str, "cannot store a value of type type"),
]


async def test_a_value_of_another_kind_is_a_type_error(writer: Headrace, db: Connection) -> None:
    """It names the row and the column, and nothing is sent."""
    names = await _create(db, [type_ for type_, _, _ in _NO_VALUES])
    for name, (_, value, message) in zip(names, _NO_VALUES, strict=True):
        with pytest.raises(TypeError) as raised:
            await writer.insert("t", {"n": 1, name: value})
        assert str(raised.value) == f"row 1, column {name}: {message}"
        with pytest.raises(TypeError, match=f"row 3, column {name}: "):
            await writer.insert("t", [{name: None}, {name: None}, {name: value}])
    assert await db.fetchval("select count(*) from t") == 0


_LOST: list[tuple[str, Any]] = [
    ("json", math.nan),
    ("jsonb", {"a": [1.5, math.inf]}),
    ("jsonb", [Decimal("NaN")]),
    ("jsonb[]", [math.nan]),
    ("text", "\ud800"),
    ("text[]", ["\ud800"]),
]


async def test_a_value_that_would_be_lost_is_a_value_error(writer: Headrace, db: Connection) -> None:
    """JSON has no NaN; the encoder would write null, and nobody would notice."""
    names = await _create(db, [type_ for type_, _ in _LOST])
    for name, (_, value) in zip(names, _LOST, strict=True):
        with pytest.raises(ValueError, match=f"row 1, column {name}: "):
            await writer.insert("t", {"n": 1, name: value})
        with pytest.raises(ValueError, match=f"row 2, column {name}: "):
            await writer.insert("t", [{name: None}, {name: value}])
    assert await db.fetchval("select count(*) from t") == 0


async def test_a_value_without_an_end_is_a_value_error(writer: Headrace, db: Connection) -> None:
    """A list that contains itself must not take the process with it."""
    await db.execute("create table refused (v jsonb)")
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="row 1, column v: "):
        await writer.insert("refused", {"v": endless})
    endless.append(math.nan)
    with pytest.raises(ValueError, match="row 1, column v: "):
        await writer.insert("refused", {"v": endless})


async def test_what_is_no_row_is_a_type_error(writer: Headrace) -> None:
    """A forgotten bracket is found where it was forgotten."""
    several: list[Any] = [3, "text", [3], [{"v": 1}, "v"], [_Struct], _Struct, None]
    for rows in several:
        with pytest.raises(TypeError):
            await writer.insert("anything", rows)


async def test_what_only_postgresql_can_judge_it_judges(writer: Headrace, db: Connection) -> None:
    """Its words are better than ours, and it is its column."""
    await db.execute("create table judged (v int)")
    with pytest.raises(RowsRefused) as raised:
        await writer.insert("judged", {"v": 1.5})
    assert (raised.value.code, raised.value.column) == ("22P02", "v")


def test_many_rows_are_encoded_piece_by_piece() -> None:
    """A large list must not stop the event loop for all others."""
    body = Body([{"v": number} for number in range(1_200)], None)
    steps = body.encoding()
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            encoded = end.value
            break
        turns += 1
    assert msgspec.json.decode(encoded) == [{"v": number} for number in range(1_200)]
    assert turns >= 2
    assert (body.names, body.differs) == ({"v"}, False)


@pytest.mark.parametrize("place", [0, 1, 600, 1_199])
def test_columns_that_not_all_rows_have_are_found(place: int) -> None:
    """Wherever it is, the request must say which columns there are."""
    rows: list[dict[str, Any]] = [{"v": number} for number in range(1_200)]
    rows[place] = {"v": 1, "w": 2}
    body = Body(rows, None)
    assert list(body.encoding())
    assert (body.names, body.differs) == ({"v", "w"}, True)
