"""The realistic scenario: what its clients send, and how their endings are judged."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from bench.realistic import KINDS, Ending, Plan, judged, percentiles, planned, violations
from bench.scenarios import tables
from tests.bench.runs import RUN

_PLANS = [planned(number, tables(50), 0.02) for number in range(4000)]


def _rows(plan: Plan) -> list[dict[str, object]]:
    """The rows of a request."""
    head, _, body = plan.request.partition(b"\r\n\r\n")
    if b"ndjson" in head:
        return [json.loads(line) for line in body.splitlines()]
    rows = json.loads(body)
    return rows if isinstance(rows, list) else [rows]


def test_requests_are_mixed_as_they_should_be() -> None:
    """The mix is what makes the scenario realistic."""
    counts = Counter(len(plan.ids) for plan in _PLANS)
    assert {rows: round(counts[rows] / len(_PLANS), 1) for _, rows, _ in KINDS} == {1: 0.7, 20: 0.2, 200: 0.1}
    assert 0.01 < sum(plan.bad for plan in _PLANS) / len(_PLANS) < 0.03
    assert len({plan.request.split(b" ", 2)[1] for plan in _PLANS}) == 50


def test_every_row_has_a_name_of_its_own() -> None:
    """Only so it is known of each whether it is there."""
    ids = [device_id for plan in _PLANS for device_id in plan.ids]
    assert len(set(ids)) == len(ids)


def test_a_request_is_the_same_each_time() -> None:
    """Runs are compared with each other."""
    assert planned(7, tables(50), 0.02) == _PLANS[7]


def test_a_bad_request_has_one_bad_row() -> None:
    """The others of its rows must not be stored because of it."""
    bad = [plan for plan in _PLANS if plan.bad]
    assert bad
    for plan in bad:
        rows = _rows(plan)
        spoilt = [row for row in rows if row["humidity"] == "hot" or row["ts"] is None or "\0" in str(row["device_id"])]
        assert (len(rows), len(spoilt)) == (len(plan.ids), 1)


def test_good_requests_have_none() -> None:
    """They must all be acknowledged in the end."""
    good = next(plan for plan in _PLANS if not plan.bad and len(plan.ids) == 20)
    assert [row["device_id"] for row in _rows(good)] == list(good.ids)


def _ending(ids: str, status: int, *, bad: bool = False, due: float = 0, seconds: float = 1) -> Ending:
    return Ending(Plan(tuple(ids), bad, b""), due, seconds, status, attempts=1)


def test_rows_are_counted_by_what_their_clients_were_told() -> None:
    """One of each: stored, lost, stored twice, given up, refused, stored though bad."""
    endings = [
        _ending("ab", 201),
        replace(_ending("cd", 201), attempts=3),
        _ending("e", 0),
        _ending("f", 400, bad=True),
        _ending("g", 400, bad=True),
    ]
    details = judged(endings, list("abcc" + "g"))
    assert details == {
        "acknowledged_rows": 4,
        "missing_rows": 1,
        "bad_requests": 2,
        "bad_acknowledged": 0,
        "bad_rows_stored": 1,
        "given_up": 1,
        "stored_twice_rows": 1,
        "retries": 2,
    }


def test_lost_rows_and_stored_bad_ones_are_violations() -> None:
    """They end the benchmark with an error."""
    details = judged([_ending("a", 201), _ending("b", 400, bad=True)], ["b"])
    assert violations(replace(RUN, details=details)) == [
        "one-64, headrace, round 1: 1 acknowledged rows are not in their tables",
        "one-64, headrace, round 1: 1 rows of requests with a bad row are stored",
    ]
    assert violations(replace(RUN, details=judged([_ending("a", 201)], ["a"]))) == []


@pytest.mark.parametrize(("due", "phase"), [(0.9, "before"), (1.0, "during"), (2.9, "during"), (3.0, "after")])
def test_a_request_belongs_to_the_phase_in_which_it_began(due: float, phase: str) -> None:
    """Its client waits through what comes then."""
    found = percentiles([_ending("a", 201, due=due, seconds=0.25), _ending("b", 0, due=due, seconds=9)], (1.0, 3.0))
    assert found[f"{phase}_p99_ms"] == 250
    assert sum(found.values()) == 500
