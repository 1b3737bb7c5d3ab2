"""API keys: only the very text that was shown once is one."""

from __future__ import annotations

import hashlib
import hmac
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth import keys
from service.auth.keys import KeyRing, KnownKey, digest_of, id_in, new_key
from service.auth.principal import Grants, Principal

KEY = new_key()
OWNER = Principal("key pump", Grants())
RING = KeyRing([KnownKey(KEY.id, KEY.digest, OWNER)])
SECRET = KEY.text.rpartition("_")[2]


def test_a_key_is_its_owners() -> None:
    """And has the form that is promised, so that scanners for leaked secrets can find it."""
    assert RING.owner_of(KEY.text) is OWNER
    assert re.fullmatch(r"hr_[a-z0-9]{12}_[A-Za-z0-9]{33}", KEY.text)
    assert KEY.digest == hashlib.sha256(SECRET.encode()).digest()
    assert (id_in(KEY.text), id_in("pump")) == (KEY.id, "pump")


def test_nobody_can_guess_one() -> None:
    """192 bits, from a source that is made for it, and never the same."""
    assert len(SECRET) * math.log2(len(keys._ALPHABET)) >= 192
    assert len({new_key().text for _ in range(100)}) == 100


@given(st.integers(0, len(KEY.text) - 1), st.characters(min_codepoint=33, max_codepoint=255))
def test_any_other_character_makes_it_none(position: int, character: str) -> None:
    """Not one of them is left out of the comparison."""
    mutated = KEY.text[:position] + character + KEY.text[position + 1 :]
    assert (RING.owner_of(mutated) is not None) == (mutated == KEY.text)


@given(st.text(max_size=60) | st.sampled_from([KEY.text + "\n", KEY.text + "x", KEY.text[:-1], "hr_", f"hr_{KEY.id}_"]))
def test_no_other_text_is_one(text: str) -> None:
    """Neither shorter nor longer, nor with an end of line, which a regular expression might let pass."""
    assert RING.owner_of(text) is None


@pytest.mark.parametrize(
    "text",
    [KEY.text, KEY.text[:-1] + "!", new_key().text, "hr_x", "hr_"],
    ids=["good", "nearly", "other", "short", "none"],  # keys are random, and each process of a run needs the same names
)
def test_each_is_compared_in_constant_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock nobody finds out which ids there are, nor how far a secret is right."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    monkeypatch.setattr("service.auth.keys.hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    assert (RING.owner_of(text) is OWNER) == (text == KEY.text)
    ((shown, expected),) = compared
    assert len(shown) == len(expected) == 32


def test_what_stands_for_nobody_is_nobodys() -> None:
    """A key of an id that there is not must not be right by any secret, even if the digests agreed."""
    text = new_key().text
    assert KeyRing().owner_of(text) is None
    keys_nobody = keys._NOBODY
    try:
        keys._NOBODY = digest_of(text.rpartition("_")[2])
        assert KeyRing().owner_of(text) is None
    finally:
        keys._NOBODY = keys_nobody


def test_nothing_secret_is_shown() -> None:
    """What is logged by mistake, or stands in a traceback, is the repr."""
    shown = repr(KEY) + repr(KnownKey(KEY.id, KEY.digest, OWNER)) + repr(RING)
    assert SECRET not in shown
    assert KEY.digest.hex() not in shown
    assert repr(KEY.digest) not in shown
