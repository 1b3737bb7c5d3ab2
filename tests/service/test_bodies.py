"""Bodies of all kinds, with a database: what is stored, what is kept, what is answered."""

from __future__ import annotations

import msgspec
import pytest

from service.bodies.media import _MEDIA, media_of
from tests.harness import Connection, Running, rows_of
from tests.service.coded import CODINGS, KINDS, Rows, csv_of, gzip_of, msgpack_of, zstd_of

ITEMS = "create table items (id int, name text check (name <> ''))"

ROWS: Rows = [{"id": "1", "name": 'big, "bolt"'}, {"id": "2", "name": "größer\n"}, {"id": "3", "name": None}]
STORED = [(1, 'big, "bolt"'), (2, "größer\n"), (3, None)]


@pytest.fixture
async def items(db: Connection) -> Connection:
    """A database with the table `items`."""
    await db.execute(ITEMS)
    return db


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", KINDS)
async def test_each_kind_in_each_coding_stores_the_same(name: str, items: Connection, headrace: Running) -> None:
    """A producer sends what it has at hand; what is stored must not depend on it."""
    kind = KINDS[name]
    expected = STORED[:1] if kind.single else STORED
    for header, coding in CODINGS.items():
        answer = await headrace.post(
            "items", coding(kind.write(ROWS)), content_type=kind.media_type, content_encoding=header
        )
        assert (answer.status_code, answer.content) == (201, b""), (header, answer.text)
        assert await rows_of(items, "delete from items returning id, name") == expected, header


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", KINDS)
async def test_each_kind_returns_what_it_stores(name: str, items: Connection, headrace: Running) -> None:
    """These rows are written in another way, which reads JSON."""
    kind = KINDS[name]
    body = gzip_of(kind.write(ROWS))
    answer = await headrace.post(
        "items", body, content_type=kind.media_type, content_encoding="gzip", prefer="return=representation"
    )
    assert answer.status_code == 201, answer.text
    assert [tuple(row.values()) for row in answer.json()] == (STORED[:1] if kind.single else STORED)
    assert await items.fetchval("select count(*) from items") == len(answer.json())


@pytest.mark.usefixtures("lane")
async def test_values_are_read_by_the_type_of_their_column(db: Connection, headrace: Running) -> None:
    """A CSV and a form have strings only, MessagePack has types that JSON does not have."""
    await db.execute("create table t (n int, f float8, b bytea, ts timestamptz, j jsonb, a int[], y boolean)")
    texts: dict[str, str | None] = {"n": "7", "f": "NaN", "b": "\\x00ff", "ts": "2026-11-21T10:00:00.25Z"}
    texts |= {"j": "{}", "a": "{1,2}", "y": "yes"}
    # Timestamps are an extension: seconds since 1970, the time in `texts`.
    packed = msgpack_of({"n": 7, "f": float("nan"), "b": b"\0\xff"} | {"j": "{}", "a": [1, 2], "y": True})
    moment = b"\xd7\xff" + (250_000_000 << 34 | 1795255200).to_bytes(8)
    packed = bytes([packed[0] + 1]) + packed[1:] + b"\xa2ts" + moment
    for body, media_type in (
        (csv_of([texts]), "text/csv"),
        (KINDS["a form"].write([texts]), "application/x-www-form-urlencoded"),
        (packed, "application/vnd.msgpack"),
    ):
        answer = await headrace.post("t", body, content_type=media_type)
        assert answer.status_code == 201, answer.text
    query = "select n, f::text, b, ts::text, j::text, a, y from t"
    await db.execute("set timezone to 'UTC'")
    expected = (7, "NaN", b"\0\xff", "2026-11-21 10:00:00.25+00", '"{}"', [1, 2], True)
    assert await rows_of(db, query) == [expected] * 3


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", ["NDJSON", "CSV", "a MessagePack array", "a JSON array"])
async def test_bad_rows_of_each_kind_are_kept_as_json(name: str, items: Connection, headrace: Running) -> None:
    """The quarantine can be looked at and replayed, whatever the rows came as."""
    kind = KINDS[name]
    names = {"1": "a", "2": "", "three": "c", "4": None}
    rows = [{"id": number, "name": text} for number, text in names.items()]
    for coding in ("identity", "gzip", "zstd"):
        body = CODINGS[coding](kind.write(rows))
        answer = await headrace.post(
            "items", body, content_type=kind.media_type, content_encoding=coding, prefer="bad-rows=quarantine"
        )
        assert answer.status_code == 201, answer.text
        assert answer.headers["headrace-quarantined-rows"] == "2,3"
        assert await rows_of(items, "delete from items returning id, name") == [(1, "a"), (4, None)]
        kept = await rows_of(items, "delete from headrace.quarantine returning row, row_number, code")
        assert sorted((number, code, msgspec.json.decode(row)) for row, number, code in kept) == [
            (2, "23514", {"id": "2", "name": ""}),
            (3, "22P02", {"id": "three", "name": "c"}),
        ]


@pytest.mark.usefixtures("lane")
async def test_columns_that_are_none_are_kept_as_well(items: Connection, headrace: Running) -> None:
    """Here it is the codec that finds out, after it has asked a newer catalog: the body is read three times."""
    body = gzip_of(csv_of([{"id": "1", "nam": "a"}, {"id": "2", "nam": "b"}]))
    answer = await headrace.post(
        "items", body, content_type="text/csv", content_encoding="gzip", prefer="bad-rows=quarantine"
    )
    assert answer.status_code == 201, answer.text
    assert answer.headers["headrace-quarantined"] == "2"
    assert await rows_of(items, "select row, code from headrace.quarantine order by row_number") == [
        ('{"id":"1","nam":"a"}', "PGRST204"),
        ('{"id":"2","nam":"b"}', "PGRST204"),
    ]


@pytest.mark.usefixtures("lane")
async def test_a_body_that_cannot_be_decoded_is_refused_all_the_same(items: Connection, headrace: Running) -> None:
    """It cannot be divided into rows, so there is nothing to keep."""
    for body, headers in (
        (gzip_of(b'{"id":1}')[:-1], {"content_encoding": "gzip"}),
        (b"id,name\n1\n", {"content_type": "text/csv"}),
        (b"\x93\x80", {"content_type": "application/msgpack"}),
    ):
        for prefer in ("bad-rows=quarantine", "respond-async"):
            answer = await headrace.post("items", body, prefer=prefer, **headers)
            assert (answer.status_code, answer.json()["code"]) == (400, "PGRST102")
    assert await items.fetchval("select count(*) from headrace.quarantine") == 0


@pytest.mark.usefixtures("lane")
async def test_rows_that_were_promised_are_stored_or_kept(items: Connection, headrace: Running) -> None:
    """A 202 for a compressed body is worth as much as any."""
    body = zstd_of(csv_of([{"id": "1", "name": "a"}, {"id": "two", "name": "b"}]))
    answer = await headrace.post(
        "items", body, content_type="text/csv", content_encoding="zstd", prefer="respond-async"
    )
    assert answer.status_code == 202, answer.text
    await headrace.eventually(lambda: not headrace.service.batcher.statistics().pending_submissions)
    assert await rows_of(items, "select id, name from items") == [(1, "a")]
    assert await rows_of(items, "select row, code from headrace.quarantine") == [('{"id":"two","name":"b"}', "22P02")]


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", ["NDJSON", "CSV", "a MessagePack array", "a form"])
async def test_a_key_stands_for_the_bytes_that_came(name: str, items: Connection, headrace: Running) -> None:
    """Whoever sends the same again sends the same bytes; others are another request, even if they mean the same."""
    kind = KINDS[name]
    for coding in ("identity", "gzip", "zstd"):
        body = CODINGS[coding](kind.write(ROWS))
        headers = {"content_type": kind.media_type, "content_encoding": coding, "idempotency_key": f"{name} {coding}"}
        answers = [await headrace.post("items", body, **headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
        assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true"]
        other = CODINGS[coding](kind.write(ROWS[1:]))
        assert (await headrace.post("items", other, **headers)).status_code == 422
        again = await headrace.post("items", body, **headers | {"content_encoding": "gzip,zstd"})
        assert again.status_code in (400, 422)
    assert await items.fetchval("select count(*) from items") == 3 * (1 if kind.single else 3)


# ---------------------------------------------------------------- when tables change


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("prefer", ["", "bad-rows=quarantine"])
async def test_a_new_table_and_a_new_column_are_found(
    name: str, prefer: str, db: Connection, headrace: Running
) -> None:
    """The first look was at an older catalog, with a body that had not been decoded."""
    kind = KINDS[name]
    for coding in ("identity", "zstd"):
        headers = {"content_type": kind.media_type, "content_encoding": coding} | ({"prefer": prefer} if prefer else {})
        await db.execute("drop table if exists fresh; create table fresh (id int)")
        await headrace.service.watch.reload()
        await db.execute("drop table fresh")
        await headrace.service.watch.reload()
        await db.execute("create table fresh (id int)")
        only_id = [{"id": row["id"]} for row in ROWS]
        answer = await headrace.post("fresh", CODINGS[coding](kind.write(only_id)), **headers)
        assert answer.status_code == 201, answer.text
        await db.execute("alter table fresh add name text")
        answer = await headrace.post("fresh", CODINGS[coding](kind.write(ROWS)), **headers)
        assert answer.status_code == 201, answer.text
        assert await db.fetchval("select count(name) from fresh") == (1 if kind.single else 2)


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("prefer", ["", "bad-rows=quarantine"])
async def test_a_column_that_is_gone_when_the_rows_are_written(prefer: str, db: Connection, headrace: Running) -> None:
    """The rows are read once more, from what they were decoded to; then the answer is that of the new catalog."""
    headers = {"content_type": "text/csv", "content_encoding": "gzip"} | ({"prefer": prefer} if prefer else {})
    body = gzip_of(csv_of([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]))
    await db.execute("create table t (a int, b int)")
    assert (await headrace.post("t", body, **headers)).status_code == 201
    await db.execute("alter table t drop b")
    answer = await headrace.post("t", body, **headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "PGRST204")
    await db.execute("alter table t rename to base; create view t as select * from base")
    body = gzip_of(csv_of([{"a": "5"}]))
    assert (await headrace.post("t", body, **headers)).status_code == 201
    assert await rows_of(db, "select a from base order by a") == [(1,), (3,), (5,)]


@pytest.mark.usefixtures("lane")
async def test_a_large_body_whose_column_has_just_been_added(db: Connection, headrace: Running) -> None:
    """It is decoded a second time, from the bytes that came: other than a plain one, it need not be sent again."""
    rows = [{"id": str(number), "late": "x" * 50} for number in range(5000)]
    for name in ("NDJSON", "CSV", "a MessagePack array"):
        kind = KINDS[name]
        await db.execute("drop table if exists t; create table t (id int)")
        await headrace.service.watch.reload()
        await db.execute("alter table t add late text")
        body = gzip_of(kind.write(rows))
        answer = await headrace.post("t", body, content_type=kind.media_type, content_encoding="gzip")
        assert answer.status_code == 201, answer.text
        assert await db.fetchval("select count(*) from t where late <> ''") == 5000
        unknown = gzip_of(kind.write([row | {"never": "y"} for row in rows]))
        answer = await headrace.post("t", unknown, content_type=kind.media_type, content_encoding="gzip")
        assert (answer.status_code, answer.json()["code"]) == (400, "PGRST204")
    assert headrace.service.postings._held == 0


# ---------------------------------------------------------------- errors


async def _refused(headrace: Running, body: bytes, **headers: str) -> tuple[int, str, str, str | None]:
    answer = await headrace.post("items", body, **headers)
    problem = answer.json()
    return answer.status_code, problem["code"], problem["message"], answer.headers.get("headrace-row")


@pytest.mark.usefixtures("lane", "items")
async def test_an_unknown_coding_is_told_the_known_ones(headrace: Running) -> None:
    """A collector can be set to one of them, by whoever reads its log."""
    for header in ("br", "deflate", "gzip, br", "compress", "aws-chunked", "gzip;q=1"):
        answer = await headrace.post("items", b'{"id":1}', content_encoding=header)
        assert (answer.status_code, answer.json()["code"]) == (415, "HR415")
        assert answer.headers["accept-encoding"] == "gzip, zstd"
        assert header.rpartition(" ")[2] in answer.json()["message"]
    answer = await headrace.post("items", b"", content_encoding="gzip, gzip, gzip")
    assert (answer.status_code, answer.json()["code"]) == (415, "HR415")


@pytest.mark.usefixtures("lane", "items")
async def test_rows_are_counted_as_the_producer_counts_them(headrace: Running) -> None:
    """From 1, without the line that names the columns, in each kind of body."""
    csv = {"content_type": "text/csv"}
    bad = [{"id": "1", "name": "a"}, {"id": "x", "name": "b"}]
    for kind in (KINDS["CSV"], KINDS["NDJSON"], KINDS["a MessagePack array"]):
        told = await _refused(headrace, kind.write(bad), content_type=kind.media_type)
        assert told[:2] == (400, "22P02")
        assert told[3] == "2"
    ragged = "All lines must have same number of fields"
    many = b"id,name\n" + b"1,a\n" * 10_000
    for body, message, row in (
        (b"id,name\n1,a\n2\n", ragged, "2"),
        (b'id,name\n\n1,"a\nb"\n\n2,b,c\n', ragged, "2"),
        (many + b"2,\n3", ragged, "10002"),
        (many + b"2,\xff\n3,x\n", "The body is not UTF-8", "10001"),
        (many + b'2,"\n"\n3,x"y"\n', 'A field with quotes must be in quotes, and the quotes doubled ("")', "10002"),
        (b'id,"na"me\n', 'A field with quotes must be in quotes, and the quotes doubled ("")', None),
        (b"", "The body has no line that names the columns", None),
        (b"\r\n\r\n", "The body has no line that names the columns", None),
        (b'id,name\n1,"', "A quote does not end", None),
        (b"x," * 1664 + b"y\n", "The first line names more than 1664 columns", None),
    ):
        assert await _refused(headrace, body, **csv) == (400, "PGRST102", message, row), body[-20:]


@pytest.mark.usefixtures("lane", "items")
async def test_a_body_with_no_rows_is_a_success(headrace: Running, items: Connection) -> None:
    """A collector that has nothing to send sends that, now and then. A form is one row, even if it is empty."""
    for body, headers in (
        (b"id,name\n", {"content_type": "text/csv"}),
        (b"id,name", {"content_type": "text/csv", "prefer": "return=representation"}),
        (gzip_of(b"[]"), {"content_encoding": "gzip"}),
        (gzip_of(b""), {"content_encoding": "gzip", "content_type": "application/x-ndjson"}),
        (b"\x90", {"content_type": "application/msgpack"}),
        (b"\xdd\0\0\0\0", {"content_type": "application/msgpack"}),
    ):
        answer = await headrace.post("items", body, **headers)
        assert answer.status_code == 201, (body, answer.text)
        assert await items.fetchval("select count(*) from items") == 0
    assert (await headrace.post("items", b"", content_type="application/x-www-form-urlencoded")).status_code == 201
    assert await rows_of(items, "select id, name from items") == [(None, None)]


def test_each_kind_of_the_service_is_tested() -> None:
    """One that is added must be among those above."""
    tested = [media_of(kind.media_type, "") for kind in KINDS.values()]
    assert all(media in tested for media in _MEDIA.values())
