"""What is no HTTP, or could be read in two ways, is refused; what follows it is never taken for a request."""

from __future__ import annotations

import logging

import pytest

from tests.harness import Running
from tests.service.in_process import GET, ROW, chunked, in_process, post

_BODY = b'{"a":"x"}'
_CHUNKED = b"9\r\n" + _BODY + b"\r\n0\r\n\r\n"
_HEAD = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\n"


def _with(header: bytes, body: bytes = _BODY) -> bytes:
    return _HEAD + header + b"\r\n\r\n" + body


def _coded(coding: bytes) -> bytes:
    return _with(b"Transfer-Encoding: " + coding, _CHUNKED)


def _length(text: bytes) -> bytes:
    return _with(b"Content-Length: " + text)


def _sized(chunks: bytes) -> bytes:
    return _with(b"Transfer-Encoding: chunked", chunks)


REFUSED: dict[str, bytes] = {
    # Whose request is it? RFC 9112 section 3.2
    "no Host": post(_BODY, host=b"X: y"),
    "two Hosts": post(_BODY, b"Host: other"),
    "the same Host twice": post(_BODY, b"Host: h"),
    # How long is it? RFC 9112 section 6.3
    "length and coding": _with(b"Content-Length: 9\r\nTransfer-Encoding: chunked", _CHUNKED),
    "coding and length": _with(b"Transfer-Encoding: chunked\r\nContent-Length: 9", _CHUNKED),
    "coding and no length": _with(b"Transfer-Encoding: chunked\r\nContent-Length: 0", _CHUNKED),
    "two lengths": _with(b"Content-Length: 9\r\nContent-Length: 10"),
    "two lengths in one": _length(b"9, 10"),
    "the same length twice in one": _length(b"9, 9"),
    "length +9": _length(b"+9"),
    "length -9": _length(b"-9"),
    "length 0x9": _length(b"0x9"),
    "length 9.0": _length(b"9.0"),
    "length 5 5": _length(b"5 5"),
    "length with an underscore": _length(b"0_9"),
    "length with a vertical tab": _length(b"9\x0b"),
    "length in Arabic digits": _length("٩".encode()),
    "empty length": _length(b""),
    "endless length": _length(b"9" * 40),
    "length of 64 bits": _length(b"18446744073709551625"),
    "identity, chunked": _coded(b"identity, chunked"),
    "chunked, identity": _coded(b"chunked, identity"),
    "identity": _coded(b"identity"),
    "chunked, chunked": _coded(b"chunked, chunked"),
    "chunked twice": _with(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", _CHUNKED),
    "identity, then chunked": _with(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", _CHUNKED),
    "gzip, chunked": _coded(b"gzip, chunked"),
    "chunked, gzip": _coded(b"chunked, gzip"),
    "xchunked": _coded(b"xchunked"),
    "chunked;q=1": _coded(b"chunked;q=1"),
    '"chunked"': _coded(b'"chunked"'),
    "chunked with a vertical tab before": _coded(b"\x0bchunked"),
    "chunked with a vertical tab behind": _coded(b"chunked\x0b"),
    "chunked with a no-break space": _coded(b"chunked\xa0"),
    "chunked and a comma": _coded(b"chunked,"),
    "a comma and chunked": _coded(b", chunked"),
    "an empty coding": _coded(b""),
    "coding of HTTP/1.0": chunked(_BODY, line=b"POST /rest/v1/t HTTP/1.0"),
    # Chunks: RFC 9112 section 7.1
    "size +9": _sized(b"+" + _CHUNKED),
    "size -1": _sized(b"-1\r\n\r\n0\r\n\r\n"),
    "size 0x9": _sized(b"0x" + _CHUNKED),
    "size with a space before": _sized(b" " + _CHUNKED),
    "size with a space behind": _sized(b"9 \r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "size of nothing": _sized(b"\r\n" + _CHUNKED),
    "size of no number": _sized(b"nine\r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "size of more than 64 bits": _sized(b"1" + b"0" * 16 + b"9\r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "chunk with more than it says": _sized(b"8\r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "chunk without its line end": _sized(b"9\r\n" + _BODY + b"0\r\n\r\n"),
    "chunk lines that end in LF": _sized(_CHUNKED.replace(b"\r\n", b"\n")),
    "extension that ends in LF": _sized(b"9;x\n" + _BODY + b"\r\n0\r\n\r\n"),
    "extension with a control character": _sized(b"9;x\x00\r\n" + _BODY + b"\r\n0\r\n\r\n"),
    "trailer that is none": _sized(b"9\r\n" + _BODY + b"\r\n0\r\nno trailer\r\n\r\n"),
    # Lines: RFC 9112 sections 2.2, 5
    "lines that end in LF": ROW.replace(b"\r\n", b"\n"),
    "one line that ends in LF": _with(b"X: y\nContent-Length: 9"),
    "an empty line of LF": _HEAD + b"Content-Length: 9\r\n\n" + _BODY,
    "one line that ends in CR": _with(b"X: y\rContent-Length: 9"),
    "a folded line": _with(b"X: y\r\n z\r\nContent-Length: 9"),
    "a folded length": _with(b"Content-Length:\r\n 9"),
    "a folded first line": b"POST /rest/v1/t HTTP/1.1\r\n X: y\r\nHost: h\r\nContent-Length: 9\r\n\r\n" + _BODY,
    "a space before the colon": _with(b"Content-Length : 9"),
    "a tab before the colon": _with(b"Transfer-Encoding\t: chunked", _CHUNKED),
    "a line without a colon": _with(b"nonsense\r\nContent-Length: 9"),
    "a line without a name": _with(b": x\r\nContent-Length: 9"),
    "NUL in a value": _with(b"X: y\x00z\r\nContent-Length: 9"),
    "NUL in a name": _with(b"X\x00: y\r\nContent-Length: 9"),
    "a control character in a value": _with(b"X: \x01\r\nContent-Length: 9"),
    "DEL in a value": _with(b"X: \x7f\r\nContent-Length: 9"),
    "a letter in a name that is no ASCII": _with("Contént: x\r\nContent-Length: 9".encode()),
    "a bracket in a name": _with(b"Content[Length: 9\r\nContent-Length: 9"),
    # First lines: RFC 9112 section 3
    "HTTP/2.0": post(_BODY, line=b"POST /rest/v1/t HTTP/2.0"),
    "HTTP/1.2": post(_BODY, line=b"POST /rest/v1/t HTTP/1.2"),
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "no version": post(_BODY, line=b"POST /rest/v1/t"),
    "another protocol": post(_BODY, line=b"POST /rest/v1/t RTSP/1.0"),
    "a version in small letters": post(_BODY, line=b"POST /rest/v1/t http/1.1"),
    "a method in small letters": post(_BODY, line=b"post /rest/v1/t HTTP/1.1"),
    "a method that nobody knows": post(_BODY, line=b"POSTS /rest/v1/t HTTP/1.1"),
    "no method": post(_BODY, line=b"/rest/v1/t HTTP/1.1"),
    "no URL": post(_BODY, line=b"POST  HTTP/1.1"),
    "a space in the URL": post(_BODY, line=b"POST /rest/v1/t u HTTP/1.1"),
    "a control character in the URL": post(_BODY, line=b"POST /rest/v1/\x01 HTTP/1.1"),
    "letters in the URL that are no ASCII": post(_BODY, line="POST /rest/v1/ü HTTP/1.1".encode()),
    "a URL that begins with no slash": post(_BODY, line=b"POST rest/v1/t HTTP/1.1"),
    "a port that is none": post(_BODY, line=b"POST http://h:99999/rest/v1/t HTTP/1.1"),
    "a tunnel": b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tunnel to a table": post(_BODY, line=b"CONNECT /rest/v1/t HTTP/1.1"),
    "a tunnel with an upgrade": b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    # Other tongues
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(range(256)),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "NULs": bytes(64),
    "a row": _BODY,
}


@pytest.mark.parametrize("case", REFUSED)
async def test_it_is_refused_and_nothing_behind_it_is_looked_at(case: str, lane: str) -> None:
    """One answer in the usual form, the last of its connection: a request hidden behind must not be let in."""
    async with in_process(fast_lane=lane == "fast") as server:
        data = REFUSED[case] + ROW + GET
        for pieces in ([data], [bytes([byte]) for byte in data], [ROW + data]):
            server.sink.rows.clear()
            client = server.connect()
            await client.send(*pieces)
            replies = await client.quiet()
            good = int(pieces == [ROW + data])
            assert [reply.status for reply in replies] == [201] * good + [400]
            assert replies[-1].code == "HR400"
            assert replies[-1].closes
            assert client.is_over()
            await client.send(ROW)
            await client.quiet()
            assert server.sink.rows == ["x"] * good
            await client.hang_up()


async def test_what_looks_odd_but_is_right(lane: str) -> None:
    """Refusing too much would lock out honest clients."""
    odd = [
        _length(b"9 "),
        _length(b"\t 9"),
        _length(b"0009"),
        _coded(b"\tChunked"),
        _sized(b"009\r\n" + _BODY + b"\r\n000\r\n\r\n"),
        _sized(b"9;a=b;c\r\n" + _BODY + b"\r\n0\r\nTrailer: yes\r\n\r\n"),
        _with(b"X:\r\nY: \t\r\nContent-Length: 9"),
        _with("X: täb\tand ümlaut\r\nContent-Length: 9".encode()),
        post(_BODY, host=b"Host:"),
        post(_BODY, line=b"POST http://h:8000/rest/v1/t?x=eq.y HTTP/1.1"),
        post(_BODY, line=b"POST /rest/v1/%74 HTTP/1.1"),
        b"\r\n\r\n" + ROW,
    ]
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        for number, request in enumerate(odd, 1):
            await client.send(request)
            assert (await client.answered(number))[-1].status == 201, request
        assert server.sink.rows == ["x"] * len(odd)


async def test_the_refusal_arrives_although_the_client_sends_on(headrace: Running) -> None:
    """Closing at once would make the client's kernel throw the answer away."""
    for garbage in (b"nonsense\r\n\r\n", REFUSED["TLS"], REFUSED["length and coding"]):
        async with headrace.connect() as client:
            await client.send(garbage)
            await client.send(*[bytes(100_000)] * 20)
            (reply,) = await client.all()
            assert (reply.status, reply.code, reply.closes) == (400, "HR400", True)


async def test_garbage_is_no_error_of_ours(lane: str, caplog: pytest.LogCaptureFixture) -> None:
    """Anybody can send it at any rate: it is no more than a remark, and says where it came from."""
    caplog.set_level(logging.INFO)
    async with in_process(fast_lane=lane == "fast") as server:
        client = server.connect()
        await client.send(REFUSED["TLS"])
        await client.quiet()
    assert [record.levelname for record in caplog.records if record.levelno >= logging.INFO] == ["INFO"]
    assert "127.0.0.1" in caplog.text
    assert "Traceback" not in caplog.text
