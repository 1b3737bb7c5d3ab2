"""The service's own account against that of its clients: what is read, and what counts as a disagreement."""

from __future__ import annotations

import json

import pytest

from bench.agreement import Account, compared, read_glance, read_metrics
from service.observing import metrics
from service.observing.counting import Counts

NOTHING = Account({}, {}, 0, (0, 0))


def _account(committed: int, rejected: int = 0, shed: int = 0, rows: int = 0) -> Account:
    requests = {"committed": committed, "rejected": rejected, "shed": shed}
    return Account(requests, {"committed": rows}, committed + rejected + shed, (0, 0))


def test_the_account_is_read_from_the_metrics() -> None:
    """A name that has changed would read as nothing counted, and agree with nobody."""
    counts = Counts(clock=lambda: 10.0)
    table = counts.table("public", 'a"b\\')
    counts.stored(table, 0, 5, 9.998, 0.001)
    counts.answered(table, "rejected", 2, 0.0)
    counts.numbers.received_requests = 3
    account = read_metrics(metrics.text(counts.numbers, None).decode())
    assert (account.requests, account.rows) == (
        {"committed": 1, "quarantined": 0, "rejected": 1},
        {"committed": 5, "quarantined": 0, "rejected": 2},
    )
    assert (account.received, account.unbalanced) == (3, (1, -7))
    assert [count for bound, count in account.buckets if bound in (0.0015, 0.003)] == [0, 1]


def test_the_account_is_read_from_a_glance() -> None:
    """It is what the dashboard and `headrace top` show."""
    glance = {
        "totals": {"committed": [1, 5], "shed": [2, 0]},
        "received_requests": 3,
        "unbalanced_requests": 0,
        "unbalanced_rows": 1,
    }
    account = read_glance(json.dumps(glance))
    assert account == Account({"committed": 1, "shed": 2}, {"committed": 5, "shed": 0}, 3, (0, 1))


@pytest.mark.parametrize(
    ("after", "answers", "stored", "off", "rows_off"),
    [
        (_account(5, 1, 1, rows=9), {"201": 5, "400": 1, "429": 1}, 9, 0, 0),
        (_account(5, 1, 1, rows=9), {"201": 5, "400": 1, "503": 1}, 8, 0, 1),
        (_account(6, rows=9), {"201": 5, "timeout": 1}, 9, 0, 0),
        (_account(5, shed=1, rows=9), {"201": 5, "timeout": 1}, 9, 0, 0),
        (_account(5, rows=9), {"201": 5, "connection": 1}, 9, 0, 0),
        (_account(6, rows=9), {"201": 5}, 9, 2, 0),
        (_account(4, rows=9), {"201": 5}, 9, 2, 0),
        (_account(5, rejected=1, rows=9), {"201": 5, "503": 1}, 9, 2, 0),
    ],
)
def test_disagreements_are_counted(
    after: Account, answers: dict[str, int], stored: int, off: float, rows_off: float
) -> None:
    """A request counts once among those received and once with its outcome; who has left may be any of them."""
    found = compared(NOTHING, after, answers, stored)
    assert (found["counted_off"], found["counted_rows_off"]) == (off, rows_off)


def test_what_was_before_the_run_does_not_count() -> None:
    """A server serves several scenarios, one after the other."""
    found = compared(_account(3, rows=3), _account(5, rows=9), {"201": 2}, 6)
    assert (found["counted_off"], found["counted_rows_off"]) == (0, 0)
