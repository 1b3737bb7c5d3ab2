"""Tokens and the files by which they are verified, for tests."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from service.auth.jwt_options import JwtOptions
from service.auth.principal import Grants

SECRET = "s3cret-of-the-tests-that-nobody-should-ever-see"
AUDIENCE = "headrace"


@cache
def rsa_key(name: str = "a", bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key pair for each name, made once: it takes a while."""
    del name
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(name: str = "a") -> ec.EllipticCurvePrivateKey:
    """The same on P-256."""
    del name
    return ec.generate_private_key(ec.SECP256R1())


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """The public half as an entry of a JWKS."""
    half = key.public_key()
    entry = (
        RSAAlgorithm.to_jwk(half, as_dict=True)
        if isinstance(half, rsa.RSAPublicKey)
        else ECAlgorithm.to_jwk(half, as_dict=True)
    )
    return entry | ({} if kid is None else {"kid": kid}) | more


def write_jwks(path: Path, *entries: dict[str, Any]) -> Path:
    """A JWKS of these entries."""
    path.write_bytes(msgspec.json.encode({"keys": entries}))
    return path


def write_secret(path: Path, secret: str = SECRET) -> Path:
    """A file with a secret, and an end of line as editors leave it."""
    path.write_text(secret + "\n", "utf-8")
    return path


def options(
    *, secret: Path | None = None, jwks: Path | None = None, grants: str = "", issuer: str | None = None, **more: Any
) -> JwtOptions:
    """What the service would be told. No leeway, so that tests know what time it is."""
    audience = more.pop("audience", (AUDIENCE,))
    return JwtOptions(secret, jwks, audience, issuer, more.pop("leeway_seconds", 0.0), Grants.of_text(grants))


def claims(**changed: Any) -> dict[str, Any]:
    """Claims that are believed, with some changed, and those that are None left out."""
    whole = {"sub": "pump-7", "aud": AUDIENCE, "exp": int(time.time()) + 600} | changed
    return {name: value for name, value in whole.items() if value is not None}


def mint(key: Any = SECRET, algorithm: str = "HS256", *, headers: dict[str, Any] | None = None, **changed: Any) -> str:
    """A token with such claims."""
    return jwt.encode(claims(**changed), key, algorithm, headers=headers)
