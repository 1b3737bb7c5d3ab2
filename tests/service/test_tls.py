"""TLS to clients: both lanes answer as without it, files that are wrong, and others while connections are open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from service.http.listening import TlsError, TlsFiles
from service.http.tls import Tls, look_at
from tests.harness import Connection, RawConnection, Running, Start, replies_in, rows_of, run_service
from tests.service.certificates import Authority, Pair
from tests.service.in_process import GET, ROW, chunked, post


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom the clients of the test believe."""
    return Authority(tmp_path)


@pytest.fixture
def pair(authority: Authority) -> Pair:
    """What the service of the test shows."""
    return authority.sign("service")


@pytest.fixture
async def headrace(dsn: str, db: Connection, start: Start, pair: Pair) -> AsyncIterator[Running]:
    """A service that speaks TLS, with a table `t`."""
    await db.execute("create table t (a text, b text)")
    async with start(dsn=dsn, **pair.settings, head_seconds_max=0.5) as running:
        yield running


@contextlib.asynccontextmanager
async def connection(headrace: Running, context: ssl.SSLContext) -> AsyncIterator[RawConnection]:
    """A connection over TLS, for bytes as they are."""
    host, port = headrace.server.servers[0].sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        yield RawConnection(reader, writer)
    finally:
        writer.transport.abort()


def serial_of(connection: RawConnection) -> int:
    """Which certificate it was made with."""
    shown = connection.writer.get_extra_info("ssl_object").getpeercert()
    return int(shown["serialNumber"], 16)


# -------------------------------------------------------------------- requests


@pytest.mark.usefixtures("lane")
async def test_answers_are_those_of_plain_http(headrace: Running, authority: Authority, db: Connection) -> None:
    """One connection, one request after the other, of all kinds; then several in one packet, cut anywhere."""
    async with connection(headrace, authority.client()) as client:
        for request, status in ((ROW, 201), (GET, 200), (chunked(b'{"a":', b'"x"}'), 201), (post(b"{"), 400)):
            await client.send(request)
            assert (await client.next()).status == status
        together = (ROW + GET) * 10
        await client.send(together[:333], together[333:])
        assert [(await client.next()).status for _ in range(20)] == [201, 200] * 10
    assert await rows_of(db, "select count(*) from t") == [(12,)]


@pytest.mark.usefixtures("lane")
async def test_a_large_body_and_a_large_answer_come_whole(
    headrace: Running, authority: Authority, db: Connection
) -> None:
    """Records of TLS are 16 KiB, and both ends pause and go on many times."""
    text = b"x" * 3_000_000
    request = post(b'{"a":"%b"}' % text).replace(b"Host: h", b"Host: h\r\nPrefer: return=representation")
    async with connection(headrace, authority.client()) as client:
        for _ in range(2):
            await client.send(request)
            reply = await client.next()
            assert (reply.status, reply.body.count(b"x")) == (201, len(text))
    assert await rows_of(db, "select count(*), sum(length(a)) from t") == [(2, 2 * len(text))]


@pytest.mark.usefixtures("lane")
async def test_who_still_sends_reads_why_the_request_is_refused(headrace: Running, authority: Authority) -> None:
    """Closing while a client sends would have its kernel drop the answer, if TLS did not go on reading."""
    address = headrace.server.servers[0].sockets[0].getsockname()
    head = b"POST /rest/v1/t HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000000\r\n\r\n"

    def ask() -> bytes:
        """As a client without an event loop does: it reads when it has sent."""
        with (
            socket.create_connection(address) as plain,
            authority.client().wrap_socket(plain, server_hostname="127.0.0.1") as client,
        ):
            client.sendall(head)
            for _ in range(100):
                time.sleep(0.002)  # a line that is not that fast
                client.sendall(b"x" * 2000)
            return b"".join(iter(partial(client.recv, 65536), b""))

    replies, rest = replies_in(await asyncio.to_thread(ask))
    assert [reply.code for reply in replies] == ["HR413"]
    assert rest == b""


async def test_a_connection_ends_in_good_order(headrace: Running, authority: Authority) -> None:
    """The end is said in TLS, or a client cannot tell it from one that somebody has cut."""
    async with connection(headrace, authority.client()) as client:
        await client.send(GET.replace(b"Host: h", b"Host: h\r\nConnection: close"))
        assert [reply.status for reply in await client.all()] == [200]
    async with connection(headrace, authority.client()) as client:  # it lingers, since nobody has asked for the end
        await client.send(b"nonsense\r\n\r\n")
        assert [reply.status for reply in await client.all()] == [400]


async def test_a_service_that_stops_answers_first(
    dsn: str, db: Connection, start: Start, pair: Pair, authority: Authority
) -> None:
    """And does not wait for clients that keep their connections."""
    await db.execute("create table t (a text)")
    async with start(dsn=dsn, **pair.settings) as headrace, connection(headrace, authority.client()) as idle:
        await idle.send(ROW)
        assert (await idle.next()).status == 201
        async with connection(headrace, authority.client()) as client:
            async with db.transaction():
                await db.execute("lock table t in exclusive mode")
                await client.send(ROW)
                await headrace.eventually(lambda: headrace.service.batcher.statistics().pending_submissions == 1)
                headrace.server.should_exit = True
                await idle.closed()
            assert [(reply.status, reply.closes) for reply in await client.all()] == [(201, True)]


# -------------------------------------------------------------------- those who do not get so far


async def test_who_does_not_agree_on_tls_is_cut_off(headrace: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Silence, plain HTTP and rubbish hold no connection for longer than a head may take, and fill no log."""
    caplog.set_level(logging.INFO)
    for data in (b"", GET, b"\x16\x03\x01\x02\x00\x01", b"\x00" * 1000):
        async with headrace.connect() as client:
            await client.send(data)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1" not in await client.reader.read()
    assert (await headrace.client.get("/livez")).status_code == 200
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_old_versions_of_tls_are_refused(headrace: Running, authority: Authority) -> None:
    """TLS 1.1 was retired by RFC 8996."""
    for version, agreed in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = authority.client()
        context.minimum_version = context.maximum_version = version
        async with connection(headrace, context) as client:
            assert client.writer.get_extra_info("ssl_object").version() == agreed
    context = authority.client()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with connection(headrace, context):
            pass


async def test_only_clients_with_a_certificate_are_let_in_where_that_is_asked(
    dsn: str, start: Start, pair: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Mutual TLS: with none, or one of another authority, there is no answer."""
    folder = pair.key.parent
    theirs = Authority(folder, "clients")
    alice, mallory = theirs.sign("alice"), Authority(folder, "mallory").sign("eve")
    async with start(dsn=dsn, **pair.settings, tls_client_ca_file=theirs.file) as headrace:
        async with connection(headrace, authority.client(alice)) as client:
            serial = serial_of(client)
            await client.send(GET)
            assert (await client.next()).status == 200
        for stranger in (None, mallory):
            assert await _is_turned_away(headrace, authority.client(stranger))
        authority.sign("service")
        theirs.file.write_text("rubbish")
        signal.raise_signal(signal.SIGHUP)
        await headrace.eventually(lambda: "the certificate stays as it was" in caplog.text)
        async with connection(headrace, authority.client(alice)) as client:
            assert serial_of(client) == serial


async def _is_turned_away(headrace: Running, context: ssl.SSLContext) -> bool:
    """Whether a request is not answered. In TLS 1.3 clients learn that only when they read."""
    try:
        async with connection(headrace, context) as client:
            await client.send(GET)
            return await client.reader.read() == b""
    except (ssl.SSLError, ConnectionError):
        return True


# -------------------------------------------------------------------- the files


async def test_a_new_certificate_is_shown_to_new_connections(
    headrace: Running, authority: Authority, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Renewing it drops no connection; a bad one changes nothing."""
    caplog.set_level(logging.INFO)
    async with connection(headrace, authority.client()) as old:
        first = serial_of(old)
        authority.sign("service")
        signal.raise_signal(signal.SIGHUP)
        await headrace.eventually(lambda: "read the certificate again" in caplog.text)
        async with connection(headrace, authority.client()) as new:
            second = serial_of(new)
            assert second != first
        pair.key.write_bytes(authority.sign("another").key.read_bytes())
        signal.raise_signal(signal.SIGHUP)
        await headrace.eventually(lambda: "the certificate stays as it was" in caplog.text)
        async with connection(headrace, authority.client()) as new:
            assert serial_of(new) == second
        await old.send(GET)
        assert (await old.next()).status == 200


def _wrong_files(authority: Authority, folder: Path) -> dict[str, tuple[TlsFiles, str]]:
    pair, other = authority.sign("one"), authority.sign("other")
    locked = authority.sign("locked", password=b"open sesame")
    right, wrong, rubbish = folder / "right", folder / "wrong", folder / "rubbish"
    right.write_text("open sesame\n")
    wrong.write_text("s3cr3t\n")
    rubbish.write_text("-----BEGIN PRIVATE KEY-----\ns3cr3t\n-----END PRIVATE KEY-----\n")
    nowhere = folder / "nowhere"
    return {
        "no certificate": (TlsFiles(nowhere, pair.key), f"cannot read {nowhere}: No such file or directory"),
        "a folder": (TlsFiles(pair.certificate, folder), f"cannot read {folder}: Is a directory"),
        "exchanged": (TlsFiles(pair.key, pair.certificate), "holds no certificate in PEM"),
        "no key": (TlsFiles(pair.certificate, pair.certificate), "holds no private key in PEM"),
        "a damaged key": (TlsFiles(pair.certificate, rubbish), "it is damaged, or of an unknown kind"),
        "another's key": (TlsFiles(pair.certificate, other.key), "is not that of the first certificate"),
        "no password": (TlsFiles(locked.certificate, locked.key), "HEADRACE_TLS_KEY_PASSWORD_FILE"),
        "a wrong password": (TlsFiles(locked.certificate, locked.key, wrong), "the password is wrong"),
        "no password file": (TlsFiles(locked.certificate, locked.key, nowhere), f"cannot read {nowhere}"),
        "no authorities": (TlsFiles(pair.certificate, pair.key, None, rubbish), "holds no certificates in PEM"),
        "all is well": (TlsFiles(locked.certificate, locked.key, right, authority.file), ""),
    }


def test_what_is_wrong_with_the_files_is_said(authority: Authority, tmp_path: Path) -> None:
    """OpenSSL's own words are "[SSL] PEM lib", and without a password it would ask the terminal for one."""
    for case, (files, words) in _wrong_files(authority, tmp_path).items():
        if not words:
            Tls(files)
            continue
        with pytest.raises(TlsError) as caught:
            Tls(files)
        assert words in str(caught.value), case
        assert "s3cr3t" not in str(caught.value)


def test_an_end_that_is_near_is_said_at_the_start(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever renews certificates by hand forgets it once."""
    for days, words in ((90, ""), (13, "the certificate expires on"), (-1, "the certificate expired on")):
        caplog.clear()
        pair = authority.sign("service", days)
        Tls(TlsFiles(pair.certificate, pair.key))
        assert words in caplog.text
        assert bool(caplog.text) == bool(words)


def test_what_is_in_a_certificate(authority: Authority, pair: Pair) -> None:
    """`headrace doctor` shows it."""
    files = TlsFiles(pair.certificate, pair.key)
    assert look_at(files).names == ("127.0.0.1",)
    assert not look_at(files).open_key
    pair.key.chmod(0o604)
    assert look_at(files).open_key
    assert authority.file.exists()


def test_sockets_that_cannot_be_had_say_why() -> None:
    """With the address, since there may be two."""
    from service.http.listening import listen  # noqa: PLC0415

    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            listen("127.0.0.1", port)
        assert not first.getblocking()
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    with pytest.raises(OSError, match="there is no host of that name"):
        listen("no-such-host.invalid", 0)
    with listen("127.0.0.1", 0, reuse_port=True) as first:
        listen("127.0.0.1", first.getsockname()[1], reuse_port=True).close()


async def test_who_is_agreeing_on_tls_when_the_service_stops_is_served(
    dsn: str, db: Connection, pair: Pair, authority: Authority
) -> None:
    """He has connected before, and reloading is to lose nobody; his answer says that it is the last one."""
    await db.execute("create table t (a text, b text)")
    stopping = threading.Event()
    context = authority.client()

    def late(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address) as plain:
            stopping.wait()
            time.sleep(0.15)  # a client that is slow, as the world has them
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as client:
                client.sendall(ROW)
                return client.recv(4096)

    async with run_service(dsn=dsn, **pair.settings) as headrace:
        connections = headrace.service.connections
        address = headrace.server.servers[0].sockets[0].getsockname()[:2]
        answering = asyncio.create_task(asyncio.to_thread(late, address))
        await headrace.eventually(lambda: len(connections._arriving) == 1)
        headrace.server.should_exit = True
        stopping.set()
        answer = await answering
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in answer
    assert await db.fetchval("select count(*) from t") == 1
