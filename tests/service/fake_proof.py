"""Credentials that need no database: who shows the token NAME is NAME."""

from __future__ import annotations

from service.auth.principal import Grants, Principal
from service.auth.refusals import anonymous_refused
from service.problems import Refused


class FakeProof:
    """Knows these principals by their names. `known` and `exist` are as those of `Credentials`."""

    def __init__(self, *principals: Principal) -> None:
        self.principals = {principal.name: principal for principal in principals}
        self.exist = bool(principals)
        self.known = True
        self.asked = 0

    def principal(self, authorization: str, apikey: str) -> Principal | None:
        """Who shows these headers."""
        self.asked += 1
        token = authorization.removeprefix("Bearer ") or apikey
        if not token:
            return None
        if token not in self.principals:
            raise Refused(anonymous_refused())
        return self.principals[token]


def principal(name: str, *grants: str, rows_per_second: float | None = None, queue_share: float = 1.0) -> Principal:
    """A principal who may do that, for good."""
    return Principal(name, Grants.parse(grants), None, rows_per_second, queue_share)
