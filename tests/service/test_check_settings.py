"""What is said of settings: nothing against the defaults, and a reason and a remedy for each that is unfit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.doctor.check_settings import check_mistakes, check_settings
from service.doctor.findings import Finding, Level
from service.settings import MIB, Settings


def complaints(unknown: tuple[str, ...] = (), **settings: Any) -> list[Finding]:
    """Whatever is not fine."""
    return [each for each in check_settings(Settings(**settings), unknown) if each.level is not Level.OK]


def test_the_defaults_are_fine() -> None:
    """An operator who has changed nothing has nothing to change."""
    assert complaints() == []


def test_what_is_set_is_named_but_not_shown() -> None:
    """That a variable has arrived in the container is half of the answer to most questions. A DSN has a password."""
    first, times = check_settings(Settings(dsn="postgresql://u:hunter-2@h/x", flush_slots=3), [])
    assert first.text == "set: HEADRACE_DSN, HEADRACE_FLUSH_SLOTS; the others have their defaults"
    assert times.text == "an answer may take 30 s (10 to wait, 20 to write), a stop 27 s"
    assert next(iter(check_settings(Settings(), []))).text == "none is set"


def test_workers_that_do_not_know_each_other_are_told_apart_by_nobody() -> None:
    """Each scrape would be answered by another one, and look like a restart."""
    (finding,) = [each for each in check_settings(Settings(), [], workers=2) if each.level is not Level.OK]
    assert finding.text.startswith("each of 2 workers shows its own numbers")
    assert "HEADRACE_WORKERS_DIR" in (finding.advice or "")
    shared = check_settings(Settings(workers_dir=Path("x")), [], workers=2)
    assert [each for each in shared if each.level is not Level.OK] == []


def test_a_misspelt_variable_is_corrected() -> None:
    """It has no effect, and nobody notices."""
    (near, far) = complaints(unknown=("HEADRACE_FLUSHSLOTS", "HEADRACE_X_Y_Z"))
    assert near.text == "HEADRACE_FLUSHSLOTS is not a setting and has no effect"
    assert near.advice == "did you mean HEADRACE_FLUSH_SLOTS? Otherwise unset it"
    assert far.advice == "unset it"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_rows_max": 70_000}, "pending rows are less than 3 batches of 70,000"),
        ({"pending_rows_max": 29_999}, "pending rows are less than 3 batches"),
        ({"flush_slots": 16, "pending_bytes_max": 64 * MIB}, "pending bytes are less than 17 batches"),
        ({"body_bytes_max": 257 * MIB, "body_seconds_max": 600}, "answered 429 however often"),
        ({"body_bytes_max": 241 * MIB}, "must arrive within 30 s"),
        ({"head_bytes_max": 4096}, "A URL may have 8,192 bytes, but all of the head no more than 4,096"),
        ({"drain_seconds_max": 19}, "a stopping service waits 19 s, but a batch may take 20 s"),
        ({"lock_seconds_max": 20}, "may wait 20 s for a lock, but must be written within 20 s"),
        ({"doubt_seconds_max": 6.9}, "given up after 6.9 s, but connecting again may take 7 s"),
        ({"keep_alive_seconds": 60}, "idle connections are closed after 60 s"),
        ({"idempotency_seconds": 49}, "forgotten after 49 s, but a request may take 50 s"),
        ({"flush_slots": 1}, "with one flush slot, one locked table holds up all others for 5 s"),
        ({"at_least_once": True}, "perhaps for the second time"),
        ({"tx_override": True}, "is answered 201, and nothing is stored"),
        ({"fast_lane": False}, "at a multiple of the CPU"),
        ({"log_level": "error"}, "is not logged"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], words: str) -> None:
    """Each alone, and nothing beside it."""
    (found,) = complaints(**settings)
    assert found.level is Level.WARNING
    assert words.lower() in found.text.lower()
    assert found.advice


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_rows_max": 60_000, "pending_rows_max": 180_000},
        {"body_bytes_max": 240 * MIB},
        {"head_bytes_max": 8192},
        {"drain_seconds_max": 20},
        {"lock_seconds_max": 19.9},
        {"doubt_seconds_max": 7},
        {"keep_alive_seconds": 60.1},
        {"idempotency_seconds": 50},
    ],
)
def test_what_just_goes_together(settings: dict[str, Any]) -> None:
    """A warning too many makes people stop reading."""
    assert complaints(**settings) == []


def test_advice_about_sizes_is_enough() -> None:
    """Who follows it must not be told the same again."""
    (found,) = complaints(batch_rows_max=100_000)
    assert found.advice
    number = re.search(r"HEADRACE_PENDING_ROWS_MAX to (\d+)", found.advice)
    assert number
    assert complaints(batch_rows_max=100_000, pending_rows_max=int(number[1])) == []


@pytest.mark.parametrize("schema", ["headrace", "pg_catalog", "information_schema"])
def test_a_schema_that_must_not_be_exposed(schema: str) -> None:
    """Whoever can write to the ledger can have rows stored twice or lost."""
    (found,) = complaints(schemas=f"public,{schema}")
    assert found.level is Level.ERROR
    assert found.text.startswith(f"schema {schema} is exposed")


def test_mistakes_are_errors() -> None:
    """The service does not start with them."""
    (found,) = check_mistakes(["HEADRACE_PORT: too large"])
    assert (found.level, found.text) == (Level.ERROR, "HEADRACE_PORT: too large")
