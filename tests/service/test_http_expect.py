"""`Expect: 100-continue`: a client that asks before it sends must be told at once, and only if its body is wanted."""

from __future__ import annotations

import pytest

from tests.service.in_process import NOWHERE, ROW, chunked, in_process, post

_BODY = b'{"a":"x"}'
_EXPECT = b"Expect: 100-continue"


def _head(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _expecting(request: bytes) -> bytes:
    return _head(request)[:-2] + _EXPECT + b"\r\n\r\n"


WANTED = {
    "fixed length": (_expecting(ROW), _BODY),
    "chunked": (_expecting(chunked(_BODY)), b"9\r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "in other letters": (_head(post(_BODY, b"EXPECT:\t100-Continue")), _BODY),
}

REFUSED = {
    "too large": (post(bytes(2000), _EXPECT), 413),
    "a wrong type": (post(_BODY, _EXPECT, b"Content-Type: text/xml"), 400),
    "a wrong schema": (post(_BODY, _EXPECT, b"Content-Profile: other"), 406),
    "no such path": (_expecting(NOWHERE), 404),
    "a wrong method": (post(_BODY, _EXPECT, line=b"PUT /rest/v1/t HTTP/1.1"), 405),
}


@pytest.mark.parametrize("case", WANTED)
async def test_the_client_is_told_to_go_on(case: str, lane: str) -> None:
    """Until then it sends nothing; curl waits a second for it with each body of more than a megabyte."""
    head, body = WANTED[case]
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(head)
        assert await client.quiet() == []
        assert bytes(client.transport.written) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body + ROW)
        assert [reply.status for reply in await client.answered(2)] == [201, 201]
        assert bytes(client.transport.written).count(b"100 Continue") == 1
        assert server.sink.rows == ["x", "x"]


@pytest.mark.parametrize("case", REFUSED)
async def test_the_client_is_told_before_it_has_sent_anything(case: str, lane: str) -> None:
    """That is what it asks for. What comes next may be its body or its next request: nobody can tell, so we close."""
    request, status = REFUSED[case]
    async with in_process(fast_lane=lane == "fast", body_bytes_max=1000) as server:
        client = server.connect()
        await client.send(_head(request))
        replies = await client.quiet()
        assert b"100 Continue" not in client.transport.written
        assert [reply.status for reply in replies] == [status]
        assert replies[0].closes
        assert client.is_over()
        await client.send(ROW)
        assert len(await client.quiet()) == 1
        assert server.sink.rows == []


@pytest.mark.parametrize("case", ["a wrong type", "too large", "a wrong schema"])
async def test_a_refusal_is_the_same_in_both_lanes(case: str) -> None:
    """A body that has come along unasked changes the answer in neither lane, or in both."""
    request, _ = REFUSED[case]
    answers = []
    for fast_lane in (True, False):
        async with in_process(fast_lane=fast_lane, body_bytes_max=1000) as server:
            client = server.connect()
            await client.send(request)
            answers.append(await client.quiet())
    assert answers[0] == answers[1]


async def test_clients_of_http_1_0_are_told_nothing(lane: str) -> None:
    """They do not know interim responses, and would take one for the answer."""
    for line in (b"POST /rest/v1/t HTTP/1.0", b"POST /nowhere HTTP/1.0"):
        async with in_process(fast_lane=lane == "fast") as server:
            client = server.connect()
            await client.send(_head(post(_BODY, _EXPECT, line=line)))
            await client.quiet()
            assert b"100 Continue" not in client.transport.written
            await client.send(_BODY)
            assert [reply.status for reply in await client.quiet()] == [201 if b"rest" in line else 404]


async def test_who_sends_a_broken_body_along_is_told_only_that(lane: str) -> None:
    """The refusal is the last word on the connection: no 100 may follow it, and nothing is left behind."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(_head(_expecting(chunked(_BODY))) + b"no size\r\n")
        assert [reply.status for reply in await client.quiet()] == [400]
        assert b"100 Continue" not in client.transport.written
        await client.hang_up()
        await client.quiet()
        assert server.service.postings._arriving == set()
        assert server.state.tasks == set()


async def test_other_expectations_are_ignored(lane: str) -> None:
    """RFC 9110 section 10.1.1 lets a server; nobody sends them."""
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(post(_BODY, b"Expect: a miracle"))
        assert [reply.status for reply in await client.answered(1)] == [201]
        assert b"100 Continue" not in client.transport.written
