"""The results as JSON, as Markdown, and as the tables for the terminal, which are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.budgets import Verdict, judge
from bench.contenders import CONTENDERS
from bench.runs import Measurements, Run, measurements
from bench.scenarios import Maximum, Overload, Realistic, Scenario, Steady

METHOD = """\
The load driver, the contenders and PostgreSQL share the machine, over the loopback interface. Every contender is a
single process unless its name says otherwise. Contenders that are compared take turns, round by round, on the same
empty table; a number is the median of its rounds. Every acknowledged row was counted in the table afterwards. CPU is
user and system time of the contender's processes, from the operating system, divided by the requests that were worked
off; PostgreSQL's stands beside it. PostgreSQL runs with its own defaults, so each commit waits for the disk."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run found out."""

    scenarios: Sequence[Scenario]
    runs: Sequence[Run]
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    commit: str
    notes: Sequence[str]

    @property
    def measured(self) -> dict[str, float]:
        """The medians."""
        return measurements(self.runs)

    def write(self, folder: Path) -> None:
        """`results.json` and `results.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        verdicts = [
            {"budget": v.budget.name, "bound": v.budget.bound, "measured": v.measured, "holds": v.holds}
            for v in judge(self.measured)
        ]
        everything = {
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "commit": self.commit,
            "notes": list(self.notes),
            "budgets": verdicts,
            "medians": self.measured,
            "runs": [asdict(run) for run in self.runs],
        }
        (folder / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        (folder / "results.md").write_text(self.markdown())

    def markdown(self) -> str:
        """The page."""
        parts = [self.tables(), "Machine: " + _listed(self.machine) + "."]
        parts += ["Versions: " + _listed(self.versions) + f"; commit {self.commit}.", METHOD]
        parts += [f"Note: {note}." for note in self.notes]
        return "\n\n".join(parts) + "\n"

    def tables(self) -> str:
        """The tables of results and budgets."""
        measured = self.measured
        found = [single_rows(self.scenarios, measured), bulk(self.scenarios, measured)]
        found += [*sentences(self.scenarios, self.runs, measured), budget_table(judge(measured))]
        return "\n\n".join(part for part in found if part)


def single_rows(scenarios: Iterable[Scenario], measured: Measurements) -> str:
    """Scenarios whose requests have one row, against the story's app."""
    rows = []
    for scenario in scenarios:
        if not isinstance(scenario, Maximum | Steady) or _is_bulk(scenario):
            continue
        for contender in scenario.contenders:
            key = f"{scenario.name}/{contender}"
            if f"{key}/rps" not in measured:
                continue
            story = f"{scenario.name}/story"
            rows.append(
                [
                    scenario.title,
                    CONTENDERS[contender].title,
                    _whole(measured.get(f"{key}/rps")),
                    _ratio(measured.get(f"{key}/rps"), measured.get(f"{story}/rps")),
                    _short(measured.get(f"{key}/cpu_us")),
                    _ratio(measured.get(f"{story}/cpu_us"), measured.get(f"{key}/cpu_us")),
                    _short(measured.get(f"{key}/postgres_us")),
                    _short(measured.get(f"{key}/p50_ms")),
                    _short(measured.get(f"{key}/p99_ms")),
                ]
            )
    heads = ["scenario", "contender", "requests/s", "× story", "CPU µs/request", "story ÷ it", "PostgreSQL µs/request"]
    return table([*heads, "p50 ms", "p99 ms"], rows)


def _is_bulk(scenario: Scenario) -> bool:
    return isinstance(scenario, Maximum) and scenario.body.rows > 1


def bulk(scenarios: Iterable[Scenario], measured: Measurements) -> str:
    """Scenarios whose requests have many rows."""
    rows = []
    for scenario in scenarios:
        if not _is_bulk(scenario):
            continue
        for contender in scenario.contenders:
            key = f"{scenario.name}/{contender}"
            if f"{key}/rps" not in measured:
                continue
            rows.append(
                [
                    scenario.title,
                    CONTENDERS[contender].title,
                    _whole(measured.get(f"{key}/rows_per_second")),
                    _short(measured.get(f"{key}/cpu_us_row")),
                    _short(measured.get(f"{key}/postgres_us_row")),
                    _short(measured.get(f"{key}/p50_ms")),
                    _short(measured.get(f"{key}/p99_ms")),
                ]
            )
    heads = ["scenario", "contender", "rows/s", "CPU µs/row", "PostgreSQL µs/row", "p50 ms", "p99 ms"]
    return table(heads, rows)


def sentences(scenarios: Iterable[Scenario], runs: Sequence[Run], measured: Measurements) -> list[str]:
    """What no table has a column for: the spread between workers, overload and the realistic scenario."""
    found = []
    for scenario in scenarios:
        for contender in scenario.contenders:
            prefix = f"{scenario.name}/{contender}/"
            got = {key.removeprefix(prefix): value for key, value in measured.items() if key.startswith(prefix)}
            answers = _answers([run for run in runs if (run.scenario, run.contender) == (scenario.name, contender)])
            if "cpu_least" in got:
                found.append(f"**{scenario.title}** ({CONTENDERS[contender].title}): {_spread(got)}")
            if got and isinstance(scenario, Overload):
                found.append(f"**{scenario.title}** ({CONTENDERS[contender].title}): {_overload(got, answers)}")
            if got and isinstance(scenario, Realistic):
                told = f"{CONTENDERS[contender].title}, {scenario.requests_per_second} requests/s"
                found.append(f"**{scenario.title}** ({told}): {_realistic(got, answers)}")
    return found


def _spread(got: Mapping[str, float]) -> str:
    """Between workers: the least and the largest part of any."""
    return (
        f"a worker had {got['connections_least']:.0%} to {got['connections_most']:.0%} of the connections and used "
        f"{got['cpu_least']:.0%} to {got['cpu_most']:.0%} of the CPU."
    )


def _overload(got: Mapping[str, float], answers: str) -> str:
    return (
        f"peak {got['peak_rows_per_second']:,.0f} rows/s, offered {got['offered_rows_per_second']:,.0f}, goodput "
        f"{got['goodput_rows_per_second']:,.0f}; p99 of what was accepted {got['p99_ms']:,.0f} ms, of refusals "
        f"{_short(got.get('refusal_p99_ms'))} ms; memory at most {got['rss_first_mib']:,.0f} MiB in the first half, "
        f"{got['rss_second_mib']:,.0f} MiB in the second. Answers: {answers}. The client used "
        f"{got['client_cores']:.2f} of a core and sent {_short(got['late_p99_ms'])} ms late (p99)."
    )


def _realistic(got: Mapping[str, float], answers: str) -> str:
    before, during, after = (
        f"{_short(got.get(f'{phase}_p50_ms'))} and {_short(got.get(f'{phase}_p99_ms'))} ms"
        for phase in ("before", "during", "after")
    )
    return (
        f"{got['goodput_rows_per_second']:,.0f} rows/s acknowledged; p50 and p99 of the time to success, retries "
        f"included: {before} before the stall (a lock on all tables), {during} for requests that began during it, "
        f"{after} after it. Answers: {answers}; {got['retries']:,.0f} retries, {got['given_up']:,.0f} given up. "
        f"Acknowledged rows missing: {got['missing_rows']:,.0f}; bad rows stored: {got['bad_rows_stored']:,.0f}; "
        f"stored twice because their client did not wait and tried again: {got['stored_twice_rows']:,.0f}. "
        f"{_own_account(got)}"
    )


def _own_account(got: Mapping[str, float]) -> str:
    """What the service itself has counted, beside what the clients saw."""
    return (
        f"The service counted {got['counted_committed']:,.0f} requests committed, {got['counted_rejected']:,.0f} "
        f"rejected, {got['counted_shed']:,.0f} shed; {got['clients_left']:,.0f} clients had left without an answer. "
        f"Beyond those, requests that it counted otherwise: {got['counted_off']:,.0f}; committed rows that it counted "
        f"otherwise than the tables: {got['counted_rows_off']:,.0f}. /metrics, dashboard and `headrace top` "
        f"{'DIFFER' if got['views_differ'] else 'agree'}; the balance was off in {got['unbalanced_looks']:,.0f} of "
        f"{got['looks']:,.0f} looks. By its own count p50 and p99 of an attempt were at most "
        f"{_short(got['counted_p50_ms'])} and {_short(got['counted_p99_ms'])} ms."
    )


def budget_table(verdicts: Iterable[Verdict]) -> str:
    """Each budget with its ratio."""
    rows = [[v.budget.name, v.shown, v.budget.bound, v.word] for v in verdicts]
    return table(["budget", "measured", "bound", "holds"], rows, words=1)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """A Markdown table that can be read as text, too; nothing without rows. After `words` columns they are numbers."""
    if not rows:
        return ""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[index]) for row in escaped) for index in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if index < words else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([line(escaped[0]), line(rule), *map(line, escaped[1:])])


def _answers(runs: Sequence[Run]) -> str:
    """The answers of all rounds together."""
    counts = {"2xx": sum(run.load.ok for run in runs)}
    for run in runs:
        for kind, count in run.load.errors.items():
            counts[kind] = counts.get(kind, 0) + count
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def _listed(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _short(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float | None, per: float | None) -> str:
    return "–" if value is None or not per else f"{value / per:.1f}×"
