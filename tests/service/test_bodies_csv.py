"""CSV and form bodies: what the standards allow comes out as rows, however it is cut; the rest is refused."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.problems import Refused
from tests.service.coded import decoded
from tests.service.test_bodies_codings import cut

_CUTS = st.lists(st.integers(0, 5000), max_size=6)
_FIELDS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", "NULL", '"', '""', ",", "\n", "\r", "\r\n", '"NULL"', ',"NULL",', " ", "\\", "null", "\u2028", "\x0b", "\x85"]
)


_STRAY = 'A field with quotes must be in quotes, and the quotes doubled ("")'


def rows(body: bytes, cuts: list[int] | None = None) -> list[dict[str, str | None]]:
    """The rows of a CSV."""
    lines = decoded(cut(body, cuts or []), "text/csv")
    return msgspec.json.Decoder(dict[str, str | None]).decode_lines(lines)


def problem_in(body: bytes, cuts: list[int] | None = None) -> tuple[str, int | None]:
    """What is wrong with a CSV."""
    with pytest.raises(Refused) as refused:
        rows(body, cuts)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code) == (400, "PGRST102")
    return problem.fault.message, problem.fault.row


# ---------------------------------------------------------------- CSV


@settings(deadline=None)
@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(_FIELDS, min_size=width, max_size=width), max_size=20)),
    st.sampled_from(["all", "few"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["end", "no end"]),
    _CUTS,
)
def test_what_the_csv_module_writes_comes_back(
    table: list[list[str]], quoting: str, line_end: str, last: str, cuts: list[int]
) -> None:
    """Any text in any column. Only the bare word NULL is null."""
    names = ["a", "b c", 'd"e', "ф"][: len(table[0]) if table else 1]
    file = io.StringIO()
    quotes_all = quoting == "all" or line_end != "\r\n"  # else the other line ends stay bare
    writer = csv.writer(file, lineterminator=line_end, quoting=csv.QUOTE_ALL if quotes_all else csv.QUOTE_MINIMAL)
    writer.writerows([names, *table])
    text = file.getvalue() if last == "end" else file.getvalue().removesuffix(line_end)
    nulls = {} if quotes_all else {"NULL": None}
    assert rows(text.encode(), cuts) == [
        dict(zip(names, [nulls.get(field, field) for field in record], strict=True)) for record in table
    ]


def test_null_is_a_bare_word() -> None:
    """A string can be anything, NULL too, as long as it is in quotes."""
    assert rows(b'a,b\nNULL,"NULL"\nnull, NULL\n"","NULL\n"\n') == [
        {"a": None, "b": "NULL"},
        {"a": "null", "b": " NULL"},
        {"a": "", "b": "NULL\n"},
    ]
    assert rows(b'NULL,"NULL "\n1,2\n') == [{"NULL": "1", "NULL ": "2"}]
    assert rows(b'"a"\n"x,""NULL"",y"\n') == [{"a": 'x,"NULL",y'}]


def test_lines_without_anything_are_skipped() -> None:
    """Also where there is one column only; an empty string in it has quotes."""
    assert rows(b'\na\n\n1\n\r\n""\n\n') == [{"a": "1"}, {"a": ""}]
    assert rows(b"a,b\n\n\n") == []


def test_a_column_that_is_named_twice() -> None:
    """The last one counts, as of a key of a JSON object."""
    assert rows(b"a,b,a\n1,2,3\n") == [{"a": "3", "b": "2"}]


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    """Spreadsheets write one, even in pieces."""
    assert rows(b"\xef\xbb\xbfa\n1\n", [1, 2]) == rows(b"a\n1\n") == rows(b'\xef\xbb\xbf"a"\n1\n')


@pytest.mark.parametrize(
    ("body", "message", "row"),
    [
        (b'a\n"x" \n', _STRAY, 1),
        (b'a\n1\n2\n "x"\n', _STRAY, 3),
        (b'a\nx"y"z\n', _STRAY, 1),
        (b'a,b\n"x\ny",2\n"z\n"",3\n', "A quote does not end", None),
        (b'a\n"\n' + b"x\n" * 3_000_000, "A line is longer than 4194304 bytes, or a quote does not end", None),
        (b"a\n" + b"x" * 5_000_000, "A line is longer than 4194304 bytes, or a quote does not end", None),
        (b"a,b\n" + b"1,2\n" * 20_000 + b"3\n", "All lines must have same number of fields", 20_001),
        (b"a,b\n1,2\n\n1,2,3\n1\n", "All lines must have same number of fields", 2),
        (b'a\n1\n"%b",x"y"\n' % (b"\r\n" * 100_000), _STRAY, 2),
        (b'a\n"\xff\n"\n1\n', "The body is not UTF-8", 1),
        (b"\xff\n1\n", "The body is not UTF-8", None),
    ],
)
def test_what_is_no_csv_is_refused(body: bytes, message: str, row: int | None) -> None:
    """With the row where there is one, in the first and in any later piece."""
    assert problem_in(body) == (message, row)
    assert problem_in(body, [7, 8, 9, 2000]) == (message, row)


def test_names_that_json_has_to_escape_and_very_many_names() -> None:
    """There are two ways to write rows: one is faster, the other one can do everything."""
    odd = ['a"b', "a\\b", "a\nb", "", "\t", "self"]
    header = ",".join('"{}"'.format(name.replace('"', '""')) for name in odd)
    assert rows(f"{header}\n1,2,3,4,5,6\n".encode()) == [dict(zip(odd, "123456", strict=True))]
    names = [f"column_{number}_{'x' * 50}" for number in range(1664)]
    body = ",".join(names) + "\n" + ("," * 1663 + "\n") * 3
    assert rows(body.encode()) == [dict.fromkeys(names, "")] * 3


def test_the_limit_of_the_csv_module_is_not_ours() -> None:
    """It is 128 KiB for a field, of the whole process, in which others may rely on it."""
    before = csv.field_size_limit()
    text = "x" * 1_000_000
    assert rows(f'a,b\n"{text}",{text}\n'.encode()) == [{"a": text, "b": text}]
    assert csv.field_size_limit() == before


# ---------------------------------------------------------------- forms


def form(body: bytes) -> dict[str, str]:
    """The row of a form."""
    row: dict[str, str] = msgspec.json.decode(decoded([body], "application/x-www-form-urlencoded"))
    return row


@settings(deadline=None)
@given(st.dictionaries(_FIELDS, _FIELDS, max_size=8), st.sampled_from([quote, quote_plus]))
def test_what_urllib_writes_comes_back(fields: dict[str, str], quoting: Callable[..., str]) -> None:
    """Any text as name and value."""
    assert form(urlencode(fields, quote_via=quoting).encode()) == fields


def test_forms_as_browsers_and_people_write_them() -> None:
    """https://url.spec.whatwg.org/#urlencoded-parsing."""
    assert form(b"") == form(b"&&") == {}
    assert form(b"a=1&a=2&a=%33") == {"a": "3"}
    assert form(b"a&b=&=c&d==e&") == {"a": "", "b": "", "": "c", "d": "=e"}
    assert form(b"a=big+bolt%2B&b=%zz%4&c=%C3%A4\xc3\xa4&d=NULL") == {
        "a": "big bolt+",
        "b": "%zz%4",
        "c": "ää",
        "d": "NULL",
    }
    assert form(b"a+b=%00") == {"a b": "\0"}
    long = "ä%+" * 30_000
    assert form(b"x=" + b"%C3%A4%25%2B" * 30_000) == {"x": long}
    assert form(b"x=%" + b"%41" * 30_000) == {"x": "%" + "A" * 30_000}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"a=%ff", 400, "The form is not UTF-8"),
        (b"%c3=1", 400, "The form is not UTF-8"),
        (b"a=" + b"x" * 40_000 + b"\xc3", 400, "The form is not UTF-8"),
        (b"a=1&" * 10_000, 400, "The form has more than 10000 fields"),
        (b"a=" + b"\1" * 200_000, 413, "The request body is larger than 1000000 bytes when written as JSON"),
        (
            b"&".join([b"a%d=%b" % (number, b"\1" * 900) for number in range(300)]),
            413,
            "The request body is larger than",
        ),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, status: int, message: str) -> None:
    """Neither may a form become much larger than it was."""
    with pytest.raises(Refused) as refused:
        decoded([body], "application/x-www-form-urlencoded", bytes_max=1_000_000)
    problem = refused.value.problem
    assert problem.status == status
    assert problem.fault.message.startswith(message)


def test_json_that_passes_for_a_form_is_pointed_out() -> None:
    """What curl sends with -d and nothing else. The alternative is an answer about a column of a strange name."""
    for body in (b'{"a":1}', b'[{"a":1}]', b"{\n}"):
        with pytest.raises(Refused) as refused:
            form(body)
        assert "Content-Type" in refused.value.problem.fault.message
