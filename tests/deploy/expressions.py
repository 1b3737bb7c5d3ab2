"""The expressions of dashboard and alerts, and the series that the service has."""

from __future__ import annotations

import re
from typing import Any

from service.observing.metrics import families
from service.observing.numbers import Numbers
from sql import Vitals
from tests.deploy.files import GRAFANA, PROMETHEUS, read

DASHBOARD = read(GRAFANA / "headrace.json")
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS: list[dict[str, Any]] = [rule for group in read(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]

PANEL_QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLE_QUERIES = [
    (variable["name"], variable["query"]["query"])
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
]
ALERT_QUERIES = [(rule["alert"], rule["expr"]) for rule in ALERTS]

_VITALS = Vitals("18.0", 1, 100, read_only=False, skew_seconds=0.0, quarantine_rows=0, newest=())

_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}

OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that every series of a target has, and those of buckets."""


def _exported() -> dict[str, Any]:
    """Series that the service has → the metric that each belongs to, a family without samples."""
    return {
        metric.name + suffix: metric for metric in families(Numbers(), _VITALS) for suffix in _SUFFIXES[metric.type]
    }


EXPORTED = _exported()


def series_in(expression: str) -> set[str]:
    """The metrics that an expression reads, with their suffixes."""
    return set(re.findall(r"\bheadrace_\w+", expression))
