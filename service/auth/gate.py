"""The gate: whether a caller may do what a request asks for. Asked once for each head that has not been seen before.

Owns the decision: who is let in without a credential, and which rights a request needs. Must not know how a credential
is proved (`credentials.py`), nor what a request says beside what it needs rights for.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from service.auth.caller import Caller, is_loopback
from service.auth.principal import Principal, Right
from service.auth.producers import Producer, Producers
from service.auth.refusals import anonymous_refused, right_missing
from service.dialect import prefer
from service.ingest import Request
from service.problems import Refused
from sql import CatalogMissing

AnonymousWrites: TypeAlias = Literal["auto", "allow", "refuse"]
"""Whether who shows no credential may write. `auto`: on this machine's own address, while there are no credentials."""


class Proof(Protocol):
    """Finds out who somebody is; see `service.auth.credentials.Credentials`."""

    @property
    def exist(self) -> bool:
        """Whether there are credentials, or were any."""

    @property
    def known(self) -> bool:
        """Whether that is known."""

    def principal(self, authorization: str, apikey: str) -> Principal | None:
        """Who shows these headers. Raises `Refused`."""


class Gate:
    """Lets callers in. `schema` is the one of requests that name none."""

    def __init__(self, proof: Proof, producers: Producers, anonymous: AnonymousWrites, schema: str) -> None:
        self._proof = proof
        self._producers = producers
        self._anonymous = anonymous
        self._schema = schema

    def admit(self, caller: Caller, request: Request) -> Producer | None:
        """Who the caller is, if he may do what the request asks for; None for somebody without a name.

        Raises `Refused`: 401 for who has not proved who he is, 403 for who may not do it. Raises `CatalogMissing` while
        it is not known whether there are credentials.
        """
        proof = self._proof
        is_open = self._anonymous == "allow" or (self._anonymous == "auto" and caller.is_local)
        if is_open and not proof.exist:
            if self._anonymous == "auto" and not proof.known:
                raise CatalogMissing  # the database has never been reached: of what is away with it, all are told that
            return None  # whatever he shows; clients for PostgREST always show something
        principal = proof.principal(caller.authorization, caller.apikey)
        if principal is None:
            if self._anonymous == "allow":
                return None
            raise Refused(anonymous_refused())
        schema = request.schema or self._schema
        for right in rights_of(request):
            if not principal.grants.allows(schema, request.table, right):
                raise Refused(right_missing(principal.name, right, schema, request.table))
        return self._producers.of(principal)


def no_way_in(anonymous: AnonymousWrites, host: str, proof: Proof) -> str | None:
    """Why a service that listens on `host` would let in nobody but this machine's own programs, which cannot be meant.

    None if it lets others in, or if it is not known yet whether there are credentials.
    """
    if anonymous != "auto" or is_loopback(host) or proof.exist or not proof.known:
        return None
    return (
        f"others reach {host}, and there is no credential yet: create one (headrace keys create NAME --table"
        " SCHEMA.TABLE), take tokens (HEADRACE_JWT_SECRET_FILE or HEADRACE_JWT_JWKS_FILE), or let everybody write who"
        " reaches it (HEADRACE_ANONYMOUS_WRITES=allow)"
    )


def rights_of(request: Request) -> list[Right]:
    """What the request needs. To get rows back, or their keys, is to read them."""
    preferences = prefer.parse(request.prefer)
    rights = [Right.INSERT]
    if preferences.merge:
        rights.append(Right.UPDATE)
    if preferences.returning != "minimal":
        rights.append(Right.SELECT)
    return rights
