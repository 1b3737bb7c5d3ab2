"""The dashboard in deploy/grafana, and every expression there is, against the metrics that the service has."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from service.observing.numbers import OUTCOMES
from tests.deploy.expressions import (
    ALERT_QUERIES,
    DASHBOARD,
    EXPORTED,
    OF_PROMETHEUS,
    PANEL_QUERIES,
    PANELS,
    VARIABLE_QUERIES,
    series_in,
)

ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]

# -------------------------------------------------------------------- names


@pytest.mark.parametrize(("name", "expression"), [*PANEL_QUERIES, *VARIABLE_QUERIES, *ALERT_QUERIES])
def test_every_name_in_an_expression_is_exported(name: str, expression: str) -> None:
    """A series that there is not gives an empty graph, and an alert that never fires; nothing complains."""
    series = series_in(expression)
    assert series or name == "HeadraceDown"
    assert series <= EXPORTED.keys()
    for found, matchers in re.findall(r"\b(headrace_\w+)(?:\{([^}]*)\})?", expression):
        labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert labels <= {*EXPORTED[found]._labelnames, *OF_PROMETHEUS}, found
    known = {label for found in series for label in EXPORTED[found]._labelnames} | OF_PROMETHEUS
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(labels.replace(" ", "").split(",")) <= known
    for outcomes in re.findall(r'\boutcome=~?"([^"]*)"', expression):
        assert set(outcomes.split("|")) <= set(OUTCOMES)


def test_every_metric_is_on_the_dashboard() -> None:
    """What is exported and shown nowhere is looked for by nobody."""
    shown = {EXPORTED[series].name for _, expression in PANEL_QUERIES for series in series_in(expression)}
    assert {metric.name for metric in EXPORTED.values()} == shown


# -------------------------------------------------------------------- the dashboard


def test_the_dashboard_can_be_found_and_works_anywhere() -> None:
    """Whoever has his own Grafana imports it, and his data source has another name."""
    assert (DASHBOARD["uid"], DASHBOARD["title"], DASHBOARD.get("id")) == ("headrace", "Headrace", None)
    assert "headrace" in DASHBOARD["tags"]
    assert DASHBOARD["schemaVersion"] >= 42
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]
    used = re.findall(r'"uid": "([^"]*)"', json.dumps({**DASHBOARD, "uid": None}))
    assert set(used) == {"${datasource}"}


def test_no_two_panels_share_an_id_or_a_place() -> None:
    """Grafana would move one of them, or show the wrong one."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        taken = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not taken & cells, panel["title"]
        cells |= taken
    height = max(row for _, row in cells) + 1
    assert {row for _, row in cells} == set(range(height)), "there is a gap"


def test_the_rows_are_in_the_order_of_a_search() -> None:
    """From what is wrong, over where, to why."""
    assert [row["title"] for row in ROWS] == [
        "Overview",
        "Latency",
        "Batches and flushes",
        "Queue",
        "Refusals",
        "Tables",
        "Database",
        "Process",
    ]
    assert [panel["gridPos"]["y"] for panel in DASHBOARD["panels"]] == sorted(
        panel["gridPos"]["y"] for panel in DASHBOARD["panels"]
    )


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """A number without a unit is read as another one, and a graph without names as anything."""
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters
    assert len(set(letters)) == len(letters)
    if panel["type"] == "timeseries":
        assert all(target["legendFormat"] for target in panel["targets"])
    for target in panel["targets"]:
        selectors = re.findall(r"headrace_\w+\{([^}]*)\}", target["expr"])
        assert selectors
        assert all('job=~"$job", instance=~"$instance"' in selector for selector in selectors)


def test_legends_name_what_makes_the_series_different() -> None:
    """Otherwise all of them are called the same."""
    for panel in PANELS:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
                assert label in (grouped[1].split(", ") if grouped else ["instance"]), panel["title"]
