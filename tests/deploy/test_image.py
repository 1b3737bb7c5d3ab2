"""The Dockerfile, replayed without Docker: its commands build what its CMD starts, as a user who may write nowhere."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest

from service.embedded import EmbeddedPostgres
from tests.deploy.dockerfile import Image, Offline, admitted, command, instructions, only
from tests.deploy.files import DEPLOY, KUBERNETES, PROJECT, ROOT, read
from tests.faults.proxy import FaultProxy
from tests.harness import Connection

STAGES = instructions((ROOT / "Dockerfile").read_text("utf-8"))
FINAL = STAGES[-1]
USER, GROUP = map(int, only(FINAL, "USER").split(":"))
COMPOSED = read(ROOT / "docker-compose.yml")["services"]["headrace"]
HOST = "127.0.0.1"
_START_SECONDS = 30


class Identity(TypedDict, total=False):
    """Who runs a process, if somebody else than we."""

    user: int
    group: int
    extra_groups: list[str | int]


# -------------------------------------------------------------------- what it says


def test_the_image_is_built_from_every_package() -> None:
    """A package that was added to the wheel but not to the image is noticed at its start only."""
    copied = {source for stage in STAGES for line in stage if line.name == "COPY" for source in line.text.split()[:-1]}
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


def test_nothing_else_is_given_to_the_builder() -> None:
    """What is local to a checkout, data and passwords for example, stays there."""
    ignore = (ROOT / ".dockerignore").read_text("utf-8")
    assert not [
        name for name in (".git", ".env", ".headrace/data", "tests", "deploy/kubernetes") if admitted(ignore, name)
    ]


def test_the_user_is_a_number_and_the_same_everywhere() -> None:
    """By a name Kubernetes cannot tell that it is not root."""
    made = next(line.text for line in FINAL if line.name == "RUN")
    assert re.findall(r"--[ug]id (\d+)", made) == [str(GROUP), str(USER), str(GROUP)]
    context = read(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (USER, GROUP, GROUP)


def test_no_secret_is_built_in() -> None:
    """Whoever has the image would have it."""
    names = {name for stage in STAGES for line in stage if line.name in {"ENV", "ARG"} for name in line.text.split()}
    assert not [name for name in names if re.search("PASSWORD|SECRET|DSN|KEY", name)]


# -------------------------------------------------------------------- the health check

_SPEC = importlib.util.spec_from_file_location("health", DEPLOY / "docker" / "health.py")
assert _SPEC is not None
assert _SPEC.loader is not None
health = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(health)


@pytest.mark.parametrize(
    ("variables", "scheme", "host", "port"),
    [
        ({"HOST": "0.0.0.0"}, "HTTPConnection", "127.0.0.1", 8000),
        ({"HOST": "0.0.0.0", "PORT": "80"}, "HTTPConnection", "127.0.0.1", 80),
        ({"HOST": "::", "PORT": ""}, "HTTPConnection", "::1", 8000),
        ({"HOST": "10.1.2.3"}, "HTTPConnection", "10.1.2.3", 8000),
        ({"HOST": "0.0.0.0", "TLS_CERTIFICATE_FILE": "/tls.crt"}, "HTTPSConnection", "127.0.0.1", 8000),
        ({"ADMIN_PORT": "9", "TLS_CERTIFICATE_FILE": "/tls.crt"}, "HTTPConnection", "127.0.0.1", 9),
        ({"ADMIN_PORT": "9", "ADMIN_HOST": "0.0.0.0", "PORT": "80"}, "HTTPConnection", "127.0.0.1", 9),
    ],
)
def test_the_health_check_goes_where_the_service_listens(
    variables: dict[str, str], scheme: str, host: str, port: int
) -> None:
    """Otherwise Docker restarts a service that is well."""
    connection = health.connection({f"HEADRACE_{name}": value for name, value in variables.items()})
    assert (type(connection).__name__, connection.host, connection.port) == (scheme, host, port)


def test_the_health_check_fails_where_nobody_answers() -> None:
    """And says why."""
    port = _free_port()
    done = subprocess.run(
        [sys.executable, DEPLOY / "docker" / "health.py"],
        env={"HEADRACE_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


# -------------------------------------------------------------------- replayed


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as end:
        port: int = end.getsockname()[1]
        return port


def _may_run(python: str) -> bool:
    """Whether the image's user may run this Python (one below /root he may not), and it is new enough."""
    new_enough = [python, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"]
    done = subprocess.run(
        new_enough, user=USER, group=GROUP, extra_groups=[], cwd="/", env={}, capture_output=True, check=False
    )
    return done.returncode == 0


def _base_python() -> tuple[str, Identity]:
    """A Python to stand for that of the base image, and who runs it: the image's user, if that can be."""
    here = f"{sys.base_exec_prefix}/bin/python3"
    if os.geteuid() != 0:
        return here, {}
    for python in (here, "/usr/local/bin/python3", "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if _may_run(python):
                return python, {"user": USER, "group": GROUP, "extra_groups": []}
    return here, {}


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """What the Dockerfile builds, in a folder that nobody may write to."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-image-"))
    python, _ = _base_python()
    try:
        folder.chmod(0o755)
        # A `python` and a `pip` with nothing installed, as the base image has them.
        subprocess.run([python, "-m", "venv", folder / "python"], check=True, timeout=60)
        built = Image(folder / "root", ROOT, folder / "python" / "bin")
        built.root.mkdir()
        try:
            built.build(STAGES)
        except Offline as missing:
            pytest.skip(f"the network is needed for: {missing}")
        built.make_read_only()
        yield built
    finally:
        for path in [folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]:
            path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.fixture
async def tcp_dsn(postgres: EmbeddedPostgres, dsn: str) -> AsyncIterator[str]:
    """The test's database by TCP: only its own user may enter the folder of its socket."""
    database = urlsplit(dsn).path.removeprefix("/")
    async with FaultProxy(f"{postgres.socket_folder}/.s.PGSQL.5432").listening() as proxy:
        yield proxy.dsn_of(database)


class Container:
    """A process that sees what a container would: its user, its variables, nothing to write to."""

    def __init__(self, image: Image, environment: dict[str, str]) -> None:
        self._image = image
        self._environment = {**image.environment, "HOME": "/nonexistent", **environment}
        _, self._identity = _base_python()

    def open(self, words: list[str]) -> subprocess.Popen[str]:
        """Start it; what it says is kept."""
        program = shutil.which(words[0], path=self._environment["PATH"])
        assert program is not None, f"{words[0]} is not in the image"
        return subprocess.Popen(
            [program, *map(self._image.inside, words[1:])],
            cwd="/",
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **self._identity,
        )

    async def run(self, words: list[str]) -> int:
        """Run it to its end; the exit status."""
        process = self.open(words)
        await anyio.to_thread.run_sync(process.communicate)
        return process.returncode

    @asynccontextmanager
    async def running(self, words: list[str]) -> AsyncIterator[subprocess.Popen[str]]:
        """Have it run for the length of the block, and until the health check is content before that."""
        process = self.open(words)
        try:
            with anyio.fail_after(_START_SECONDS):
                while await self.run(command(only(FINAL, "HEALTHCHECK"))) != 0:
                    assert process.poll() is None, process.communicate()[0]
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


COMMANDS = [
    pytest.param(command(only(FINAL, "CMD")), {}, id="the image's own"),
    pytest.param(COMPOSED["command"], COMPOSED["environment"], id="the composition's"),
]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_command_of_the_image_was_carried_out(image: Image) -> None:
    """But for those that make its user: they would change this machine."""
    assert [line.split()[0] for line in image.left_out] == ["groupadd", "useradd"]
    program = image.root / "opt" / "headrace" / "bin" / "headrace"
    assert os.access(program, os.X_OK)
    assert not (program.parent / "pip").exists(), "nothing is to be installed where the service runs"


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("words", "composed"), COMMANDS)
async def test_the_container_serves_is_healthy_and_stops_in_good_order(
    words: list[str], composed: dict[str, str], image: Image, tcp_dsn: str, db: Connection
) -> None:
    """All that users do with it, but for the container."""
    await db.execute("create table t (n int)")
    port, admin_port = _free_port(), _free_port()
    here = {"DSN": tcp_dsn, "HOST": HOST, "PORT": str(port)}
    if "HEADRACE_ADMIN_PORT" in composed:
        here |= {"ADMIN_HOST": HOST, "ADMIN_PORT": str(admin_port)}
    container = Container(image, {**composed, **{f"HEADRACE_{name}": value for name, value in here.items()}})
    async with container.running(words) as process:
        async with httpx2.AsyncClient(base_url=f"http://{HOST}:{port}") as client:
            while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.05)
            answer = await client.post("/rest/v1/t", json={"n": 1})
        assert answer.status_code == 201, answer.text
        assert await db.fetchval("select count(*) from t") == 1
        process.send_signal(signal.SIGTERM)
        said, _ = await anyio.to_thread.run_sync(process.communicate)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    assert await container.run(command(only(FINAL, "HEALTHCHECK"))) == 1, "nobody is there any more"
