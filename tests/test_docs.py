"""What the documents say, against the code: settings, codes, metrics, the map, targets, links."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from batching import Closed, DeadlinePassed, QueueFull, RateExceeded, ShareFull, SinkAway, TooLarge
from service import problems
from service.auth.refusals import anonymous_refused, api_keys_unknown, claims_invalid, right_missing, token_invalid
from service.observing.metrics import families
from service.observing.numbers import Numbers
from service.problems import (
    MALFORMED_HTTP,
    Refused,
    body_late,
    body_too_large,
    codings_refused,
    crowded,
    key_under_way,
    keys_not_kept,
    problem_of,
    watched_by_many,
)
from service.settings import Settings
from sql import CatalogMissing, KeyReused, OutcomeUnknown, TableChanged, Unavailable, Vitals

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text("utf-8")
OBSERVING = (ROOT / "docs" / "observing.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")

# Of `headrace load`, which is a client and has no Settings, and of the benchmark.
_NOT_SETTINGS = {"HEADRACE_API_KEY", "HEADRACE_URL", "HEADRACE_BENCH_DSN"}


def _section(document: str, title: str) -> str:
    """What stands below a heading, up to the next of its level."""
    return document.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of the table rows in a text."""
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def _code(text: str) -> Iterator[str]:
    """Inline code and the lines of code blocks, without their comments."""
    yield from re.findall(r"`([^`\n]+)`", text)
    yield from re.findall(r"^ {4}(?:\$ )?(.+?)(?:\s+#.*)?$", text, re.MULTILINE)


# -------------------------------------------------------------------- settings


def _shown(default: object) -> str:
    """A default as an operator would write it."""
    match default:
        case None | ():
            return "unset"
        case bool():
            return f"`{str(default).lower()}`"
        case float():
            return f"`{default:g}`"
        case tuple():
            return f"`{','.join(default)}`"
        case _:
            return f"`{default}`"


def test_the_settings_table_has_every_setting_with_its_default() -> None:
    """An operator has nothing but the table, so a setting that is missing or wrong there does not exist for him."""
    documented = [(name.strip("`"), default) for name, default, _ in _rows(_section(README, "Settings"))][1:]
    expected = [(f"HEADRACE_{name.upper()}", _shown(field.default)) for name, field in Settings.model_fields.items()]
    assert documented == expected


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_variable_that_is_named_is_a_setting(path: Path) -> None:
    """A variable that the service does not read is ignored in silence, so nobody would notice the mistake."""
    known = {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | _NOT_SETTINGS
    assert set(re.findall(r"HEADRACE_[A-Z0-9_]*[A-Z0-9]", path.read_text("utf-8"))) <= known


# -------------------------------------------------------------------- answers

_ERRORS: list[Exception] = [
    Refused(MALFORMED_HTTP),
    Refused(key_under_way()),
    Refused(keys_not_kept()),
    Refused(crowded()),
    Refused(watched_by_many()),
    Refused(api_keys_unknown()),
    Refused(anonymous_refused()),
    Refused(token_invalid("")),
    Refused(claims_invalid("")),
    KeyReused(),
    Refused(body_late(1)),
    Refused(body_too_large(1)),
    Refused(codings_refused("")),
    TooLarge("rows", 1),
    QueueFull(1),
    RateExceeded(1),
    Refused(anonymous_refused()),
    Refused(right_missing("", "", "", "")),
    ShareFull(1),
    SinkAway(1, OSError()),
    Unavailable(),
    CatalogMissing(),
    DeadlinePassed(),
    TableChanged(),
    Closed(),
    OutcomeUnknown(),
    ValueError(),
]


def _documented_codes() -> dict[str, str]:
    """The table of codes: code → status."""
    return {code.strip("`"): status for status, code, *_ in _rows(_section(README, "All error answers")) if "`" in code}


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: f"{type(error).__name__}-{error}")
def test_each_error_of_the_service_is_in_the_table(error: Exception) -> None:
    """A producer programs his retries by this table."""
    problem = problem_of(error)
    assert _documented_codes().get(problem.fault.code) == str(problem.status)
    retry_after = "retry-after" in dict(problem.answer.headers)
    code = problem.fault.code
    assert retry_after == (code == "HR409" or (problem.status in (429, 503) and code != "HR506"))


def test_the_table_of_codes_is_complete() -> None:
    """A new code must not stay a secret of the code."""
    ours = {value for value in vars(problems).values() if isinstance(value, str) and re.fullmatch(r"HR\d{3}", value)}
    assert ours <= {problem_of(error).fault.code for error in _ERRORS}
    dialect = {code for code in problems._STATUSES if code.startswith("PGRST")}
    assert ours | dialect <= set(_documented_codes())


@pytest.mark.parametrize(("code", "status"), _documented_codes().items())
def test_a_documented_code_of_the_dialect_has_its_status(code: str, status: str) -> None:
    """The table must not promise a status that no answer has."""
    if code.startswith("PGRST"):
        assert str(problems._status(code)) == status


@pytest.mark.parametrize("state", [code for code in problems._STATUSES if not code.startswith("PGRST")])
def test_each_sqlstate_is_where_it_belongs(state: str) -> None:
    """Triggers raise what they like, and their authors want to know which status comes of it."""
    section = _section(README, "All error answers")
    by_status = {cells[0]: set(re.findall(r"`(\w+)`", cells[1])) for cells in _rows(section) if len(cells) == 2}
    assert state in by_status[str(problems._STATUSES[state])]


# -------------------------------------------------------------------- metrics


def test_the_metrics_table_has_every_metric() -> None:
    """Dashboards are made from the table; a name that is not exported gives an empty graph and no error."""
    vitals = Vitals("18.0", 1, 100, read_only=False, skew_seconds=0.0, quarantine_rows=0, newest=())
    names = {metric.name + ("_total" if metric.type == "counter" else "") for metric in families(Numbers(), vitals)}
    assert set(re.findall(r"`(headrace_\w+)", _section(OBSERVING, "Metrics"))) == names


def test_the_table_of_alerts_is_complete() -> None:
    """An operator looks there what an alert means."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    rows = _rows(_section(OBSERVING, "Prometheus and Grafana"))
    named = {name for cells in rows for name in re.findall(r"`(Headrace\w+)`", cells[0])}
    assert named == {rule["alert"] for group in groups for rule in group["rules"]}


# -------------------------------------------------------------------- the map


def test_every_path_of_the_map_exists() -> None:
    """A map that shows what is gone is worse than none."""
    paths = re.findall(r"`([\w./-]+(?:/|\.(?:py|sql|md|toml|txt)))`", ARCHITECTURE)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("folder", ["batching", "service", "sql"])
def test_every_module_is_on_the_map(folder: str) -> None:
    """Whoever adds a module says in a line what it is for."""
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*.*")
        if path.suffix in (".py", ".sql") and path.name != "__init__.py"
    }
    assert modules == set(
        re.findall(rf"^- `({folder}/[^`]+)`:", _section(ARCHITECTURE, "Map of the code"), re.MULTILINE)
    )


# -------------------------------------------------------------------- commands, links, versions


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_exists(path: Path) -> None:
    """The first command that a newcomer types must work."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        word
        for code in _code(path.read_text("utf-8"))
        if code.startswith("make ")
        for word in shlex.split(code)[1:]
        if "=" not in word
    }
    assert named <= targets


def test_the_readme_names_the_two_commands() -> None:
    """That everything starts from a bare checkout is the first promise of the page."""
    for command in ("serve", "test"):
        assert f"\n    make {command}" in README


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    """A page that is renamed takes its links with it."""
    links = re.findall(r"\]\(([^):#]+)\)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).is_file()] == []


def test_the_changelog_speaks_of_the_version_that_is_built() -> None:
    """A release without an entry leaves its users guessing."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
