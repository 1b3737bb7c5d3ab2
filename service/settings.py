"""Every setting: an environment variable `HEADRACE_…`, with its unit in the name. README.md has the same table.

Owns defaults, bounds and what each setting means to the parts that take it. Must not know those parts' insides.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batching import Limits
from service.bodies.body import BodyLimits
from service.http.connections import ConnectionLimits
from sql import Timeouts

MIB = 1024 * 1024

Seconds = Annotated[float, Field(ge=0.001, le=86_400, allow_inf_nan=False)]
"""From a millisecond, the least that PostgreSQL's own time-outs know, to a day."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that look like settings and are none, most likely misspelt."""
    known = {f"HEADRACE_{name}".upper() for name in Settings.model_fields} | {"HEADRACE_URL"}  # of `headrace load`
    return sorted(name for name in environ if name.startswith("HEADRACE_") and name not in known)


class Settings(BaseSettings):
    """What an operator can decide. A value that makes no sense is refused at start, with the variable's name."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="forbid")

    dsn: str | None = Field(
        default=None,
        description="The database, as a libpq URL: `postgresql://user:password@host:5432/name`. "
        "Unset: the service starts a PostgreSQL of its own, with its data in `HEADRACE_DATA_DIR`.",
    )
    data_dir: Path = Field(
        default=Path(".headrace"), description="Where the service's own PostgreSQL keeps its data (only without a DSN)."
    )
    host: str = Field(default="127.0.0.1", description="The address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="The port to listen on; 0 picks a free one.")
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
        description="Whether to do without the tables in schema `headrace`: no idempotency keys, no quarantine, and a "
        "batch whose commit is in doubt is written again, perhaps for the second time.",
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

    @field_validator("schemas", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

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

    @field_validator("dsn")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value or None

    @field_validator("prefix")
    @classmethod
    def _normal_prefix(cls, value: str) -> str:
        bare = value.strip("/")
        return f"/{bare}" if bare else ""

    @property
    def limits(self) -> Limits:
        """What the queue may hold."""
        return Limits(self.batch_rows_max, self.batch_bytes_max, self.pending_rows_max, self.pending_bytes_max)

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
