"""The query: what clients send is understood, what PostgREST refuses is refused, and nothing else ever happens."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.dialect.query import NOTHING, Query, parse
from service.problems import Refused
from sql import Item, Sort

UNDERSTOOD = {
    "": NOTHING,
    # What the clients write: quoted and encoded, quoted as it is, bare.
    "columns=%22a%22%2C%22b%22": Query(columns=("a", "b")),
    'columns="b","a"': Query(columns=("b", "a")),
    "columns=a,b&select=*": Query(columns=("a", "b")),
    "on_conflict=a,b&columns=a": Query(columns=("a",), on_conflict=("a", "b")),
    "columns=%22Order+ID%22%2C%22Line+No%22": Query(columns=("Order ID", "Line No")),
    "on_conflict=Order%20ID,Line%20No": Query(on_conflict=("Order ID", "Line No")),
    "columns=%22a%2Cb%22,%22c%22": Query(columns=("a,b", "c")),
    "columns=%22a%26b%3D%22": Query(columns=("a&b=",)),
    r"columns=%22a\%22b\\%22": Query(columns=('a"b\\',)),
    "columns=%C3%A4,$x_1,a-b": Query(columns=("ä", "$x_1", "a-b")),
    "columns= a , %22b%22 , c ": Query(columns=("a", "b", "c")),
    "columns=a,b,a": Query(columns=("a", "b")),
    # Of a parameter that is repeated the first counts.
    "columns=a&columns=b&select=x&select=y&on_conflict=p&on_conflict=q&order=o&order=p": Query(
        columns=("a",), on_conflict=("p",), select=(Item("x"),), order=(Sort("o"),)
    ),
    "columns=a&columns=": Query(columns=("a",)),
    "columns": NOTHING,
    "&&columns=a&": Query(columns=("a",)),
    # What is shown of the rows.
    "select=id,name": Query(select=(Item("id"), Item("name"))),
    "select=key:id::text,name": Query(select=(Item("id", "key", "text"), Item("name"))),
    "select=%22my%20key%22:%22a:b%22::numeric,*": Query(select=(Item("a:b", "my key", "numeric"), Item("*"))),
    "select=a::double+precision,b::timestamp with  time zone,c::int4[]": Query(
        select=(
            Item("a", cast="double precision"),
            Item("b", cast="timestamp with time zone"),
            Item("c", cast="int4[]"),
        )
    ),
    "select= * , a : b ": Query(select=(Item("*"), Item("b", "a"))),
    "select=id,id": Query(select=(Item("id"), Item("id"))),
    "select=": NOTHING,
    "order=a": Query(order=(Sort("a"),)),
    "order=a.desc,b.asc,c.desc.nullslast,%22d.desc%22.nullsfirst": Query(
        order=(Sort("a", True), Sort("b"), Sort("c", True, False), Sort("d.desc", nulls_first=True))
    ),
}

WITHOUT_EFFECT = [
    "limit=1&offset=2&rel.limit=3&limit=many",
    "id=eq.1",
    "id=not.eq.1&id=neq.",
    "name=like(any).{a*,b*}&n=gt(all).{1}",
    "name=in.(a,b)&name=in.(%22a,b%22,%22c)%22,d+e)&name=in.()&name=in.(%22x%22y)",
    "a=is.null&a=is.NOT_NULL&a=not.is.true&a=isdistinct.5",
    "a=fts.x&a=plfts(english).the+fat&a=wfts.",
    "a=cs.{1,2}&a=cd.[1]&a=ov.(1,2)&a=adj.x",
    "data->a->>0=eq.x&rel.id=eq.1&%22a.b%22=eq.1",
    "or=(a.eq.1,b.gt.2)",
    "and=(a.in.(1,2),or(b.is.null,not.and(c.eq.%22x,y%22,d.cs.{1,2})),not.or(e.eq.1,f.eq.1))",
    "not.or=( a.eq.1 , b.eq.2 )&rel.and=(a->>b.not.eq.1)&rel.not.or=(a.eq.)",
    "rel.order=a.desc",
]

REFUSED = [
    "columns=",
    "columns=+",
    "columns=,",
    "columns=a,",
    "columns=a,,b",
    "columns=%22a",
    "columns=%22%22",
    "columns=%22a%22b",
    "columns=a->b",
    "columns=a.b",
    "columns=*",
    "columns=%ff",
    "columns=a%00",
    "columns=" + ",".join([f"c{number}" for number in range(1601)]),
    "on_conflict=",
    "on_conflict=(a)",
    "select=a,",
    "select=a::",
    "select=a:",
    "select=a:*",
    "select=:a",
    "select=a::text;",
    "select=a::numeric(10,2)",
    "select=a::text from pg_authid",
    "select=a::1",
    "select=a::t%C3%A4xt",
    "select=**",
    "select=a b.c",
    "order=",
    "order=a.up",
    "order=a.descending",
    "order=a.desc.nulls",
    "order=a.nullsfirst.desc",
    "rel.order=a.up",
    # A stray parameter, as it is misspelt or meant for something else.
    "apikey=abc",
    "column=a",
    "id=1",
    "id=",
    "=eq.1",
    "a..b=eq.1",
    "a(b)=eq.1",
    "id=eq",
    "id=equals.1",
    "id=not.1",
    "id=eq(some).1",
    "id=in.1",
    "id=in.(1",
    "id=in.(1)2",
    "id=is.5",
    "or=",
    "or=a.eq.1",
    "or=()",
    "or=(a.eq.1",
    "or=(a.eq.1))",
    "or=(a)",
    "or=(a.1)",
    "x..or=(a.eq.1)",
    "or=" + "(and" * 40 + "(a.eq.1" + ")" * 41,
]

UNSUPPORTED = {
    "select=*,other(*)": "Embedded resources and aggregates are not supported in select",
    "select=alias:other!inner(id)": "Embedded resources and aggregates are not supported in select",
    "select=...other(id)": "Embedded resources are not supported in select",
    "select=count()": "Embedded resources and aggregates are not supported in select",
    "select=amount.sum()": "Aggregates are not supported in select",
    "select=data->a": "JSON paths are not supported in select",
    "select=x:data->>a::int": "JSON paths are not supported in select",
    "order=data->a.desc": "JSON paths are not supported in order",
    "order=other(id)": "Embedded resources and aggregates are not supported in order",
}


@pytest.mark.parametrize("query", UNDERSTOOD)
def test_a_query_that_clients_send(query: str) -> None:
    """Names keep their commas, spaces and quotes, whichever way a client encodes them."""
    assert parse(query) == UNDERSTOOD[query]


@pytest.mark.parametrize("query", WITHOUT_EFFECT)
def test_filters_and_ranges_do_nothing(query: str) -> None:
    """A client may leave them where they were for a read; rows are stored as if they were not there."""
    assert parse(query) == NOTHING
    assert parse(f"{query}&columns=a") == Query(columns=("a",))


@pytest.mark.parametrize("query", REFUSED)
def test_what_is_no_query(query: str) -> None:
    """Taken for something else it could store other rows than were meant; the client is told where it stopped."""
    with pytest.raises(Refused) as refused:
        parse(query)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code, problem.fault.hint) == (400, "PGRST100", None)
    assert len(problem.fault.message) < 200


@pytest.mark.parametrize("query", UNSUPPORTED)
def test_what_is_not_supported_is_said(query: str) -> None:
    """It is good PostgREST; who reads the answer must not look for a mistake in it."""
    with pytest.raises(Refused, match=UNSUPPORTED[query]):
        parse(query)


def test_a_refusal_says_where() -> None:
    """A long query is hard to look through."""
    with pytest.raises(Refused) as refused:
        parse("columns=a,b,%22c")
    fault = refused.value.problem.fault
    assert fault.message == 'The parameter "columns" cannot be read at character 5'
    assert fault.details == "Expected a closing double quote"


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_name_comes_through_in_quotes(names: list[str]) -> None:
    """A column may be called anything, and clients quote all of them."""
    quoted = ",".join(['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names])
    assert parse("columns=" + quote(quoted)).columns == tuple(dict.fromkeys(names))


_PIECES = [
    "columns=",
    "select=",
    "order=",
    "on_conflict=",
    "or=",
    "id=",
    "rel.",
    "&",
    "=",
    ",",
    '"',
    "\\",
    "(",
    ")",
    "->",
]
_PIECES += ["a", ".desc", ".nullsfirst", "::text", ":", "*", "eq.", "not.", "in.", "and", "%22", "%", "%C3", "%00", "+"]


@given(st.lists(st.sampled_from(_PIECES) | st.text(st.characters(max_codepoint=255), max_size=3)).map("".join))
@example("order=a.desc.")
@example("é=eq.1")
@example("€=eq.1")
def test_no_query_breaks_it(query: str) -> None:
    """Whatever a client sends is understood or refused."""
    with suppress(Refused):
        assert isinstance(parse(query), Query)


@pytest.mark.parametrize(
    "query",
    [
        "columns=%22" + "\\" * 8001,
        "select=" + "a:" * 4000,
        "or=" + "(" * 8000,
        "id=in.(" + '"' * 8000,
        "id=in.(" + "{" * 8000,
        "or=(" + "a.eq.{," * 1000,
        "id=in.(" + '"\\",' * 2000,
        "columns=" + " " * 8000 + ",",
        "select=a::" + "b " * 4000,
    ],
)
@pytest.mark.timeout(2)
def test_a_long_query_takes_no_long_time(query: str) -> None:
    """As long as a URL may be, and made for backtracking; it must not hold up everybody else."""
    for _ in range(20):
        with pytest.raises(Refused):
            parse(query)
