"""TLS as an operator sees it: `headrace serve` with files that are wrong, that are right, and that change."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
from pathlib import Path

import httpx2

from service.embedded import EmbeddedPostgres
from tests.service.certificates import Authority
from tests.service.test_process import HEADRACE, Process, wait_until


def test_files_that_are_wrong_are_said_in_one_line(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """And there is no service, which would speak plain HTTP where TLS was wanted."""
    authority = Authority(tmp_path)
    pair, other = authority.sign("one"), authority.sign("other")
    pair.key.write_bytes(other.key.read_bytes())
    for more, words in (
        ({}, f"the key in {pair.key} is not that of the first certificate in {pair.certificate}"),
        ({"HEADRACE_TLS_KEY_FILE": str(tmp_path / "no")}, f"cannot read {tmp_path / 'no'}: No such file"),
        ({"HEADRACE_TLS_KEY_FILE": ""}, "HEADRACE_TLS_KEY_FILE: "),
    ):
        environment = {**os.environ, "HEADRACE_DSN": postgres.dsn, **pair.environment, **more}
        command = [HEADRACE, "serve", "--port", "0"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_certificate_is_renewed_by_sighup(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """While the service runs; and operators are told where they find their pages."""
    authority = Authority(tmp_path)
    pair = authority.sign("service")
    process = Process(tmp_path, HEADRACE_DSN=postgres.dsn, HEADRACE_ADMIN_PORT="0", **pair.environment)
    try:
        url = process.url
        assert url.startswith("https://127.0.0.1:")
        wait_until(lambda: "/dashboard" in process.output)
        match = re.search(r"watch +(http://127\.0\.0\.1:\d+)/dashboard", process.output)
        assert match is not None
        with httpx2.Client(verify=authority.client()) as client:
            assert client.get(f"{url}/livez").status_code == 200
            assert client.get(f"{match[1]}/metrics").status_code == 200
            port = int(url.rpartition(":")[2])
            before = ssl.get_server_certificate(("127.0.0.1", port))
            authority.sign("service")
            process.child.send_signal(signal.SIGHUP)
            wait_until(lambda: "read the certificate again" in process.output)
            assert ssl.get_server_certificate(("127.0.0.1", port)) != before
            assert client.get(f"{url}/livez").status_code == 200
    finally:
        assert process.end(signal.SIGTERM) == 0
