"""The address for operators: what is served there, and nowhere else.

Owns who is told that there is such a page. Must not know what is on it.
"""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from service.lifespan import STATE, Service


class OperatorsRoute(APIRoute):
    """Is there for requests to the address for operators alone. To others it is as if there were nothing."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As any other route, at that address."""
        return super().matches(scope) if _is_for_operators(scope) else (Match.NONE, {})


def _is_for_operators(scope: Scope) -> bool:
    """By the port that the client has connected to, which no header can change."""
    service: Service | None = scope.get("state", {}).get(STATE)
    server = scope.get("server")
    return service is not None and server is not None and service.connections.is_operators(server[1])
