"""Bodies that are taken apart row by row, so that only what is bad of them is refused."""

from __future__ import annotations

import pytest

from sql import RecordCodec, Rejected, Salvage, rows_of_body, salvaging
from sql.encoded import result_of
from tests.sql.tables import column, copy_codec, record_codec, table

DEEP = b'{"n":' + b'[{"a":' * 2_000 + b"1" + b"}]" * 2_000 + b"}"

ONE = table(column("n"), column("m", default="1"))


def test_a_body_is_taken_apart() -> None:
    """Each row as it came."""
    assert rows_of_body(b' {"a": 1} ', lines=False) == [b'{"a": 1}']
    assert rows_of_body(b'[{"a": 1}, 2,"x" ]', lines=False) == [b'{"a": 1}', b"2", b'"x"']
    assert rows_of_body(b'{"a":1}\r\n\n x\n', lines=True) == [b'{"a":1}', b"x"]
    with pytest.raises(Rejected):
        rows_of_body(b"[1,", lines=False)


@pytest.mark.parametrize("wrong", [b'{"n":"\\ud800"}', b'{"\\udc00":1}', b'{"n":"]},{\n"}', DEEP])
@pytest.mark.parametrize("lines", [False, True])
def test_a_row_that_is_no_json_is_bad_alone(wrong: bytes, *, lines: bool) -> None:
    """An array is no JSON then, but where its rows end is as certain as it is for lines."""
    if lines and b"\n" in wrong:
        return
    rows = [b'{"n":1}', wrong, b'{"n":"[{"}', b'{"n":2}']
    body = b"\n".join(rows) if lines else b"[" + b" ,".join(rows) + b"]"
    for codec in (copy_codec(ONE), record_codec(ONE), copy_codec(ONE, columns=("n",))):
        encoded, bad = result_of(salvaging(codec, body, lines=lines))
        assert [(row.row, row.raw, row.fault.code, row.fault.row) for row in bad] == [(2, wrong, "PGRST102", 2)]
        assert encoded.rows == 3
    assert [number for number, _ in Salvage("r", body, lines=lines, bad=bad).rows()] == [1, 3, 4]


@pytest.mark.parametrize("lines", [False, True])
def test_with_listed_columns_no_keys_are_wrong(*, lines: bool) -> None:
    """What makes a row bad without them."""
    rows = [b'{"n":1}', b'{"x":1}', b'{"n":"\\u0000"}', b'{"m":null,"n":"a"}', b'"a"', b"{}"]
    body = b"\n".join(rows) if lines else b"[" + b",".join(rows) + b"]"
    for codec, payload in (
        (copy_codec(ONE, columns=("m", "n"), defaults=True), b"1\t\\D\n\\N\t\\D\na\t\\N\n\\N\t\\D\n"),
        (record_codec(ONE, columns=("m", "n")), b",".join([*rows[:4], rows[5]])),
    ):
        encoded, bad = result_of(salvaging(codec, body, lines=lines))
        assert (encoded.columns, encoded.payload) == (("n", "m"), payload)
        refused = [5] if isinstance(codec, RecordCodec) else [3, 5]  # U+0000 is for PostgreSQL to see
        assert [row.row for row in bad] == refused
