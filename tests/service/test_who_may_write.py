"""Credentials through both lanes: who is refused is told why, and nothing of his is stored."""

from __future__ import annotations

import asyncio

import pytest

from sql import Extra, Fault, Rejected, Stored, TableChanged
from tests.harness import requests_by_outcome
from tests.service import in_process as in_process_module
from tests.service.fake_proof import FakeProof, principal
from tests.service.in_process import Client, InProcess, chunked, in_process, post

BODY = b'{"a":"x"}'


def with_token(name: str, *headers: bytes, body: bytes = BODY) -> bytes:
    """A request of that producer."""
    return post(body, f"Authorization: Bearer {name}".encode(), *headers)


async def answers(client: Client, *requests: bytes) -> list[tuple[int, str]]:
    """Status and code of the answers, one after the other; the code is "" of a success."""
    found = []
    for number, request in enumerate(requests, 1):
        await client.send(request)
        reply = (await client.answered(number))[number - 1]
        found.append((reply.status, reply.code if reply.status >= 400 else ""))
    return found


def stored(server: InProcess) -> int:
    """How many rows the sink has."""
    return len(server.sink.rows)


async def test_who_is_refused_stores_nothing(lane: str) -> None:
    """The refusal comes before anything is read of the rows."""
    proof = FakeProof(principal("device", "public.t"), principal("guest", "public.u"))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        client = server.connect()
        assert await answers(
            client,
            post(BODY),
            with_token("nobody"),
            with_token("guest"),
            with_token("device", b"Prefer: return=representation"),
            with_token("device"),
            post(BODY, b"apikey: device"),
        ) == [(401, "PGRST302"), (401, "PGRST302"), (403, "42501"), (403, "42501"), (201, ""), (201, "")]
        assert stored(server) == 2


async def test_a_refusal_says_how_to_prove_who_one_is(lane: str) -> None:
    """RFC 9110 section 15.5.2; a 403 must not, since proving it again would not help."""
    proof = FakeProof(principal("device"))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(post(BODY))
        await client.send(with_token("device"))
        anonymous, known = await client.answered(2)
        assert (b"www-authenticate", b"Bearer") in anonymous.headers
        assert not [name for name, _ in known.headers if name == b"www-authenticate"]


async def test_a_large_body_of_somebody_unknown_is_not_read(lane: str) -> None:
    """Else strangers could take memory and time."""
    async with in_process(proof=FakeProof(principal("device", "*")), fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n", b"[")
        reply = (await client.answered(1))[0]
        assert (reply.status, reply.closes) == (401, True)


async def test_chunks_of_somebody_unknown_are_refused(lane: str) -> None:
    """The other way for a body to come."""
    async with in_process(proof=FakeProof(principal("device", "*")), fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(chunked(BODY))
        assert (await client.answered(1))[0].status == 401
        assert stored(server) == 0


async def test_who_sends_the_same_head_again_is_not_looked_at_again() -> None:
    """That is what makes it cheap: the head, with its token, is known to the byte."""
    proof = FakeProof(principal("device", "*"))
    async with in_process(proof=proof) as server:
        client = server.connect()
        assert await answers(client, *[with_token("device")] * 5) == [(201, "")] * 5
        assert proof.asked == 1


async def test_what_is_known_is_forgotten_when_credentials_change() -> None:
    """A key that was revoked must not go on writing because its head is known."""
    proof = FakeProof(principal("device", "*"))
    async with in_process(proof=proof) as server:
        client = server.connect()
        await answers(client, with_token("device"))
        del proof.principals["device"]
        server.service.heads.forget()
        await client.send(with_token("device"))
        assert (await client.answered(2))[1].status == 401


async def test_a_head_that_is_known_from_this_machine_is_not_let_in_from_elsewhere(lane: str) -> None:
    """The same bytes mean something else on another address, where nobody may write without a credential."""
    async with in_process(proof=FakeProof(), fast_lane=lane == "fast") as server:
        assert await answers(server.connect(), post(BODY), post(BODY)) == [(201, "")] * 2
        assert await answers(server.connect("192.0.2.1"), post(BODY)) == [(401, "PGRST302")]


async def test_a_producer_leaves_room_for_others(lane: str) -> None:
    """One that sends without end takes its share of the queue, and no more."""
    proof = FakeProof(principal("greedy", "*", queue_share=0.5), principal("modest", "*"))
    async with in_process(proof=proof, fast_lane=lane == "fast", pending_rows_max=8) as server:
        server.sink.gate.clear()
        greedy = [server.connect() for _ in range(5)]
        for client in greedy:
            await client.send(with_token("greedy"))
        assert [(reply.status, reply.code) for reply in await greedy[4].answered(1)] == [(429, "HR428")]
        modest = server.connect()
        await modest.send(with_token("modest"))
        server.sink.gate.set()
        assert (await modest.answered(1))[0].status == 201
        assert [(await client.answered(1))[0].status for client in greedy[:4]] == [201] * 4
        assert await answers(server.connect(), with_token("greedy")) == [(201, "")], "its share is free again"


async def test_bodies_on_their_way_count_for_the_share(lane: str) -> None:
    """Else a producer could take all memory with bodies that it never ends."""
    proof = FakeProof(principal("greedy", "*", queue_share=0.1), principal("modest", "*"))
    async with in_process(proof=proof, fast_lane=lane == "fast", pending_bytes_max=4_000_000) as server:
        head = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\nContent-Length: 300000\r\n\r\n["
        first, second, fine = server.connect(), server.connect(), server.connect()
        for client, name in ((first, b"greedy"), (second, b"greedy"), (fine, b"modest")):
            await client.send(head % name, *[b" " * 60_000] * 4)
        ends = []
        for client in (first, second, fine):
            await client.send(b" " * (300_000 - 4 * 60_000 - 2), b"]")
            ends += await client.answered(1)
        assert [reply.status for reply in ends] == [201, 429, 201]
        assert ends[1].code == "HR428"


async def test_a_producer_writes_no_faster_than_it_may(lane: str) -> None:
    """It is told when it may go on, and nobody else is held up."""
    proof = FakeProof(principal("slow", "*", rows_per_second=0.001), principal("other", "*"))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        client = server.connect()
        assert await answers(client, with_token("slow"), with_token("slow"), with_token("other")) == [
            (201, ""),
            (429, "HR427"),
            (201, ""),
        ]
        retry = dict(client.replies[1].headers)[b"retry-after"]
        assert int(retry) > 0
        assert stored(server) == 2


async def test_rows_that_were_promised_are_not_lost_to_a_limit(lane: str) -> None:
    """A 202 is kept: a limit refuses before the promise, and never after it."""
    proof = FakeProof(principal("slow", "*", rows_per_second=0.001))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        promised = with_token("slow", b"Prefer: respond-async")
        assert await answers(server.connect(), promised, promised) == [(202, ""), (429, "HR427")]


async def test_the_database_refuses_somebody_known_with_403(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PostgREST has it: 401 asks for a proof, which has been given."""
    denied = Rejected(Fault("42501", "permission denied for table t"))
    monkeypatch.setattr("tests.service.in_process._outcome", lambda *_: denied)
    async with in_process(proof=FakeProof(principal("device", "*")), fast_lane=lane == "fast") as server:
        assert await answers(server.connect(), with_token("device")) == [(403, "42501")]
    async with in_process(proof=FakeProof(), fast_lane=lane == "fast") as server:
        assert await answers(server.connect(), post(BODY)) == [(401, "42501")]


async def test_keys_of_different_producers_are_different_keys(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one could block the other, or read what he was answered."""
    keys = []

    def outcome(_text: str, extra: Extra | None) -> Stored:
        assert extra is not None
        assert extra.key is not None
        keys.append(extra.key.text)
        return Stored(None)

    monkeypatch.setattr("tests.service.in_process._outcome", outcome)
    proof = FakeProof(principal("one", "*"), principal("other", "*"))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        requests = [with_token(name, b"Idempotency-Key: k") for name in ("one", "other", "one")]
        assert await answers(server.connect(), *requests) == [(201, "")] * 3
    assert len(set(keys)) == 2


async def test_a_body_that_can_never_fit_is_not_to_be_sent_again(lane: str) -> None:
    """413, not 429: a client would try for ever."""
    proof = FakeProof(principal("small", "*", queue_share=0.001))
    async with in_process(proof=proof, fast_lane=lane == "fast", pending_bytes_max=10_000_000) as server:
        body = b'{"a":"' + b"x" * 20_000 + b'"}'
        assert await answers(server.connect(), with_token("small", body=body)) == [(413, "HR413")]
        client = server.connect()
        await client.send(chunked(body).replace(b"Host: h", b"Host: h\r\napikey: small", 1))
        reply = (await client.answered(1))[0]
        assert (reply.status, reply.code) == (413, "HR413")


@pytest.mark.parametrize("prefer", ["return=minimal", "respond-async"])
async def test_rows_that_are_written_again_count_once(lane: str, prefer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table was changed meanwhile, which is not the producer's doing; and a promise is a promise."""
    outcomes = iter([TableChanged("a column was added")])
    real = in_process_module._outcome
    monkeypatch.setattr(
        "tests.service.in_process._outcome", lambda text, extra: next(outcomes, None) or real(text, extra)
    )
    proof = FakeProof(principal("slow", "*", rows_per_second=0.001))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        ((status, _),) = await answers(server.connect(), with_token("slow", b"Prefer: " + prefer.encode()))
        assert status == (202 if prefer == "respond-async" else 201)
        while requests_by_outcome(server.service)["committed"] < 1:  # noqa: ASYNC110 - a 202 is answered before
            await asyncio.sleep(0)


async def test_bad_rows_count_for_the_rate(lane: str) -> None:
    """They are kept in a table, which they would fill."""
    proof = FakeProof(principal("slow", "*", rows_per_second=2))
    async with in_process(proof=proof, fast_lane=lane == "fast") as server:
        lines = b'{"a":"x"}\n' + b'{"nope":1}\n' * 20
        spoilt = with_token("slow", b"Content-Type: application/x-ndjson", b"Prefer: bad-rows=quarantine", body=lines)
        client = server.connect()
        assert await answers(client, spoilt, with_token("slow")) == [(201, ""), (429, "HR427")]
        assert int(dict(client.replies[1].headers)[b"retry-after"]) > 5
