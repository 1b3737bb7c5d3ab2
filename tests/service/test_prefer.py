"""The Prefer header: forgiving to read, exact in what it says was applied."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialect.prefer import NONE, Preferences, parse

REPRESENTATION = Preferences(returning="representation")

CASES = {
    "return=representation": REPRESENTATION,
    "return=minimal": NONE,
    "return=headers-only": Preferences(returning="headers-only"),
    " return = minimal , wait = 5 ": Preferences(wait_seconds=5),
    'return="representation"': REPRESENTATION,
    "return=representation; foo=bar": REPRESENTATION,
    "return=minimal, return=representation": NONE,  # the first wins
    "return=full, return=representation": replace(REPRESENTATION, unknown=("return=full",)),  # that is understood
    "resolution=merge-duplicates": Preferences(merge=True),
    "resolution=ignore-duplicates,resolution=merge-duplicates": Preferences(merge=False),
    "missing=default": Preferences(missing_default=True),
    "missing=null,missing=default": NONE,
    "count=exact": Preferences(count="exact"),
    "count=planned": Preferences(count="planned"),
    "count=estimated": Preferences(count="estimated"),
    "count=roughly": Preferences(unknown=("count=roughly",)),
    "tx=rollback": Preferences(tx="rollback"),
    "tx=commit": Preferences(tx="commit"),
    "handling=strict, max-affected=1, something , Else = entirely;x=y": Preferences(
        strict=True, unknown=("something", "Else = entirely;x=y")
    ),
    "handling=lenient,handling=strict": NONE,
    "timezone=America/Los_Angeles": Preferences(time_zone="America/Los_Angeles"),
    "timezone=Nowhere": Preferences(time_zone="Nowhere"),  # PostgreSQL's to refuse
    "timezone=": Preferences(unknown=("timezone=",)),
    "Respond-Async": Preferences(respond_async=True),
    "respond-async, return=representation": REPRESENTATION,
    "respond-async, return=minimal": NONE,
    "respond-async, wait=10": Preferences(respond_async=True, wait_seconds=10),
    "bad-rows=quarantine": Preferences(quarantine=True),
    "bad-rows=keep": Preferences(unknown=("bad-rows=keep",)),
    "wait=-1": Preferences(unknown=("wait=-1",)),
    "wait=soon": Preferences(unknown=("wait=soon",)),
    "wait=٣": Preferences(unknown=("wait=٣",)),
    "wait=99999999999999": Preferences(unknown=("wait=99999999999999",)),
    "": NONE,
    ",, ,": NONE,
    ";=": Preferences(unknown=(";=",)),
}

APPLIED = {
    "something": "",
    "return=minimal": "return=minimal",
    "respond-async, resolution=bogus, return=minimal": "return=minimal",
    "timezone=UTC,handling=lenient,tx=commit,count=planned,return=minimal,missing=null,resolution=ignore-duplicates": (
        "resolution=ignore-duplicates, missing=null, return=minimal, count=planned, tx=commit, handling=lenient, "
        "timezone=UTC"
    ),
    "wait=5,bad-rows=quarantine,return=representation": "return=representation, bad-rows=quarantine, wait=5",
    "wait=5, count=exact, respond-async": "count=exact, respond-async",
    "max-affected=5": "",
}


@pytest.mark.parametrize("header", CASES)
def test_headers_that_clients_send(header: str) -> None:
    """RFC 7240 as clients write it, and what they should not."""
    assert replace(parse(header), given=()) == CASES[header]


@pytest.mark.parametrize("header", APPLIED)
def test_what_was_applied_is_said_in_a_fixed_order(header: str) -> None:
    """Clients compare the whole header; it holds nothing that was not understood."""
    assert ", ".join(parse(header).applied()) == APPLIED[header]


def test_what_had_no_effect_is_not_acknowledged() -> None:
    """The table may have no key to resolve by, and the end of transactions may not be the client's to choose."""
    preferences = parse("resolution=merge-duplicates, return=minimal, tx=rollback")
    assert preferences.applied(resolution=False) == ("return=minimal", "tx=rollback")
    assert preferences.applied(tx=False) == ("resolution=merge-duplicates", "return=minimal")


@given(st.text())
def test_no_header_breaks_it(header: str) -> None:
    """Whatever a client sends, reading it is no error."""
    assert isinstance(parse(header), Preferences)
