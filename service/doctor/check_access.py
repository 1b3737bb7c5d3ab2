"""What `headrace doctor` says about who may write. Pure: settings and what is known of the keys in, findings out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from service.auth.caller import is_loopback
from service.auth.gate import no_way_in
from service.auth.principal import Principal
from service.doctor.findings import Finding, Group
from service.settings import Settings
from sql import Contents, OwnSchema

_ACCESS = Group("Access")


@dataclass(frozen=True, slots=True)
class _Door:
    """What the service would know of the credentials."""

    exist: bool
    known: bool

    def principal(self, _authorization: str, _apikey: str) -> Principal | None:
        """Nobody is asked for one here."""


def check_access(settings: Settings, own: OwnSchema | None, contents: Contents | None) -> Iterator[Finding]:
    """Who may write, with which credentials. Schema `headrace`, where the keys are, is None if it cannot be read."""
    tokens = settings.jwt is not None
    known = contents is not None or settings.at_least_once or (own is not None and not own.exists)
    ever, good = (0, 0) if contents is None else (contents.api_keys, contents.api_keys_good)
    exist = tokens or ever > 0
    refusal = no_way_in(settings.anonymous_writes, settings.host, _Door(exist, known))
    if refusal is not None:
        yield _ACCESS.error(f"the service does not start: {refusal}", "headrace keys create NAME --table SCHEMA.TABLE")
        return
    yield _ACCESS.ok(f"{_credentials(good, tokens=tokens) if known else 'it is not known whether there are API keys'}")
    local = is_loopback(settings.host)
    match settings.anonymous_writes:
        case "allow" if not local:
            yield _ACCESS.warning(
                f"everybody who reaches {settings.host} may write without a credential",
                "create keys and unset HEADRACE_ANONYMOUS_WRITES, unless something in front of the service decides"
                " who reaches it",
            )
        case "allow":
            yield _ACCESS.ok("programs on this machine may write without a credential")
        case "auto" if local and known and not exist:
            yield _ACCESS.ok(
                "programs on this machine may write without a credential, until there is one",
                "a proxy on this machine makes everybody local: create a key before there is one",
            )
        case _ if known and exist and not tokens and not good:
            yield _ACCESS.warning(
                "nobody may write: all API keys are revoked or have expired",
                "headrace keys create NAME --table SCHEMA.TABLE",
            )
        case "refuse" if known and not exist:
            yield _ACCESS.warning(
                "nobody may write: there is no credential, and HEADRACE_ANONYMOUS_WRITES is refuse",
                "headrace keys create NAME --table SCHEMA.TABLE",
            )


def _credentials(good: int, *, tokens: bool) -> str:
    kinds = [f"{good} API key{'' if good == 1 else 's'}"] if good else []
    kinds += ["tokens (JWT)"] if tokens else []
    return f"credentials: {' and '.join(kinds) or 'none'}"
