"""What is in deploy/, against the service, the composition and Prometheus' own tools: names, paths, expressions."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import yaml

from service.observing.metrics import families
from service.observing.numbers import OUTCOMES, Numbers
from sql import Vitals
from tests.harness import Connection, Running

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def _read(path: Path) -> Any:
    """A YAML file; JSON is YAML, too."""
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


COMPOSE = _read(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
CONFIG = _read(PROMETHEUS / "prometheus.yml")
ALERTS: list[dict[str, Any]] = [rule for group in _read(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
DASHBOARD = _read(GRAFANA / "headrace.json")
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DATA_SOURCES = _read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
PROVIDERS = _read(GRAFANA / "provisioning" / "dashboards" / "headrace.yml")["providers"]

PANEL_QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
VARIABLE_QUERIES = [
    (variable["name"], variable["query"]["query"])
    for variable in DASHBOARD["templating"]["list"]
    if variable["type"] == "query"
]
ALERT_QUERIES = [(rule["alert"], rule["expr"]) for rule in ALERTS]

# -------------------------------------------------------------------- names

_VITALS = Vitals("18.0", 1, 100, read_only=False, skew_seconds=0.0, quarantine_rows=0, newest=())

_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}

_OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that every series of a target has, and those of buckets."""


def _exported() -> dict[str, Any]:
    """Series that the service has → the metric that each belongs to, a family without samples."""
    return {
        metric.name + suffix: metric for metric in families(Numbers(), _VITALS) for suffix in _SUFFIXES[metric.type]
    }


EXPORTED = _exported()


def _series_in(expression: str) -> set[str]:
    return set(re.findall(r"\bheadrace_\w+", expression))


@pytest.mark.parametrize(("name", "expression"), [*PANEL_QUERIES, *VARIABLE_QUERIES, *ALERT_QUERIES])
def test_every_name_in_an_expression_is_exported(name: str, expression: str) -> None:
    """A series that there is not gives an empty graph, and an alert that never fires; nothing complains."""
    series = _series_in(expression)
    assert series or name == "HeadraceDown"
    assert series <= EXPORTED.keys()
    for found, matchers in re.findall(r"\b(headrace_\w+)(?:\{([^}]*)\})?", expression):
        labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert labels <= {*EXPORTED[found]._labelnames, *_OF_PROMETHEUS}, found
    known = {label for found in series for label in EXPORTED[found]._labelnames} | _OF_PROMETHEUS
    for labels in re.findall(r"\bby \(([^)]*)\)", expression):
        assert set(labels.replace(" ", "").split(",")) <= known
    for outcomes in re.findall(r'\boutcome=~?"([^"]*)"', expression):
        assert set(outcomes.split("|")) <= set(OUTCOMES)


def test_every_metric_is_on_the_dashboard() -> None:
    """What is exported and shown nowhere is looked for by nobody."""
    shown = {EXPORTED[series].name for _, expression in PANEL_QUERIES for series in _series_in(expression)}
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


# -------------------------------------------------------------------- alerts


def test_no_two_alerts_have_the_same_name() -> None:
    """Silencing one would silence the other."""
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"Headrace[A-Z]\w+", name) for name in names)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """It is read at night, by somebody who has not built this."""
    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert len(rule["annotations"]["summary"]) < 120
    assert len(rule["annotations"]["description"]) > 80


def test_counters_are_never_compared_as_they_are() -> None:
    """They fall to 0 with each start of the service."""
    for name, expression in [*ALERT_QUERIES, *PANEL_QUERIES]:
        for series in _series_in(expression):
            if EXPORTED[series].type != "gauge":
                assert re.search(rf"\b(rate|increase)\({series}\b", expression), name
                assert not re.search(rf"(?<!rate\()(?<!increase\()\b{series}\b", expression), name


def test_every_alert_is_tested() -> None:
    """An alert that was never seen to fire may not do so when it matters."""
    tests = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    fires = set(re.findall(r'alertname="(\w+)"', tests)) | {
        case["alertname"]
        for test in yaml.safe_load(tests)["tests"]
        for case in test.get("alert_rule_test", ())
        if case.get("exp_alerts")
    }
    assert fires == {rule["alert"] for rule in ALERTS}


# -------------------------------------------------------------------- the composition


def _mounts(service: str) -> dict[str, Path]:
    """Where a container finds which files of the checkout."""
    mounts = [mount.split(":") for mount in SERVICES[service]["volumes"]]
    assert all(mode == ["ro"] for source, _, *mode in mounts if source.startswith("."))
    return {target: (ROOT / source).resolve() for source, target, *_ in mounts if source.startswith(".")}


def _in_container(service: str, path: str) -> Path:
    """The file of the checkout that a container finds at a path."""
    for target, source in _mounts(service).items():
        if Path(path).is_relative_to(target):
            return source / Path(path).relative_to(target)
    raise AssertionError(f"{service} has nothing at {path}")


def _port_of(service: str) -> int:
    (port,) = SERVICES[service]["ports"]
    return int(port.rpartition(":")[2])


def test_every_mount_is_there() -> None:
    """Docker would make an empty folder of that name, and the service would start without its configuration."""
    for service in ("prometheus", "grafana"):
        for source in _mounts(service).values():
            assert source.exists()
    named = {
        mount.partition(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", ())
        if not mount.startswith(".")
    }
    assert named == set(COMPOSE["volumes"])


def test_prometheus_finds_its_rules_and_the_service() -> None:
    """These are its image's own paths."""
    assert _in_container("prometheus", "/etc/prometheus/prometheus.yml") == PROMETHEUS / "prometheus.yml"
    for name in CONFIG["rule_files"]:
        assert (PROMETHEUS / name).is_file()
    (job,) = CONFIG["scrape_configs"]
    assert job["job_name"] == "headrace"
    assert job["static_configs"] == [{"targets": [f"headrace:{_port_of('headrace')}"]}]
    for _, expression in ALERT_QUERIES:
        assert set(re.findall(r'job="([^"]*)"', expression)) <= {job["job_name"]}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    """It starts without either, and shows an empty page."""
    (source,) = DATA_SOURCES
    assert source["url"] == f"http://prometheus:{_port_of('prometheus')}"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == CONFIG["global"]["scrape_interval"]
    (provider,) = PROVIDERS
    assert _in_container("grafana", f"{provider['options']['path']}/headrace.json") == GRAFANA / "headrace.json"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert _in_container("grafana", home) == GRAFANA / "headrace.json"
    for kind in ("dashboards", "datasources"):
        folder = _in_container("grafana", f"/etc/grafana/provisioning/{kind}")
        assert list(folder.glob("*.yml"))


def test_nobody_else_reaches_the_composition() -> None:
    """There is no password on any of it."""
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    grafana = SERVICES["grafana"]["environment"]
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert (grafana["GF_AUTH_DISABLE_LOGIN_FORM"], grafana["GF_AUTH_BASIC_ENABLED"]) == ("true", "false")


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_pinned_watched_and_started_again(name: str) -> None:
    """The next major version may read neither the data nor the configuration of this one."""
    service = SERVICES[name]
    if "image" in service:
        assert re.fullmatch(r"[\w/.-]+:v?\d+(\.\d+)*", service["image"])
    assert "healthcheck" in service or "HEALTHCHECK" in (ROOT / "Dockerfile").read_text("utf-8")
    assert service["restart"] == "unless-stopped"


# -------------------------------------------------------------------- Prometheus' own word


def _tool(name: str) -> str:
    """The path of a program of Prometheus; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install --no-install-recommends prometheus)")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments: list[str]) -> None:
    """It reads the files as Prometheus will, and the alerts fire when they should, and only then."""
    done = subprocess.run([_tool("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@asynccontextmanager
async def _prometheus(target: str, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A Prometheus with our configuration, which looks at this service each half second."""
    for file in PROMETHEUS.iterdir():
        text = file.read_text("utf-8").replace("headrace:8000", target).replace(": 10s\n", ": 500ms\n")
        (folder / file.name).write_text(text, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    arguments += [f"--web.listen-address={address}"]
    with (folder / "log").open("wb") as log:
        process = await anyio.open_process([_tool("prometheus"), *arguments], stdout=log, stderr=log)
        try:
            async with httpx2.AsyncClient(base_url=f"http://{address}") as client:
                yield client
        finally:
            process.terminate()
            await process.wait()


async def _result(client: httpx2.AsyncClient, query: str) -> list[Any]:
    """What an expression gives now; fails if Prometheus has anything to say against it."""
    answer = (await client.get("/api/v1/query", params={"query": query})).json()
    assert (answer["status"], answer.get("warnings"), answer.get("infos")) == ("success", None, None), (query, answer)
    result: list[Any] = answer["data"]["result"]
    return result


async def _eventually(client: httpx2.AsyncClient, query: str) -> None:
    """Wait until an expression gives something; the test's time limit ends the wait."""
    while True:
        try:
            if await _result(client, query):
                return
        except (httpx2.TransportError, json.JSONDecodeError):
            pass  # it is still starting
        await anyio.sleep(0.1)


def _filled_in(expression: str) -> str:
    """What Grafana makes of an expression, with all jobs and instances chosen."""
    filled = expression.replace("$__rate_interval", "4s").replace("$__range", "1m")
    return filled.replace('"$job"', '".*"').replace('"$instance"', '".*"')


async def _produce(headrace: Running) -> None:
    """Ten good and ten bad requests a second."""
    while True:
        await headrace.post("t", {"n": 1})
        await headrace.post("t", {"n": "x"})
        await anyio.sleep(0.1)


@pytest.mark.slow
async def test_a_real_prometheus_understands_all_of_it(db: Connection, headrace: Running, tmp_path: Path) -> None:
    """It reads the service's metrics, has nothing to say against any expression, and every panel shows something."""
    _tool("prometheus")
    await db.execute("create table t (n int)")
    base = headrace.client.base_url
    async with anyio.create_task_group() as tasks, _prometheus(f"{base.host}:{base.port}", tmp_path) as client:
        tasks.start_soon(_produce, headrace)
        await _eventually(client, 'up{job="headrace"} == 1')
        await _eventually(client, 'rate(headrace_requests_total{outcome="rejected"}[4s]) > 0')
        await _eventually(client, "rate(headrace_flush_seconds_count[4s]) > 0")
        assert [title for title, query in PANEL_QUERIES if not await _result(client, _filled_in(query))] == []
        near = {name for name, query in ALERT_QUERIES if await _result(client, query)}
        assert "HeadraceRejections" in near, "half of the requests are"
        assert near <= {"HeadraceRejections", "HeadraceEventLoopLate", "HeadraceSlowFlushes"}, "the machine may be slow"
        (group,) = (await client.get("/api/v1/rules")).json()["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}
        tasks.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_real_prometheus_notices_that_the_service_is_gone(tmp_path: Path) -> None:
    """The one alert that does not depend on anything that the service says."""
    _tool("prometheus")
    async with _prometheus("127.0.0.1:1", tmp_path) as client:
        await _eventually(client, next(rule["expr"] for rule in ALERTS if rule["alert"] == "HeadraceDown"))
        await _eventually(client, 'ALERTS{alertname="HeadraceDown", alertstate="pending", instance="127.0.0.1:1"}')
