"""Settings: from the environment, with clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from batching import Limits
from service.settings import Settings, unknown_variables
from sql import Timeouts


def test_defaults_are_those_of_the_parts() -> None:
    """One truth about the limits: the parts' own defaults, which the tests of the parts use, are the service's."""
    assert Settings().limits == Limits()
    assert Settings().timeouts == Timeouts()


def test_every_setting_is_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators set nothing but these."""
    monkeypatch.setenv("HEADRACE_DSN", "postgresql://db/x")
    monkeypatch.setenv("HEADRACE_SCHEMAS", "api, audit")
    monkeypatch.setenv("HEADRACE_PREFIX", "")
    monkeypatch.setenv("HEADRACE_DATA_DIR", "elsewhere")
    monkeypatch.setenv("HEADRACE_BATCH_ROWS_MAX", "7")
    settings = Settings()
    assert settings.dsn == "postgresql://db/x"
    assert settings.schemas == ("api", "audit")
    assert settings.prefix == ""
    assert settings.data_dir == Path("elsewhere")
    assert settings.limits.batch_rows_max == 7


@pytest.mark.parametrize(("given", "meant"), [("/rest/v1/", "/rest/v1"), ("rest", "/rest"), ("/", ""), ("", "")])
def test_the_prefix_is_taken_as_it_is_meant(given: str, meant: str) -> None:
    """A slash too many or too few must not make every path a 404."""
    assert Settings(prefix=given).prefix == meant


def test_an_empty_dsn_is_none() -> None:
    """`HEADRACE_DSN=` in a compose file means: not set."""
    assert Settings(dsn="").dsn is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"flush_slots": 0},
        {"request_seconds_max": -1},
        {"schemas": ""},
        {"log_level": "loud"},
        {"dsn": "mysql://x"},
        {"drain_seconds_max": float("inf")},
        {"lock_seconds_max": 0},
        {"prefix": "/{x}"},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    """At start, not at the first request."""
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_misspelt_variables_are_found() -> None:
    """A setting that silently does nothing is the worst kind."""
    environ = {"HEADRACE_PROT": "1", "HEADRACE_PORT": "1", "HEADRACE_URL": "x", "PATH": "x"}
    assert unknown_variables(environ) == ["HEADRACE_PROT"]
