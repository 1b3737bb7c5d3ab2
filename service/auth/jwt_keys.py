"""The keys by which tokens are verified, as they are read from files: a shared secret, and a set of public keys (JWKS).

Owns what a file may hold, and that each key goes with one algorithm, so that no token chooses. Must not know tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from service.auth.jwt_options import JwtOptions

HMAC = "HS256"

_SECRET_BYTES_MIN = 32
"""As many as HMAC-SHA-256 has (RFC 7518 section 3.2): a shorter one is found out by trying, from a single token."""

_SECRET_BYTES_MAX = 64 * 1024
_JWKS_BYTES_MAX = 1024 * 1024

_KEYS_MAX = 32
"""A token that does not name its key is tried with each of its algorithm."""

_RSA_BITS_MIN = 2048  # RFC 7518 section 3.3

_PUBLIC = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y")}
"""What is taken of a key; whatever else is in the file, a private part for example, is not kept in memory."""

_ALGORITHM_OF = {"RSA": "RS256", "EC": "ES256"}
_CURVE = "P-256"


class KeyFileError(ValueError):
    """A file that no key can be taken from. The message says why, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key and the only algorithm that it is used with. `kid` is None for one that has no name."""

    algorithm: str
    kid: str | None
    key: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """What the files held when they were read, and by what it is seen that they are others now."""

    keys: tuple[VerifyingKey, ...]
    passed_over: tuple[str, ...]
    """Keys of the JWKS that are not used, each with the reason."""
    seen: tuple[tuple[int, ...], ...] = field(repr=False)


def read(options: JwtOptions) -> KeyFiles:
    """Read the files. Blocks. Raises `KeyFileError`."""
    seen = _seen(options)  # before they are read: a change in between is then noticed
    keys: list[VerifyingKey] = []
    passed_over: list[str] = []
    if options.secret_file is not None:
        keys.append(read_secret(options.secret_file))
    if options.jwks_file is not None:
        found, passed_over = read_jwks(options.jwks_file)
        keys += found
    return KeyFiles(tuple(keys), tuple(passed_over), seen)


def are_other(options: JwtOptions, files: KeyFiles) -> bool:
    """Whether the files have changed since. Blocks."""
    return _seen(options) != files.seen


def read_secret(path: Path) -> VerifyingKey:
    """The key of a file that holds a secret and perhaps an end of line. Raises `KeyFileError`."""
    secret = _bytes_of(path, _SECRET_BYTES_MAX).removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) < _SECRET_BYTES_MIN:
        raise KeyFileError(
            f"the secret in {path} has {len(secret)} bytes; fewer than {_SECRET_BYTES_MIN} can be found out by trying:"
            " `openssl rand -base64 48` makes a good one"
        )
    try:
        return VerifyingKey(HMAC, None, jwt.get_algorithm_by_name(HMAC).prepare_key(secret))
    except jwt.InvalidKeyError:
        raise KeyFileError(
            f"{path} holds a key of a key pair: a secret must be one that only both sides know"
        ) from None


def read_jwks(path: Path) -> tuple[list[VerifyingKey], list[str]]:
    """The keys of a JWKS (RFC 7517 section 5) that can be used, and why others cannot. Raises `KeyFileError`."""
    try:
        entries = msgspec.json.decode(_bytes_of(path, _JWKS_BYTES_MAX), type=_KeySet).keys
    except (msgspec.DecodeError, RecursionError):
        raise KeyFileError(f'{path} is no JWKS: expected {{"keys": […]}}') from None
    if len(entries) > _KEYS_MAX:
        raise KeyFileError(f"{path} has {len(entries)} keys; {_KEYS_MAX} are the most that are taken")
    keys: list[VerifyingKey] = []
    passed_over: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_key(msgspec.convert(entry, _Entry)))
        except msgspec.ValidationError:
            passed_over.append(f"key {number} is malformed")
        except KeyFileError as error:
            passed_over.append(f"key {number} is {error}")
    if not keys:
        reasons = "; ".join(passed_over) or "it is empty"
        raise KeyFileError(f"there is no key in {path} that can be used: {reasons}")
    return keys, passed_over


class _Entry(msgspec.Struct):
    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: Sequence[str] | None = None
    alg: str | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None

    def __repr__(self) -> str:
        return f"_Entry({self.kty!r})"


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _key(entry: _Entry) -> VerifyingKey:
    """Raises `KeyFileError` with what the key is."""
    for reason in _reasons_against(entry):
        raise KeyFileError(reason)
    algorithm = _ALGORITHM_OF[entry.kty]
    public = {name: getattr(entry, name) for name in _PUBLIC[entry.kty]}
    try:
        key = jwt.PyJWK(public, algorithm).key
    except Exception:  # noqa: BLE001 - whatever the libraries say of it might quote it
        raise KeyFileError("malformed") from None
    if isinstance(key, RSAPublicKey) and key.key_size < _RSA_BITS_MIN:
        raise KeyFileError(f"an RSA key of {key.key_size} bits, and {_RSA_BITS_MIN} are the least")
    return VerifyingKey(algorithm, entry.kid, key)


def _reasons_against(entry: _Entry) -> Iterator[str]:
    if entry.kty == "oct":
        yield "a shared secret, for which there is HEADRACE_JWT_SECRET_FILE"
    elif entry.kty not in _ALGORITHM_OF:
        yield "neither RSA nor EC"
    elif entry.use not in {None, "sig"} or (entry.key_ops is not None and "verify" not in entry.key_ops):
        yield "not for signatures"
    elif entry.kty == "EC" and entry.crv != _CURVE:
        yield f"of another curve than {_CURVE}"
    elif entry.alg not in {None, _ALGORITHM_OF[entry.kty]}:
        yield f"for another algorithm than {_ALGORITHM_OF[entry.kty]}"


def _seen(options: JwtOptions) -> tuple[tuple[int, ...], ...]:
    return tuple(_state_of(path) for path in (options.secret_file, options.jwks_file) if path is not None)


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows links, by whose exchange Kubernetes replaces what is mounted
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _bytes_of(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise KeyFileError(f"{path} is larger than {bytes_max} bytes")
    return data
