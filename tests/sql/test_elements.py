"""Arrays that are no JSON because one of their elements is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, json

import sql.elements
from sql import Rejected, rows_of_body
from sql.elements import elements_of
from sql.encoded import result_of
from tests.sql.json_sources import spaces, values
from tests.sql.test_codec_laws import lawful

DEEP = b'{"a":' + b'[{"a":' * 600 + b"1" + b"}]" * 600 + b"}"
WRONG = [
    b'{"a":"\\ud800"}',
    b'{"\\udc00\\ud800":1}',
    b'["\\u12", "]},{"]',
    b'{"a":"\n","b":["\\q"]}',
    b'"\\x"',
    b"[" * 2000 + b"]" * 2000,
    DEEP,
]
"""No JSON, but plain where they end."""


def test_what_is_deep_is_no_json() -> None:
    """Or else these tests would be of nothing."""
    with pytest.raises(RecursionError):
        json.decode(DEEP, type=Raw)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong[:20]))
def test_one_element_that_is_no_json_spoils_no_others(wrong: bytes) -> None:
    """Bad rows can be kept only if they can be told from the good ones."""
    others = [b'{"a":[{"b":"\\"}],[{"}]}', b"{}", b'"x\\\\"', b"1e5", b"[[[[[[[[[[[[ ]]]]]]]]]]]]"]
    for place in range(len(others) + 1):
        elements = [*others[:place], wrong, *others[place:]]
        body = b" \n[ " + b" ,\r\n".join(elements) + b"\t] "
        assert rows_of_body(body, lines=False) == elements


@pytest.mark.parametrize(
    "body",
    [
        b'["\\ud800",]', b'[,"\\ud800"]', b'["\\ud800",,1]', b'["\\ud800" 1]', b'["\\ud800"', b'"\\ud800"]', b"[}]",
        b'["\\ud800"]]', b'["\\ud800"][1]', b'x["\\ud800"]', b'["\\ud800"]x', b'["\\ud800",nul]', b'["\\ud800",NaN]',
        b'["\\ud800",{"a":}]', b'["\\ud800",{"a":1]]', b'["\\ud800","a"b]', b'["\\ud800","a]', b"[", b"]", b"", b"][",
        b'[{"a":"x},{"a":"y},{"a":"z"}]', b'[{"a":"\\ud800},{"a":"z"}]', b"[" * 9000 + b"]" * 8999, b'["\\ud800",[[]',
        b"[" * 9000, b'["\\ud800" 12]',
    ],
)  # fmt: skip
def test_where_it_is_not_certain_where_an_element_ends_nothing_is(body: bytes) -> None:
    """A quote that is missing turns what was inside of strings out; rows must not be made of that."""
    with pytest.raises(Rejected) as info:
        result_of(elements_of(body))
    assert info.value.fault.code == "PGRST102"


@lawful
@given(st.lists(st.tuples(spaces, values, spaces), min_size=1, max_size=6), st.integers(1, 9))
def test_an_array_that_is_json_has_the_same_elements(drawn: list[tuple[str, str, str]], depth: int) -> None:
    """The rules are those of JSON, whatever stands in strings and however deep it is."""
    nested = [f"{before}{'[' * depth}{value}{']' * depth}{after}" for before, value, after in drawn]
    body = f"[{','.join(nested)}]".encode()
    assert result_of(elements_of(body)) == [bytes(raw) for raw in json.decode(body, type=list[Raw])]


@pytest.mark.parametrize("limit", ["_STEPS_MAX", "_WRONG_BYTES_MAX"])
@pytest.mark.parametrize("body", [b"[" + b'{"a":1},' * 50 + b'"\\ud800"]', b"[" + DEEP + b',"\\ud800"]'])
def test_there_is_a_limit_to_the_search(limit: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may have the service look at brackets for seconds."""
    assert rows_of_body(body, lines=False)
    monkeypatch.setattr(sql.elements, limit, 5)
    with pytest.raises(Rejected):
        rows_of_body(body, lines=False)


def test_the_search_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are in however many elements."""
    monkeypatch.setattr(sql.elements, "_STEPS_MAX", 3_000)
    assert rows_of_body(b"[" + DEEP + b"]", lines=False) == [DEEP]
    with pytest.raises(Rejected):
        rows_of_body(b"[" + DEEP + b"," + DEEP + b"]", lines=False)
    steps = elements_of(b"[" * 9_000 + b"]" * 9_000)
    next(steps)
    with pytest.raises(Rejected):
        next(steps)


def test_others_have_their_turn_meanwhile() -> None:
    """A body may be large."""
    for body in (b"[" + b'{"a":1},' * 9_000 + b'"\\ud800"]', b"[" + b"[" * 9_000 + b"]" * 9_000 + b"]"):
        assert len([*elements_of(body)]) >= 4
