"""Which tokens are believed, as the operator says. Must not know how they are verified."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from service.auth.principal import Grants

ANY_AUDIENCE = "*"


@dataclass(frozen=True, slots=True)
class JwtOptions:
    """Where the keys are, and what the claims must say. One file is given at least.

    `audience` holds whom a token may be for, or `*` alone: whoever it is for. `grants` has who brings none of his own.
    """

    secret_file: Path | None
    jwks_file: Path | None
    audience: tuple[str, ...]
    issuer: str | None = None
    leeway_seconds: float = 30.0
    grants: Grants = field(default_factory=Grants)

    @property
    def audiences(self) -> tuple[str, ...] | None:
        """Whom a token may be for; None: that is not asked."""
        return None if self.audience == (ANY_AUDIENCE,) else self.audience
