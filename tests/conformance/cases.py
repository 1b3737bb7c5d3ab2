"""The cases: read from cases.toml, sent as bytes, and what an answer lacks of what a case expects."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec

from tests.harness import Reply, Running

HERE = Path(__file__).parent


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A POST. `target` is its path and query as they are sent."""

    target: str
    body: str = ""
    headers: dict[str, str] = {}

    @property
    def raw(self) -> bytes:
        """All of it."""
        body = self.body.encode()
        headers = {"Host": "h", "Content-Type": "application/json"} | self.headers | {"Content-Length": str(len(body))}
        lines = [f"POST {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        return "\r\n".join(lines).encode() + body


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must come back. cases.toml says what each of these means."""

    status: int
    headers: dict[str, str] = {}
    without: list[str] = []
    text: str | None = None
    json: str | None = None
    among: str | None = None


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query, and the rows that it must give, as JSON."""

    sql: str
    rows: str


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One case. `settings` are the service's, beside those that all cases have."""

    about: str
    request: Request
    answer: Answer
    stored: Stored | None = None
    settings: dict[str, bool] = {}


def load() -> dict[str, Case]:
    """All cases by name. A word that means nothing is an error: what it stands for would not be looked at."""
    text = (HERE / "cases.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Case])


async def send(running: Running, request: Request) -> Reply:
    """What is answered to a request, on a connection of its own."""
    async with running.connect() as connection:
        await connection.send(request.raw)
        return await connection.next()


def shown(request: Request, reply: Reply) -> str:
    """Both, for someone who looks for what is wrong."""
    sent = "\n".join([f"  > {line}" for line in request.raw.decode().split("\r\n")])
    lines = [reply.status_line, *(name + b": " + value for name, value in reply.headers), b"", reply.body]
    return sent + "\n" + "\n".join([f"  < {line.decode('utf-8', 'replace')}" for line in lines])


def complaints(answer: Answer, reply: Reply) -> Iterator[str]:
    """What is wrong with a reply, nothing if it is as expected."""
    headers = {name.decode().lower(): value.decode() for name, value in reply.headers}
    if reply.status != answer.status:
        yield f"the status is {reply.status}, not {answer.status}"
    for name, value in answer.headers.items():
        if headers.get(name.lower()) != value:
            yield f"{name} is {headers.get(name.lower())!r}, not {value!r}"
    for name in answer.without:
        if name.lower() in headers:
            yield f"{name} is {headers[name.lower()]!r} and should not be there"
    text = reply.body.decode()
    if answer.text is not None and text != answer.text:
        yield f"the body is {text!r}, not {answer.text!r}"
    json_expected, exact = (answer.among, False) if answer.json is None else (answer.json, True)
    if json_expected is not None:
        try:
            found = _value(text)
        except ValueError as error:
            yield f"the body is no JSON: {error}"
        else:
            yield from differences(_value(json_expected), found, exact=exact)


def rows_wrong(stored: Stored, rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """What is wrong with the rows that the query gave."""
    for difference in differences(_value(stored.rows), [list(row) for row in rows]):
        yield f"{stored.sql}: {difference}"


def differences(expected: object, actual: object, at: str = "", *, exact: bool = True) -> Iterator[str]:
    """Where two JSON values differ, each place in words.

    Not `exact`: objects may have more keys than expected, and {"matches": …} stands for a text that is found by it.
    """
    here = at or "it"
    if isinstance(expected, dict) and not exact and set(expected) == {"matches"}:
        if not (isinstance(actual, str) and re.search(expected["matches"], actual)):
            yield f"{here} is {_brief(actual)} and does not match {expected['matches']}"
    elif isinstance(expected, dict) and isinstance(actual, dict):
        yield from (f"{here} lacks {key!r}" for key in expected if key not in actual)
        if exact:
            yield from (f"{here} has {key!r} and should not" for key in actual if key not in expected)
        for key in expected.keys() & actual.keys():
            yield from differences(expected[key], actual[key], f"{at}[{key!r}]", exact=exact)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for number, pair in enumerate(zip(expected, actual, strict=True)):
            yield from differences(*pair, f"{at}[{number}]", exact=exact)
    elif _kind(expected) != _kind(actual) or expected != actual:
        yield f"{here} is {_brief(actual)}, not {_brief(expected)}"


def _kind(value: object) -> type:
    """To Python, true is 1; to JSON it is not."""
    return Decimal if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else type(value)


def _brief(value: object) -> str:
    return f"{value}" if isinstance(value, Decimal) else repr(value)


def _value(text: str) -> object:
    """A JSON value, its numbers exact. Raises `ValueError`, for a key that is there twice as well."""
    return cast("object", json.loads(text, parse_float=Decimal, object_pairs_hook=_object))


def _object(pairs: Sequence[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key is there twice: {[key for key, _ in pairs]}")
    return found
