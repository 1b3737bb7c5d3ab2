"""What is said of TLS, proxies and the operators' address: nothing where only this machine comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.doctor import examination
from service.doctor.check_edge import check_edge
from service.doctor.findings import Finding, Level
from service.doctor.machine import State, machine_of
from service.http.listening import TlsError
from service.http.tls import Certificate
from service.settings import Settings
from tests.harness import Start
from tests.service.certificates import Authority

NOW = datetime(2026, 11, 22, tzinfo=UTC)
GOOD = Certificate(("db.example", "10.0.0.7"), NOW - timedelta(days=10), NOW + timedelta(days=80), open_key=False)
PUBLIC = Settings(host="0.0.0.0", admin_port=9000)


def said(settings: Settings, certificate: Certificate | TlsError | None = None) -> list[Finding]:
    """All of it."""
    return list(check_edge(settings, certificate, NOW))


def test_nothing_is_said_of_a_loopback_address() -> None:
    """Who tries it out need not think of certificates."""
    assert said(Settings()) == []
    assert said(Settings(admin_port=9000)) == []


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, Level.OK, "is for db.example, 10.0.0.7, and valid until 2027-02-10"),
        ({"ends": NOW + timedelta(days=14)}, Level.WARNING, "expires on 2026-12-06 00:00 UTC"),
        ({"ends": NOW + timedelta(days=14, seconds=1)}, Level.OK, "valid until"),
        ({"ends": NOW}, Level.ERROR, "expired on 2026-11-22 00:00 UTC: clients refuse"),
        ({"begins": NOW + timedelta(days=1)}, Level.ERROR, "is not valid before"),
        ({"names": ()}, Level.ERROR, "names no host"),
        ({"open_key": True}, Level.WARNING, "every user of this machine may read the key"),
    ],
)
def test_certificates(change: dict[str, object], level: Level, words: str) -> None:
    """One that ends unnoticed is the commonest way in which TLS fails."""
    found = said(PUBLIC, replace(GOOD, **change))  # type: ignore[arg-type] # mypy knows no such keywords
    assert level in [each.level for each in found if words in each.text], found


def test_files_that_cannot_be_used() -> None:
    """The service would not start."""
    (found,) = said(Settings(), TlsError("the key in x is not that of y"))
    assert (found.level, found.text) == (Level.ERROR, "the key in x is not that of y")


def test_rows_in_plain_text() -> None:
    """Where others listen in; a proxy that is named is taken for one that speaks TLS."""
    (found,) = said(PUBLIC)
    assert found.level is Level.WARNING
    assert "nothing is encrypted" in found.text
    assert [each.level for each in said(Settings(host="0.0.0.0", admin_port=9000, proxies=("10.0.0.7",)))] == [Level.OK]
    assert [each.level for each in said(PUBLIC, GOOD)] == [Level.OK]


def test_operators_pages_where_everybody_comes() -> None:
    """Two ways to have them there."""
    for settings in (Settings(host="0.0.0.0"), Settings(host="0.0.0.0", admin_port=9000, admin_host="10.0.0.7")):
        (_, found) = said(settings, GOOD)
        assert found.level is Level.WARNING
        assert "how much is written where" in found.text


def test_a_proxy_that_is_everybody() -> None:
    """Nobody is named by that."""
    (found,) = said(Settings(proxies=("0.0.0.0/0",)))
    assert "0.0.0.0/0 in HEADRACE_PROXIES is everybody" in found.text


async def test_a_service_with_tls_is_recognised(dsn: str, start: Start, tmp_path: Path) -> None:
    """It is asked in its own language."""
    pair = Authority(tmp_path).sign("service", days=3)
    async with start(dsn=dsn, **pair.settings) as running:
        port = running.client.base_url.port
        assert port is not None
        assert (await machine_of("127.0.0.1", port, tls=True)).address.state is State.READY
        settings = Settings(dsn=dsn, port=port, **pair.settings)
        found = await examination.findings_of(settings, [])
    assert any("the certificate expires on" in each.text for each in found)
    pair.key.unlink()
    found = await examination.findings_of(settings, [])
    assert any(each.text == f"cannot read {pair.key}: No such file or directory" for each in found)
