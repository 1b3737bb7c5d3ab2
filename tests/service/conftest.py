"""What tests of the whole service share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.embedded import EmbeddedPostgres


@pytest.fixture
def own() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own, which it may stop."""
    with tempfile.TemporaryDirectory(prefix="headrace-tests-") as folder:
        server = EmbeddedPostgres.start(Path(folder), {"fsync": "off"})
        yield server
        server.stop()
