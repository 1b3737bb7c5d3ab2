"""Whether the service in this container serves: GET /livez, for Docker's HEALTHCHECK.

Goes where the service's own variables say that it listens: to the admin address if there is one, where clients cannot
take up all connections. Knows the standard library only, so that it costs little.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

_SECONDS = 2.0
"""Less than HEALTHCHECK's own time-out, so that what went wrong is said."""

_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not what we do
"""Addresses that stand for all of the container's → one of them."""


def connection(environ: Mapping[str, str]) -> http.client.HTTPConnection:
    """To the service with these variables; nothing is sent yet."""
    admin_port = environ.get("HEADRACE_ADMIN_PORT")
    if admin_port:
        host = environ.get("HEADRACE_ADMIN_HOST", "")
        return http.client.HTTPConnection(_HERE.get(host, host), int(admin_port), timeout=_SECONDS)
    host, port = environ.get("HEADRACE_HOST", ""), int(environ.get("HEADRACE_PORT") or 8000)
    if environ.get("HEADRACE_TLS_CERTIFICATE_FILE"):
        # The certificate is for the name that clients use, and nobody is between us and this very container.
        unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
        return http.client.HTTPSConnection(_HERE.get(host, host), port, timeout=_SECONDS, context=unverified)
    return http.client.HTTPConnection(_HERE.get(host, host), port, timeout=_SECONDS)


def main() -> None:
    """Ends with status 0 if it serves; otherwise says why not."""
    try:
        to_service = connection(os.environ)
        to_service.request("GET", "/livez")
        status = to_service.getresponse().status
    except ssl.SSLError as error:
        if "certificate required" not in str(error).lower():
            sys.exit(f"{type(error).__name__}: {error}")
        sys.exit(0)  # it wants one of its clients (HEADRACE_TLS_CLIENT_CA_FILE), so it is there
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if status != http.client.OK:
        sys.exit(f"/livez: {status}")


if __name__ == "__main__":
    main()
