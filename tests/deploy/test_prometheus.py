"""deploy/prometheus: its alerts, and what Prometheus' own tools say of all expressions."""

from __future__ import annotations

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

from tests.deploy.expressions import ALERT_QUERIES, ALERTS, EXPORTED, PANEL_QUERIES, series_in
from tests.deploy.files import KUBERNETES, PROMETHEUS, read
from tests.harness import Connection, Running

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
        for series in series_in(expression):
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


def test_in_kubernetes_it_differs_in_where_the_targets_come_from_only(tmp_path: Path) -> None:
    """Some builds of promtool do not know Kubernetes, so the rest is shown to it."""
    there, here = read(PROMETHEUS / "kubernetes.yml"), read(PROMETHEUS / "prometheus.yml")
    (job,) = there["scrape_configs"]
    (found,) = job.pop("kubernetes_sd_configs")
    assert found == {"role": "pod", "namespaces": {"names": [read(KUBERNETES / "namespace.yaml")["metadata"]["name"]]}}
    labels = {rule.get("target_label") for rule in job["relabel_configs"]}
    assert {"namespace", "pod"} <= labels, "the adapter goes by them"
    assert {**there, "scrape_configs": None} == {**here, "scrape_configs": None}
    assert job["job_name"] == here["scrape_configs"][0]["job_name"]
    (tmp_path / "alerts.yml").write_bytes((PROMETHEUS / "alerts.yml").read_bytes())
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(there), "utf-8")
    done = subprocess.run(
        [_tool("promtool"), "check", "config", "kubernetes.yml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


# -------------------------------------------------------------------- the autoscaler's number

(ADAPTED,) = read(PROMETHEUS / "adapter.yml")["rules"]


def test_the_autoscaler_asks_for_the_number_that_the_adapter_has() -> None:
    """Otherwise it never learns how full the queues are, and takes no pod away again."""
    metrics = read(KUBERNETES / "horizontalpodautoscaler.yaml")["spec"]["metrics"]
    assert [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"] == [
        ADAPTED["name"]["as"]
    ]
    assert series_in(ADAPTED["seriesQuery"] + ADAPTED["metricsQuery"]) <= EXPORTED.keys()


@pytest.mark.parametrize(("rows", "filled", "share"), [(100, 500, 0.5), (900, 500, 0.9), (0, 0, 0)])
def test_the_queue_is_as_full_as_the_fuller_of_rows_and_bytes(
    rows: int, filled: int, share: float, tmp_path: Path
) -> None:
    """Large rows fill it by their bytes, small ones by their number."""
    labels = '{job="headrace", namespace="headrace", pod="a"}'
    values = {"rows": rows, "rows_limit": 1000, "bytes": filled, "bytes_limit": 1000}
    query = ADAPTED["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'pod=~"a|b"')
    test = {
        "interval": "10s",
        "input_series": [
            {"series": f"headrace_pending_{name}{labels}", "values": f"{value}x12"} for name, value in values.items()
        ],
        "promql_expr_test": [
            {"expr": query, "eval_time": "2m", "exp_samples": [{"labels": '{pod="a"}', "value": share}]}
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"tests": [test]}), "utf-8")
    done = subprocess.run(
        [_tool("promtool"), "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


# -------------------------------------------------------------------- a Prometheus that runs


@asynccontextmanager
async def _prometheus(target: str, folder: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """A Prometheus with our configuration, which looks at this service each half second."""
    for file in PROMETHEUS.iterdir():
        text = file.read_text("utf-8").replace("headrace:8001", target).replace(": 10s\n", ": 500ms\n")
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
