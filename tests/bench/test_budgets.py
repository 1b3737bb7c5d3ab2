"""The budgets: what they are made of, and how they are judged."""

from __future__ import annotations

import pytest

from bench.budgets import BUDGETS, Budget, Verdict, judge
from bench.runs import measurements
from bench.scenarios import SCENARIOS
from tests.bench.runs import run_of


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.name)
def test_every_budget_is_about_something_that_the_short_run_measures(budget: Budget) -> None:
    """A misspelt quantity would be `not measured` for ever, and nobody would mind."""
    measured = {
        (scenario.name, contender) for scenario in SCENARIOS for contender in scenario.contenders if not scenario.full
    }
    for key in filter(None, (budget.quantity, budget.per)):
        scenario, contender, _ = key.split("/")
        assert (scenario, contender) in measured
    assert (budget.at_least is None) != (budget.at_most is None)


def test_budgets_are_ratios_within_a_run() -> None:
    """The story's app at 1,000 µs a request, ours at 20: a fiftieth, where a fortieth is asked for."""
    verdicts = judge(measurements([run_of("story", 1.0), run_of("headrace", 0.02), run_of("floor", 0.008)]))
    found = {(v.budget.quantity, v.budget.per): v for v in verdicts}
    story = found["one-64/story/cpu_us", "one-64/headrace/cpu_us"]
    assert (story.shown, story.budget.bound, story.word) == ("50×", "≥ 40×", "yes")
    floor = found["one-64/headrace/cpu_us", "one-64/floor/cpu_us"]
    assert (floor.shown, floor.budget.bound, floor.word) == ("2.5×", "≤ 2×", "NO")


def test_what_did_not_run_is_neither_held_nor_missed() -> None:
    """A run of one scenario must not look like success or failure in the others."""
    verdicts = judge({})
    assert {(v.shown, v.holds, v.word) for v in verdicts} == {("not measured", None, "–")}


@pytest.mark.parametrize(("measured", "holds"), [(9.99, True), (10.0, True), (10.01, False)])
def test_a_bound_itself_holds(measured: float, holds: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """It says `at most`."""
    assert Verdict(Budget("p99", "half/headrace/p99_ms", at_most=10, unit=" ms"), measured).holds is holds


def test_division_by_nothing_is_not_measured() -> None:
    """A contender that answered nothing has no rate to be compared with."""
    quantities = {"one-64/headrace/rps": 100.0, "one-64/story/rps": 0.0}
    assert {v.measured for v in judge(quantities)} == {None}
