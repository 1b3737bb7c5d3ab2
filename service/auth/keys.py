"""API keys: `hr_<id>_<secret>`, how one is made, and whether one that is shown is genuine. Pure.

Must not know where keys are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass, field

from service.auth.principal import Principal

PREFIX = "hr_"

_ALPHABET = string.ascii_letters + string.digits
"""Nothing that a URL, a shell or a double click would take for an end, and no underscore, which is the separator."""

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 12

_SECRET_LENGTH = 33
"""62^33 is more than 2^196. A secret that nobody can guess needs no slow hash: SHA-256 is all that protects it."""

_match_key = re.compile(rf"{PREFIX}([a-z0-9]{{{_ID_LENGTH}}})_([A-Za-z0-9]{{{_SECRET_LENGTH}}})", re.ASCII).fullmatch

_NOBODY = hashlib.sha256(secrets.token_bytes()).digest()
"""Compared with where there is no key of this id, so that it takes as long."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is shown once, and kept by nobody but its owner."""

    id: str
    text: str = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that is good until it expires or is revoked."""

    id: str
    digest: bytes = field(repr=False)
    principal: Principal


class KeyRing:
    """The keys that are good."""

    def __init__(self, known: Iterable[KnownKey] = ()) -> None:
        self._known = {key.id: key for key in known}

    def __len__(self) -> int:
        return len(self._known)

    def owner_of(self, text: str) -> Principal | None:
        """Whose key this is; None if it is none. Whether it has expired is not asked.

        Takes equally long for an id that there is and one that there is not, right up to the comparison's end.
        """
        found = _match_key(text)
        key_id, secret = found.groups() if found else ("", text)
        known = self._known.get(key_id)
        is_right = hmac.compare_digest(digest_of(secret), _NOBODY if known is None else known.digest)
        return known.principal if is_right and known is not None else None


def new_key() -> NewKey:
    """A key from the system's source of random numbers."""
    key_id = _random(_ID_ALPHABET, _ID_LENGTH)
    secret = _random(_ALPHABET, _SECRET_LENGTH)
    return NewKey(key_id, f"{PREFIX}{key_id}_{secret}", digest_of(secret))


def id_in(text: str) -> str:
    """The id of a key that was given in full; anything else as it is."""
    found = _match_key(text)
    return found[1] if found else text


def digest_of(secret: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _random(alphabet: str, length: int) -> str:
    return "".join([secrets.choice(alphabet) for _ in range(length)])
