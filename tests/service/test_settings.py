"""Settings: from the environment, with clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from batching import Limits
from service.auth.principal import Grants
from service.commands.arguments import Mistakes, read_settings
from service.settings import Settings, unknown_variables
from sql import Timeouts
from tests.service.minting import SECRET, public, rsa_key, write_jwks, write_secret


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
        {"jwt_secret_file": "/nowhere"},
        {"jwt_jwks_file": "/nowhere"},
        {"jwt_audience": "x"},
        {"jwt_tables": "events"},
        {"jwt_leeway_seconds": 301},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    """At start, not at the first request."""
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_the_dsn_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As secrets are mounted. What the command line says goes before it."""
    path = tmp_path / "dsn"
    path.write_text("postgresql://u:secret@db/x\n")
    monkeypatch.setenv("HEADRACE_DSN_FILE", str(path))
    assert Settings().dsn == "postgresql://u:secret@db/x"
    assert read_settings(dsn="postgresql://db/y").dsn == "postgresql://db/y"


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (None, {}, "HEADRACE_DSN_FILE: Value error, cannot be read: No such file or directory"),
        (b"u:secret@db/x", {}, "HEADRACE_DSN_FILE: Value error, what the file has must begin with postgresql://"),
        (b"\xff", {}, "HEADRACE_DSN_FILE: Value error, is not a file of text"),
        (
            b"postgresql://u:secret@db/x",
            {"HEADRACE_DSN": "postgresql://u:secret@db/y"},
            "set HEADRACE_DSN or this, not",
        ),
    ],
)
def test_a_file_that_will_not_do(
    content: bytes | None, more: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is told, and nothing of what is in it."""
    path = tmp_path / "dsn"
    if content is not None:
        path.write_bytes(content)
    for name, value in {"HEADRACE_DSN_FILE": str(path), **more}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Mistakes) as mistakes:
        read_settings()
    (line,) = mistakes.value.lines
    assert words in line
    assert "secret" not in line


def test_connections_of_all_workers() -> None:
    """What the budget at the start is about. Where there is no schema headrace, nobody keeps it clean."""
    settings = Settings(flush_slots=8, workers=4, pods=3, connections_reserve=7)
    assert (settings.connection_demand.connections, settings.connection_demand.reserve) == (120, 7)
    assert Settings(flush_slots=8, at_least_once=True).connection_demand.connections == 9


def test_misspelt_variables_are_found() -> None:
    """A setting that silently does nothing is the worst kind."""
    environ = {"HEADRACE_PROT": "1", "HEADRACE_PORT": "1", "HEADRACE_URL": "x", "PATH": "x"}
    assert unknown_variables(environ) == ["HEADRACE_PROT"]


def test_tokens_are_taken_by_files(tmp_path: Path) -> None:
    """A secret in the environment is seen by everybody who may look at the process; a path says nothing."""
    assert Settings().jwt is None
    secret = write_secret(tmp_path / "secret")
    jwks = write_jwks(tmp_path / "jwks", public(rsa_key()))
    settings = Settings(
        jwt_secret_file=secret,
        jwt_jwks_file=jwks,
        jwt_audience="a, b",  # type: ignore[arg-type]
        jwt_issuer="me",
        jwt_leeway_seconds=5,
        jwt_tables="public.events public.logs:select",
    )
    jwt = settings.jwt
    assert jwt is not None
    assert (jwt.secret_file, jwt.jwks_file, jwt.issuer, jwt.leeway_seconds) == (secret, jwks, "me", 5)
    assert jwt.audiences == ("a", "b")
    assert jwt.grants == Grants.parse(["public.events", "public.logs:select"])
    assert SECRET not in repr(settings) + repr(jwt)


def test_it_must_be_said_whom_tokens_are_for(tmp_path: Path) -> None:
    """Or else a token for any other service of the same issuer would be one for us."""
    secret = write_secret(tmp_path / "secret")
    for audience in ((), "", "*,x"):
        with pytest.raises(ValidationError, match="must "):
            Settings(jwt_secret_file=secret, jwt_audience=audience)  # type: ignore[arg-type]
    jwt = Settings(jwt_secret_file=secret, jwt_audience="*").jwt  # type: ignore[arg-type]
    assert jwt is not None
    assert jwt.audiences is None


def test_a_bad_secret_is_not_shown(tmp_path: Path) -> None:
    """The refusal at start is in a log."""
    path = write_secret(tmp_path / "secret", "correct-horse")
    with pytest.raises(ValidationError, match="13 bytes") as caught:
        Settings(jwt_secret_file=path, jwt_audience="a")  # type: ignore[arg-type]
    assert "horse" not in str(caught.value)
