"""The laws of the batcher, for random courses of events in virtual time."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from batching import Batcher, FlushCut, Limits, NotQueued, Statistics
from tests.batching import virtual_time
from tests.batching.fake_sink import FakeSink, batcher_of, refuse

ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(1, 4), st.floats(0.1, 5)),
    st.tuples(st.just("sleep"), st.floats(0, 2)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("slow"), st.floats(0, 3)),
    st.tuples(st.just("break"), st.booleans(), st.booleans()),
    st.tuples(st.just("doubt"), st.lists(st.sampled_from(["all", "part", "none"]), min_size=1, max_size=4)),
    st.tuples(st.just("trouble"), st.frozensets(st.integers(0, 40), max_size=5), st.integers(1, 4)),
)


@settings(max_examples=300, deadline=None)
@given(
    actions=st.lists(ACTIONS, max_size=40),
    slots=st.integers(1, 3),
    bad=st.frozensets(st.integers(0, 40), max_size=5),
    drain=st.floats(0, 20),
    doubt_seconds=st.floats(0.1, 20),
)
def test_the_laws_hold_whatever_happens(
    actions: list[tuple[object, ...]], slots: int, bad: frozenset[int], drain: float, doubt_seconds: float
) -> None:
    """Success means stored exactly once, refusal not stored; everybody is answered, in order, within limits."""

    async def main() -> None:
        sinks = [FakeSink() for _ in range(slots)]
        for sink in sinks:
            sink.bad = frozenset(b"%d" % number for number in bad)
        limits = Limits(
            batch_rows_max=6, batch_bytes_max=20, pending_rows_max=30, pending_bytes_max=40, small_rows_max=2
        )
        clients: list[asyncio.Task[object]] = []
        batcher = batcher_of(*sinks, limits=limits, doubt_seconds=doubt_seconds)
        async with batcher.running(drain_seconds=drain):
            for action in actions:
                await act(action, batcher, clients, sinks)
                pending = batcher.statistics()
                assert pending.pending_rows <= limits.pending_rows_max
                assert pending.pending_bytes <= limits.pending_bytes_max
        await asyncio.sleep(0)  # the clients' tasks take up their answers
        check(clients, sinks)
        assert batcher.statistics() == Statistics(0, 0, 0, 0, 0, 0, 0)

    virtual_time.run(main())


async def act(
    action: tuple[object, ...], batcher: Batcher, clients: list[asyncio.Task[object]], sinks: list[FakeSink]
) -> None:
    """Let one event happen. Client number n writes the payload n."""
    match action:
        case ("write", str(lane), int(rows), float(seconds)):
            payload = b"%d" % len(clients)
            clients.append(asyncio.create_task(batcher.write(lane, payload, rows, timeout_seconds=seconds)))
        case ("sleep", float(seconds)):
            await asyncio.sleep(seconds)
        case ("cancel", int(number)) if number < len(clients):
            clients[number].cancel()
        case ("slow", float(seconds)):
            sinks[0].seconds = seconds
        case ("break", bool(writes), bool(opens)):
            sinks[-1].fail = refuse if writes else None
            sinks[-1].fail_open = opens
        case ("doubt", list(doubts)):
            sinks[-1].doubts = list(doubts)
        case ("trouble", frozenset(numbers), int(times)):
            for sink in sinks:
                sink.trouble.update({b"%d" % number: times for number in numbers})


def check(clients: list[asyncio.Task[object]], sinks: list[FakeSink]) -> None:
    """The laws, for what the clients were told and what the sinks hold."""
    stored = [payload for sink in sinks for _, payload in sink.stored]
    assert len(stored) == len(set(stored)), "nothing twice"
    for number, client in enumerate(clients):
        payload = b"%d" % number
        assert client.done(), "everybody is answered"
        error = None if client.cancelled() else client.exception()
        if client.cancelled() or isinstance(error, FlushCut):
            continue  # stored or not: nobody was told either
        if error is None:
            assert client.result() == payload, "its own result"
            assert payload in stored
        else:
            assert isinstance(error, NotQueued) or error.args == (payload,), "its own error"
            assert payload not in stored
    if len(sinks) == 1:
        for lane in "abc":
            order = [
                int(payload) for key, payload in sinks[0].stored if key == lane and payload not in sinks[0].trouble
            ]
            assert order == sorted(order), "in order of arrival within a lane, but for what was in trouble"
