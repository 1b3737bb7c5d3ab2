"""JSON Web Tokens: whether one is genuine, for now and for us, and who it says that somebody is.

Owns which claims are asked for and what they grant (RFC 7519, RFC 8725). Signatures and dates are PyJWT's. No message
quotes a token. Imported only where tokens are taken: PyJWT brings half a library of cryptography along.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import jwt
import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.auth.jwt_keys import KeyFiles, VerifyingKey, are_other, read
from service.auth.jwt_options import JwtOptions
from service.auth.principal import ROWS_PER_SECOND_MIN, GrantMalformed, Grants, Principal
from service.auth.refusals import claims_invalid, token_invalid
from service.problems import Problem, Refused

_SUBJECT_LENGTH_MAX = 200
"""It stands in log lines, and in what idempotency keys are kept under."""

_ALGORITHMS = frozenset({"HS256", "RS256", "ES256"})

_SECONDS_MAX = 1e12
"""Beyond the year 30000: no date."""


class _Own(msgspec.Struct, forbid_unknown_fields=True):
    """The claim `headrace`. A misspelt member is refused, since its absence would mean: no limit."""

    tables: list[str] | UnsetType = UNSET
    rows_per_second: Annotated[float, Meta(ge=ROWS_PER_SECOND_MIN)] | None = None
    queue_share: Annotated[float, Meta(gt=0, le=1)] = 0.5


class _Claims(msgspec.Struct):
    sub: Annotated[str, Meta(min_length=1, max_length=_SUBJECT_LENGTH_MAX)]
    exp: Annotated[float, Meta(ge=0, le=_SECONDS_MAX)]
    nbf: float | UnsetType = UNSET
    iat: float | UnsetType = UNSET
    headrace: _Own = msgspec.field(default_factory=_Own)


_TRIED_MAX = 2
"""Keys that are tried for a token: one, and while keys are exchanged another. Each takes a tenth of a millisecond or
two, in which nobody else is served, and anybody can send tokens."""


class Verifier:
    """Verifies tokens by the keys that the files held when it was made."""

    def __init__(self, options: JwtOptions) -> None:
        """Blocks. Raises `KeyFileError`."""
        self._options = options
        self._files = read(options)

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Keys that are not used, each with the reason."""
        return self._files.passed_over

    def newer(self, *, reread: bool = False) -> Verifier | None:
        """One with what the files hold now, or None if they are the same, as far as can be seen without reading them.

        Blocks. Raises `KeyFileError`.
        """
        return Verifier(self._options) if reread or are_other(self._options, self._files) else None

    def verify(self, token: str) -> Principal:
        """Who the token speaks of. Raises `Refused`: 401, PGRST301 if it is not genuine, PGRST303 for its claims."""
        keys = _keys_for(token, self._files)
        options = self._options
        for key in keys:
            try:
                claims = jwt.decode(
                    token,
                    key.key,
                    algorithms=[key.algorithm],
                    audience=options.audiences,
                    issuer=options.issuer,
                    leeway=options.leeway_seconds,
                    options={"require": ["exp", "sub"], "verify_aud": options.audiences is not None},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                raise Refused(_problem_of(error)) from None
            except ValueError:
                raise Refused(token_invalid("JWT couldn't be decoded")) from None
            return self._principal(claims)
        raise Refused(token_invalid("JWT cryptographic operation failed"))

    def _principal(self, given: dict[str, Any]) -> Principal:
        try:
            claims = msgspec.convert(given, _Claims)
            own = claims.headrace
            grants = self._options.grants if own.tables is UNSET else Grants.parse(own.tables)
        except GrantMalformed:
            message = "The JWT 'headrace' claim has a table that is not like schema.table:insert,update,select"
            raise Refused(claims_invalid(message)) from None
        except (msgspec.ValidationError, ValueError, OverflowError) as error:
            raise Refused(claims_invalid(_malformed(error))) from None
        rate = own.rows_per_second
        if not claims.sub.isprintable() or not (rate is None or math.isfinite(rate)):
            raise Refused(claims_invalid("Parsing claims failed"))
        return Principal(f"jwt {claims.sub}", grants, claims.exp + self._options.leeway_seconds, rate, own.queue_share)


def _keys_for(token: str, files: KeyFiles) -> list[VerifyingKey]:
    """The keys that a token may be signed with. What it says of itself chooses among them, and nothing else."""
    parts = token.count(".") + 1
    if parts != 3:
        raise Refused(token_invalid(f"Expected 3 parts in JWT; got {parts}"))
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError):
        raise Refused(token_invalid("JWT couldn't be decoded")) from None
    if "crit" in header:
        raise Refused(token_invalid("JWT has critical extensions, and none is understood"))
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise Refused(token_invalid("Wrong or unsupported encoding algorithm"))
    keys = [key for key in files.keys if key.algorithm == algorithm and (None in {kid, key.kid} or kid == key.kid)]
    if len(keys) > _TRIED_MAX:
        raise Refused(token_invalid("JWT has no 'kid' to tell which key has signed it"))
    if not keys:
        raise Refused(token_invalid("No suitable key or wrong key type"))
    return keys


_CLAIM_ERRORS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "JWT expired"),
    (jwt.InvalidAudienceError, "JWT not in audience"),
    (jwt.InvalidIssuerError, "JWT not from the expected issuer"),
)
"""In the words of the dialect."""


def _problem_of(error: jwt.PyJWTError) -> Problem:
    """What PyJWT has against a token whose signature is right."""
    for kind, message in _CLAIM_ERRORS:
        if isinstance(error, kind):
            return claims_invalid(message)
    if isinstance(error, jwt.ImmatureSignatureError):
        return claims_invalid("JWT issued at future" if "(iat)" in str(error) else "JWT not yet valid")
    if isinstance(error, jwt.MissingRequiredClaimError):
        return claims_invalid(f"The JWT has no '{error.claim}' claim")
    return claims_invalid("Parsing claims failed")


def _malformed(error: Exception) -> str:
    """Which claim is not what it should be: the path is ours, what it holds is not told."""
    _, _, path = str(error).partition("`$.")
    claim = path.partition("`")[0].partition(".")[0].partition("[")[0]
    if claim in {"exp", "nbf", "iat"}:
        return f"The JWT '{claim}' claim must be a number"
    if claim == "sub":
        return f"The JWT 'sub' claim must be text of at most {_SUBJECT_LENGTH_MAX} characters"
    if claim == "headrace":
        return "The JWT 'headrace' claim must be like {'tables': ['public.events:insert'], 'queue_share': 0.5}"
    return "Parsing claims failed"
