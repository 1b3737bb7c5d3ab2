"""Rows 1 to 4 of the matrix: the connection is lost at each moment of a write, in each way of writing."""

from __future__ import annotations

import pytest

from sql import Timeouts
from tests.faults.checker import Expected
from tests.faults.conftest import Scene
from tests.faults.proxy import AMBIGUOUS, Fault
from tests.faults.traffic import Mix

_TIMES = 5
_CUTS = (Fault.CUT_MID_COPY, Fault.CUT_BEFORE_COMMIT, Fault.CUT_AT_COMMIT, Fault.CUT_AFTER_COMMIT)
_HOLES = (Fault.HOLE_BEFORE_COMMIT, Fault.HOLE_AFTER_COMMIT)


@pytest.mark.parametrize("fault", _CUTS, ids=lambda fault: fault.name.lower())
async def test_a_connection_that_is_cut(scene: Scene, fault: Fault) -> None:
    """Rows 1, 2 and 3: the slot finds out what is stored, so everything is acknowledged, and there once."""
    async with scene.under_load() as (headrace, traffic):
        scene.proxy.arm(fault, _TIMES)
        await headrace.eventually(lambda: scene.proxy.fired[fault] == _TIMES)
        await traffic.acknowledged(100)
    await scene.judge(Expected(unknown_max=0, ambiguous_min=_TIMES if fault in AMBIGUOUS else 0))


@pytest.mark.parametrize("kind", ["object", "array", "returning", "together"])
async def test_a_commit_whose_confirmation_is_lost(scene: Scene, kind: str) -> None:
    """Row 3 for each way of writing: rows that wait together, a COPY, a statement with its own transaction, several
    tables in one.
    """
    mix = Mix(kinds=["object"], clients=24) if kind == "together" else Mix(kinds=[kind], tables=["t0"])
    async with scene.under_load(mix) as (headrace, traffic):
        scene.proxy.arm(Fault.CUT_AFTER_COMMIT, _TIMES)
        await headrace.eventually(lambda: not scene.proxy.armed)
        await traffic.acknowledged(100)
    await scene.judge(Expected(unknown_max=0, ambiguous_min=_TIMES))


@pytest.mark.parametrize("fault", _HOLES, ids=lambda fault: fault.name.lower())
async def test_a_connection_that_falls_silent(scene: Scene, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 4: nothing is heard any more, nor is the connection closed; the server may even wait for the rest."""
    monkeypatch.setattr(Timeouts, "answer_seconds", 0.5)
    async with scene.under_load(statement_seconds_max=0.4) as (headrace, traffic):
        scene.proxy.arm(fault, 2)
        await headrace.eventually(lambda: scene.proxy.fired[fault] == 2)
        await traffic.acknowledged(100)
    await scene.judge(Expected(unknown_max=0, ambiguous_min=2 if fault in AMBIGUOUS else 0))
