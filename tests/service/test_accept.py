"""The Accept header: rows come as the client can read them, or it is told before anything is stored."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialect.accept import ROWS, Accepted, Shape, parse
from service.problems import Refused

OBJECT = Accepted("application/vnd.pgrst.object+json; charset=utf-8", Shape.OBJECT)
OBJECT_STRIPPED = Accepted(
    "application/vnd.pgrst.object+json;nulls=stripped; charset=utf-8", Shape.OBJECT, stripped=True
)
ARRAY_STRIPPED = Accepted("application/vnd.pgrst.array+json;nulls=stripped; charset=utf-8", Shape.ARRAY, stripped=True)
CSV = Accepted("text/csv; charset=utf-8", Shape.CSV)

CASES = {
    "": ROWS,
    " , ": ROWS,
    "*/*": ROWS,
    "application/json": ROWS,
    "Application/JSON; charset=utf-8": ROWS,
    "application/*": ROWS,
    "application/vnd.pgrst.array+json": ROWS,
    "application/vnd.pgrst.array+json;nulls=stripped": ARRAY_STRIPPED,
    "application/vnd.pgrst.array+json; nulls=stripped ;q=0.5": ARRAY_STRIPPED,
    "application/vnd.pgrst.object+json": OBJECT,
    "application/vnd.pgrst.object": OBJECT,
    "application/vnd.pgrst.object+json;nulls=stripped": OBJECT_STRIPPED,
    "application/json;nulls=stripped": ROWS,
    "text/csv": CSV,
    "text/*": CSV,
    # The heaviest that can be had, then the most particular, then the first.
    "text/csv;q=0.5, application/json": ROWS,
    "text/csv;q=0.5, application/json;q=0.4": CSV,
    "*/*, text/csv": CSV,
    "text/csv, application/json": CSV,
    "text/html, application/xhtml+xml, */*;q=0.8": ROWS,
    "text/csv;q=0, */*;q=0.1": ROWS,
    "text/csv;q=nonsense, application/json;q=0.9": CSV,
}

REFUSED = {
    "text/html": "text/html",
    "text/csv;q=0": "text/csv",
    "image/png;q=0.2, text/html; level=1": "text/html;level=1, image/png",
    "nonsense": "nonsense",
}


@pytest.mark.parametrize("header", CASES)
def test_headers_that_clients_send(header: str) -> None:
    """Each client has its own way to say that it takes JSON."""
    assert parse(header) == CASES[header]


@pytest.mark.parametrize("header", REFUSED)
def test_what_cannot_be_had(header: str) -> None:
    """A client that cannot read the answer must not have rows stored."""
    with pytest.raises(Refused) as refused:
        parse(header)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code) == (406, "PGRST107")
    assert problem.fault.message == f"None of these media types are available: {REFUSED[header]}"


@given(st.text() | st.lists(st.sampled_from(["text/csv", "*/*", ";", ",", "q=", "Q=0", ".", "1", " "])).map("".join))
def test_no_header_breaks_it(header: str) -> None:
    """Whatever a client sends is understood or refused."""
    with suppress(Refused):
        assert isinstance(parse(header), Accepted)
