"""A PostgreSQL that listens on TCP, with a certificate, and asks clients who they are. For tests of connecting."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import pwd
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service import embedded
from service.embedded import EmbeddedPostgres

PASSWORD = "hunter-2:@/ü"

_LOCAL = "local all all trust\n"
_BY_PASSWORD = "host all keyed 127.0.0.0/8 scram-sha-256\n"
_BY_TLS = """
hostssl all certified 127.0.0.0/8 cert
hostssl all veiled    127.0.0.0/8 trust
"""

_DAY = dt.timedelta(days=1)


class Authority:
    """One that signs certificates, all of which are files of one folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(self._signed(name, self._key, is_authority=True).public_bytes(_PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for a host or a user, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = self._folder / f"{self._name}-{name}.crt", self._folder / f"{self._name}-{name}.key"
        files[0].write_bytes(self._signed(name, key).public_bytes(_PEM))
        files[1].write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        files[1].chmod(0o600)
        return files

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, *, is_authority: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Guarded:
    """The server. Its roles: `certified` shows a certificate, `veiled` comes by TLS, `keyed` has a password."""

    port: int
    ours: Authority
    """Whose certificate the server has, and whose it accepts from clients."""
    another: Authority

    def dsn(self, user: str, host: str = "localhost", **parameters: object) -> str:
        """How to connect as `user`, which may have a password behind it."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://{user}@{host}:{self.port}/postgres?{query}".removesuffix("?")


def binaries_with_tls() -> Path:
    """Those of a PostgreSQL that was built with TLS, as the embedded one is not. Skips the test where there is none."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    pytest.skip("there is no PostgreSQL that was built with TLS (Debian: apt-get install postgresql)")


@contextmanager
def guarded_server(folder: Path, *, tls: bool) -> Iterator[Guarded]:
    """One in this folder, as long as it is needed. With TLS it is the system's, without it is the embedded one."""
    with pytest.MonkeyPatch.context() as patch:
        if tls:
            binaries = binaries_with_tls()
            patch.setattr(embedded, "_binaries", lambda: binaries)
            patch.setattr(embedded, "_let_read_binaries", lambda _user: None)
            patch.setattr(EmbeddedPostgres, "_initialise", _initialise)
        with _guarded(folder, tls=tls) as guarded:
            yield guarded


def _initialise(server: EmbeddedPostgres, data: Path, _settings: object) -> None:
    """In a way that older versions know, too."""
    data.mkdir(mode=0o700)
    if server.user is not None:
        os.chown(data, pwd.getpwnam(server.user).pw_uid, -1)
    server._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres", f"--pgdata={data}")


@contextmanager
def _guarded(folder: Path, *, tls: bool) -> Iterator[Guarded]:
    server = EmbeddedPostgres.start(folder)
    server._control("stop", "--mode=fast", "--wait")
    data = folder / "postgres"
    certificates = folder / "certificates"
    certificates.mkdir()
    ours, another = Authority(certificates, "ours"), Authority(certificates, "another")
    certificate, key = ours.issue("localhost")
    if server.user is not None:
        os.chown(key, pwd.getpwnam(server.user).pw_uid, -1)
    (data / "pg_hba.conf").write_text(_LOCAL + (_BY_TLS if tls else "") + _BY_PASSWORD)
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("fsync = off\npassword_encryption = 'scram-sha-256'\n")
        if tls:
            for name, path in (("ssl_cert_file", certificate), ("ssl_key_file", key), ("ssl_ca_file", ours.file)):
                conf.write(f"{name} = '{path}'\n")
            conf.write("ssl = on\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1,127.0.0.2 -c port={port} -c unix_socket_directories="
    options += shlex.quote(f'"{server.socket_folder}"')
    server._control("start", "--wait", f"--log={data / 'server.log'}", f"--options={options}")
    try:
        roles = f"create role certified login; create role veiled login; create role keyed login password '{PASSWORD}'"
        socket_folder = str(server.socket_folder)
        server._run("psql", "-h", socket_folder, "-p", str(port), "-U", "postgres", "-d", "postgres", "-c", roles)
        yield Guarded(port, ours, another)
    finally:
        server.stop()
