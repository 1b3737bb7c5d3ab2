"""The budgets: what the service is meant to reach, as ratios within one run. Data, and the judging of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bench.runs import Measurements


@dataclass(frozen=True, slots=True)
class Budget:
    """A quantity, divided by another one if there is one, and its bound: `at_least` or `at_most`."""

    name: str
    quantity: str
    per: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"

    @property
    def bound(self) -> str:
        """Such as `≥ 40×`."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}"
        return f"≤ {self.at_most:g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was measured; None if the scenario did not run."""

    budget: Budget
    measured: float | None

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept."""
        if self.measured is None:
            return None
        if self.budget.at_least is not None:
            return self.measured >= self.budget.at_least
        return self.budget.at_most is not None and self.measured <= self.budget.at_most

    @property
    def shown(self) -> str:
        """Such as `43.1×`."""
        if self.measured is None:
            return "not measured"
        number = f"{self.measured:,.0f}" if self.measured >= 100 else f"{self.measured:.3g}"
        return number + self.budget.unit

    @property
    def word(self) -> str:
        """For the table."""
        return {True: "yes", False: "NO", None: "–"}[self.holds]


BUDGETS = (
    Budget(
        "CPU of the story's app per request ÷ Headrace's, 64 connections",
        "one-64/story/cpu_us",
        "one-64/headrace/cpu_us",
        at_least=40,
    ),
    Budget("the same, 512 connections", "one-512/story/cpu_us", "one-512/headrace/cpu_us", at_least=40),
    Budget(
        "CPU per request of an app with Headrace as its library ÷ that of the story's, 64 connections",
        "one-64/library/cpu_us",
        "one-64/story/cpu_us",
        at_most=0.125,
    ),
    Budget("CPU per request ÷ the floor's, 64 connections", "one-64/headrace/cpu_us", "one-64/floor/cpu_us", at_most=2),
    Budget("the same, 512 connections", "one-512/headrace/cpu_us", "one-512/floor/cpu_us", at_most=1.6),
    Budget(
        "requests/s ÷ those of the story's app, 64 connections", "one-64/headrace/rps", "one-64/story/rps", at_least=30
    ),
    Budget("the same, 512 connections", "one-512/headrace/rps", "one-512/story/rps", at_least=40),
    Budget(
        "rows/s of NDJSON ÷ those of psql \\copy",
        "ndjson-1000/headrace/rows_per_second",
        "ndjson-1000/psql-copy/rows_per_second",
        at_least=0.8,
    ),
    Budget(
        "CPU per request with return=representation ÷ without, 64 connections",
        "representation/headrace/cpu_us",
        "minimal/headrace/cpu_us",
        at_most=3,
    ),
    Budget(
        "CPU per request with metrics ÷ without, 64 connections",
        "counting/headrace/cpu_us",
        "counting/uncounted/cpu_us",
        at_most=1.03,
    ),
    Budget(
        "CPU per request with a credential ÷ without, 64 connections",
        "credential/headrace/cpu_us",
        "anonymous/headrace/cpu_us",
        at_most=1.05,
    ),
    Budget("p99 at half of the maximum", "half/headrace/p99_ms", at_most=10, unit=" ms"),
    Budget(
        "goodput at twice the maximum ÷ the peak",
        "overload/headrace/goodput_rows_per_second",
        "overload/headrace/peak_rows_per_second",
        at_least=0.9,
    ),
    Budget("p99 of refusals at twice the maximum", "overload/headrace/refusal_p99_ms", at_most=50, unit=" ms"),
    # Flat: what is left is the allocator's, and grows no further. A leak of one body in a hundred would show.
    Budget(
        "memory in the second half of the overload ÷ in the first",
        "overload/headrace/rss_second_mib",
        "overload/headrace/rss_first_mib",
        at_most=1.1,
    ),
    Budget(
        "CPU per request with 1,000 tables ÷ with one",
        "tables-1000/headrace/cpu_us",
        "tables-1/headrace/cpu_us",
        at_most=1.2,
    ),
)


def judge(measured: Measurements) -> list[Verdict]:
    """Each budget with what was measured."""
    return [Verdict(budget, _value(budget, measured)) for budget in BUDGETS]


def _value(budget: Budget, measured: Measurements) -> float | None:
    value = measured.get(budget.quantity)
    if value is None or budget.per is None:
        return value
    per = measured.get(budget.per)
    return value / per if per else None
