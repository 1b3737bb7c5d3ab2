"""What `headrace doctor` says of what is between clients and the service: TLS, proxies, who sees what. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from service.auth.caller import is_loopback
from service.doctor.findings import Finding, Group
from service.http.listening import TlsError, where
from service.settings import Settings

if TYPE_CHECKING:
    from service.http.tls import Certificate

_CLIENTS = Group("Clients")


def check_edge(settings: Settings, certificate: Certificate | TlsError | None, now: datetime) -> Iterator[Finding]:
    """Whether clients can trust the service, and others learn nothing of them. `certificate` is None without TLS."""
    if isinstance(certificate, TlsError):
        yield _CLIENTS.error(str(certificate), "correct it: the service does not start like this")
    elif certificate is not None:
        yield from _certificate(certificate, now)
    elif not is_loopback(settings.host):
        yield _plain(settings)
    yield from _proxies(settings)
    yield from _operators(settings)


def _certificate(certificate: Certificate, now: datetime) -> Iterator[Finding]:
    warning = certificate.warning(now)
    names = ", ".join(certificate.names) or "no name at all"
    if warning is None:
        yield _CLIENTS.ok(f"the certificate is for {names}, and valid until {certificate.ends:%Y-%m-%d}")
    else:
        finding = _CLIENTS.warning if certificate.begins <= now < certificate.ends else _CLIENTS.error
        yield finding(warning, "put a new one into its place, and send the service SIGHUP")
    if not certificate.names:
        yield _CLIENTS.error(
            "the certificate names no host (subjectAltName): clients refuse to connect",
            "have one made for the names that clients use",
        )
    if certificate.open_key:
        yield _CLIENTS.warning(
            "every user of this machine may read the key of the certificate, and then pretend to be the service",
            "chmod o-rwx the file in HEADRACE_TLS_KEY_FILE",
        )


def _plain(settings: Settings) -> Finding:
    if settings.proxies:
        return _CLIENTS.ok(
            f"clients come by way of {', '.join(settings.proxies)}",
            f"see that nobody else reaches {where(settings.host, settings.port)}: between the proxy and the service,"
            " rows and keys are not encrypted",
        )
    return _CLIENTS.warning(
        f"{settings.host} is not for this machine alone, and nothing is encrypted: rows and keys can be read on the"
        " way",
        "set HEADRACE_TLS_CERTIFICATE_FILE and HEADRACE_TLS_KEY_FILE, or let only a proxy reach it that speaks TLS, and"
        " name that in HEADRACE_PROXIES",
    )


def _proxies(settings: Settings) -> Iterator[Finding]:
    for text in settings.proxies:
        if ipaddress.ip_network(text).prefixlen == 0:
            yield _CLIENTS.warning(
                f"{text} in HEADRACE_PROXIES is everybody: the access log names whomever a client says that he is",
                "name the addresses of the proxies",
            )


def _operators(settings: Settings) -> Iterator[Finding]:
    port, host = settings.admin_port, settings.admin_host
    if port is None and not is_loopback(settings.host):
        yield _CLIENTS.warning(
            f"whoever reaches {settings.host} may look at /metrics and /dashboard, and so how much is written where",
            "set HEADRACE_ADMIN_PORT to have them at an address of their own, on 127.0.0.1",
        )
    elif port is not None and not is_loopback(host):
        yield _CLIENTS.warning(
            f"the operators' address {where(host, port)} is not for this machine alone; it speaks plain HTTP, and tells"
            " everybody how much is written where",
            "let only Prometheus and operators reach it, or set HEADRACE_ADMIN_HOST to 127.0.0.1",
        )
