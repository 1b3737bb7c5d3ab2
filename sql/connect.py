"""Connecting to PostgreSQL, and how long it may take for what.

Owns which host is taken, what a connection is set to, and whether a pooler stands in between. Must not know what it is
used for.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg

from sql.dsn import UNREADABLE, BadDsn, Host, Route, check_files, route_of
from sql.errors import Unavailable, one_line, unavailable

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

SLOT_NAME = "headrace slot"
"""The beginning of the `application_name` of connections that write."""

_NOTICES_CLIENT = """
    select set_config('client_connection_check_interval', '1s', {})
    where current_setting('server_version_num')::int >= 140000
"""
"""A backend that waits for a lock or runs a trigger would not notice by itself that its client has gone."""

_POOLED, _IN_RECOVERY, _READ_ONLY = 1, 2, 4

_PROBE = f"""
    select from generate_series(1,
        {_POOLED} * (pg_backend_pid() <> {{}})::int
        + {_IN_RECOVERY} * pg_is_in_recovery()::int
        + {_READ_ONLY} * current_setting('transaction_read_only')::bool::int
    )
"""
"""Answered by the number of its rows, because it must be one message: a pooler might give two messages to different
backends. It says whether somebody in between has made up the number by which we know our backend."""

_KEPT_FROM = {"read-write": _IN_RECOVERY | _READ_ONLY, "primary": _IN_RECOVERY}
"""What a server must not be for these `target_session_attrs`. The others are asyncpg's to judge."""

_SYNC_REP = "SyncRepWaitForLSN"
"""The function that waits for synchronous standbys (src/backend/replication/syncrep.c), and warns when it gives up."""

_CONNECT_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_SAYS_NO_SECRET = ("root certificate file", "`sslmode`", "`sslnegotiation`", "direct TLS", "target_session_attrs")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the database may take, and how long things are kept there.

    `statement_seconds` and `lock_seconds` are enforced by the server, so that their end is a clean one;
    `connect_seconds` is ours, and `answer_seconds` is when a silent connection is given up. For `doubt_seconds` it is
    tried to find out whether a write was committed. Idempotency keys are known for `key_seconds`.
    """

    connect_seconds: float = 5.0
    statement_seconds: float = 20.0
    lock_seconds: float = 5.0
    doubt_seconds: float = 20.0
    key_seconds: float = 86_400.0

    @property
    def shared_lock_seconds(self) -> float:
        """How long a locked table may hold up the others that it is written with."""
        return min(self.lock_seconds, 0.1)

    @property
    def shared_statement_seconds(self) -> float:
        """How long a slow table may. A small batch takes some milliseconds; what takes longer is written alone."""
        return min(self.statement_seconds, 0.25)

    @property
    def answer_seconds(self) -> float:
        """After the server should have given up by itself."""
        return self.statement_seconds + 5.0


class Session(_Connection):
    """A connection that knows what it leads through.

    Behind a pooler (`is_pooled`) each transaction may have another backend. So `limits`, SQL that sets the time-outs,
    belongs into each transaction that is to have them: a setting of the session would be somebody else's next. And a
    statement that takes several messages is made a transaction, with these limits.
    """

    is_pooled = False
    is_one_of_several = False
    """Whether it was opened as the one of several hosts that takes rows."""
    is_unconfirmed = False
    """Whether a commit was reported that was not waited for: a synchronous standby may lack it."""
    limits = ""

    def noticed(self, _connection: object, message: Any) -> None:
        """PostgreSQL has told something beside its answers. It is heard before the answer that follows."""
        if getattr(message, "server_source_function", None) == _SYNC_REP:
            self.is_unconfirmed = True
            logger.warning("a commit was not waited for: %s", one_line(message))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """As asyncpg's."""
        if not args:
            return await super().execute(query, **options)
        tag: str = await self._in_one_backend(partial(super().execute, query, *args, **options))
        return tag

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return await self._in_one_backend(partial(super().fetch, query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return await self._in_one_backend(partial(super().fetchrow, query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return await self._in_one_backend(partial(super().fetchval, query, *args, **options))

    async def _in_one_backend(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        # No context manager: contextlib sets the traceback of what is raised, which asyncpg's warnings do not allow.
        if not self.is_pooled or self.is_in_transaction():
            return await ask()
        await super().execute(f"begin;{self.limits}")
        try:
            answer = await ask()
        except Exception:
            if not self.is_closed():
                await super().execute("rollback")
            raise
        except BaseException:
            self.terminate()  # whoever has cancelled this does not want to wait for a rollback
            raise
        await super().execute("commit")
        return answer


async def connect(dsn: str, timeouts: Timeouts, application_name: str) -> Session:
    """A connection for writing. Raises `Unavailable` with one line that says why not."""
    session = await open_session(dsn, timeouts.connect_seconds, application_name)
    limits = (
        f"set {{0}} statement_timeout = '{milliseconds(timeouts.statement_seconds)}';"
        f"set {{0}} lock_timeout = '{milliseconds(timeouts.lock_seconds)}'"
    )
    try:
        async with asyncio.timeout(timeouts.connect_seconds):
            if session.is_pooled:
                session.limits = limits.format("local")
            else:
                await session.execute(limits.format("session"))
            with suppress(asyncpg.InvalidParameterValueError):  # its operating system has no way to find out
                noticed = await session.execute(_NOTICES_CLIENT.format(str(session.is_pooled).lower()))
                if session.is_pooled and noticed == "SELECT 1":
                    session.limits += ";set local client_connection_check_interval = '1s'"
    except BaseException as error:
        session.terminate()
        if isinstance(error, (*_CONNECT_ERRORS, TimeoutError)):
            raise unavailable(error, _why(error)) from error
        raise
    return session


async def open_session(
    dsn: str,
    seconds: float,
    application_name: str,
    *,
    statement_cache_size: int = 100,
    command_timeout: float | None = None,
) -> Session:
    """A connection to the first host that does, with nothing set. Raises `Unavailable`, with what asyncpg or the socket
    has raised as its cause where there is one.

    Each of several hosts has its share of the time, so that one which swallows packets does not hide those behind it.
    """
    route = route_of(dsn)
    options: dict[str, Any] = {
        "server_settings": {"application_name": application_name},
        "statement_cache_size": statement_cache_size,
        "command_timeout": command_timeout,
        "connection_class": Session,
    }
    if not check_files(dsn):
        options["password"] = ""
    if route.attributes in _KEPT_FROM:
        options["target_session_attrs"] = "any"
    failures: list[BaseException] = []
    ends = asyncio.get_running_loop().time() + seconds
    hosts: tuple[Host | None, ...] = route.hosts or (None,)
    for host in hosts:
        if host is not None and route.leads_to_several:
            options |= {"host": host.name, "port": host.port}
        share = (ends - asyncio.get_running_loop().time()) / (len(hosts) - len(failures))
        try:
            async with asyncio.timeout(share):
                return await _open(dsn, route, options)
        except (*_CONNECT_ERRORS, TimeoutError, ValueError) as error:
            if isinstance(error, ValueError) and not isinstance(error, OSError):  # as is a certificate's error
                said = one_line(error)
                raise BadDsn(said if said.startswith(_SAYS_NO_SECRET) else UNREADABLE) from None
            failures.append(error)
    raise _none_of(route, failures, seconds) from failures[-1]


async def _open(dsn: str, route: Route, options: dict[str, Any]) -> Session:
    """A connection to one host. Raises what asyncpg raises, and `_NotPrimary`."""
    session: Session = await asyncpg.connect(dsn, **options)
    try:
        session.add_log_listener(session.noticed)
        tag = await session.execute(_PROBE.format(session.get_server_pid()))
        found = int(tag.removeprefix("SELECT "))
        if found & _KEPT_FROM.get(route.attributes, 0):
            raise _NotPrimary  # noqa: TRY301 - so that it is closed
        if found & _POOLED and options["statement_cache_size"]:
            session.terminate()
            return await _open(dsn, route, {**options, "statement_cache_size": 0})
    except BaseException:
        session.terminate()
        raise
    session.is_pooled = bool(found & _POOLED)
    session.is_one_of_several = route.leads_to_several and route.attributes in _KEPT_FROM
    return session


class _NotPrimary(ConnectionError):
    """The server takes no rows."""

    def __init__(self) -> None:
        super().__init__("it takes no rows (a standby, or read-only)")


def _none_of(route: Route, failures: list[BaseException], seconds: float) -> Unavailable:
    """Why none of the hosts will do. If there is no room on one, that is what it is about: the others are standbys."""
    if not route.leads_to_several:
        return unavailable(failures[0], _why(failures[0], seconds))
    reasons = [_why(error) for error in failures]
    said = "; ".join(f"{host}: {reason}" for host, reason in zip(route.hosts, reasons, strict=True))
    found = [unavailable(error, said) for error in failures]
    return next((each for each in found if type(each) is not Unavailable), found[0])


def _why(error: BaseException, seconds: float | None = None) -> str:
    """In one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not to be trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.lower().replace('_', ' ')}"
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time" if seconds is None else f"no answer within {seconds:g} s"
    return one_line(error)


def is_abandoned(context: Mapping[str, object]) -> bool:
    """Whether an event loop's complaint is about a future that asyncpg left behind when its connection was cut.

    The write that it belonged to has been judged by another exception, so nobody needs to hear of it again.
    """
    return "future" in context and isinstance(context.get("exception"), asyncpg.PostgresConnectionError)


def milliseconds(seconds: float) -> str:
    """As PostgreSQL writes a time-out; 0 would mean: without limit."""
    return f"{max(1, round(seconds * 1000))}ms"
