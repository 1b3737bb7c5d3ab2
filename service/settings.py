"""Every setting: an environment variable `HEADRACE_…`, with its unit in the name. README.md has the same table.

Owns defaults, bounds and what each setting means to the parts that take it. Must not know those parts' insides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batching import Limits
from service.auth.gate import AnonymousWrites
from service.auth.jwt_options import ANY_AUDIENCE, JwtOptions
from service.auth.principal import Grants
from service.bodies.body import BodyLimits
from service.http.connections import ConnectionLimits, connections_that_fit
from service.http.listening import TlsFiles
from sql import Demand, Timeouts

MIB = 1024 * 1024

Seconds = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False)]
"""From a millisecond, the least that PostgreSQL's own time-outs know, to a day."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that look like settings and are none, most likely misspelt."""
    known = {f"HEADRACE_{name}".upper() for name in Settings.model_fields} | _OF_LOAD
    return sorted(name for name in environ if name.startswith("HEADRACE_") and name not in known)


_OF_LOAD = {"HEADRACE_API_KEY", "HEADRACE_URL"}  # a client, which has no Settings

_DSN_BEGINNINGS = ("postgresql://", "postgres://")


def _dsn_in(path: Path) -> str:
    """The DSN in a file. Raises `ValueError`, which does not quote it."""
    try:
        dsn = path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("is not a file of text") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if not dsn.startswith(_DSN_BEGINNINGS):
        raise ValueError("what the file has must begin with postgresql://")
    return dsn


class Settings(BaseSettings):
    """What an operator can decide. A value that makes no sense is refused at start, with the variable's name."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="forbid")

    dsn: str | None = Field(
        default=None,
        description="The database, as a libpq URL: `postgresql://user:password@host:5432/name`. "
        "Unset: the service starts a PostgreSQL of its own, with its data in `HEADRACE_DATA_DIR`.",
    )
    dsn_file: Path | None = Field(
        default=None,
        description="A file that has the DSN, such as a mounted secret, in place of `HEADRACE_DSN`; read at start.",
    )
    data_dir: Path = Field(
        default=Path(".headrace"), description="Where the service's own PostgreSQL keeps its data (only without a DSN)."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
    admin_host: str = Field(default="127.0.0.1", description="The address for operators to listen on.")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Its port, where `/metrics` and `/dashboard` are then, and nowhere else; 0 picks a free one. "
        "Unset: they are where all else is.",
    )
    tls_certificate_file: Path | None = Field(
        default=None,
        description="The certificate to show to clients, in PEM, with those between it and the root. "
        "Unset: the service speaks plain HTTP.",
    )
    tls_key_file: Path | None = Field(
        default=None, validate_default=True, description="Its private key, in PEM. Both are read again on SIGHUP."
    )
    tls_key_password_file: Path | None = Field(
        default=None, description="A file with the password of the private key, if it has one."
    )
    tls_client_ca_file: Path | None = Field(
        default=None,
        description="Certificates in PEM: only clients with a certificate that one of these has signed are let in.",
    )
    http2: bool = Field(
        default=False,
        description="Whether clients may choose HTTP/2, at a multiple of the CPU; "
        "needs TLS and `pip install headrace[http2]`.",
    )
    proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Addresses and networks of the proxies that are believed whom they forward a request for, "
        "separated by commas.",
    )
    connections_max: PositiveInt | None = Field(
        default=None,
        description="Connections of clients at once, for each worker; more are answered 503. "
        "Unset: 10,000, but no more than three quarters of the files that the process may open.",
    )
    schemas: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("public",),
        min_length=1,
        description="The schemas whose tables can be written, separated by commas; the first is the default.",
    )
    prefix: str = Field(
        default="/rest/v1",
        pattern=r"^[A-Za-z0-9/._~-]*$",
        description="The path before the table name; may be empty.",
    )
    flush_slots: PositiveInt = Field(default=2, le=64, description="Batches in flight at once, each on a connection.")
    workers: PositiveInt = Field(default=1, le=256, description="How many processes of this pod (or machine) serve.")
    pods: PositiveInt = Field(
        default=1, description="How many pods (or machines) serve at most; for the connection budget."
    )
    connections_reserve: Annotated[int, Field(ge=0)] = Field(
        default=3, description="Connections of PostgreSQL that the connection budget leaves to others."
    )
    batch_rows_max: PositiveInt = Field(default=10_000, description="Rows in one batch; a larger request goes alone.")
    batch_bytes_max: PositiveInt = Field(default=4 * MIB, description="Bytes of rows in one batch.")
    pending_rows_max: PositiveInt = Field(
        default=200_000, description="Rows that may wait or be on their way to the database; more are answered 429."
    )
    pending_bytes_max: PositiveInt = Field(default=256 * MIB, description="The same bound in bytes of rows.")
    fast_lane: bool = Field(
        default=True,
        description="Whether rows take the fast lane; if not, FastAPI serves them, at a multiple of the CPU.",
    )
    head_bytes_max: Annotated[int, Field(ge=256)] = Field(
        default=16 * 1024, description="The largest head of a request (URL and headers); more is answered 431."
    )
    headers_max: PositiveInt = Field(default=100, description="Headers in one request; more are answered 431.")
    url_bytes_max: PositiveInt = Field(default=8 * 1024, description="The longest URL; more is answered 414.")
    head_seconds_max: Seconds = Field(
        default=10.0, description="How long the head of a request may take to arrive; longer is answered 408."
    )
    keep_alive_seconds: Seconds = Field(
        default=75.0,
        description="How long a connection is kept open after an answer; more than your proxy keeps it.",
    )
    send_seconds_max: Seconds = Field(
        default=30.0, description="A client that does not read its answers for so long is cut off."
    )
    body_bytes_max: PositiveInt = Field(default=32 * MIB, description="The largest request body; more is answered 413.")
    body_seconds_max: Seconds = Field(
        default=30.0, description="How long a request body may take to arrive; longer is answered 408."
    )
    request_seconds_max: Seconds = Field(
        default=10.0, description="A request whose rows have not begun to be written by then is answered 503."
    )
    connect_seconds_max: Seconds = Field(default=5.0, description="How long connecting to the database may take.")
    statement_seconds_max: Seconds = Field(
        default=20.0, description="How long the database may take to write one batch (`statement_timeout`)."
    )
    lock_seconds_max: Seconds = Field(
        default=5.0, description="How long a batch may wait for a lock in the database (`lock_timeout`)."
    )
    retry_seconds_max: Seconds = Field(
        default=2.0, description="The longest pause between two attempts to reach a database that is away."
    )
    doubt_seconds_max: Seconds = Field(
        default=20.0,
        description="How long a request waits while it is in doubt whether its rows were committed; "
        "longer is answered 503 (`HR506`).",
    )
    drain_seconds_max: Seconds = Field(
        default=25.0, description="How long a stopping service gives the requests it has accepted."
    )
    idempotency_seconds: Annotated[float, Field(ge=1, le=366 * 86_400, allow_inf_nan=False)] = Field(
        default=86_400.0, description="How long an `Idempotency-Key` is remembered."
    )
    at_least_once: bool = Field(
        default=False,
        description="Whether to do without the tables in schema `headrace`: no idempotency keys, no quarantine, no "
        "API keys, and a batch whose commit is in doubt is written again, perhaps for the second time.",
    )
    anonymous_writes: AnonymousWrites = Field(
        default="auto",
        description="Who may write without a credential: `allow` everybody, `refuse` all, `auto` only programs on this "
        "machine, while there are no credentials. With `auto`, the service does not start on an address that others "
        "reach unless there are credentials.",
    )
    jwt_secret_file: Path | None = Field(
        default=None,
        description="A file with the secret, of 32 bytes or more, that signs tokens (JWT, HS256). "
        "It is read again when it changes.",
    )
    jwt_jwks_file: Path | None = Field(
        default=None,
        description="A file with the public keys (JWKS) of who signs tokens (JWT, RS256 or ES256). "
        "It is read again when it changes.",
    )
    jwt_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        validate_default=True,
        description="Whom a token must be for (`aud`), separated by commas; one of them is enough. "
        "It must be set where tokens are taken; `*` takes those for anybody.",
    )
    jwt_issuer: str | None = Field(default=None, min_length=1, description="Whom a token must be from (`iss`).")
    jwt_leeway_seconds: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = Field(
        default=30.0, description="How much the clocks of who signs tokens may differ from this one."
    )
    jwt_tables: str = Field(
        default="",
        description="What a token without a claim of its own may do, like `public.events public.logs:insert,select`, "
        "separated by blanks. Empty: nothing.",
    )
    tx_override: bool = Field(
        default=False, description="Whether `Prefer: tx=rollback` has a request's rows rolled back: a dry run."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")
    log_format: Literal["console", "json"] = Field(
        default="console",
        description="How `headrace serve` writes its log: `console` for people, `json` with an object on each line.",
    )
    slow_request_seconds: Seconds = Field(default=1.0, description="A request that takes longer is logged.")
    slow_flush_seconds: Seconds = Field(
        default=1.0, description="A flush that takes longer is logged, and shown on the dashboard."
    )
    workers_dir: Path | None = Field(
        default=None,
        description="A folder for several workers of one service, in which they keep their numbers: `/metrics` and the "
        "dashboard of each show those of all. Unset: there is one worker.",
    )
    access_log: bool = Field(default=False, description="Whether each request is logged.")
    access_log_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=1.0,
        description="The part of the requests that is in the access log, chosen at random; "
        "those that end 5xx, other than 503, are always.",
    )
    traces: bool = Field(
        default=False,
        description="Whether there is an OpenTelemetry span for each request and each flush; "
        "needs `pip install headrace[traces]`.",
    )

    @field_validator("schemas", "proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("admin_port")
    @classmethod
    def _another_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and value == info.data.get("port"):
            raise ValueError("must be another port than HEADRACE_PORT")
        return value

    @field_validator(
        "tls_certificate_file", "tls_key_file", "tls_key_password_file", "tls_client_ca_file", mode="before"
    )
    @classmethod
    def _unset_if_empty(cls, value: object) -> object:
        return value or None  # Path("") would be this folder

    @field_validator("tls_key_file")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate_file") is None):
            raise ValueError("must be set together with HEADRACE_TLS_CERTIFICATE_FILE")
        return value

    @field_validator("tls_key_password_file", "tls_client_ca_file")
    @classmethod
    def _is_with_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certificate_file") is None:
            raise ValueError("needs HEADRACE_TLS_CERTIFICATE_FILE and HEADRACE_TLS_KEY_FILE")
        return value

    @field_validator("http2")
    @classmethod
    def _can_http2(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's signature
        if value and info.data.get("tls_certificate_file") is None:
            raise ValueError("needs HEADRACE_TLS_CERTIFICATE_FILE: clients choose HTTP/2 while they agree on TLS")
        if value:
            try:
                import_module("zttp")
            except ModuleNotFoundError:
                raise ValueError("the parser is not installed: pip install headrace[http2]") from None
        return value

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"wants addresses such as 10.0.0.7 and networks such as 10.0.0.0/8: {error}") from None
        return value

    @field_validator("traces")
    @classmethod
    def _can_trace(cls, value: bool) -> bool:  # noqa: FBT001 - pydantic's signature
        if value:
            try:
                import_module("service.observing.traces")
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"OpenTelemetry is not installed ({error.name}): pip install headrace[traces]"
                ) from None
        return value

    @field_validator("jwt_secret_file", "jwt_jwks_file")
    @classmethod
    def _has_keys(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None:
            keys = import_module("service.auth.jwt_keys")  # brings a library that others need not wait for
            (keys.read_secret if info.field_name == "jwt_secret_file" else keys.read_jwks)(value)
        return value

    @field_validator("jwt_audience", mode="before")
    @classmethod
    def _split_audience(cls, value: object) -> object:
        return cls._split(value)

    @field_validator("jwt_audience")
    @classmethod
    def _is_for_somebody(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        files = ("jwt_secret_file", "jwt_jwks_file")
        takes_tokens = any(info.data.get(name) is not None for name in files)
        if takes_tokens and not value:
            raise ValueError("must say whom tokens are for, since they are taken; * takes those for anybody")
        if value and not takes_tokens and all(name in info.data for name in files):
            raise ValueError("is of no use without HEADRACE_JWT_SECRET_FILE or HEADRACE_JWT_JWKS_FILE")
        if ANY_AUDIENCE in value and len(value) > 1:
            raise ValueError("must be * alone, or names")
        return value

    @field_validator("jwt_tables")
    @classmethod
    def _are_grants(cls, value: str) -> str:
        Grants.of_text(value)
        return value

    @field_validator("dsn")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value and not value.startswith(_DSN_BEGINNINGS):
            raise ValueError("must begin with postgresql://")
        return value or None

    @field_validator("dsn_file")
    @classmethod
    def _is_alone(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("dsn") is not None:
            raise ValueError("set HEADRACE_DSN or this, not both")
        if value is not None:
            _dsn_in(value)
        return value

    def model_post_init(self, _context: object, /) -> None:
        """Whoever wants the DSN need not know where it comes from."""
        if self.dsn_file is not None:
            self.__dict__["dsn"] = _dsn_in(self.dsn_file)

    @field_validator("prefix")
    @classmethod
    def _normal_prefix(cls, value: str) -> str:
        bare = value.strip("/")
        return f"/{bare}" if bare else ""

    @property
    def jwt(self) -> JwtOptions | None:
        """Which tokens are believed; None: none."""
        if self.jwt_secret_file is None and self.jwt_jwks_file is None:
            return None
        return JwtOptions(
            self.jwt_secret_file,
            self.jwt_jwks_file,
            self.jwt_audience,
            self.jwt_issuer,
            self.jwt_leeway_seconds,
            Grants.of_text(self.jwt_tables),
        )

    @property
    def limits(self) -> Limits:
        """What the queue may hold."""
        return Limits(self.batch_rows_max, self.batch_bytes_max, self.pending_rows_max, self.pending_bytes_max)

    @property
    def connection_demand(self) -> Demand:
        """How many connections to the database all workers of all pods may come to have."""
        beside = 1 if self.at_least_once else 2  # nobody keeps house where there is nothing in it
        return Demand(self.flush_slots, self.workers, self.pods, self.connections_reserve, beside)

    @property
    def body_limits(self) -> BodyLimits:
        """What bodies may be."""
        return BodyLimits(self.body_bytes_max, self.body_seconds_max, self.pending_bytes_max)

    @property
    def connection_limits(self) -> ConnectionLimits:
        """What connections may do."""
        return ConnectionLimits(
            head_bytes_max=self.head_bytes_max,
            url_bytes_max=self.url_bytes_max,
            headers_max=self.headers_max,
            head_seconds_max=self.head_seconds_max,
            keep_alive_seconds=self.keep_alive_seconds,
            send_seconds_max=self.send_seconds_max,
            connections_max=self.connections_max or connections_that_fit(),
        )

    @property
    def tls(self) -> TlsFiles | None:
        """What TLS needs; None if clients speak plain HTTP."""
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(
            self.tls_certificate_file, self.tls_key_file, self.tls_key_password_file, self.tls_client_ca_file
        )

    @property
    def timeouts(self) -> Timeouts:
        """How long the database may take."""
        return Timeouts(
            connect_seconds=self.connect_seconds_max,
            statement_seconds=self.statement_seconds_max,
            lock_seconds=self.lock_seconds_max,
            doubt_seconds=self.doubt_seconds_max,
            key_seconds=self.idempotency_seconds,
        )
