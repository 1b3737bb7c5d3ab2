"""Runs that never took place."""

from __future__ import annotations

from dataclasses import replace

from bench.drivers import Latency, Load
from bench.runs import Run

LOAD = Load("wrk", 2.0, 1000, {}, Latency(1.0, 2.0, 3.0, 4.0, 5.0))
RUN = Run(
    scenario="one-64",
    contender="headrace",
    number=1,
    load=LOAD,
    rows_per_request=1,
    served=1000,
    cpu=0.02,
    postgres_cpu=0.01,
    rss_mib=50.0,
    stored=1000,
)


def run_of(contender: str, cpu: float, ok: int = 1000, scenario: str = "one-64") -> Run:
    """A run with these numbers."""
    load = replace(LOAD, ok=ok)
    return replace(RUN, scenario=scenario, contender=contender, cpu=cpu, load=load, served=ok, stored=ok)
