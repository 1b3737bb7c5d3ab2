"""What wrk and oha print, as numbers."""

from __future__ import annotations

import json

import pytest

from bench.drivers import HINTS, DriverError, Drivers, read_oha, read_wrk, version_in

_WRK = """\
Running 2s test @ http://127.0.0.1:8000
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    11.02ms    4.10ms  61.90ms   83.20%
  9740 requests in 2.02s, 1.20MB read
{"microseconds": 2020000, "requests": 9740, "status": 40, "connect": 0, "read": 3, "write": 0, "timeout": 0, \
"p50": 10600, "p90": 15000, "p99": 61900, "p999": 61950, "max": 62000}
"""


def test_wrk_counts_what_was_answered_with_success() -> None:
    """A refusal is quick: counted as a request it would make the service look faster the more it refuses."""
    load = read_wrk(_WRK)
    assert load.ok == 9700
    assert load.errors == {"not 2xx": 40, "read": 3}
    assert load.per_second == pytest.approx(9700 / 2.02)
    assert (load.latency.p50, load.latency.p999, load.latency.max) == (10.6, 61.95, 62.0)


def test_oha_counts_by_status() -> None:
    """Its errors are requests without any answer; they are not to be lost between the statuses."""
    percentiles = {"p50": 0.001, "p90": 0.002, "p99": 0.0035, "p99.9": 0.004, "p99.99": 0.005}
    output = {
        "summary": {"total": 4.0, "slowest": 0.0055},
        "latencyPercentiles": percentiles,
        "statusCodeDistribution": {"201": 100, "429": 7},
        "errorDistribution": {"connection refused": 2},
    }
    load = read_oha(json.dumps(output))
    assert (load.ok, load.errors) == (100, {"429": 7, "connection refused": 2})
    assert load.per_second == 25
    assert (load.latency.p99, load.latency.max) == (3.5, 5.5)


def test_oha_without_any_answer_is_no_load() -> None:
    """It then has null where the times are."""
    percentiles = dict.fromkeys(("p50", "p90", "p99", "p99.9"))
    output = {
        "summary": {"total": 1.0, "slowest": None},
        "latencyPercentiles": percentiles,
        "statusCodeDistribution": {},
        "errorDistribution": {"connection refused": 5},
    }
    load = read_oha(json.dumps(output))
    assert (load.ok, load.per_second, load.latency.p50) == (0, 0, 0)


@pytest.mark.parametrize("read", [read_wrk, read_oha])
def test_a_driver_that_failed_is_not_read_as_zero(read: object) -> None:
    """Its own words are what helps."""
    assert callable(read)
    with pytest.raises(DriverError, match="unable to connect"):
        read("unable to connect to 127.0.0.1:1")


def test_a_missing_driver_is_one_line_each() -> None:
    """Whoever runs the benchmark for the first time has neither."""
    assert Drivers(wrk=None, oha=None).hints() == [HINTS["wrk"], HINTS["oha"]]
    assert Drivers(wrk="/usr/bin/wrk", oha="/usr/bin/oha").hints() == []
    assert all("install" in hint and "\n" not in hint for hint in HINTS.values())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("wrk debian/4.1.0-3 [epoll] Copyright (C) 2012 Will Glozer", "4.1.0"),
        ("oha 1.16.0", "1.16.0"),
        ("?", "unknown"),
    ],
)
def test_versions_are_found_in_what_drivers_say_of_themselves(text: str, version: str) -> None:
    """They are part of the results."""
    assert version_in(text) == version
