"""The Prefer header: forgiving to read, exact in what it says was applied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.prefer import NONE, Preferences, parse

CASES = {
    "return=representation": Preferences(returning=True, applied=("return=representation",)),
    "return=minimal": Preferences(applied=("return=minimal",)),
    "return=representation,count=exact": Preferences(returning=True, applied=("return=representation",)),
    " return = minimal , wait = 5 ": Preferences(wait_seconds=5, applied=("return=minimal",)),
    'return="representation"': Preferences(returning=True, applied=("return=representation",)),
    "return=representation; foo=bar": Preferences(returning=True, applied=("return=representation",)),
    "return=minimal, return=representation": Preferences(applied=("return=minimal",)),  # the first wins
    "Respond-Async": Preferences(respond_async=True, applied=("respond-async",)),
    "respond-async, return=representation": Preferences(returning=True, applied=("return=representation",)),
    "respond-async, wait=10": Preferences(respond_async=True, wait_seconds=10, applied=("respond-async",)),
    "wait=-1": NONE,
    "wait=soon": NONE,
    "wait=٣": NONE,
    "wait=99999999999999": NONE,
    "something, else=entirely": NONE,
    "": NONE,
    ",,;=,": NONE,
}


@pytest.mark.parametrize("header", CASES)
def test_headers_that_clients_send(header: str) -> None:
    """RFC 7240 as clients write it, and what they should not."""
    assert parse(header) == CASES[header]


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    """Whatever a client sends, reading it is no error."""
    assert isinstance(parse(header), Preferences)
