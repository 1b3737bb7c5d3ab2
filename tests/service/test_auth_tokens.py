"""JWT: only what somebody with the key has signed, for us and for now, is believed; and nothing of it is repeated."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from service.auth.jwt_keys import KeyFileError, read_jwks, read_secret
from service.auth.principal import Grants, Principal
from service.auth.tokens import Verifier
from service.problems import Refused
from tests.service.minting import (
    AUDIENCE,
    SECRET,
    claims,
    ec_key,
    mint,
    options,
    public,
    rsa_key,
    write_jwks,
    write_secret,
)

Mint = Callable[..., str]


def refused(verifier: Verifier, token: str) -> tuple[str, str]:
    """Code and message of the refusal: a 401 with its reason in the challenge, which does not quote the token."""
    with pytest.raises(Refused) as caught:
        verifier.verify(token)
    problem = caught.value.problem
    fault = problem.fault
    assert problem.status == 401
    assert dict(problem.headers)["www-authenticate"].startswith('Bearer error="invalid_token", error_description="')
    told = str(caught.value) + repr(problem) + repr(problem.answer)
    assert not [part for part in token.split(".") if len(part) > 8 and part in told]
    assert caught.value.__cause__ is None
    return fault.code, fault.message


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with the secret."""
    return write_secret(tmp_path / "secret")


@pytest.fixture
def hmac_only(secret: Path) -> Verifier:
    """Takes HS256."""
    return Verifier(options(secret=secret))


@pytest.fixture
def both(secret: Path, tmp_path: Path) -> Verifier:
    """Takes HS256, and RS256 and ES256 by two keys each."""
    entries = [public(rsa_key(), "r1"), public(rsa_key("b"), "r2"), public(ec_key(), "e1"), public(ec_key("b"), "e2")]
    return Verifier(options(secret=secret, jwks=write_jwks(tmp_path / "jwks", *entries)))


# -------------------------------------------------------------------- who somebody is


def test_a_token_says_who_and_what(hmac_only: Verifier) -> None:
    """Name, tables, rate and share are the token's; it expires when it says."""
    end = int(time.time()) + 60
    own = {"tables": ["public.events:insert,select"], "rows_per_second": 250, "queue_share": 0.25}
    found = hmac_only.verify(mint(exp=end, headrace=own))
    assert found == Principal("jwt pump-7", Grants.parse(own["tables"]), end, 250.0, 0.25)  # type: ignore[arg-type]


def test_what_a_token_leaves_out_is_the_operators(secret: Path) -> None:
    """Tables of its own take the place of the default ones, even if they are none."""
    verifier = Verifier(options(secret=secret, grants="public.events"))
    assert verifier.verify(mint()).grants == Grants.parse(["public.events"])
    assert verifier.verify(mint(headrace={"queue_share": 1})).grants == Grants.parse(["public.events"])
    assert verifier.verify(mint(headrace={"tables": []})).grants == Grants()
    assert Verifier(options(secret=secret)).verify(mint()).grants == Grants()


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(SECRET, "HS256", None), (rsa_key, "RS256", "r1"), (ec_key, "ES256", "e1")],
    ids=["HS256", "RS256", "ES256"],
)
def test_each_algorithm(both: Verifier, key: Any, algorithm: str, kid: str | None) -> None:
    """With the name of its key or without; with that of another one it is not genuine."""
    key = key() if callable(key) else key
    assert both.verify(mint(key, algorithm)).name == "jwt pump-7"
    if kid is not None:
        assert both.verify(mint(key, algorithm, headers={"kid": kid})).name == "jwt pump-7"
        assert refused(both, mint(key, algorithm, headers={"kid": kid[0] + "2"}))[0] == "PGRST301"
        assert refused(both, mint(key, algorithm, headers={"kid": "x"})) == (
            "PGRST301",
            "No suitable key or wrong key type",
        )


def test_one_of_several_audiences_is_enough(secret: Path) -> None:
    """A token may be for several services, and a service may have several names."""
    verifier = Verifier(options(secret=secret, audience=("x", AUDIENCE)))
    assert verifier.verify(mint(aud=["other", AUDIENCE])).name
    assert Verifier(options(secret=secret, audience=("*",))).verify(mint(aud="anybody")).name
    assert Verifier(options(secret=secret, audience=("*",))).verify(mint(aud=None)).name
    assert Verifier(options(secret=secret, issuer="me")).verify(mint(iss="me")).name


def test_clocks_may_differ(secret: Path) -> None:
    """By the leeway, and the principal lives as long as the token is taken."""
    now = int(time.time())
    verifier = Verifier(options(secret=secret, leeway_seconds=60.0))
    assert verifier.verify(mint(exp=now - 30, nbf=now + 30, iat=now + 30)).expires_at == now + 30
    assert refused(verifier, mint(exp=now - 90)) == ("PGRST303", "JWT expired")


# -------------------------------------------------------------------- who nobody is


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"exp": 1}, "JWT expired"),
        ({"exp": None}, "The JWT has no 'exp' claim"),
        ({"exp": "9999999999"}, "The JWT 'exp' claim must be a number"),
        ({"exp": 10**300}, "The JWT 'exp' claim must be a number"),
        ({"exp": float("inf")}, "Parsing claims failed"),
        ({"exp": [1]}, "Parsing claims failed"),
        ({"nbf": 9_999_999_999}, "JWT not yet valid"),
        ({"nbf": "1"}, "The JWT 'nbf' claim must be a number"),
        ({"iat": 9_999_999_999}, "JWT issued at future"),
        ({"aud": "other"}, "JWT not in audience"),
        ({"aud": ["other"]}, "JWT not in audience"),
        ({"aud": None}, "The JWT has no 'aud' claim"),
        ({"sub": None}, "The JWT has no 'sub' claim"),
        ({"sub": ""}, "The JWT 'sub' claim must be text of at most 200 characters"),
        ({"sub": "x" * 201}, "The JWT 'sub' claim must be text of at most 200 characters"),
        ({"sub": "a\nb"}, "Parsing claims failed"),
        ({"sub": "\x1b[31m"}, "Parsing claims failed"),
    ],
)
def test_claims_that_are_refused(hmac_only: Verifier, changed: dict[str, Any], message: str) -> None:
    """The token is genuine, so its owner may know what is wrong with it."""
    token = jwt.api_jws.encode(msgspec_like(claims(**changed)), SECRET, "HS256")
    assert refused(hmac_only, token) == ("PGRST303", message)


def msgspec_like(value: object) -> bytes:
    """JSON as Python writes it: with Infinity, and without asking what makes sense."""
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "own",
    [
        "x", [], None, {"tables": "public.events"}, {"tables": ["events"]}, {"tables": [1]}, {"tables": None},
        {"row_per_second": 1}, {"rows_per_second": 0}, {"rows_per_second": -1}, {"rows_per_second": "1"},
        {"rows_per_second": float("inf")}, {"rows_per_second": float("nan")}, {"rows_per_second": True},
        {"queue_share": 0}, {"queue_share": 1.01}, {"queue_share": None}, {"tables": ["public.x", "public.y:all"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_claim_of_ours_that_is_malformed_is_refused(hmac_only: Verifier, own: object) -> None:
    """A limit that is misspelt must not be none."""
    token = jwt.api_jws.encode(msgspec_like(claims() | {"headrace": own}), SECRET, "HS256")
    assert refused(hmac_only, token)[0] == "PGRST303"


def test_an_issuer_that_is_another(secret: Path) -> None:
    """Where one is named, tokens of others are none, and those of nobody."""
    verifier = Verifier(options(secret=secret, issuer="me"))
    assert refused(verifier, mint(iss="you")) == ("PGRST303", "JWT not from the expected issuer")
    assert refused(verifier, mint()) == ("PGRST303", "The JWT has no 'iss' claim")


def segment(value: object) -> str:
    """A part of a token."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_what_is_no_token(both: Verifier) -> None:
    """Whatever is sent is refused, and breaks nothing."""
    deep = segment(b"[" * 3000)
    for token, message in (
        ("x", "Expected 3 parts in JWT; got 1"),
        ("a.b.c.d", "Expected 3 parts in JWT; got 4"),
        ("a.b.c", "JWT couldn't be decoded"),
        ("..", "JWT couldn't be decoded"),
        ("ä.ö.ü", "JWT couldn't be decoded"),
        ("\ud800.a.b", "JWT couldn't be decoded"),
        (f"{deep}.{deep}.{deep}", "JWT couldn't be decoded"),
        (f"{segment([])}.{segment({})}.", "JWT couldn't be decoded"),
    ):
        assert refused(both, token) == ("PGRST301", message)
    for payload in (b"[" * 3000, b"[]", b"{", b'"x"', b"\xff"):
        assert refused(both, jwt.api_jws.encode(payload, SECRET, "HS256"))[0] in {"PGRST301", "PGRST303"}


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": ""}, {}, {"alg": None}, {"alg": ["HS256"]}, {"alg": "HS384"},
        {"alg": "RS384"}, {"alg": "PS256"}, {"alg": "ES384"}, {"alg": "EdDSA"}, {"alg": "hs256"},
    ],
    ids=str,
)  # fmt: skip
def test_no_other_algorithm(both: Verifier, header: dict[str, Any]) -> None:
    """Least of all none."""
    for signature in ("", segment(b"x" * 32)):
        token = f"{segment(header)}.{segment(claims())}.{signature}"
        assert refused(both, token) == ("PGRST301", "Wrong or unsupported encoding algorithm")


def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    """Everybody has the public key: a token that is signed with it as if it were a secret proves nothing."""
    verifier = Verifier(options(jwks=write_jwks(tmp_path / "jwks", public(rsa_key(), "r1"), public(ec_key(), "e1"))))
    for key, kid in ((rsa_key(), "r1"), (ec_key(), "e1")):
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        for material in (pem, pem.rstrip(), msgspec.json.encode(public(key))):
            for headers in ({"alg": "HS256"}, {"alg": "HS256", "kid": kid}):
                signed = f"{segment(headers)}.{segment(claims())}"
                forged = f"{signed}.{segment(hmac.new(material, signed.encode(), hashlib.sha256).digest())}"
                assert refused(verifier, forged) == ("PGRST301", "No suitable key or wrong key type")
    assert refused(verifier, mint(ec_key(), "ES256", headers={"kid": "r1"}))[0] == "PGRST301"


def test_the_secret_signs_nothing_but_its_algorithm(hmac_only: Verifier) -> None:
    """And without a JWKS no key pair signs anything, whatever key a token brings along."""
    for headers in ({"jwk": public(rsa_key())}, {"jku": "http://127.0.0.1/"}, {"x5c": ["x"]}, {}):
        token = mint(rsa_key(), "RS256", headers=headers)
        assert refused(hmac_only, token) == ("PGRST301", "No suitable key or wrong key type")
    assert refused(hmac_only, mint("another secret of at least 32 bytes")) == (
        "PGRST301",
        "JWT cryptographic operation failed",
    )


@pytest.mark.parametrize(
    "headers", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": True}, {"crit": ["b64"]}, {"crit": []}]
)
def test_critical_extensions_are_refused(hmac_only: Verifier, headers: dict[str, Any]) -> None:
    """Who does not understand them must not go on (RFC 7515 section 4.1.11)."""
    signed = f"{segment({'alg': 'HS256', **headers})}.{segment(claims())}"
    key = jwt.get_algorithm_by_name("HS256")
    token = f"{signed}.{segment(key.sign(signed.encode(), key.prepare_key(SECRET)))}"
    assert refused(hmac_only, token)[0] == "PGRST301"


_URL_SAFE = string.ascii_letters + string.digits + "-_.="


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_any_mutation_is_refused(both: Verifier, algorithm: str) -> None:
    """No character of a token may be another one: also not those of which base64 ignores some bits."""
    key: Any = {"HS256": SECRET, "RS256": rsa_key(), "ES256": ec_key()}[algorithm]
    token = mint(key, algorithm)
    assert both.verify(token).name

    @given(st.integers(0, len(token) - 1), st.sampled_from(_URL_SAFE), st.sampled_from(["put", "insert", "delete"]))
    def mutate(position: int, character: str, how: str) -> None:
        end = position + (how != "insert")
        mutated = token[:position] + ("" if how == "delete" else character) + token[end:]
        if mutated == token:
            return
        assert refused(both, mutated)[0] == "PGRST301"

    mutate()
    for character in _URL_SAFE:  # the last one carries bits that are not looked at by everybody
        if character not in {token[-1], "="}:
            assert refused(both, token[:-1] + character)[0] == "PGRST301"


# -------------------------------------------------------------------- the files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("?" * 31 + "\n", "31 bytes"),
        ("", "0 bytes"),
        ("?" * 70_000, "larger than"),
        ("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n", "key pair"),
    ],
)
def test_a_secret_that_is_none(tmp_path: Path, content: str, words: str) -> None:
    """It is refused with the reason, and not shown."""
    path = tmp_path / "secret"
    path.write_text(content, "utf-8")
    with pytest.raises(KeyFileError, match=words) as caught:
        read_secret(path)
    assert "??" not in str(caught.value)
    assert "MFkw" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is what an operator has mistyped."""
    for read in (read_secret, read_jwks):
        with pytest.raises(KeyFileError, match=r"cannot read .*nowhere: No such file"):
            read(tmp_path / "nowhere")


def test_keys_that_cannot_be_used_are_passed_over(tmp_path: Path) -> None:
    """Providers publish keys of all kinds in one file; one that we cannot use must not hide the one that we can."""
    odd = [
        {"kty": "oct", "k": segment(SECRET.encode())},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
        public(rsa_key(), "enc", use="enc"),
        public(rsa_key(), "ops", key_ops=["encrypt"]),
        public(rsa_key(), "alg", alg="RS512"),
        public(ec_key(), "crv", crv="P-384"),
        public(rsa_key("small", 1024), "small"),
        {"kty": "RSA", "n": "!", "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA"},
        {"kty": "RSA", "kid": 7},
        {"n": "AA"},
    ]
    good = public(rsa_key(), "good", use="sig", key_ops=["verify"], alg="RS256", x5t="whatever")
    keys, passed_over = read_jwks(write_jwks(tmp_path / "jwks", *odd, good))
    assert [(key.algorithm, key.kid) for key in keys] == [("RS256", "good")]
    assert len(passed_over) == len(odd)
    with pytest.raises(KeyFileError, match="can be used: key 1 is a shared secret") as caught:
        read_jwks(write_jwks(tmp_path / "jwks", *odd))
    assert segment(SECRET.encode()) not in str(caught.value)


def test_a_private_key_is_not_taken_in(tmp_path: Path) -> None:
    """Somebody may have put it there, but nobody here needs it."""
    private = RSAAlgorithm.to_jwk(rsa_key(), as_dict=True) | {"key_ops": ["sign", "verify"]}
    (key,), _ = read_jwks(write_jwks(tmp_path / "jwks", private))
    assert not hasattr(key.key, "private_numbers")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"keys":1}', b'{"keys":[]}', b"[" * 9000, b"\xff"])
def test_what_is_no_jwks(tmp_path: Path, content: bytes) -> None:
    """A page of HTML that a script has saved in its place, for example."""
    path = tmp_path / "jwks"
    path.write_bytes(content)
    with pytest.raises(KeyFileError):
        read_jwks(path)


def test_files_that_change_are_read_again(secret: Path, tmp_path: Path) -> None:
    """Keys are rotated while the service runs; a broken file leaves it with those that it had."""
    jwks = write_jwks(tmp_path / "jwks", public(rsa_key(), "r1"))
    verifier = Verifier(options(secret=secret, jwks=jwks))
    assert verifier.newer() is None
    write_jwks(tmp_path / "next", public(rsa_key("b"), "r2")).replace(jwks)
    newer = verifier.newer()
    assert newer is not None
    assert newer.verify(mint(rsa_key("b"), "RS256")).name
    assert refused(newer, mint(rsa_key(), "RS256"))[0] == "PGRST301"
    assert newer.newer() is None
    assert newer.newer(reread=True) is not None
    jwks.write_text("<html>", "utf-8")
    with pytest.raises(KeyFileError):
        newer.newer()


def test_nothing_secret_is_shown(both: Verifier) -> None:
    """What is logged by mistake, or stands in a traceback, is the repr."""
    shown = repr(both) + repr(both._files) + repr(both._files.keys) + repr(both._options)
    assert SECRET not in shown
    assert repr(SECRET.encode()) not in shown
