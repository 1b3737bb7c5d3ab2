"""What the doctor says about who may write: a door that is open, or closed to all, by mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.doctor.check_access import check_access
from service.doctor.findings import Level
from service.settings import Settings
from sql import Contents, OwnSchema

MISSING = OwnSchema(exists=False, may_create=True, lacking=(), denied=())
THERE = OwnSchema(exists=True, may_create=True, lacking=(), denied=())
WORLD = {"host": "0.0.0.0"}


def keys(ever: int, good: int) -> Contents:
    """So many keys."""
    return Contents(0, 0, None, 0, 0, 0, None, ever, good)


def said(own: OwnSchema | None, contents: Contents | None, **settings: Any) -> list[tuple[Level, str]]:
    """Level and text of the findings."""
    return [(found.level, found.text) for found in check_access(Settings(**settings), own, contents)]


@pytest.mark.parametrize("own", [MISSING, THERE])
def test_a_service_that_would_not_start_is_an_error(own: OwnSchema) -> None:
    """Better read here than in the log of a failed deployment."""
    contents = keys(0, 0) if own.exists else None
    ((level, text),) = said(own, contents, **WORLD)
    assert level is Level.ERROR
    assert "does not start: others reach 0.0.0.0, and there is no credential yet" in text


def test_a_door_that_is_open_to_all_is_named() -> None:
    """It was asked for in as many words, maybe for a trial."""
    assert (Level.WARNING, "everybody who reaches 0.0.0.0 may write without a credential") in said(
        THERE, keys(1, 1), anonymous_writes="allow", **WORLD
    )


def test_a_door_that_is_closed_to_all_is_named() -> None:
    """All keys have expired over night."""
    assert said(THERE, keys(3, 0), **WORLD)[-1] == (
        Level.WARNING,
        "nobody may write: all API keys are revoked or have expired",
    )
    assert said(THERE, keys(3, 0))[-1][0] is Level.WARNING
    assert said(THERE, keys(0, 0), anonymous_writes="refuse")[-1][0] is Level.WARNING


def test_what_is_as_it_should_be(tmp_path: Path) -> None:
    """Keys, tokens, or this machine alone."""
    assert said(THERE, keys(2, 1), **WORLD) == [(Level.OK, "credentials: 1 API key")]
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 32)
    jwt = {"jwt_secret_file": secret, "jwt_audience": ("*",)}
    assert said(THERE, keys(2, 2), **WORLD, **jwt) == [(Level.OK, "credentials: 2 API keys and tokens (JWT)")]
    assert said(THERE, keys(2, 0), **WORLD, **jwt) == [(Level.OK, "credentials: tokens (JWT)")]
    assert said(MISSING, None) == [
        (Level.OK, "credentials: none"),
        (Level.OK, "programs on this machine may write without a credential, until there is one"),
    ]


def test_what_cannot_be_known_is_not_judged() -> None:
    """The database is away: that is said elsewhere."""
    assert said(None, None, **WORLD) == [(Level.OK, "it is not known whether there are API keys")]
