"""Fuzzing of connections: damaged requests, cut anywhere, told the same by both lanes.

`FUZZ_EXAMPLES=20000 pytest tests/service/test_fuzz_lanes.py` looks longer. What once broke it stays as an example.
"""

from __future__ import annotations

import asyncio
import os

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzzing import NASTY_HTTP, NASTY_JSON, mutated
from tests.service.in_process import GET, NOWHERE, ROW, chunked, in_process, post

fuzzed = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

_LINES = b"Content-Type: application/x-ndjson"
_SEEDS = st.sampled_from(
    [
        ROW,
        GET,
        NOWHERE,
        post(b'[{"a":"x"},{"a":"y"}]'),
        post(b'{"a":"x"}\n{"b":"y"}\n\r\n\r\n{}', _LINES),
        post(b'{"a":"x"}', b"Prefer: return=representation, wait=3"),
        post(b'{"a":"x"}', b"Prefer: respond-async", b"Connection: keep-alive"),
        post(b'{"a":"x"}', b"Expect: 100-continue"),
        post(b'{"a":"x"}', b"Connection: Upgrade", b"Upgrade: h2c"),
        post(b'{"a":"x"}', line=b"POST /rest/v1/t HTTP/1.0"),
        chunked(b'{"a":', b'"x"}'),
        chunked(b"\r\n\r\n", b'{"a":"x"}', b"\r\n\r\n", trailers=b"X: y\r\n"),
        chunked(b'{"a":"x"}\n', b"{}\n", line=b"POST /rest/v1/t HTTP/1.1\r\n" + _LINES),
        chunked(b"x", line=b"POST /nowhere HTTP/1.1"),
        b"\r\n\r\n" + ROW,
    ]
)
_REQUESTS = mutated(_SEEDS, [*NASTY_HTTP, *NASTY_JSON])
_CUTS = st.lists(st.integers(0, 3000), max_size=5)


def _pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[at:end] for at, end in zip([0, *ends], ends, strict=False) if at < end]


@fuzzed
@given(st.lists(_REQUESTS, min_size=1, max_size=3), _CUTS)
@example([post(b"{}").replace(b"Length: 2", b"Length: " + b"0" * 5000 + b"2")], [])
def test_the_lanes_tell_the_same_and_store_the_same(requests: list[bytes], cuts: list[int]) -> None:
    """One of them must not let in what the other one refuses; and neither may break, hang or leave anything behind."""
    data = b"".join(requests)

    async def main() -> None:
        told = []
        for lane in (True, False):
            async with in_process(fast_lane=lane, head_bytes_max=2000) as server:
                client = server.connect()
                for piece in _pieces(data, cuts):
                    await client.send(piece)
                    await client.quiet()
                replies = await client.quiet()
                told.append((bytes(client.transport.written), client.is_over(), list(server.sink.rows)))
                assert all(reply.status < 500 for reply in replies)
                await client.hang_up()
                await client.quiet()
                assert server.service.postings._arriving == set()
                assert server.service.batcher.statistics().pending_submissions == 0
                assert server.state.tasks == set()
                again = server.connect()
                await again.send(ROW)
                assert [reply.status for reply in await again.answered(1)] == [201]
                await again.hang_up()
        assert told[0] == told[1]

    asyncio.run(main())
