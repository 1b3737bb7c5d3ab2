"""What is installed and shipped: pinned requirements, the wheel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
CLIENTS = ROOT / "tests" / "clients"
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))


def _requirement_lines(path: Path) -> list[str]:
    """The lines of a requirements file with continuations joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def _pins(name: str) -> dict[str, str]:
    """Package → version of one requirements file."""
    requirements = [
        Requirement(line.partition("--hash")[0]) for line in _requirement_lines(ROOT / "requirements" / name)
    ]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


# -------------------------------------------------------------------- requirements


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_with_hashes(path: Path) -> None:
    """Otherwise what runs tomorrow is not what was tested today."""
    lines = _requirement_lines(path)
    assert lines
    pinned = re.compile(r"[\w.-]+==[\w.]+( ; [^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line for line in lines if not pinned.fullmatch(line)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=lambda path: path.name)
def test_no_requirement_says_where_it_comes_from(path: Path) -> None:
    """Which index or mirror is used is the business of the machine that installs."""
    text = path.read_text("utf-8")
    assert "://" not in text
    assert re.findall(r"^\s*(?:-i|-f|--[\w-]*(?:index|links|host)[\w-]*)", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("name", "dependencies"),
    [
        ("service.txt", PROJECT["project"]["dependencies"]),
        ("dev.txt", PROJECT["project"]["dependencies"]),
        ("dev.txt", PROJECT["project"]["optional-dependencies"]["embedded"]),
        ("dev.txt", PROJECT["dependency-groups"]["dev"]),
        ("dev.txt", PROJECT["build-system"]["requires"]),
        ("build.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_every_dependency_is_pinned_to_a_version_that_it_allows(name: str, dependencies: list[str]) -> None:
    """A dependency that was added or raised without `make lock` would be missing on every other machine."""
    pins = _pins(name)
    for dependency in map(Requirement, dependencies):
        version = pins.get(canonicalize_name(dependency.name))
        assert version is not None, f"{dependency} is not pinned"
        assert dependency.specifier.contains(version), dependency


def test_the_tests_run_on_the_versions_that_the_service_ships_with() -> None:
    """What passes on other versions proves nothing about the image."""
    service, dev = _pins("service.txt") | _pins("build.txt"), _pins("dev.txt")
    assert {name: dev.get(name) for name in service} == service


def test_the_javascript_clients_are_pinned_with_hashes_and_without_addresses() -> None:
    """The same of what npm installs for tests/clients."""
    text = (CLIENTS / "package-lock.json").read_text("utf-8")
    wanted = json.loads((CLIENTS / "package.json").read_text("utf-8"))["dependencies"]
    packages: dict[str, dict[str, Any]] = json.loads(text)["packages"]
    assert packages.pop("")["dependencies"] == wanted
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [name for name, package in packages.items() if not package["integrity"].startswith("sha512-")] == []
    assert "://" not in text


# -------------------------------------------------------------------- the wheel


def test_the_wheel_has_every_module_and_what_they_read(tmp_path: Path) -> None:
    """Tests run from the checkout, so a file that the wheel lacks would be missed by users only."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.*")
        if path.suffix in (".py", ".sql", ".typed") or path.parent.name == "static"
    }
    assert {"sql/catalog.sql", "service/static/docs.html"} <= sources
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert f"headrace-{PROJECT['project']['version']}.dist-info/licenses/LICENSE" in names
