"""Hypothesis strategies that damage what is right, as a fuzzer does: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

NASTY_JSON = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b" ", b"\t", b"\0", b"\x1f", b"\x7f", b"\xff",
    b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", "ä".encode(), "😀".encode(),
    b"\\u0000", b"\\\\u0000", b"\\\\\\u0000", b"\\ud800", b"\\udc00", b"\\ud83d\\ude00", b"\\u", b"\\N", b"\\.", b"\\D",
    b"null", b"NULL", b"true", b"NaN", b"Infinity", b"-", b"-0", b"1e999", b"-1e-999", b"0.1", b"1.", b".1", b"01",
    b"9" * 40, b"9" * 400, b"9" * 5000, b"1e5", b"18446744073709551616", b"{}", b"[]", b"},{", b"}\n{", b'"},{"',
    b"[" * 7, b"[" * 2000, b'{"json":' * 50, b'"text":1,', b'"text":"x","text":"y"', b"\\t", b"\\n", b"''",
]  # fmt: skip
"""What parsers of JSON, COPY or arrays stumble over."""

NASTY_HTTP = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\x80", b"\xff", b":", b";",
    b"0\r\n\r\n", b"0", b"-1", b"+1", b"0x1", b"ffffffff", b"1" * 20, b"0" * 5000, b"9" * 25, b"1_0", b"%", b"%00",
    b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/1.1\r\n", b"Host: h\r\n", b"Host: h@x\r\n", b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 05\r\n", b"Content-Length: 99999999999\r\n", b"Content-Length :9\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: Chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n", b"transfer-encoding: chunked, chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, close\r\n", b"Prefer: respond-async\r\n", b"Prefer: return=representation, wait=0\r\n",
    b"Content-Type: application/x-ndjson\r\n", b"Content-Profile: none\r\n", b"X: " + b"y" * 1500 + b"\r\n",
    b"CONNECT h:1 HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", b"PUT ", b"GET ", b"POST ",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"1\r\nx\r\n", b";x=y", b"\r\n ", b"/", b"//", b"?", b"#", b"http://h/",
]  # fmt: skip
"""What parsers of HTTP stumble over."""


@st.composite
def mutated(draw: st.DrawFn, seeds: st.SearchStrategy[bytes], tokens: Sequence[bytes]) -> bytes:
    """A seed after up to five mutations: spliced, cut off, doubled in parts, bits flipped, tokens put in."""
    data = draw(seeds)
    for kind in draw(
        st.lists(st.sampled_from(["splice", "truncate", "double", "flip", "insert", "replace"]), max_size=5)
    ):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        match kind:
            case "splice":
                other = draw(seeds)
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
            case "truncate":
                data = data[:at]
            case "double":
                data = data[:to] + data[at:]
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.sampled_from(tokens)) + data[at:]
            case "replace":
                data = data[:at] + draw(st.sampled_from(tokens)) + data[to:]
    return data
