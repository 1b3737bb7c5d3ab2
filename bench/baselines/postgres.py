"""The PostgreSQL of a run: the one that comes with the project, as it is configured by default but for connections.

Its durability is PostgreSQL's own default (fsync and synchronous_commit are on): a commit waits for the disk.
`python -m bench.baselines.postgres FOLDER` prints its DSN, and stops it when its standard input ends: so it does not
outlive the benchmark, however that ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from service.embedded import EmbeddedError, EmbeddedPostgres

SETTINGS = {"max_connections": "200"}  # two pools of 20, the service twice, and room


def main() -> None:
    """Start, say where, wait, stop."""
    try:
        server = EmbeddedPostgres.start(Path(sys.argv[1]), SETTINGS)
    except EmbeddedError as error:
        sys.exit(str(error))
    try:
        print(server.dsn, flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
