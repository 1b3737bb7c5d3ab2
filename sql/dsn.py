"""A DSN: which hosts it leads to, and the files beside it that are needed to connect.

Owns reading it as far as that takes, and what is wrong with the files. asyncpg reads it for everything else. Must not
connect, and never quotes what might be a part of a password.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from sql.errors import Unavailable

logger = logging.getLogger(__name__)

_PORT = 5432

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class BadDsn(Unavailable):
    """The DSN cannot be read, whatever is done about the database."""


class BadFile(Unavailable):
    """A file that the DSN or the environment names cannot be used."""


UNREADABLE = "the DSN is not a connection URL that can be read"


@dataclass(frozen=True, slots=True)
class Host:
    """One of the hosts: a name, an address, or the folder of a socket."""

    name: str
    port: int

    def __str__(self) -> str:
        return self.name if self.name.startswith("/") else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a DSN leads. Without `hosts` it says none: asyncpg looks for a server of this machine."""

    hosts: tuple[Host, ...]
    database: str
    attributes: str
    """`target_session_attrs`. Of several hosts the one is wanted that takes rows, unless something else is said."""

    @property
    def leads_to_several(self) -> bool:
        """Whether the server may be another one the next time."""
        return len(self.hosts) > 1

    def __str__(self) -> str:
        """For the log."""
        return f"{','.join(map(str, self.hosts)) or 'local socket'}{self.database}"


def route_of(dsn: str, environ: Mapping[str, str] = os.environ) -> Route:
    """Read the hosts of a DSN, or of the environment if it has none. Raises `BadDsn`."""
    try:
        parts = urlsplit(dsn)
        said = dict(parse_qsl(parts.query))
        spec = parts.netloc.partition("@")[2] if "@" in parts.netloc else parts.netloc
        if "@" in spec:
            raise ValueError  # noqa: TRY301 - of a password that should have been escaped, and not to be quoted
        ports = "" if spec else said.get("port", "")
        is_escaped = bool(spec)  # as a socket's folder is in this part of a URL
        spec = spec or said.get("host") or environ.get("PGHOST") or ""
        hosts = _hosts(spec, ports or environ.get("PGPORT", "")) if spec else ()
        if is_escaped:
            hosts = tuple(Host(unquote(host.name), host.port) for host in hosts)
    except ValueError:
        raise BadDsn(UNREADABLE) from None
    default = "read-write" if len(hosts) > 1 else "any"
    attributes = said.get("target_session_attrs") or environ.get("PGTARGETSESSIONATTRS") or default
    return Route(hosts, parts.path, attributes)


def _hosts(spec: str, ports: str) -> tuple[Host, ...]:
    """`a:1,[::1]:2,/tmp` → hosts; `ports` are those of hosts that say none: one for all, or one for each."""
    specs = spec.split(",")
    others = [int(port) for port in ports.split(",")] if ports else [_PORT]
    if len(others) == 1:
        others *= len(specs)
    found = []
    for text, other in zip(specs, others, strict=True):
        if text.startswith("["):
            name, _, rest = text[1:].partition("]")
            port = rest.removeprefix(":")
        elif text.startswith("/"):
            name, port = text, ""
        else:
            name, _, port = text.partition(":")
        if not name:
            raise ValueError
        found.append(Host(name, int(port) if port else other))
    return tuple(found)


# -------------------------------------------------------------------- files


def check_files(dsn: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's own `.pgpass` may be read for a password. Raises `BadFile` for a file that cannot be used.

    asyncpg itself would name no file, and do without a file of passwords that others may read.
    """
    parts = urlsplit(dsn)
    said = dict(parse_qsl(parts.query))
    if (said.get("sslmode") or environ.get("PGSSLMODE")) != "disable":
        for name in _TLS_FILES:
            path = said.get(name) or environ.get(f"PG{name.upper()}")
            if path:
                _check_readable(name, path)
    if parts.password or said.get("password") or environ.get("PGPASSWORD"):
        return True
    named = said.get("passfile") or environ.get("PGPASSFILE")
    if named:
        _check_readable("passfile", named)
        if _is_open_to_others(Path(named)):
            raise BadFile(f"passfile {named} may be read by others, so it is not used: chmod 600 {named}")
        return True
    try:
        own = Path.home() / ".pgpass"
    except (RuntimeError, KeyError):
        return True
    if own.is_file() and _is_open_to_others(own):
        logger.warning("%s may be read by others, so it is not used: chmod 600 %s", own, own)
        return False
    return True


def _check_readable(name: str, path: str) -> None:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise BadFile(f"{name} {path} cannot be read: {error.strerror}") from error


def _is_open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & _OPEN_TO_OTHERS)
