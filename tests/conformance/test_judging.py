"""The judge of the cases: what passes it is right, and what is wrong does not."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest

from tests.conformance.cases import Answer, Case, Request, Stored, complaints, differences, load, rows_wrong, shown
from tests.conformance.company import blurred, company_of
from tests.harness import Reply

REPLY = Reply(
    b"HTTP/1.1 201 Created",
    ((b"content-range", b"*/*"), (b"content-type", b"application/json; charset=utf-8"), (b"content-length", b"22")),
    b'[{"id":1,"price":1.50}]',
)

RIGHT = [
    Answer(201),
    Answer(201, headers={"Content-Range": "*/*"}, without=["Location"]),
    Answer(201, text='[{"id":1,"price":1.50}]'),
    Answer(201, json='[{"price": 1.5, "id": 1}]'),
    Answer(201, among='[{"price": 1.5}]'),
]

WRONG = {
    "the status is 201, not 200": Answer(200),
    "Content-Range is '*/*', not '*/1'": Answer(201, headers={"Content-Range": "*/1"}),
    "Location is None, not '/t'": Answer(201, headers={"Location": "/t"}),
    "Content-Type is 'application/json; charset=utf-8' and should not be there": Answer(201, without=["Content-Type"]),
    "the body is '[{\"id\":1,\"price\":1.50}]', not ''": Answer(201, text=""),
    "[0] has 'price' and should not": Answer(201, json='[{"id":1}]'),
    "[0]['price'] is 1.50, not 1.51": Answer(201, among='[{"price":1.51}]'),
}

ALIKE = [
    ("1.50", "1.5"),
    ("1", "1.0"),
    ('{"a":1,"b":[null,true,"x"]}', '{"b":[null,true,"x"],"a":1}'),
]

NOT_ALIKE = [
    ("1", "true"),
    ("0", "false"),
    ("0", "null"),
    ("1", '"1"'),
    ("12345678901234567890.123456789012345678901", "12345678901234567890.123456789012345678902"),
    ("[]", "{}"),
    ("[]", "[1]"),
    ("[1,2]", "[2,1]"),
    ('{"a":1}', "{}"),
    ("{}", '{"a":1}'),
    ('{"a":null}', "{}"),
    ('{"a":{"matches":"1"}}', '{"a":"1"}'),  # stands for something among others only
]


@pytest.mark.parametrize("answer", RIGHT)
def test_what_is_right_has_no_complaints(answer: Answer) -> None:
    """Otherwise a good service fails."""
    assert list(complaints(answer, REPLY)) == []


@pytest.mark.parametrize("complaint", WRONG)
def test_what_is_wrong_is_named(complaint: str) -> None:
    """Each expectation counts, and whoever reads about it knows what to look for."""
    assert list(complaints(WRONG[complaint], REPLY)) == [complaint]


@pytest.mark.parametrize("body", [b"", b"[", b'{"a":1,"a":1}'])
def test_a_body_must_be_json_in_which_no_key_is_twice(body: bytes) -> None:
    """Readers of JSON do not agree which of two counts."""
    (complaint,) = complaints(Answer(201, json='{"a":1}'), replace(REPLY, body=body))
    assert complaint.startswith("the body is no JSON")


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_json_that_means_the_same(one: str, other: str) -> None:
    """Spaces, the order of keys and zeros at the end are the writer's business."""
    assert list(complaints(Answer(201, json=one), replace(REPLY, body=other.encode()))) == []


@pytest.mark.parametrize(("one", "other"), NOT_ALIKE)
def test_json_that_does_not(one: str, other: str) -> None:
    """What Python takes for equal is not always equal."""
    assert list(complaints(Answer(201, json=one), replace(REPLY, body=other.encode()))) != []


def test_what_is_among_other_things() -> None:
    """Other keys may be there, other elements may not; a text may be known by its form only."""
    expected = [{"a": {"matches": r"^\d+$"}}]
    assert list(differences(expected, [{"a": "12", "b": 1}], exact=False)) == []
    others: list[object] = [[{"a": "x"}], [{"a": 12}], [{}], [{"a": "1"}, {}], []]
    for wrong in others:
        assert list(differences(expected, wrong, exact=False)) != []


def test_rows_that_are_not_as_expected() -> None:
    """The message has the query, since there are many."""
    stored = Stored("select 1", '[[1, "a", null]]')
    assert list(rows_wrong(stored, [(1, "a", None)])) == []
    assert list(rows_wrong(stored, [(1, "b", None)])) == ["select 1: [0][1] is 'b', not 'a'"]
    assert list(rows_wrong(stored, [])) == ["select 1: it is [], not [[1, 'a', None]]"]


def test_a_case_with_a_word_that_means_nothing_is_none() -> None:
    """A misspelt expectation would never be looked at."""
    case = {"about": "", "request": {"target": "/"}, "answer": {"status": 201}}
    assert msgspec.convert(case, Case).answer.status == 201
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(case | {"answer": {"status": 201, "header": {}}}, Case)


def test_a_failure_shows_both_sides() -> None:
    """Who reads it should not have to run it again."""
    text = shown(Request("/items?select=*", '{"a":1}', {"Prefer": "return=minimal"}), REPLY)
    assert "  > POST /items?select=* HTTP/1.1\n" in text
    assert "\n  > Prefer: return=minimal\n" in text
    assert '\n  > {"a":1}\n  < HTTP/1.1 201 Created\n' in text
    assert text.endswith('\n  < \n  < [{"id":1,"price":1.50}]')


def test_only_generated_keys_are_blurred() -> None:
    """What else differs in company would be somebody else's."""

    def told(body: str, location: bytes = b"/items?id=eq.7") -> Reply:
        return blurred(Reply(b"", ((b"location", location), (b"content-length", b"%d" % len(body))), body.encode()))

    key = "00000000-0000-0000-0000-00000000000"
    assert told('[{"id":1,"qty":2}]') == told('[{"id":100,"qty":2}]')
    assert told("", b"/items?id=eq.8") == told("")
    assert told("id,name\n100,a") == told("id,name\n101,a")
    assert told("Failing row contains (100, a).") == told("Failing row contains (7, a).")
    assert told(f'[{{"id":"{key}1"}}]') == told(f'[{{"id":"{key}2"}}]')
    assert told('[{"id":1,"qty":2}]') != told('[{"id":1,"qty":3}]')
    assert told("id,name\n100,a") != told("id,name\n100,b")
    assert told("Key (id)=(1) already exists.") != told("Key (id)=(2) already exists.")


@pytest.mark.parametrize("name", load())
def test_likes_differ_in_their_values_only(name: str) -> None:
    """They are to share the statement of the case, and be told apart from it."""
    request = load()[name].request
    likes = company_of(request, bad=True).likes
    assert {(like.target, *like.headers.items()) for like in likes} == {(request.target, *request.headers.items())}
    if request.body.startswith(("{", "[")):
        bodies = [json.loads(body) for body in (request.body, *(like.body for like in likes))]
        rows = [body if isinstance(body, list) else [body] for body in bodies]
        columns = [[sorted(row) if isinstance(row, dict) else row for row in some] for some in rows]
        assert columns == [columns[0]] * len(columns)


def test_bad_company_has_bad_likes() -> None:
    """A neighbour in the same statement is the one who could do most harm."""
    request = Request("/items", '[{"name":"a","qty":1},{"name":"b","qty":2}]')
    values = [json.loads(like.body)[1] for like in company_of(request, bad=True).likes]
    assert [(value["name"] is None, value["qty"] == -1) for value in values] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
    ]
    assert len(company_of(request, bad=False).likes) == 2


def test_all_cases_are_there() -> None:
    """A case that is lost is one that nobody looks at."""
    assert len(load()) == 70
