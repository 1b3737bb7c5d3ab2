"""Files of rows: what is no such file, and the laws of rows and chunks. That values arrive is for test_load.py."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.commands.rowfile import (
    File,
    Format,
    LoadError,
    Refusal,
    Row,
    chunks,
    csv_rows,
    ndjson_rows,
    open_source,
    read_rows,
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", b"n\n1\n", "--format csv or --format ndjson"),
        ("missing.csv", None, "No such file"),
        ("rows.csv.gz", b"n\n1\n", "Not a gzipped file"),
        ("rows.zip", b"n\n1\n", "not a zip file"),
        ("rows.csv", b"", "the file is empty"),
        ("rows.csv", b"a,b,a\n", 'the column "a" twice'),
        ("rows.csv", b"\xff\n", "does not name the columns"),
    ],
)
def test_what_is_no_file_of_rows_is_refused_in_words(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """People see this text, not a traceback."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    file = File(str(path))
    with pytest.raises(LoadError, match=message), open_source(file) as source:
        list(read_rows(source, file))


def test_blank_lines_are_rows_of_one_column_only() -> None:
    """As PostgreSQL reads them; with more columns they are no rows at all."""
    file = File("", Format.CSV)
    assert list(csv_rows([b"a\n", b"\n", b"1\n"], file)) == [Row(2, b'{"a":null}'), Row(3, b'{"a":"1"}')]
    assert list(csv_rows([b"a,b\n", b"\n", b"1,\n"], file)) == [Row(3, b'{"a":"1","b":null}')]


def test_blank_lines_of_ndjson_are_no_rows() -> None:
    """The service does not count them, so that its row numbers would name wrong lines."""
    assert list(ndjson_rows([b" {} \r\n", b"\n", b" \r\n", b"x"])) == [Row(1, b" {} "), Row(4, b"x")]


def test_a_field_may_be_long() -> None:
    """Python's reader stops at 128 KiB unless it is told otherwise; documents are longer."""
    value = b"x" * 500_000
    assert list(csv_rows([b"a\n", value], File("", Format.CSV))) == [Row(2, b'{"a":"' + value + b'"}')]


def test_a_line_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without line ends must not fill the memory."""
    monkeypatch.setattr("service.commands.rowfile._LINE_BYTES_MAX", 8)
    path = tmp_path / "rows.ndjson"
    path.write_bytes(b"1234567\n123456\n123456789\n")
    with open_source(File(str(path))) as source:
        rows = read_rows(source, File(""))
        assert [next(rows), next(rows)] == [Row(1, b"1234567"), Row(2, b"123456")]
        with pytest.raises(LoadError, match="line 3 is longer than 8 bytes"):
            next(rows)


def test_reading_is_lazy() -> None:
    """Memory does not grow with the file: rows are made when they are asked for."""
    endless = (b'"%d","x"\n' % n for n in itertools.count())
    found = chunks(csv_rows(endless, File("", Format.CSV)), 100, 1_000_000)
    assert next(found).rows[-1] == Row(101, b'{"0":"100","x":"x"}')


@given(
    sizes=st.lists(st.integers(1, 40) | st.none()),
    rows_max=st.integers(1, 10),
    bytes_max=st.integers(1, 100),
)
def test_chunks_keep_all_rows_in_order_and_within_limits(
    sizes: list[int | None], rows_max: int, bytes_max: int
) -> None:
    """The laws of chunking: nothing lost, nothing twice, nothing larger than it may be (but for single rows)."""
    rows = [Refusal(n, None, "") if size is None else Row(n, b"x" * size) for n, size in enumerate(sizes, 1)]
    found = list(chunks(rows, rows_max, bytes_max))
    assert [row for chunk in found for row in chunk.rows] == [row for row in rows if isinstance(row, Row)]
    assert [bad for chunk in found for bad in chunk.refusals] == [row for row in rows if isinstance(row, Refusal)]
    for chunk in found:
        assert 1 <= len(chunk.rows) + len(chunk.refusals) <= rows_max
        assert len(chunk.rows) <= 1 or sum(len(row.data) + 1 for row in chunk.rows) <= bytes_max
    ends = [chunk.last_line for chunk in found]
    assert ends == sorted(set(ends))
