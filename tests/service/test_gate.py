"""Who is let in, and for what. Pure: a caller and a request, a producer or a refusal."""

from __future__ import annotations

import pytest

from batching import Limits
from service.auth.caller import LOCAL, REMOTE, Caller, caller_of, is_loopback
from service.auth.gate import AnonymousWrites, Gate
from service.auth.producers import Producers
from service.ingest import Request
from service.problems import Refused
from sql import CatalogMissing
from tests.service.fake_proof import FakeProof, principal

LIMITS = Limits(10, 1000, 100, 10_000)

DEVICE = Caller(authorization="Bearer device")


def gate(proof: FakeProof, anonymous: AnonymousWrites = "auto") -> Gate:
    """The gate of a service with two schemas, `public` the first."""
    return Gate(proof, Producers(LIMITS), anonymous, "public")


def refusal(gate: Gate, caller: Caller, request: Request) -> tuple[int, str]:
    """The status and the code with which the caller is turned away."""
    with pytest.raises(Refused) as refused:
        gate.admit(caller, request)
    return refused.value.problem.status, refused.value.problem.fault.code


@pytest.mark.parametrize(
    ("anonymous", "caller", "exist", "is_open"),
    [
        ("auto", LOCAL, False, True),
        ("auto", LOCAL, True, False),
        ("auto", REMOTE, False, False),
        ("auto", REMOTE, True, False),
        ("allow", LOCAL, False, True),
        ("allow", REMOTE, False, True),
        ("allow", LOCAL, True, True),
        ("allow", REMOTE, True, True),
        ("refuse", LOCAL, False, False),
        ("refuse", REMOTE, False, False),
    ],
)
def test_who_may_write_without_a_credential(
    anonymous: AnonymousWrites,
    caller: Caller,
    exist: bool,  # noqa: FBT001 - pytest's way
    is_open: bool,  # noqa: FBT001 - as before
) -> None:
    """A door that is open by mistake is the worst that can happen here."""
    proof = FakeProof(*[principal("device", "*")] if exist else [])
    if is_open:
        assert gate(proof, anonymous).admit(caller, Request("t")) is None
    else:
        assert refusal(gate(proof, anonymous), caller, Request("t")) == (401, "PGRST302")


def test_a_local_caller_waits_until_it_is_known_whether_there_are_keys() -> None:
    """The database holds them. While it is away nobody can tell whether the door is to be open."""
    proof = FakeProof()
    proof.known = False
    with pytest.raises(CatalogMissing):
        gate(proof).admit(LOCAL, Request("t"))


def test_where_anybody_may_write_a_credential_that_means_nothing_is_ignored() -> None:
    """Clients made for PostgREST always show one."""
    assert gate(FakeProof()).admit(Caller("Bearer nonsense", "nonsense", is_local=True), Request("t")) is None


def test_a_bad_credential_is_refused_where_there_are_good_ones() -> None:
    """Also where anonymous writing is allowed: who shows one wants to be known by it."""
    proof = FakeProof(principal("device", "*"))
    assert refusal(gate(proof, "allow"), Caller("Bearer nonsense"), Request("t"))[0] == 401


@pytest.mark.parametrize(
    ("grant", "request_", "missing"),
    [
        ("public.t", Request("t"), None),
        ("public.t", Request("t", schema="public"), None),
        ("public.t", Request("t", prefer="return=minimal, resolution=ignore-duplicates"), None),
        ("public.t", Request("u"), "insert on public.u"),
        ("public.t", Request("t", schema="other"), "insert on other.t"),
        ("other.t", Request("t"), "insert on public.t"),
        ("other.*", Request("u", schema="other"), None),
        ("*", Request("u", schema="other"), None),
        ("public.t:update,select", Request("t"), "insert on public.t"),
        ("public.t", Request("t", prefer="resolution=merge-duplicates"), "update on public.t"),
        ("public.t:insert,update", Request("t", prefer="resolution=merge-duplicates"), None),
        ("public.t", Request("t", prefer="return=representation"), "select on public.t"),
        ("public.t", Request("t", prefer="return=headers-only"), "select on public.t"),
        ("public.t:insert,select", Request("t", prefer="return=representation"), None),
    ],
)
def test_what_a_grant_is_good_for(grant: str, request_: Request, missing: str | None) -> None:
    """Least privilege: nothing but what was granted, and the answer says what is missing."""
    doors = gate(FakeProof(principal("device", grant)))
    if missing is None:
        producer = doors.admit(DEVICE, request_)
        assert producer is not None
        assert producer.name == "device"
        return
    with pytest.raises(Refused) as refused:
        doors.admit(DEVICE, request_)
    problem = refused.value.problem
    assert (problem.status, problem.fault.code) == (403, "42501")
    assert missing in (problem.fault.hint or "")


def test_all_credentials_in_one_name_share_an_account() -> None:
    """Else a new token for each request would be a way around the limits."""
    proof = FakeProof(principal("device", "*", queue_share=0.25))
    doors = gate(proof)
    first = doors.admit(DEVICE, Request("t"))
    assert first is not None
    assert (first.rows_max, first.bytes_max) == (25, 2500)
    proof.principals["device"] = principal("device", "*", queue_share=0.5)
    assert doors.admit(DEVICE, Request("u")) is first
    assert first.rows_max == 50, "the newest credential says what it may take"


def test_of_many_producers_those_are_forgotten_that_do_nothing() -> None:
    """Tokens can name ever new ones. One that has rows waiting keeps its account."""
    producers = Producers(LIMITS, known_max=3)
    busy = producers.of(principal("busy", "*"))
    busy.take(1, 1)
    for number in range(10):
        producers.of(principal(f"p{number}", "*"))
    assert producers.of(principal("busy", "*")) is busy


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        (None, True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_which_addresses_only_this_machine_reaches(host: str | None, loopback: bool) -> None:  # noqa: FBT001 - pytest's
    """All others are reached by strangers."""
    assert is_loopback(host) is loopback


def test_two_credentials_are_none() -> None:
    """A proxy and the service might each believe another one."""
    headers = [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b"), (b"apikey", b"c")]
    assert caller_of(headers, is_local=False) == Caller("Bearer a,Bearer b", "c")


def test_a_caller_is_shown_without_secrets() -> None:
    """Tracebacks and logs show values."""
    assert "secret" not in repr(Caller("Bearer secret", "secret"))
