"""What is said of a server, its connections and why it is not reached."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from service.doctor.check_database import check_connections, check_database, check_no_dsn, check_reach
from service.doctor.findings import Finding, Level
from service.settings import Settings
from sql import Checkup, Demand, NotReached, Pooler, Room, Server

SERVER = Server(
    version=180_006,
    version_name="18.6",
    database="plant",
    role="ingest",
    superuser=False,
    in_recovery=False,
    encrypted=False,
    address=None,
    standbys=0,
    settings={"fsync": "on", "synchronous_commit": "on", "server_encoding": "UTF8"},
    seconds_ahead=0.0,
    round_trip_seconds=0.0002,
    pooler=Pooler.NONE,
)
ROOM = Room(
    max_connections=100,
    superuser_reserved=3,
    reserved=0,
    connections=10,
    ours=0,
    role_max=None,
    role=0,
    database_max=None,
    database=0,
)


def complaints(missed: tuple[str, ...] = (), **facts: Any) -> list[Finding]:
    """Whatever is not fine about such a server. Settings are added to those of a good one."""
    facts["settings"] = {**SERVER.settings, **facts.get("settings", {})}
    checkup = Checkup(structs.replace(SERVER, **facts), None, None, None, None, (), missed)
    return [each for each in check_database(Settings(), checkup) if each.level is not Level.OK]


def test_a_good_server_is_fine() -> None:
    """And it is named, so that one sees which one was asked."""
    assert complaints() == []
    first = next(iter(check_database(Settings(), Checkup(SERVER, None, None, None, None, (), ()))))
    assert first.text == "PostgreSQL 18.6, database plant, role ingest, 0.20 ms away"


ERRORS = [
    ({"version": 120_020, "version_name": "12.20"}, "PostgreSQL 12.20 is too old"),
    ({"in_recovery": True}, "the server is a standby"),
    ({"settings": {"default_transaction_read_only": "on"}}, "default_transaction_read_only is on"),
    ({"settings": {"synchronous_standby_names": "a"}}, "each commit waits for one"),
]

WARNINGS = [
    ({"version": 150_008, "version_name": "15.8"}, "must all have the same keys"),
    ({"settings": {"fsync": "off"}}, "fsync is off"),
    ({"settings": {"full_page_writes": "off"}}, "full_page_writes is off"),
    ({"settings": {"synchronous_commit": "off"}}, "acknowledged rows may be lost"),
    ({"settings": {"server_encoding": "LATIN1"}}, "encoding is LATIN1"),
    ({"settings": {"default_transaction_isolation": "serializable"}}, "transactions of the role are serializable"),
    ({"settings": {"log_statement": "mod"}}, "log_statement is mod"),
    ({"settings": {"idle_session_timeout": "60000"}}, "idle_session_timeout is 60 s"),
    ({"settings": {"transaction_timeout": "19999"}}, "transaction_timeout is 19.999 s, but a batch may take 20"),
    ({"seconds_ahead": 1.5}, "is 1.5 s ahead of the one here"),
    ({"seconds_ahead": -90.0}, "is 90.0 s behind the one here"),
    ({"round_trip_seconds": 0.08}, "is 80 ms away"),
    ({"address": "11.0.0.7"}, "11.0.0.7 is not encrypted"),
]


@pytest.mark.parametrize(
    ("facts", "words", "level"),
    [(*each, Level.ERROR) for each in ERRORS] + [(*each, Level.WARNING) for each in WARNINGS],
)
def test_what_is_wrong_with_a_server(facts: dict[str, Any], words: str, level: Level) -> None:
    """Each alone, with its remedy, and nothing beside it."""
    (found,) = complaints(**facts)
    assert (found.group, found.level) == ("Database", level)
    assert words in found.text
    assert found.advice


@pytest.mark.parametrize(
    "facts",
    [
        {"version": 160_000},
        {"pooler": Pooler.SESSION},
        {"pooler": Pooler.TRANSACTION},
        {"settings": {"synchronous_standby_names": "a"}, "standbys": 1},
        {"settings": {"synchronous_standby_names": "a", "synchronous_commit": "local"}},
        {"settings": {"synchronous_commit": "remote_apply"}},
        {"settings": {"transaction_timeout": "20000"}},
        {"settings": {"statement_timeout": "100", "lock_timeout": "100"}},
        {"settings": {"log_statement": "ddl"}},
        {"seconds_ahead": 1.0},
        {"address": "11.0.0.7", "encrypted": True},
        {"address": "10.0.0.7"},
        {"address": "::1"},
    ],
)
def test_what_is_right_with_a_server(facts: dict[str, Any]) -> None:
    """A warning too many makes people stop reading."""
    assert complaints(**facts) == []


def test_time_outs_of_the_role_are_told() -> None:
    """They hold for whoever connects as the role by hand, and not for the service, which one might wonder about."""
    server = structs.replace(SERVER, settings={"statement_timeout": "7500", "lock_timeout": "1000"})
    texts = [each.text for each in check_database(Settings(), Checkup(server, None, None, None, None, (), ()))]
    said = "the role has statement_timeout 7.5 s and lock_timeout 1 s; the service sets its own on each connection"
    assert said in texts


def test_what_could_not_be_found_out_is_told() -> None:
    """Silence would look like health."""
    (found,) = complaints(missed=("rights: canceling statement",))
    assert found.text == "could not find out about rights: canceling statement"


# -------------------------------------------------------------------- connections


def about_connections(demand: Demand, **facts: int | None) -> list[Finding]:
    """All that is said."""
    return list(check_connections(demand, structs.replace(ROOM, **facts)))


def test_enough_connections() -> None:
    """What is needed and what there is are both told, so that one sees how much room is left."""
    (found,) = about_connections(Demand(slots=2))
    assert found.level is Level.OK
    assert found.text == ("1 pod * 1 worker * (2 flush slots + 2) = 4 connections; there may be 97, and others have 10")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"connections": 17}, Level.OK),
        ({"connections": 18}, Level.WARNING),
        ({"connections": 97, "ours": 80}, Level.OK),  # they run already
        ({"role_max": 80}, Level.OK),
        ({"role_max": 79}, Level.ERROR),
        ({"database_max": 79}, Level.ERROR),
        ({"max_connections": 86}, Level.WARNING),  # the reserve is kept, but others have 10
        ({"max_connections": 85}, Level.ERROR),
    ],
)
def test_too_few_connections(facts: dict[str, int], level: Level) -> None:
    """Some slots would never connect, and the service would be slow for no reason that anybody sees."""
    (found,) = about_connections(Demand(slots=2, workers=4, pods=5), **facts)
    assert found.level is level
    assert (found.advice is None) is (level is Level.OK)


def test_what_a_pooler_needs_is_told() -> None:
    """A pool that is too small looks like a slow database."""
    server = structs.replace(SERVER, pooler=Pooler.TRANSACTION)
    settings = Settings(flush_slots=3, workers=4, pods=2)
    texts = [each.text for each in check_database(settings, Checkup(server, None, None, None, None, (), ()))]
    (said,) = [text for text in texts if text.startswith("a pooler is in front, in transaction mode; its pool should")]
    assert "should hold 12 connections (slots * workers), 24 for 2 pods: " in said


# -------------------------------------------------------------------- not reached


@pytest.mark.parametrize(
    ("code", "advised"),
    [
        ("refused", "listen_addresses"),
        ("name", "correct the host"),
        ("silent", "firewall"),
        ("dsn", "postgresql://user:password@host:5432/name"),
        ("tls", "sslmode"),
        ("28P01", "password"),
        ("28000", "pg_hba.conf"),
        ("3D000", "create it"),
        ("53300", "max_connections"),
        ("57P03", "wait"),
        ("42501", "grant connect"),
        ("XX000", "psql"),
        ("other", "psql"),
    ],
)
def test_each_reason_has_its_remedy(code: str, advised: str) -> None:
    """It is the first thing that everybody meets."""
    found = check_reach(NotReached(code, "the words of the server"))
    assert (found.level, found.text) == (Level.ERROR, "cannot reach the database: the words of the server")
    assert advised in (found.advice or "")


def test_no_dsn() -> None:
    """Without the embedded PostgreSQL, as in the image, the service would not start."""
    assert check_no_dsn("It does not run.", has_embedded=True).level is Level.WARNING
    assert check_no_dsn("It does not run.", has_embedded=False).level is Level.ERROR
