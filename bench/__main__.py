"""`python -m bench`: runs the scenarios, writes `bench/results/`, prints the tables and every budget.

Ends with status 1 if an acknowledged row was missing or a bad one stored. A budget that is missed is only reported.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from bench.database import DatabaseError
from bench.drivers import DriverError, Drivers
from bench.machine import busy, commit, machine, versions
from bench.plots import draw
from bench.processes import ProcessError, run
from bench.report import Report
from bench.scenarios import SCENARIOS, Maximum, Realistic, Scenario
from bench.stage import set_up
from bench.suite import Suite, chosen, complain

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
RESULTS = Path(__file__).parent / "results"


@app.command()
def main(
    *,
    full: Annotated[bool, typer.Option("--full", help="All scenarios, more rounds, longer turns.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="SCENARIO", help="Only this scenario; repeatable.", show_default=False)
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of each scenario.", show_default=False)] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help="Seconds of each turn.", show_default=False)] = None,
    results: Annotated[Path, typer.Option(metavar="DIR", help="Where the results go.", show_default=False)] = RESULTS,
) -> None:
    """Compare Headrace with other ways to insert rows. The scenarios are in bench/scenarios.py."""
    names = {scenario.name for scenario in SCENARIOS}
    if unknown := sorted(set(only or ()) - names):
        raise typer.BadParameter(f"no scenario {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    scenarios = chosen(SCENARIOS, only or (), rounds, seconds, full=full)
    drivers = Drivers()
    for hint in drivers.hints():
        complain(hint)
    if drivers.wrk is None and drivers.oha is None:
        raise typer.Exit(1)
    crowded = busy()
    if crowded is not None:
        complain(crowded)
    started = time.monotonic()
    try:
        report, violations = run(_run(scenarios, drivers))
    except KeyboardInterrupt:
        complain("interrupted; everything that was started has ended")
        raise typer.Exit(130) from None
    except (ProcessError, DriverError, DatabaseError, OSError, asyncpg.PostgresError) as error:
        complain(str(error))
        raise typer.Exit(1) from None
    if crowded is not None:
        report = replace(report, notes=[*report.notes, crowded])
    report.write(results)
    draw(scenarios, report.measured, results)
    print(f"\n{report.tables()}\n\n{time.monotonic() - started:.0f} s; tables, raw numbers and plots are in {results}")
    for violation in violations:
        complain(f"WRONG: {violation}")
    if violations:
        raise typer.Exit(1)


async def _run(scenarios: Sequence[Scenario], drivers: Drivers) -> tuple[Report, list[str]]:
    names = list(dict.fromkeys(name for scenario in scenarios for name in scenario.contenders))
    many = any(isinstance(scenario, Maximum | Realistic) and scenario.tables for scenario in scenarios)
    async with contextlib.AsyncExitStack() as stack:
        complain("starting PostgreSQL and the contenders ...")
        stage = await stack.enter_async_context(set_up(names, many_tables=many))
        found = versions() | {"PostgreSQL": await stage.database.version()} | await drivers.versions()
        suite = Suite(stage, drivers, complain)
        await suite.play(scenarios)
        for name, server in stage.servers.items():
            if "Traceback" in server.running.said():
                complain(f"{name} was not well; the end of its messages:\n{server.running.said()}")
    return Report(scenarios, suite.runs, machine(), found, commit(), drivers.hints() + suite.notes), suite.violations


if __name__ == "__main__":
    app()
