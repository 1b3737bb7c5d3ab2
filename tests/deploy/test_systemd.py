"""deploy/systemd: what systemd's own tools say of the unit, and what it promises the service."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy.files import SYSTEMD, settings_of, variables

UNIT = (SYSTEMD / "headrace.service").read_text("utf-8")
VARIABLES = variables(SYSTEMD / "headrace.env")
PROGRAM = "/opt/headrace/bin/headrace"


def _directives() -> dict[str, list[str]]:
    """Directive → its values, in their order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE):
        found[name].append(value)
    return dict(found)


DIRECTIVES = _directives()


def _analyze(*arguments: str, unit: Path) -> None:
    """Fail if systemd-analyze has anything to say against the unit."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    # Installed here is another program, and what it is does not matter.
    unit.write_text(UNIT.replace(PROGRAM, sys.executable), "utf-8")
    done = subprocess.run([tool, *arguments, unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """It ignores a directive that it does not know, and the service would run without that protection."""
    _analyze("verify", unit=tmp_path / "headrace.service")


def test_the_unit_is_hardly_exposed(tmp_path: Path) -> None:
    """2 of 10, by systemd's own measure: it needs the network, and little else."""
    _analyze("security", "--offline=true", "--no-pager", "--threshold=20", unit=tmp_path / "headrace.service")


def test_the_service_has_time_to_stop() -> None:
    """What is left is killed after that, with the requests that were accepted."""
    (seconds,) = DIRECTIVES["TimeoutStopSec"]
    assert int(seconds) >= settings_of(VARIABLES).drain_seconds_max + 10
    assert DIRECTIVES["KillMode"] == ["mixed"], "the master has its workers finish; nobody else stops them"


def test_the_service_reads_the_database_from_its_credential() -> None:
    """With a password in an environment file, whoever may read that file may write to the database."""
    (credential,) = DIRECTIVES["LoadCredential"]
    name, path = credential.split(":")
    environment = dict(value.split("=", 1) for value in DIRECTIVES["Environment"])
    assert environment["HEADRACE_DSN_FILE"] == f"%d/{name}"
    assert environment["HEADRACE_WORKERS_DIR"] == f"%t/{DIRECTIVES['RuntimeDirectory'][0]}"
    assert not environment.keys() & VARIABLES.keys()
    assert Path(path).parent == Path(DIRECTIVES["EnvironmentFile"][0]).parent


def test_the_service_is_reloaded_by_the_signal_that_it_knows() -> None:
    """Any other would end it."""
    assert DIRECTIVES["ExecReload"] == ["kill -HUP $MAINPID"]
    assert DIRECTIVES["ExecStart"] == [f"{PROGRAM} serve"]


def test_a_worker_that_dies_does_not_take_the_others_with_it() -> None:
    """By default the whole unit is stopped when the kernel ends one of its processes for want of memory."""
    assert DIRECTIVES["OOMPolicy"] == ["continue"]
    assert DIRECTIVES["Restart"] == ["always"]
