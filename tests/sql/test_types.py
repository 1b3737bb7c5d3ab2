"""Every column type by every way: what is stored, or why not, is what PostgreSQL itself makes of the JSON value."""

from __future__ import annotations

import re
from collections.abc import Iterator

import asyncpg
import pytest

from tests.harness import Connection, Running
from tests.sql.oracle import Oracle

DECLARATIONS = """
create type mood as enum ('sad', 'so, so', 'very "happy"');
create type pair as (x int, y text);
create type nest as (p pair, more pair[]);
create domain positive as int check (value > 0);
create domain small as positive check (value < 100);
create domain code as varchar(3);
create domain two as int[] check (cardinality(value) = 2);
create domain document as jsonb check (value ? 'a');
create domain place as pair check ((value).x > 0);
"""

ANYTHING = r"""
    null  true  1  1.5  ""  " "  "null"  []  [1]  [[1,2],[3,4]]  {}  {"a": [1, {"b": null}]}  "{1,2}"
    "\\N"  "\\."  "\\D"  "a\u0000b"  {"a": "\u0000"}
"""
"""Values of every JSON kind, for every type. Most of them are wrong for any one."""

FAMILIES = {
    "numbers": r"""
        | int2  int4  int8  oid
        32767  32768  -32768  2147483648  9223372036854775807  9223372036854775808  1.0  1e2  -0  "07"
        123456789012345678901234567890  " 7 "  "1.0"  "0x1F"  "1_000"

        | float4  float8
        "NaN"  "Infinity"  "-Infinity"  "inf"  -0  -0.0  1e-400  1e400  1e39  1e-46  0.1  0.12345678901234567
        123456789.123456789  16777217  1.17549435e-38  1E5  1e+5  5e-324  " 1.5 "  "1e5"  3.4028235677973366e+38

        | numeric  numeric(5,2)  money
        123456789012345678901234567890.123456789012345678901234567890  1.50  1.500  -0  -0.00  1e-30  1E+30  1e400
        "NaN"  "Infinity"  "1.50"  999.995  999.994  0.1e1  "1 000"
    """,
    "strings, booleans and bytes": r"""
        | text  varchar  varchar(3)  char(3)  bpchar  name  "char"
        1.50  1.0e+2  -0  123456789012345678901234567890  "abc"  "abc "  "abcd"  "äöü"  "äöüß"  "😀😀😀"  "a\tb"  "a\nb"
        "a\\b"  "a\"b"  "\u00e4"  "\ud83d\ude00"  "t"  [1, "a",null]  {"a": "\u00e4"}

        | bool
        "t"  "f"  "yes"  "no"  "on"  "off"  "1"  "0"  "TRUE"  " true "  "tru"  "maybe"  "y"  false  0

        | bytea
        "\\xDEADbeef"  "\\x1"  "\\xzz"  "a\\000b"  "a\\\\b"  "plain"  "\\x"
    """,
    "times": r"""
        | date  timestamp  timestamptz  timestamptz(0)
        "2024-02-29"  "2023-02-29"  "0044-03-15 BC"  "infinity"  "-infinity"  "epoch"  "20240229"  20240229
        "2024-02-29T12:34:56Z"  "2024-02-29T12:34:56.123456789+05:45"  "2024-06-01 12:00:00 Europe/Paris"
        "4713-01-01 00:00:00 BC"  "294277-01-01"  "2024-13-01"  1709210096

        | time  time(0)  timetz  interval  interval year to month
        "12:34:56.789012"  "24:00:00"  "25:00"  "12:34:56+02"  "12:34:56.789-03:30"  "4 PM"  "P1Y2M3DT4H"  "1-2"
        "1 year 2 mons -3 days 04:05:06.7"  "@ 1 hour ago"
    """,
    "json": r"""
        | json  jsonb  jsonpath
        "text"  "1"  "true"  "a\"b"  "a\nb"  "ä\u00e4"  1.50  1e400  {"b": 1, "a": 2}  {"a":1,"a":2}  {"a":"x\ty"}
        [1, "a", null, true, {"b":[]}]  "back\\slash"  "\u005c"  "solid\/us"  {"a\/b":"\/"}  {"a\u0000":1}
        {"a":"\\u0000"}  {"a":"\\\u0000"}  ["\ud83d\ude00"]  "\u007f\u0080"  "\u0001\b\f\u001f"
    """,
    "arrays": r"""
        | int[]  text[]  varchar(3)[]  numeric[]  bool[]  timestamptz[]  bytea[]  mood[]
        [1,2]  [ 1 , null,3 ]  [null]  ["x"]  [[]]  [[],[]]  [1,[2]]  "{1,2}"  "{1,NULL}"  "[0:1]={1,2}"
        "{1"  ["1","2"]  [1.5]  [true,false]  [[1,2],[3,null]]  [[[1]],[[2]]]  [[[[[[1]]]]]]  [[1],[[2]]]  ["\\x41"]
        ["a,b","c\"d","e\\f","{g}"," h ","","NULL","null",null]  ["a\nb\tc"]  [{"a": "b,c"}]  ["2024-01-01","infinity"]
        ["sad","so, so"]  [[{}]]  ["abcd"]  ["{1,2}"]  [1.50]  ["a\u0000"]  ["x", ["y", "z"]]

        | int[]  text[]
        [[[[[[[1]]]]]]]  [[1],[2,3]]  [[],[1]]  [[1],[]]  [[1],null]  [[1],2]  [[[1]],[2]]  [[1],{}]

        | json[]  jsonb[]
        ["1","2"]  ["x"]  [null,"null"]  [1.50]  ["1.50"]  [true]  [{"a":[1,2]},"a",1,null,[1]]  [[1,"a"],[{},null]]
        ["a,b","c\"d","e\\f","{g}"]  ["a\nb\tc","\u00e4\/"]  ["x", ["y", "z"]]  "{1}"  "{\"{}\"}"  [{"a":"\u0000"}]

        | box[]  int4range[]  positive[]  two[]
        ["(1,2),(3,4)"]  ["(1,1),(0,0)",null,"(2,2),(1,1)"]  "{(1,1),(0,0);(2,2),(1,1)}"  ["[1,2)","empty"]  [1,2]
        [1,-1]  [[1,2],[3,4]]  ["{1,2}"]  ["{1,2}","{3}"]  [[{}]]  [null]
    """,
    "types of one's own": r"""
        | mood
        "sad"  "so, so"  "very \"happy\""  "SAD"  "sad "  ["sad"]

        | positive  small  code  two  document
        99  100  -1  "7"  1.0  "abc"  "abcd"  "abc "  [1,2]  [1,2,3]  "{3,4}"  "{3}"  [[1,2]]  [1,null]  ["a\u0000"]
        {"a":1}  {"b":1}  "a"  ["a"]

        | pair  pair[]  nest  place  place[]
        {"x": 1, "y": "a,b"}  {"x": "7"}  {"x": "a"}  {"y": null, "z": 1}  "(1,\"a b\")"  "(1)"  {"x": -1}
        [{"x": 1}, {"y": "b"}, null]  [[{"x": 1}]]  {"p": {"x": 1}, "more": [{"y": "\n"}]}  "{\"(1,a)\"}"
    """,
    "other types": r"""
        | uuid  inet  cidr  macaddr  macaddr8
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"  "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"  "a0eebc99"  "192.168.0.1"
        "192.168.0.1/24"  "192.168.0.0/24"  "::1"  "2001:db8::/32"  "08:00:2b:01:02:03"  "08-00-2b-01-02-03-04-05"

        | int4range  numrange  tstzrange  daterange
        "[1,3]"  "(,5)"  "empty"  "[3,1]"  "[1.50,2.5)"  "[2024-01-01,2024-02-01)"  "[2024-01-01 10:00Z,]"
        "[1,3"  [1,3]

        | bit  bit(3)  varbit(3)  varbit  tsvector  tsquery
        "101"  "1011"  "x5"  "102"  101  "the fat 'cat':1A"  "a:1 b:2"  "fat & !cat"  "fat &"

        | point  box  path  line  lseg  polygon  circle
        "(1,2)"  "1,2"  "(1,2),(3,4)"  "((1,2),(3,4))"  "[(1,2),(3,4)]"  "{1,2,3}"  "<(1,2),3>"  [1,2]  {"x":1,"y":2}
        "(1e400,0)"
    """,
    "references and XML": r"""
        | regclass  regtype  xid  tid  pg_lsn
        "pg_class"  "no_such_table"  "pg_catalog.pg_class"  "int4"  "no_such_type"  1259  4294967295  4294967296
        "(0,1)"  "0/16B3748"

        | xml
        "<a/>"  "<a>\n<b/></a>"  "<a"  "text"
    """,
}
"""Types, and below them JSON values that are of interest to them."""

OPTIONAL = {
    "select '{}'::int4multirange": r"""
        | int4multirange  nummultirange[]
        "{[1,3],[7,9)}"  "{}"  "{[1,3]"  ["{[1,2]}"]  [[1,3]]
    """,
    "create extension hstore": r"""
        | hstore
        "a=>1, b=>NULL"  "\"a b\"=>\"c\\\"d\""  "a"  {"a":"b"}
    """,
    "create extension citext": r"""
        | citext  citext[]
        "Text"  ["Text", null]  1.50
    """,
}
"""The same for types that not every PostgreSQL has, with a statement that shows whether this one does."""


def spaced(text: str) -> list[str]:
    """The parts between two or more spaces, or line ends."""
    return re.split(r"\s\s+|\n", text.strip())


def families(chapter: str) -> Iterator[tuple[list[str], list[str]]]:
    """Types, and all values for them."""
    for family in chapter.split("| ")[1:]:
        types, _, values = family.partition("\n")
        yield spaced(types), list(dict.fromkeys(spaced(values) + spaced(ANYTHING)))


@pytest.mark.parametrize("chapter", FAMILIES)
async def test_a_value_is_stored_as_json_to_recordset_stores_it(
    chapter: str, db: Connection, headrace: Running
) -> None:
    """Which way a row goes is our business, so nobody may see it from what is in the table or from the error."""
    await db.execute(DECLARATIONS)
    oracle = Oracle(db, headrace)
    for types, values in families(FAMILIES[chapter]):
        await oracle.judge(types, values)


@pytest.mark.parametrize("statement", OPTIONAL)
async def test_types_of_extensions_and_newer_versions_are_no_different(
    statement: str, db: Connection, headrace: Running
) -> None:
    """The codec goes by the category of a type, so it need not know it."""
    try:
        await db.execute(statement)
    except asyncpg.PostgresError as error:
        pytest.skip(str(error))
    for types, values in families(OPTIONAL[statement]):
        await Oracle(db, headrace).judge(types, values)


async def test_json_keeps_its_white_space(db: Connection, headrace: Running) -> None:
    """The type `json` stores the text as it came; line ends and tabs between the values are part of it."""
    await Oracle(db, headrace).judge(["json", "jsonb", "text"], ['{ "a" :\n\t[ 1 ,\r\n 2 ] }', "[\n]", "{\t}"])
