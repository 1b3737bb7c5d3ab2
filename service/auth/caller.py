"""Who asks, as far as a request and its connection tell: a claim, of which nothing is proved yet.

Pure: headers in, a frozen value out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """The `Authorization` and `apikey` headers as they came, "" where there is none. `is_local`: the connection came in
    at an address that only this machine reaches.
    """

    authorization: str = ""
    apikey: str = ""
    is_local: bool = False

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"<Caller, local={self.is_local}>"


LOCAL = Caller(is_local=True)
REMOTE = Caller()
"""Callers that show no credential."""


def caller_of(headers: Iterable[tuple[bytes, bytes]], *, is_local: bool) -> Caller:
    """The caller with these headers, their names in lower case; `LOCAL` or `REMOTE` itself if they show nothing.

    Of several headers of one name nobody could say which one counts: together they are no credential that is known.
    """
    authorization: bytes | None = None
    apikey: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            authorization = value if authorization is None else authorization + b"," + value
        elif name == b"apikey":
            apikey = value if apikey is None else apikey + b"," + value
    if authorization or apikey:
        return Caller(_text(authorization), _text(apikey), is_local)
    return LOCAL if is_local else REMOTE


def _text(header: bytes | None) -> str:
    return "" if header is None else header.decode("latin-1").strip()


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches this address of its own: None is a socket in the file system."""
    if host is None or host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
