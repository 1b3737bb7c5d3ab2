"""One turn of a contender as a record, and what the records of all rounds come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bench.drivers import Load
from bench.measure import median

Measurements = Mapping[str, float]
"""`scenario/contender/quantity` → the median over the rounds."""


@dataclass(frozen=True, slots=True)
class Run:
    """`served` are the requests that were worked off, those included whose driver did not wait for their answer.

    CPU is in seconds, `postgres_cpu` None where PostgreSQL is on another machine. `details` are quantities that only
    this kind of scenario has.
    """

    scenario: str
    contender: str
    number: int
    load: Load
    rows_per_request: float
    served: int
    cpu: float
    postgres_cpu: float | None
    rss_mib: float
    stored: int | None = None
    batch_rows: float | None = None
    details: dict[str, float] = field(default_factory=dict)

    def quantities(self) -> dict[str, float | None]:
        """Everything that is shown, plotted or judged."""
        served = max(self.served, 1)
        rows = max(served * self.rows_per_request, 1)
        latency = self.load.latency
        return {
            "rps": self.load.per_second,
            "rows_per_second": self.load.per_second * self.rows_per_request,
            "cpu_us": self.cpu / served * 1e6,
            "cpu_us_row": self.cpu / rows * 1e6,
            "postgres_us": None if self.postgres_cpu is None else self.postgres_cpu / served * 1e6,
            "postgres_us_row": None if self.postgres_cpu is None else self.postgres_cpu / rows * 1e6,
            "p50_ms": latency.p50,
            "p90_ms": latency.p90,
            "p99_ms": latency.p99,
            "p999_ms": latency.p999,
            "rss_mib": self.rss_mib,
            "batch_rows": self.batch_rows,
            "errors": float(sum(self.load.errors.values())),
            **self.details,
        }


def measurements(runs: Iterable[Run]) -> dict[str, float]:
    """The medians over the rounds of each scenario and contender."""
    rounds: dict[str, list[float | None]] = {}
    for run in runs:
        for quantity, value in run.quantities().items():
            rounds.setdefault(f"{run.scenario}/{run.contender}/{quantity}", []).append(value)
    medians = {key: median(values) for key, values in rounds.items()}
    return {key: value for key, value in medians.items() if value is not None}


def lost_or_invented(run: Run, in_flight: int) -> str | None:
    """A sentence if the table does not hold what was acknowledged, or holds more than was ever sent.

    `in_flight` is how many requests a driver may have sent without counting them at all.
    """
    if run.stored is None:
        return None
    acknowledged = round(run.load.ok * run.rows_per_request)
    sent = acknowledged + round((sum(run.load.errors.values()) + in_flight) * run.rows_per_request)
    where = f"{run.scenario}, {run.contender}, round {run.number}"
    if run.stored < acknowledged:
        return f"{where}: {acknowledged - run.stored:,} of {acknowledged:,} acknowledged rows are not in the table"
    if run.stored > sent:
        return f"{where}: {run.stored:,} rows are in the table, but only {sent:,} were sent"
    return None
