"""The files of deploy/ and their neighbours, as values, for the tests beside this one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from service.settings import Settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
GRAFANA = DEPLOY / "grafana"
KUBERNETES = DEPLOY / "kubernetes"
SYSTEMD = DEPLOY / "systemd"
SCHEMAS = Path(__file__).parent / "schemas"

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

KNOWN = {f"HEADRACE_{field.upper()}" for field in Settings.model_fields}


def read(path: Path) -> Any:
    """A YAML file; JSON is YAML, too."""
    text = path.read_text("utf-8")
    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def variables(path: Path) -> dict[str, str]:
    """What a file of lines `NAME=value` sets. What is commented out is not set."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def settings_named(text: str) -> set[str]:
    """Every variable of ours that a text names, in comments too."""
    return set(re.findall(r"\bHEADRACE_[A-Z][A-Z_]*[A-Z]\b", text))


def settings_of(environment: dict[str, str]) -> Settings:
    """The service's settings with this environment, as far as there are such settings here. Files are elsewhere."""
    fields = {name.removeprefix("HEADRACE_").lower(): value for name, value in environment.items()}
    here = Settings.model_fields.keys() - {name for name in fields if name.endswith("_file")}
    return Settings.model_validate({name: value for name, value in fields.items() if name in here})
