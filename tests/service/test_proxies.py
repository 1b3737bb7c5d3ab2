"""Whom the access log names: the client behind a proxy that was named, and the peer itself otherwise."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.harness import Start
from tests.service.in_process import GET, ROW

_FORWARDED = b"Host: h\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https"


@pytest.mark.usefixtures("lane")
@pytest.mark.parametrize(
    ("settings", "client"),
    [
        ({}, "127.0.0.1"),
        ({"proxies": ("10.0.0.0/8",)}, "127.0.0.1"),
        ({"proxies": ("10.0.0.0/8", "127.0.0.1")}, "203.0.113.9"),
        ({"proxies": ("127.0.0.0/8",)}, "203.0.113.9"),
    ],
)
async def test_only_named_proxies_are_believed(
    settings: dict[str, Any], client: str, dsn: str, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even the loopback address, unless it is named: any program of this machine could make up who has written."""
    caplog.set_level(logging.INFO, "headrace.access")
    async with start(dsn=dsn, access_log=True, **settings) as headrace:
        for request in (ROW, GET):
            await headrace.exchange(request.replace(b"Host: h", _FORWARDED + b"\r\nConnection: close"))
    lines = [vars(record)["client"] for record in caplog.records if record.name == "headrace.access"]
    assert [line.rpartition(":")[0] for line in lines] == [client, client]


async def test_the_variable_of_uvicorn_names_nobody(
    dsn: str, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one place where proxies are named."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    caplog.set_level(logging.INFO, "headrace.access")
    async with start(dsn=dsn, access_log=True) as headrace:
        await headrace.exchange(GET.replace(b"Host: h", _FORWARDED + b"\r\nConnection: close"))
    [line] = [record for record in caplog.records if record.name == "headrace.access"]
    assert vars(line)["client"].startswith("127.0.0.1:")


@pytest.mark.parametrize("text", ["*", "proxy.example", "10.0.0.1/8", "10.0.0", "10.0.0.0/33"])
def test_what_names_no_proxy_is_refused(text: str) -> None:
    """Uvicorn would take it for a name, and believe nobody, silently."""
    with pytest.raises(ValidationError, match=r"wants addresses such as 10\.0\.0\.7 and networks"):
        Settings(proxies=text)  # type: ignore[arg-type] # as the environment has it


def test_proxies_are_separated_by_commas() -> None:
    """As in the environment; of both versions of IP."""
    settings = Settings(proxies="10.0.0.7, fd00::/8,")  # type: ignore[arg-type] # as the environment has it
    assert settings.proxies == ("10.0.0.7", "fd00::/8")
