"""What an operator is told when the service has started: as lines for people, or as one log record."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from service.settings import Settings

logger = logging.getLogger("service")


def announce(settings: Settings, url: str, operators_url: str, *, own_database: bool) -> None:
    """Tell where the service listens, and where operators look. `own_database`: its PostgreSQL has come with it."""
    if settings.log_format == "json":
        logger.info("Headrace listens on %s", url, extra={"url": url, "workers": settings.workers})
        return
    several = f" with {settings.workers} workers" if settings.workers > 1 else ""
    lines = [f"Headrace listens on {url}{several}", f"  docs     {url}/docs", f"  watch    {operators_url}/dashboard"]
    if own_database:
        row = '{"device_id": "pump-7", "ts": "2026-11-21T10:00:00Z", "temperature": 21.5}'
        psql_command = "headrace psql" if _on_path("headrace") else ".venv/bin/headrace psql"
        lines += [
            f"  database PostgreSQL of its own, data in {settings.data_dir}",
            f"  try      curl -i {url}{settings.prefix}/events -H 'Content-Type: application/json' -d '{row}'",
            f"  look     {psql_command} -c 'select * from events'",
        ]
    typer.echo("\n".join(lines))


def _on_path(program: str) -> bool:
    return any((Path(folder) / program).exists() for folder in os.get_exec_path())
