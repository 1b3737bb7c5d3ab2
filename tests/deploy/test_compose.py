"""docker-compose.yml against its published schema, the files that it mounts, and the service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.embedded import DEMO_TABLE_SQL
from tests.deploy.expressions import ALERT_QUERIES
from tests.deploy.files import GRAFANA, PROMETHEUS, ROOT, SCHEMAS, read, settings_of

COMPOSE = read(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
CONFIG = read(PROMETHEUS / "prometheus.yml")
DATA_SOURCES = read(GRAFANA / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
PROVIDERS = read(GRAFANA / "provisioning" / "dashboards" / "headrace.yml")["providers"]
ENVIRONMENT: dict[str, str] = SERVICES["headrace"]["environment"]

VALIDATOR = jsonschema_rs.validator_for(read(SCHEMAS / "compose-spec.json"))
DURATION = re.compile(r"(\d+)s")


# -------------------------------------------------------------------- the specification


def test_it_is_what_the_specification_allows() -> None:
    """Docker may not be at hand, and a key that it does not know stops everything."""
    assert [(list(error.instance_path), error.message) for error in VALIDATOR.iter_errors(COMPOSE)] == []


def test_the_specification_does_not_allow_everything() -> None:
    """Otherwise the test above says nothing."""
    misspelt = {**SERVICES["headrace"], "helthcheck": {}}
    assert not VALIDATOR.is_valid({**COMPOSE, "services": {"headrace": misspelt}})


# -------------------------------------------------------------------- what the containers find


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
    assert job["static_configs"] == [{"targets": [f"headrace:{ENVIRONMENT['HEADRACE_ADMIN_PORT']}"]}]
    assert ENVIRONMENT["HEADRACE_ADMIN_HOST"] == "0.0.0.0", "Prometheus comes from another container"
    for _, expression in ALERT_QUERIES:
        assert set(re.findall(r'job="([^"]*)"', expression)) <= {job["job_name"]}


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    """It starts without either, and shows an empty page."""
    (source,) = DATA_SOURCES
    assert [f"127.0.0.1:{port}:{port}" for port in re.findall(r"^http://prometheus:(\d+)$", source["url"])] == SERVICES[
        "prometheus"
    ]["ports"]
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
    """There is no password on any of it, and anybody may write."""
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


# -------------------------------------------------------------------- the service


def test_the_service_is_served_by_four_workers_and_publishes_both_of_its_addresses() -> None:
    """What nobody can reach is not there."""
    assert SERVICES["headrace"]["command"] == ["gunicorn", "-c", "python:service.gunicorn", "service.app:app"]
    assert ENVIRONMENT["HEADRACE_WORKERS"] == "4"
    ports = settings_of(ENVIRONMENT).port, ENVIRONMENT["HEADRACE_ADMIN_PORT"]
    assert SERVICES["headrace"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]


def test_the_service_has_time_to_stop() -> None:
    """Docker kills after that, with the requests that were accepted."""
    (seconds,) = DURATION.findall(SERVICES["headrace"]["stop_grace_period"])
    assert int(seconds) >= settings_of(ENVIRONMENT).drain_seconds_max + 10


def test_the_service_has_a_place_for_temporary_files_and_no_other() -> None:
    """Whatever gets in cannot change the code."""
    service = SERVICES["headrace"]
    assert (service["read_only"], service["tmpfs"], service.get("volumes")) == (True, ["/tmp"], None)
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])


def test_there_is_the_demo_table_of_the_service() -> None:
    """The examples of the README must work with either."""
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert " ".join(DEMO_TABLE_SQL.split()) in " ".join(compose.split())
