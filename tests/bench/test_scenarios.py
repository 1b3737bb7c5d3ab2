"""The scenarios and contenders as data, the order of turns, and the bodies that are sent."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from bench.bodies import TIMESTAMP, Body, copy_lines
from bench.contenders import CONTENDERS
from bench.scenarios import SCENARIOS, Maximum, Realistic, tables
from bench.stage import read_batches
from bench.suite import chosen, turns

BENCH = Path(__file__).parent.parent.parent / "bench"


def test_every_scenario_has_a_name_of_its_own_and_contenders_that_exist() -> None:
    """They are chosen, and looked up, by name."""
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert {name for scenario in SCENARIOS for name in scenario.contenders} == set(CONTENDERS)


def test_turns_alternate_and_each_round_begins_with_another() -> None:
    """Otherwise a machine that slows down during the run would favour whoever comes first."""
    one = Maximum("a", "", ("x", "y"), rounds=2)
    other = Maximum("b", "", ("x",), rounds=2)
    played = [(turn.scenario.name, turn.contender, turn.number) for turn in turns([one, other])]
    assert played == [("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("a", "y", 2), ("b", "x", 2), ("a", "x", 2)]


def test_the_short_run_leaves_out_what_is_for_the_full_one() -> None:
    """It has five minutes."""
    short = {scenario.name for scenario in chosen(SCENARIOS, (), None, None, full=False)}
    full = {scenario.name for scenario in chosen(SCENARIOS, (), None, None, full=True)}
    assert full - short == {scenario.name for scenario in SCENARIOS if scenario.full}


def test_a_single_scenario_can_be_chosen_with_its_length() -> None:
    """While something is being made faster, one scenario is run again and again."""
    (scenario,) = chosen(SCENARIOS, ["one-512"], 7, 9, full=False)
    assert (scenario.name, scenario.rounds, scenario.seconds) == ("one-512", 7, 9)


def test_tables_have_the_names_that_were_made() -> None:
    """The requests go to them by name."""
    assert tables(0) == ("events",)
    assert tables(1000)[::999] == ("events_0001", "events_1000")


@pytest.mark.parametrize("size", [100, 1_000, 10_000])
def test_a_body_has_the_size_of_its_scenario(size: int) -> None:
    """The name of the scenario says it."""
    body = Body(bytes_min=size).encode()
    assert size <= len(body) <= size + 10
    assert set(json.loads(body)) == {"device_id", "ts", "temperature", "humidity", "status"}


def test_all_kinds_of_bodies_hold_the_same_rows() -> None:
    r"""Bulk is compared with `\copy`, which must not have less to do."""
    array = json.loads(Body("array", 1000).encode())
    assert [json.loads(line) for line in Body("ndjson", 1000).encode().splitlines()] == array
    lines = copy_lines(2000).decode().splitlines()
    assert lines[:1000] == lines[1000:]
    copied = [line.split("\t") for line in lines[:1000]]
    assert [[row["device_id"], TIMESTAMP, str(row["temperature"]), "40.25", "ok"] for row in array] == copied


def test_batches_are_read_from_the_metrics() -> None:
    """Of the histogram's lines only two count."""
    text = 'headrace_batch_rows_bucket{le="1.0"} 3.0\nheadrace_batch_rows_count 4.0\nheadrace_batch_rows_sum 90.0\n'
    assert read_batches(text) == (90.0, 4.0)
    assert read_batches("") == (0.0, 0.0)


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.name)
def test_the_benchmark_is_a_client_like_any_other(path: Path) -> None:
    """What it shared with the service it could not measure."""
    names = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names & {"batching", "service", "sql"} == set()


def test_the_realistic_scenario_uses_tables_that_are_made() -> None:
    """The others have them made."""
    assert {scenario.tables for scenario in SCENARIOS if isinstance(scenario, Realistic)} == {50}
