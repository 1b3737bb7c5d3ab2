"""TLS to clients: a certificate and its key from files, and both again when the files are other ones.

Owns what is wrong with these files, in words. Imported only where there is TLS. Must not know who connects; never says
what is in a key or a password.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from service.http.listening import TlsError, TlsFiles

logger = logging.getLogger(__name__)

HTTP1 = "http/1.1"
HTTP2 = "h2"
"""What clients and we agree on while they agree on TLS (ALPN)."""

SOON = timedelta(days=14)
"""Before its end, a certificate that is renewed by itself should have been: those of 90 days are 30 days before."""

_ANYBODY = 0o007
"""The permissions of those who are neither the owner of a file nor of its group."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate file holds. `open_key` is whether anybody on this machine may read the key."""

    names: tuple[str, ...]
    begins: datetime
    ends: datetime
    open_key: bool

    def warning(self, now: datetime) -> str | None:
        """Why clients will not, or soon will not, believe it."""
        if now >= self.ends:
            return f"the certificate expired on {self.ends:%Y-%m-%d %H:%M} UTC: clients refuse to connect"
        if now < self.begins:
            return f"the certificate is not valid before {self.begins:%Y-%m-%d %H:%M} UTC: clients refuse to connect"
        if now >= self.ends - SOON:
            return f"the certificate expires on {self.ends:%Y-%m-%d %H:%M} UTC"
        return None


class Tls:
    """The context that connections are made with. Raises `TlsError`."""

    def __init__(self, files: TlsFiles, *, http2: bool = False) -> None:
        self._files = files
        self._protocols = [HTTP2, HTTP1] if http2 else [HTTP1]
        self.context = _context(files, self._protocols)
        self._warn()

    def reload(self) -> bool:
        """Read the files again, for connections that are made from now on; if they are no good, go on with the old."""
        try:
            _context(self._files, self._protocols)  # half-way, a new certificate would be there with the old key
            _load(self.context, self._files)
        except TlsError as error:
            logger.error("the certificate stays as it was: %s", error)  # noqa: TRY400 - it is no bug of ours
            return False
        logger.info("read the certificate again")
        self._warn()
        return True

    def _warn(self) -> None:
        warning = look_at(self._files).warning(datetime.now(UTC))
        if warning is not None:
            logger.warning(warning)


def check(files: TlsFiles) -> Certificate:
    """What is in the files, if a service could start with them. Raises `TlsError`."""
    _context(files, [HTTP1])
    return look_at(files)


def look_at(files: TlsFiles) -> Certificate:
    """What is in the files. Raises `TlsError` if they do not go together."""
    text = _read(files.certificate)
    try:
        first, *_ = x509.load_pem_x509_certificates(text)
    except ValueError:
        raise TlsError(f"{files.certificate} holds no certificate in PEM") from None
    key = _key(files)
    if _public(key.public_key()) != _public(first.public_key()):
        raise TlsError(
            f"the key in {files.key} is not that of the first certificate in {files.certificate}, which must be the"
            " service's own"
        )
    try:
        mode = files.key.stat().st_mode
    except OSError:
        mode = 0
    return Certificate(
        _names(first), first.not_valid_before_utc, first.not_valid_after_utc, open_key=bool(mode & _ANYBODY)
    )


def _context(files: TlsFiles, protocols: list[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # of TLS 1.2; it would be work that clients can ask for at will
    context.set_alpn_protocols(protocols)
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Have connections that are made from now on use these files."""
    look_at(files)
    password = _password(files)
    try:
        # Without a password it would ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: password or b"")
    except (OSError, ValueError) as error:
        raise TlsError(f"cannot use the certificate in {files.certificate}: {_why(error)}") from None
    if files.client_ca is not None:
        _read(files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError):
            raise TlsError(f"{files.client_ca} holds no certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED


def _key(files: TlsFiles) -> PrivateKeyTypes:
    text, password = _read(files.key), _password(files)
    if b"PRIVATE KEY-----" not in text:
        raise TlsError(f"{files.key} holds no private key in PEM")
    is_locked = b"ENCRYPTED" in text
    try:
        return load_pem_private_key(text, password if is_locked else None)
    except TypeError:
        raise TlsError(
            f"the key in {files.key} has a password: put it into the file HEADRACE_TLS_KEY_PASSWORD_FILE"
        ) from None
    except (ValueError, UnsupportedAlgorithm):  # what they say may hold pieces of the key
        why = "the password is wrong, or the key damaged" if is_locked else "it is damaged, or of an unknown kind"
        raise TlsError(f"cannot read the key in {files.key}: {why}") from None


def _password(files: TlsFiles) -> bytes | None:
    """Without the line end that editors put behind it."""
    return None if files.key_password is None else _read(files.key_password).rstrip(b"\r\n")


def _public(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Whom it is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(str(name.value) for name in found if isinstance(name, x509.DNSName | x509.IPAddress))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsError(f"cannot read {path}: {error.strerror}") from None


def _why(error: OSError | ValueError) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
