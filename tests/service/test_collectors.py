"""Log and metric collectors, by the shapes of their requests: what docs/collectors.md makes each of them send.

The heads are theirs: names, order, letters, framing; so are the bodies, as far as their serializers put them.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from service.settings import Settings
from tests.harness import Connection, Reply, Running, Start, rows_of

TABLE = """
create table events (
    id text primary key, device_id text not null, ts timestamptz not null, temperature double precision,
    status text not null default 'new', received_at timestamptz not null default now()
)
"""
PATH = b"/rest/v1/events?columns=id,device_id,ts,temperature,status"
PREFER = b"missing=default,resolution=ignore-duplicates,bad-rows=quarantine,return=minimal"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "collectors.md").read_text("utf-8")

Send = Callable[[bytes], tuple[bytes, ...]]
"""A body → the pieces in which a collector sends the request with it."""


def _request(body: bytes, *headers: bytes) -> bytes:
    lines = [line.replace(b"{length}", b"%d" % len(body)) for line in headers]
    return b"\r\n".join([b"POST %b HTTP/1.1" % PATH, *lines, b"", body])


def _vector(body: bytes, media_type: bytes, *coding: bytes) -> tuple[bytes, ...]:
    agent = b"user-agent: Vector/0.55.0 (x86_64-unknown-linux-gnu 1234567 2026-09-01)"
    rest = (b"prefer: " + PREFER, agent, b"accept-encoding: identity", b"host: 127.0.0.1:8000")
    return (_request(body, b"content-type: " + media_type, *coding, *rest, b"content-length: {length}"),)


def _fluent_bit(body: bytes, media_type: bytes, *coding: bytes) -> tuple[bytes, ...]:
    head = (b"Host: 127.0.0.1:8000", b"Content-Length: {length}", b"Content-Type: " + media_type, *coding)
    rest = (b"User-Agent: Fluent-Bit", b"Prefer: " + PREFER, b"Connection: keep-alive")
    request = _request(body, *head, *rest)
    return request[: -len(body)], request[-len(body) :]  # in two writes


def _telegraf(body: bytes, *framing: bytes) -> tuple[bytes, ...]:
    head = (b"Host: 127.0.0.1:8000", b"User-Agent: Telegraf/1.37.2 Go/1.26.8", *framing)
    rest = (b"Content-Type: application/json", b"Prefer: " + PREFER, b"Accept-Encoding: gzip")
    return (_request(body, *head, *rest),)


def _telegraf_gzip(body: bytes) -> tuple[bytes, ...]:
    packed = gzip.compress(body)
    chunks = (packed[:10], packed[10:-8], packed[-8:])
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return _telegraf(framed, b"Transfer-Encoding: chunked", b"Content-Encoding: gzip")


def _logstash(body: bytes, media_type: bytes, *coding: bytes) -> tuple[bytes, ...]:
    head = (b"Prefer: " + PREFER, b"Content-Type: " + media_type, *coding, b"Content-Length: {length}")
    rest = (b"Host: 127.0.0.1:8000", b"Connection: Keep-Alive", b"User-Agent: Manticore 0.9.1")
    return (_request(body, *head, *rest, b"Accept-Encoding: gzip,deflate"),)


def _benthos(body: bytes, media_type: bytes, *coding: bytes) -> tuple[bytes, ...]:
    head = (b"Host: 127.0.0.1:8000", b"User-Agent: Go-http-client/1.1", b"Content-Length: {length}", *coding)
    rest = (b"Content-Type: " + media_type, b"Idempotency-Key: " + b"6b86b273" * 8, b"Prefer: " + PREFER)
    return (_request(body, *head, *rest, b"Accept-Encoding: gzip"),)


JSON = b"application/json"
NDJSON = b"application/x-ndjson"

COLLECTORS: dict[str, tuple[Send, str]] = {
    "Vector": (lambda body: _vector(body, JSON), "vector"),
    "Vector, gzip": (lambda body: _vector(gzip.compress(body), JSON, b"content-encoding: gzip"), "vector"),
    "Vector, newline_delimited": (lambda body: _vector(body, NDJSON), "lines"),
    "Fluent Bit": (lambda body: _fluent_bit(body, JSON), "fluent-bit"),
    "Fluent Bit, gzip": (lambda body: _fluent_bit(gzip.compress(body), JSON, b"Content-Encoding: gzip"), "fluent-bit"),
    "Fluent Bit, json_lines": (lambda body: _fluent_bit(body + b"\n", NDJSON), "lines"),
    "Telegraf": (lambda body: _telegraf(body, b"Content-Length: {length}"), "telegraf"),
    "Telegraf, gzip": (_telegraf_gzip, "telegraf"),
    "Logstash": (lambda body: _logstash(body, JSON), "logstash"),
    "Logstash, gzip": (lambda body: _logstash(gzip.compress(body), JSON, b"Content-Encoding: gzip"), "logstash"),
    "Logstash, charset": (lambda body: _logstash(body, b"application/json; charset=utf-8"), "logstash"),
    "Redpanda Connect": (lambda body: _benthos(body, JSON), "vector"),
    "Redpanda Connect, gzip": (lambda body: _benthos(gzip.compress(body), JSON, b"Content-Encoding: gzip"), "vector"),
    "Redpanda Connect, lines": (lambda body: _benthos(body, NDJSON), "lines"),
}

# Three events of a batch: one has a key that is no column and lacks one that is, the second has no time that could be
# read, the third has everything.
BODIES: dict[str, bytes] = {
    "vector": (
        b'[{"device_id":"pump-7","host":"edge","id":"a","temperature":21.5,"ts":"2026-11-21T10:00:00.123456789Z"},'
        b'{"device_id":"pump-8","id":"b","ts":"noon"},'
        b'{"device_id":"pump-9","id":"c","status":"ok","temperature":19.0,"ts":"2026-11-21T10:00:02Z"}]'
    ),
    "fluent-bit": (
        b'[{"ts":"2026-11-21T10:00:00.123456Z","id":"a","device_id":"pump-7","temperature":21.5,"log":"T=21.5\\n"},'
        b'{"ts":"noon","id":"b","device_id":"pump-8"},'
        b'{"ts":"2026-11-21T10:00:02.000000Z","id":"c","device_id":"pump-9","temperature":19.0,"status":"ok"}]'
    ),
    "telegraf": (
        b'[{"device_id":"pump-7","host":"edge","id":"a","temperature":21.5,"ts":"2026-11-21T10:00:00.123456Z"},'
        b'{"device_id":"pump-8","id":"b","ts":"noon"},'
        b'{"device_id":"pump-9","id":"c","status":"ok","temperature":19,"ts":"2026-11-21T10:00:02Z"}]\n'
    ),
    "logstash": (
        b'[{"@version":"1","event":{"original":"T=21.5"},"device_id":"pump-7","id":"a","temperature":21.5,'
        b'"@timestamp":"2026-11-21T10:00:00.123456Z","ts":"2026-11-21T10:00:00.123456Z","host":{"name":"edge"}},'
        b'{"@version":"1","device_id":"pump-8","id":"b","@timestamp":"2026-11-21T10:00:01Z","ts":"noon"},'
        b'{"@version":"1","device_id":"pump-9","id":"c","temperature":19.0,"status":"ok","ts":"2026-11-21T10:00:02Z"}]'
    ),
    "lines": (
        b'{"device_id":"pump-7","host":"edge","id":"a","temperature":21.5,"ts":"2026-11-21T10:00:00.123456Z"}\n'
        b'{"device_id":"pump-8","id":"b","ts":"noon"}\n'
        b'{"device_id":"pump-9","id":"c","status":"ok","temperature":19.0,"ts":"2026-11-21T10:00:02Z"}'
    ),
}
STORED = [
    ("a", "pump-7", "2026-11-21 10:00:00.123+00", 21.5, "new"),
    ("c", "pump-9", "2026-11-21 10:00:02+00", 19.0, "ok"),
]
EVENTS = "select id, device_id, ts::timestamptz(3)::text, temperature, status from events order by id"


def _quarantined(reply: Reply) -> tuple[int, bytes | None]:
    return reply.status, dict(reply.headers).get(b"headrace-quarantined")


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize("collector", COLLECTORS)
async def test_a_batch_is_stored_once_however_often_it_is_sent(
    db: Connection, headrace: Running, collector: str
) -> None:
    """Without its bad event, over one connection that stays; a collector that got no answer sends the batch again."""
    await db.execute(TABLE)
    send, body = COLLECTORS[collector]
    pieces = send(BODIES[body])
    async with headrace.connect() as connection:
        for _ in range(2):
            await connection.send(*pieces)
            reply = await connection.next()
            assert _quarantined(reply) == (201, b"1"), reply
            assert not reply.closes
            assert await rows_of(db, EVENTS) == STORED
    assert await rows_of(db, "select distinct code from headrace.quarantine") == [("22007",)]


@pytest.mark.usefixtures("lane")
async def test_an_answer_is_not_larger_than_a_collector_reads(db: Connection, headrace: Running) -> None:
    """Fluent Bit reads 4096 bytes, and sends a batch again whose answer is larger."""
    await db.execute(TABLE)
    body = b"[%b]" % b",".join([b'{"id":"%d","device_id":"pump-7","ts":"%b"}' % (n, b"noon" * 20) for n in range(500)])
    async with headrace.connect() as connection:
        await connection.send(*_fluent_bit(body, JSON))
        reply = await connection.next()
    assert _quarantined(reply) == (201, b"500")
    assert len(reply.status_line) + sum(len(name) + len(value) for name, value in reply.headers) < 2048
    assert reply.body == b""


async def test_a_health_check_by_head_is_answered(headrace: Running, start: Start) -> None:
    """Vector's is a HEAD that must give 200; so do many load balancers ask."""
    for path in ("/readyz", "/livez"):
        response = await headrace.client.head(path)
        assert (response.status_code, response.content) == (200, b"")
    async with start(dsn="postgresql://127.0.0.1:1/none") as away:
        assert (await away.client.head("/readyz")).status_code == 503
        assert (await away.client.head("/livez")).status_code == 200


def test_the_document_shows_what_is_tested_here() -> None:
    """Its examples are these requests, and its table is this one."""
    sections = [
        section for section in DOCUMENT.split("\n## ") if section.partition("\n")[0].endswith(("sink", "output"))
    ]
    assert len(sections) == 5
    for section in sections:
        assert PATH.decode() in section
        assert PREFER.decode() in section
    assert " ".join(TABLE.split()) in " ".join(DOCUMENT.split()).replace(";", "")


def test_the_document_names_settings_that_exist() -> None:
    """With their defaults it says how long to wait."""
    names = set(re.findall(r"HEADRACE_([A-Z_]+)", DOCUMENT))
    assert names
    assert {name.lower() for name in names} <= set(Settings.model_fields)
