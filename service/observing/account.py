"""What is told of a request to store rows, alike in log lines and in spans: its names, its times, what became of it.

Owns what these fields are called, and in which units they are. Pure: must not know who writes them down.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from service.problems import Answer, Problem
from sql import Fault

if TYPE_CHECKING:
    from service.observing.numbers import Outcome
    from service.posting import Posting


class Traced(Protocol):
    """The span of a request, as far as others than the tracer know it."""

    @property
    def trace_id(self) -> str:
        """By which it is found."""


def names_of(posting: Posting) -> dict[str, object]:
    """By what a request is found again: its table, who sent it, its id, its trace; whatever of these there is."""
    span, producer = posting.span, posting.account
    names = {
        "table": posting.table_name,
        "producer": "" if producer is None else producer.name,
        "request_id": posting.marks.name,
        "trace_id": "" if span is None else span.trace_id,
    }
    return {name: value for name, value in names.items() if value}


def times_of(posting: Posting, now: float) -> dict[str, object]:
    """How long it took in seconds to have the rows (they arrive, are read, wait for a newer catalog), how long they
    waited and were written then, and with how many others; as far as it came to that.

    It is about a request of which is known what became of it, `now` on the batcher's clock.
    """
    if not posting.is_submitted:
        return {}
    flush = posting.flush
    read_seconds = rounded(posting.since - posting.began)
    if flush is None:
        return {"read_seconds": read_seconds, "queue_seconds": rounded(now - posting.since)}
    return {
        "read_seconds": read_seconds,
        "queue_seconds": rounded(flush.began - posting.since),
        "write_seconds": rounded(flush.seconds),
        "batch_rows": flush.rows,
        "batch_requests": flush.submissions,
    }


def rounded(seconds: float) -> float:
    """To the microsecond; what is longer only makes lines longer."""
    return max(0.0, round(seconds, 6))


def code_in(headers: Iterable[tuple[str, str]]) -> str:
    """The code of the refusal with these headers; "" of a success."""
    return next((value.rpartition("error=")[2] for name, value in headers if name == "proxy-status"), "")


def outcome_of(answer: Answer, rows: int) -> Outcome | None:
    """What became of a request with so many rows, to which this is the answer; None if that does not tell."""
    headers = dict(answer.headers)
    if answer.status >= 400:
        return Problem(answer.status, Fault(code_in(answer.headers), "")).outcome
    if answer.status == 202:
        return None
    if "idempotency-replayed" in headers:
        return "replayed"
    if headers.get("headrace-quarantined") == str(rows):
        return "quarantined"
    return "rolled_back" if "tx=rollback" in headers.get("preference-applied", "") else "committed"
