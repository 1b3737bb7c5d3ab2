"""The company that a request has: others that wait with it for one batch, and how to tell their rows from its own.

Neighbours have keys from `_FIRST` up, or say what they are in a text. What is right to tell a neighbour is what it is
told when it comes alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode
from uuid import UUID

from tests.conformance.cases import Request, send
from tests.harness import Connection, Reply, Running

_FIRST = 9001

_WAITING_MIN = 11
"""So many strangers are good: no batch may be smaller."""

GATE = Request("/only_keys", '{"id":9000}')
"""While it waits for a lock, all others wait for the one slot there is."""


@dataclass(frozen=True)
class _Kind:
    """How rows of a table are made. `bad` are values that the database refuses; `mine` finds rows of neighbours."""

    mine: str
    values: Mapping[str, Callable[[int], object]]
    bad: Mapping[str, object] = field(default_factory=dict)


def _number(n: int) -> object:
    return n


def _text(n: int) -> object:
    return f"neighbour {n}"


# By the table as SQL names it. Rows of defaults in pings are all alike: one of them is as good as the other.
_KINDS = {
    "orders": _Kind("id >= 9000", {"id": _number}),  # before what they refer to
    "items": _Kind(
        "id >= 9000 or name like 'neighbour%'",
        {"id": _number, "name": _text, "qty": lambda n: n % 7, "note": _text},
        {"name": None, "qty": -1},
    ),
    "pings": _Kind("id > (select min(id) from pings)", {"id": _number, "kind": _text}),
    "tickets": _Kind("title like 'neighbour%'", {"id": _number, "title": _text}, {"title": None}),
    "devices": _Kind(
        "serial like 'neighbour%'",
        {"id": lambda n: str(UUID(int=n)), "serial": _text, "label": _text},
        {"serial": "SN-1"},
    ),
    "readings": _Kind(
        "device_no >= 9000", {"device_no": _number, "seq": _text, "value": lambda n: n / 8}, {"value": "warm"}
    ),
    "docs": _Kind("id >= 9000", {"id": _number, "data": lambda n: {"n": n}, "raw": lambda n: [n]}, {"id": "none"}),
    "kitchen": _Kind(
        "id >= 9000",
        {"id": _number, "price": lambda n: n, "big": _number, "small": lambda n: n % 7, "label": _text}
        | {"ts": lambda n: f"2024-05-06T07:08:09.{n}Z", "day": lambda _: "2024-05-06", "blob": lambda n: f"\\x{n:08x}"}
        | {"flag": lambda n: n % 2 == 0, "code": str, "mood": lambda _: "calm"},
        {"code": "too long", "small": "few", "ts": "later", "price": "much"},
    ),
    "rects": _Kind("id >= 9000", {"id": _number, "w": lambda n: n % 7, "h": lambda n: n % 5}, {"w": None}),
    "journal": _Kind("a like 'neighbour%'", {"a": _text, "b": _text}, {"b": "\0"}),
    '"Order Items"': _Kind(
        '"Order ID" >= 9000', {"Order ID": _number, "Line No": _number, "Qty": lambda n: n % 7}, {"Line No": None}
    ),
    "slots": _Kind("id >= 9000", {"id": _number, "pos": _number}, {"pos": 1}),
    "faults": _Kind("false", {"state": lambda _: "P0001", "message": _text}),
    "audit.events": _Kind("what like 'neighbour%'", {"id": _number, "what": _text}, {"what": None}),
    "audit.items": _Kind("id >= 9000", {"id": _number, "what": _text}, {"id": "none"}),
}


@dataclass(frozen=True)
class Company:
    """Neighbours of one request. `likes` have its target, headers and columns: its lane, if their rows can be read."""

    strangers: Sequence[Request]
    likes: Sequence[Request]

    @property
    def others(self) -> list[Request]:
        """All of them."""
        return [*self.strangers, *self.likes]


def company_of(request: Request, *, bad: bool) -> Company:
    """Neighbours for a request; some of them with rows that the database refuses, if that is wanted."""
    numbers = itertools.count(_FIRST)
    strangers = [stranger for stranger, is_bad in _strangers(numbers) if bad or not is_bad]
    columns = [None, *(_kind_of(request).bad if bad else ()), None]
    likes = [_like(request, numbers, bad=column) for column in columns]
    return Company(strangers, [like for like in likes if like is not None])


def _strangers(numbers: Iterator[int]) -> Iterator[tuple[Request, bool]]:
    """Requests of all kinds, and whether it is the database that refuses their rows.

    All know their tables and columns: a name that nobody knows waits until the catalog has been read again.
    """
    returning = {"Prefer": "return=representation"}
    for target, headers, values, is_bad in (
        ("/items", {}, {"name": "neighbour"}, False),
        ("/items?select=id,name", returning, {"name": "neighbour"}, False),
        ("/items", {"Prefer": "count=exact"}, {"name": "neighbour", "qty": 3, "note": None}, False),
        ("/items", {}, {"name": None}, True),
        ("/items", returning, {"name": "neighbour", "qty": -1}, True),
        ("/items", {"Content-Type": "image/png"}, {"name": "neighbour"}, False),
        ("/kitchen", returning, {"price": 1.5, "tags": ["a"]}, False),
        ("/kitchen", {}, {"code": "too long"}, True),
        ("/slots", {}, {"pos": 9000}, False),
        ("/slots", {}, {"pos": 1}, True),
        ("/orders", {}, {"item_id": 1, "amount": 2}, False),
        ("/orders", {}, {"item_id": 3}, True),
        ("/items", {"Content-Profile": "audit"}, {"what": "neighbour"}, False),
        ("/cheap_items", returning, {"name": "neighbour", "qty": 99}, False),
        ("/cheap_items", returning, {"name": "neighbour", "qty": 100}, True),
        ("/items?apikey=neighbour", {}, {"name": "neighbour"}, False),
        ("/faults", {}, {"state": "P0001", "message": "neighbour"}, True),
    ):
        yield Request(target, json.dumps({"id": next(numbers)} | values), headers), is_bad
    for prefer in ("resolution=merge-duplicates", "resolution=ignore-duplicates, return=headers-only"):
        rows = [{"id": next(numbers), "name": "neighbour"}]
        yield Request("/items", json.dumps(rows), {"Prefer": prefer}), False
    yield Request("/journal?columns=a,b", '[{"a":"neighbour"},{"a":"neighbour","b":"x","c":1}]', returning), False
    yield Request("/items", '{"name":"neighbour"'), False
    yield Request("/items", '{"id":1,"name":"neighbour"}'), True


def _kind_of(request: Request) -> _Kind:
    table = unquote(request.target.partition("?")[0])[1:]
    schema = request.headers.get("Content-Profile", "public")
    name = table if schema == "public" else f"{schema}.{table}"
    return _KINDS.get(f'"{name}"' if " " in name else name) or _Kind("false", {})


def _like(request: Request, numbers: Iterator[int], bad: str | None = None) -> Request | None:
    """The same request with other values; with a bad one in column `bad`, None if it does not have that column."""
    kind = _kind_of(request)
    if request.headers.get("Content-Type") == "application/x-www-form-urlencoded":
        number = next(numbers)
        fields = {
            key: kind.values[key](number) if key in kind.values else value for key, value in parse_qsl(request.body)
        }
        if bad is not None:
            if bad not in fields or kind.bad[bad] is None:
                return None
            fields[bad] = kind.bad[bad]
        return Request(request.target, urlencode(fields), request.headers)
    with suppress(ValueError):
        body = json.loads(request.body)
        rows = body if isinstance(body, list) else [body]
        if all(isinstance(row, dict) for row in rows):
            made = []
            for row, number in zip(rows, numbers, strict=False):
                made.append({key: kind.values[key](number) if key in kind.values else row[key] for key in row})
            if bad is not None:
                if not (made and bad in made[-1]):
                    return None
                made[-1][bad] = kind.bad[bad]
            return Request(request.target, json.dumps(made if isinstance(body, list) else made[0]), request.headers)
    return request if bad is None else None


async def together(running: Running, lock: Connection, request: Request, company: Company) -> list[Reply]:
    """What the request and the others are told, in this order, when they have waited together for the slot.

    The request comes after the strangers and before its likes, so that of those it is the first to be given keys.
    """
    statistics = running.service.batcher.statistics
    sent: list[asyncio.Task[Reply]] = []

    async def gather(*requests: Request) -> list[asyncio.Task[Reply]]:
        """Send requests, and see each of them waiting or answered."""
        tasks = [asyncio.create_task(send(running, each)) for each in requests]
        sent.extend(tasks)
        await running.eventually(
            lambda: statistics().waiting_submissions + sum([task.done() for task in sent]) == len(sent)
        )
        return tasks

    async with lock.transaction():
        await lock.execute("lock table only_keys in exclusive mode")
        gate = asyncio.create_task(send(running, GATE))
        await running.eventually(lambda: statistics().pending_submissions > statistics().waiting_submissions)
        strangers = await gather(*company.strangers)
        one = await gather(request)
        likes = await gather(*company.likes)
        waiting = statistics().waiting_submissions
    replies = await asyncio.gather(*one, *strangers, *likes)
    assert (await gate).status == 201
    assert waiting >= _WAITING_MIN
    return replies


async def state(db: Connection) -> dict[str, list[str]]:
    """The rows of all tables but those of neighbours, which are deleted. Of generated keys only the order is left."""
    for table, kind in _KINDS.items():
        await db.execute(f"delete from {table} where {kind.mine}")
    found = {}
    for table in _KINDS:
        by = _BY.get(table)
        rank = f"jsonb_build_object('id', rank() over (order by {by}))" if by else "'{}'"
        rows = await db.fetch(f"select (to_jsonb(t) - 'at' || {rank})::text from {table} t")
        found[table] = sorted([text for (text,) in rows])
    return found


# What says which row is which where keys are generated.
_BY = {"items": "id", "pings": "id", "tickets": "id", "audit.events": "id", "devices": "serial"}

_KEY = re.compile(
    r'("(?:id|key)": ?"?|\?id=eq\.|contains \(|^)(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+)', re.MULTILINE
)


def blurred(reply: Reply) -> Reply:
    """An answer without the generated keys in it, and without its length, which changes with them."""
    headers = [(name, value) for name, value in reply.headers if name != b"content-length"]
    return Reply(
        reply.status_line,
        tuple([(name, _blurred(value) if name == b"location" else value) for name, value in headers]),
        _blurred(reply.body),
    )


def _blurred(text: bytes) -> bytes:
    return _KEY.sub(r"\1KEY", text.decode()).encode()
