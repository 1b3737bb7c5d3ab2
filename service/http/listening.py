"""Listening: the sockets, what is spoken with those who connect there, and where operators do.

Owns what is said of an address that cannot be had. Must not know what is in a request.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from service.http.connections import Connections

BACKLOG = 2048
"""Clients that have connected and are not let in yet; the kernel allows no more than `net.core.somaxconn`."""

_GOODBYE_SECONDS = 2.0
"""How long a client may take to confirm the end of TLS; meanwhile the connection is open, and nobody's."""


class TlsError(Exception):
    """The files cannot be used. The message says which, and why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What TLS needs, in PEM but for the password. `client_ca`: only clients with a certificate of these are let in."""

    certificate: Path
    key: Path
    key_password: Path | None = None
    client_ca: Path | None = None


def where(host: str, port: int) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -------------------------------------------------------------------- sockets


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A socket that listens at the first address of that name that can be had. With `reuse_port`, others may join it.

    Raises `OSError`, which says which address it was.
    """
    problem: OSError | None = None
    for family, address in _addresses(host, port):
        try:
            return _listen(socket.socket(family, socket.SOCK_STREAM), address, reuse_port=reuse_port)
        except OSError as error:
            problem = problem or error
    raise _refused(host, port, problem)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has an address together with others, and will listen when it is served. Raises `OSError`."""
    problem: OSError | None = None
    for family, address in _addresses(host, port):
        try:
            return _bind(socket.socket(family, socket.SOCK_STREAM), address, reuse_port=True)
        except OSError as error:
            problem = problem or error
    raise _refused(host, port, problem)


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise _refused(host, port, error) from None
    return [(family, address) for family, _, _, _, address in found]


def _listen(made: socket.socket, address: Any, *, reuse_port: bool) -> socket.socket:
    _bind(made, address, reuse_port=reuse_port)
    try:
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _bind(made: socket.socket, address: Any, *, reuse_port: bool) -> socket.socket:
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio does
        made.bind(address)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _refused(host: str, port: int, problem: OSError | None) -> OSError:
    if problem is None or isinstance(problem, socket.gaierror):
        return OSError(f"cannot listen on {where(host, port)}: there is no host of that name")
    return OSError(problem.errno, f"cannot listen on {where(host, port)}: {os.strerror(problem.errno or 0).lower()}")


# -------------------------------------------------------------------- who connects there


@dataclass(frozen=True, slots=True)
class Clients:
    """How connections begin: with this protocol, and over TLS if there is a context for it."""

    protocol: Callable[[], asyncio.Protocol]
    tls: ssl.SSLContext | None = None
    handshake_seconds_max: float = 10.0

    async def let_in(self, host: str, port: int, sockets: Sequence[socket.socket] | None) -> list[asyncio.Server]:
        """Let them in by these sockets, or else at all addresses of that host. Raises `OSError`."""
        if sockets is not None:
            return [await self._serve(sock=each) for each in sockets]
        try:
            return [await self._serve(host=host, port=port)]
        except OSError as error:
            raise _refused(host, port, error) from None

    async def _serve(self, **place: Any) -> asyncio.Server:
        # What uvloop allows for agreeing on TLS otherwise is a minute, and half of one for ending it.
        tls: dict[str, Any] = (
            {}
            if self.tls is None
            else {
                "ssl": self.tls,
                "ssl_handshake_timeout": self.handshake_seconds_max,
                "ssl_shutdown_timeout": _GOODBYE_SECONDS,
            }
        )
        return await asyncio.get_running_loop().create_server(self.protocol, backlog=BACKLOG, **place, **tls)


class Arriving(asyncio.Protocol):
    """A client that has connected and is agreeing on TLS. Then the connection is what `become` makes."""

    def __init__(self, become: Callable[[], asyncio.Protocol], connections: Connections) -> None:
        self._become = become
        self._connections = connections
        connections.arriving(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It has agreed."""
        self._connections.arrived(self)
        protocol = self._become()
        cast("asyncio.Transport", transport).set_protocol(protocol)
        protocol.connection_made(transport)
