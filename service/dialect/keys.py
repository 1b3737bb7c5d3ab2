"""Idempotency keys: what they may look like, what request they stand for, and which are under way in this process.

Must not know what was committed under a key: that is in the database, beside the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec

from service.ingest import Request
from service.problems import Refused, bad_header, key_reused, key_under_way
from sql import IdempotencyKey

_CHARACTERS_MAX = 255

_FINGERPRINT_BYTES = 16


def key_text(values: Sequence[bytes]) -> str:
    """The key in a request's `Idempotency-Key` headers. Raises `Refused`."""
    if len(values) > 1:
        raise Refused(bad_header("There is more than one Idempotency-Key"))
    text = values[0].decode("latin-1")
    if not (0 < len(text) <= _CHARACTERS_MAX and text.isascii() and text.isprintable()):
        raise Refused(bad_header(f"Idempotency-Key must be 1 to {_CHARACTERS_MAX} printable ASCII characters"))
    return text


class Fingerprint:
    """A digest of all that a request says: table, headers that matter, body. The body may come in pieces."""

    def __init__(self, request: Request) -> None:
        # MessagePack says where each field ends, so that no request can pretend to be another.
        # That a web page sends it makes no other request of it.
        request = msgspec.structs.replace(request, cross_origin=False)
        self._hash = blake2b(msgspec.msgpack.encode(request), digest_size=_FINGERPRINT_BYTES)
        self.update = self._hash.update

    def digest(self) -> bytes:
        """The fingerprint of what has come."""
        return self._hash.digest()


class Keys:
    """The keys of requests that have no outcome yet."""

    def __init__(self) -> None:
        self._under_way: dict[str, bytes] = {}

    def claim(self, key: IdempotencyKey) -> None:
        """Take the key until `release`. Raises `Refused` if another request has it."""
        fingerprint = self._under_way.get(key.text)
        if fingerprint is None:
            self._under_way[key.text] = key.fingerprint
        elif fingerprint == key.fingerprint:
            raise Refused(key_under_way())
        else:
            raise Refused(key_reused())

    def release(self, key: IdempotencyKey) -> None:
        """The request has its outcome."""
        del self._under_way[key.text]
