"""Every variable that anything in deploy/ sets or names is a setting of the service. (tests/test_docs.py has pages.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.files import DEPLOY, KNOWN, ROOT, settings_named

FILES = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *(path for path in DEPLOY.rglob("*") if path.is_file())]
NAMING = [path for path in FILES if settings_named(path.read_text("utf-8"))]


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.name)
def test_only_variables_that_exist_are_named(path: Path) -> None:
    """The service ignores a variable that it does not know, so a misspelt one would do nothing."""
    assert settings_named(path.read_text("utf-8")) - KNOWN == set()


def test_the_files_that_set_variables_are_looked_at() -> None:
    """A pattern that finds nothing would be content with anything."""
    assert {"Dockerfile", "docker-compose.yml", "settings.env", "headrace.service", "headrace.env"} <= {
        path.name for path in NAMING
    }
