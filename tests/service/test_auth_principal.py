"""Grants: what is written down means one thing, and never more than it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.principal import GRANTS_MAX, Grant, GrantMalformed, Grants, Principal, Right

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
RIGHTS = st.frozensets(st.sampled_from(Right), min_size=1)


@given(NAMES, NAMES, RIGHTS)
def test_what_is_written_is_what_is_read(schema: str, table: str, rights: frozenset[Right]) -> None:
    """Grants are kept as text, whatever tables are called: a dot in a name must not become a border."""
    grant = Grant(schema, table, rights)
    assert Grant.parse(str(grant)) == grant
    assert Grants.of_text(f" {grant}  public.x ").all == (grant, Grant.parse("public.x"))
    grants = Grants((grant,))
    for right in Right:
        assert grants.allows(schema, table, right) == (right in rights)
        assert not grants.allows(schema, table + "x", right)
        assert not grants.allows(schema + "x", table, right)


@pytest.mark.parametrize(
    ("text", "allowed", "denied"),
    [
        (
            "public.events",
            [("public", "events", "insert")],
            [("public", "events", "select"), ("api", "events", "insert")],
        ),
        ("public.*:insert,update", [("public", "x", "update")], [("public", "x", "select"), ("api", "x", "update")]),
        ("*:select", [("a", "b", "select")], [("a", "b", "insert")]),
        ('"*"."*"', [("*", "*", "insert")], [("public", "x", "insert"), ("*", "x", "insert")]),
        (
            "public.a:select public.*",
            [("public", "a", "select"), ("public", "a", "insert")],
            [("public", "b", "select")],
        ),
        ("", [], [("public", "events", "insert")]),
    ],
)
def test_what_grants_allow(text: str, allowed: list[tuple[str, str, str]], denied: list[tuple[str, str, str]]) -> None:
    """Without rights it is insert alone; a quoted star is a table's name; nothing is allowed that no grant names."""
    grants = Grants.of_text(text)
    assert all(grants.allows(schema, table, Right(right)) for schema, table, right in allowed)
    assert not any(grants.allows(schema, table, Right(right)) for schema, table, right in denied)


@pytest.mark.parametrize(
    "text",
    [
        "events", "public.events:", "public.events:delete", "public.events:insert,", "public.events:INSERT", ".events",
        "public.", "*.events", "public.events.x", "public.events:insert:select", '"public.events', 'pub"lic.events',
        "public.a,public.b", '""."x"', "public.events :insert",
    ],
)  # fmt: skip
def test_what_is_no_grant_is_refused(text: str) -> None:
    """What is guessed might be more than was meant."""
    with pytest.raises(GrantMalformed):
        Grant.parse(text)


def test_grants_are_values() -> None:
    """They are part of what is remembered for a head, so they must be comparable, and not without end."""
    assert hash(Grants.parse(["public.a", "public.a"])) == hash(Grants.parse(["public.a"]))
    assert Principal("key a", Grants(), None, None, 0.5) == Principal("key a", Grants())
    with pytest.raises(GrantMalformed, match="more than"):
        Grants.parse(f"public.t{number}" for number in range(GRANTS_MAX + 1))
