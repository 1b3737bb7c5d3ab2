"""What answers mean for rows: the decision between storing twice, losing rows and neither."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.commands.rowfile import Row
from service.commands.verdict import Kind, Verdict, divide, judge


@given(st.sets(st.integers(0, 30)), st.integers(1, 31), st.booleans())
def test_dividing_finds_every_bad_row_and_no_other(bad: set[int], count: int, named: bool) -> None:  # noqa: FBT001
    """Whether the service names the row or not: all good rows are stored once, all bad ones refused once."""
    stored, refused = [], []
    pending = [[Row(n, b"") for n in range(count)]]
    while pending:
        rows = pending.pop()
        places = [place for place, row in enumerate(rows, 1) if row.line in bad]
        if not places:
            stored += rows
            continue
        verdict = Verdict(Kind.ROW, row=places[0]) if named else Verdict(Kind.SOME_ROW)
        row, again = divide(rows, verdict)
        refused += [row] if row is not None else []
        pending += reversed(again)
    assert [row.line for row in refused] == sorted(bad & set(range(count)))
    assert sorted(row.line for row in stored) == sorted(set(range(count)) - bad)


def test_a_row_that_the_request_does_not_have_is_not_believed() -> None:
    """Halving comes to an end with any service; refusing a wrong row would lose it."""
    rows = [Row(1, b""), Row(2, b"")]
    assert divide(rows, Verdict(Kind.ROW, row=3)) == (None, [rows[:1], rows[1:]])
    assert divide(rows, Verdict(Kind.ROW, row=0)) == (None, [rows[:1], rows[1:]])


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind"),
    [
        (201, "", {}, Kind.STORED),
        (202, "", {}, Kind.UNKNOWN),
        (307, "", {}, Kind.REQUEST),
        (400, "22P02", {"headrace-row": "2"}, Kind.ROW),
        (400, "P0001", {}, Kind.SOME_ROW),
        (400, "PGRST204", {"headrace-row": "2"}, Kind.REQUEST),
        (401, "", {}, Kind.REQUEST),
        (403, "42501", {}, Kind.REQUEST),
        (409, "23503", {}, Kind.SOME_ROW),
        (413, "HR413", {}, Kind.TOO_LARGE),
        (429, "HR429", {"retry-after": "7"}, Kind.LATER),
        (500, "54000", {"headrace-row": "2"}, Kind.ROW),
        (500, "HR500", {}, Kind.UNKNOWN),
        (503, "PGRST000", {"retry-after": "7"}, Kind.LATER),
        (503, "HR506", {}, Kind.UNKNOWN),
        (504, "", {}, Kind.UNKNOWN),
    ],
)
def test_an_answer_is_judged(status: int, code: str, headers: dict[str, str], kind: Kind) -> None:
    """The table that decides between storing twice, losing rows and neither."""
    body = {"code": code, "message": "words", "details": "more", "hint": "try\nthis"}
    verdict = judge(httpx2.Response(status, headers=headers, json=body))
    assert verdict.kind is kind
    if kind is not Kind.STORED:
        assert verdict.message == "words (more) try this"
        assert verdict.seconds == (7 if "retry-after" in headers else 1)
        assert verdict.row == (2 if "headrace-row" in headers else 0)


def test_an_answer_in_another_form_is_quoted() -> None:
    """The words of a proxy are better than none."""
    assert judge(httpx2.Response(502, text="<h1>Bad\n gateway</h1>")).message == "<h1>Bad gateway</h1>"
    assert judge(httpx2.Response(400)).message == "HTTP 400 Bad Request"


@pytest.mark.parametrize(
    ("text", "seconds"), [("Sat, 21 Nov 2026 10:00:00 GMT", None), ("soon", 1.0), ("-5", 1.0), ("0", 0.0)]
)
def test_retry_after_may_be_anything(text: str, seconds: float | None) -> None:
    """A date is allowed by the standard; nonsense must not end the load."""
    found = judge(httpx2.Response(503, headers={"retry-after": text})).seconds
    assert found >= 0 if seconds is None else found == seconds
