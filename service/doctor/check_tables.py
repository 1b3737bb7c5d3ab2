"""What `headrace doctor` says about the exposed tables and schema `headrace`. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.doctor.findings import Finding, Group
from service.settings import MIB, Settings
from sql import QUARANTINE_COUNTED_MAX, Contents, OwnSchema, Rights, quote_identifier

_TABLES = Group("Tables")
_OWN = Group("Schema headrace")

_NAMES_SHOWN = 5

_DAY = 86_400.0

_SLOT_SECONDS_MAX = 8 * _DAY
"""The service deletes rows of slots after seven days."""

_LATE_SECONDS = 3600.0
"""The service deletes old keys once a minute; if it fails, after a quarter of an hour again."""

_API_KEYS = frozenset({"api_keys", "api_keys_name"})
"""What rows can be written without."""

_MENDED = _API_KEYS | {"ledger", "idempotency", "quarantine", "idempotency_at", "quarantine.intent"}
"""What the service adds by itself, if the role may. Another column is missing only if another version has made it."""


# -------------------------------------------------------------------- exposed tables


def check_tables(
    schemas: Sequence[str], missing: Sequence[str], rights: Sequence[Rights], role: str
) -> Iterator[Finding]:
    """Whether there is something to write to, and what the role may do with it."""
    yield from _schemas(schemas, missing, rights, role)
    writable = [each for each in rights if each.may_insert]
    denied = [each for each in rights if not each.inserts_some]
    if denied and len(denied) == len(rights):
        yield _TABLES.error(
            f"the role may insert into none of {_count(rights)}: all requests are refused",
            _grant("insert", denied, role),
        )
    elif denied:
        yield _TABLES.warning(
            f"no right to insert into {_names(denied)}, so requests for that are refused",
            f"if that is not meant so: {_grant('insert', denied, role)}",
        )
    if writable:
        yield _summary(writable, role)
    yield from _sequences(writable, role)
    unlogged = [each for each in writable if each.unlogged]
    if unlogged:
        yield _TABLES.warning(
            f"unlogged: {_names(unlogged)}; after a crash of the server nothing is left of acknowledged rows",
            f"alter table {_identifier(unlogged[0])} set logged",
        )


def _schemas(schemas: Sequence[str], missing: Sequence[str], rights: Sequence[Rights], role: str) -> Iterator[Finding]:
    if not rights:
        yield _TABLES.error(
            f"there is no table in {', '.join(schemas)}: nothing can be written",
            "create tables there, or set HEADRACE_SCHEMAS to the schemas that have them",
        )
        return
    filled = {each.schema for each in rights}
    for name in dict.fromkeys(schemas):
        if name in missing:
            yield _TABLES.warning(f"there is no schema {name}", "create it, or take it out of HEADRACE_SCHEMAS")
        elif name not in filled:
            yield _TABLES.warning(
                f"there is no table in schema {name}", "create one there, or take it out of HEADRACE_SCHEMAS"
            )
    for name in dict.fromkeys(each.schema for each in rights if not each.enters):
        yield _TABLES.error(
            f"the role has no USAGE on schema {name}: requests for its tables are refused",
            f"grant usage on schema {quote_identifier(name)} to {quote_identifier(role)}",
        )


def _summary(writable: Sequence[Rights], role: str) -> Finding:
    returning = [each for each in writable if each.selects]
    upserting = [each for each in returning if each.updates]
    text = f"rows can be inserted into {_count(writable)}, returned from {len(returning)}, upserted in {len(upserting)}"
    partly = [each for each in writable if not each.inserts]
    if partly:
        text += f"; only some columns of {_names(partly)} may be given"
    lesser = [each for each in writable if not (each.selects and each.updates)]
    advice = f"only if clients need it: {_grant('select, update', lesser, role)}" if lesser else None
    return _TABLES.ok(text, advice)


def _sequences(writable: Sequence[Rights], role: str) -> Iterator[Finding]:
    denied = [each for each in writable if each.denied_sequences]
    if denied:
        yield _TABLES.error(
            f"no right to the sequences of {_names(denied)}: rows that leave a serial column out are refused",
            _grant_usage([name for each in denied for name in each.denied_sequences], role),
        )
    identities = [each for each in writable if each.denied_identities and each.selects]
    if identities:
        yield _TABLES.ok(
            f"no right to the sequences of identity columns of {_names(identities)}; only missing=default together with"
            " an upsert or returned rows needs it",
            f"only if clients need it: "
            f"{_grant_usage([name for each in identities for name in each.denied_identities], role)}",
        )


def _grant(rights: str, tables: Sequence[Rights], role: str) -> str:
    """The statement, for the first of the tables."""
    names = ", ".join(map(_identifier, tables[:_NAMES_SHOWN]))
    return f"grant {rights} on {names} to {quote_identifier(role)}" + (
        " (and so on)" if len(tables) > _NAMES_SHOWN else ""
    )


def _grant_usage(sequences: Sequence[str], role: str) -> str:
    return f"grant usage on sequence {', '.join(sequences)} to {quote_identifier(role)}"


def _identifier(table: Rights) -> str:
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"


def _names(tables: Sequence[Rights]) -> str:
    names = ", ".join(f"{each.schema}.{each.name}" for each in tables[:_NAMES_SHOWN])
    more = len(tables) - _NAMES_SHOWN
    return f"{names} and {more} more" if more > 0 else names


def _count(tables: Sequence[Rights]) -> str:
    return "1 table" if len(tables) == 1 else f"{len(tables)} tables"


# -------------------------------------------------------------------- schema headrace


def check_own(
    settings: Settings, own: OwnSchema, contents: Contents | None, role: str, database: str
) -> Iterator[Finding]:
    """Whether the service's own tables are as it needs them, and what is in them."""
    if settings.at_least_once:
        yield _OWN.ok("not used, because of HEADRACE_AT_LEAST_ONCE")
        return
    quoted = quote_identifier(role)
    if not own.exists and own.may_create:
        yield _OWN.ok("not there yet; the service makes it when it starts")
    elif not own.exists:
        yield _OWN.error(
            "it is not there, and the role may not make it: the service answers 503",
            f"grant create on database {quote_identifier(database)} to {quoted};"
            " or set HEADRACE_AT_LEAST_ONCE=true to do without",
        )
    elif own.denied:
        yield _OWN.error(
            f"the role lacks {'; '.join(own.denied)}: the service answers 503",
            f"grant usage on schema headrace to {quoted}; "
            f"grant select, insert, update, delete on all tables in schema headrace to {quoted}",
        )
    elif own.lacking:
        yield _lacking(own)
    else:
        yield _OWN.ok("complete, and the role may use it")
    if contents is not None:
        yield from _contents(settings, contents)


def _lacking(own: OwnSchema) -> Finding:
    lacks = f"it lacks {', '.join(own.lacking)}"
    if not _MENDED.issuperset(own.lacking):
        return _OWN.error(
            f"{lacks}: another version of Headrace has made it, and this one cannot write",
            "look into headrace.quarantine, stop all services, then drop schema headrace cascade; it is made anew",
        )
    if own.may_create:
        return _OWN.warning(f"{lacks}, which the service adds when it starts", "start the service")
    if _API_KEYS.issuperset(own.lacking):
        return _OWN.warning(
            f"{lacks}, and the role may not add it: there can be no API keys",
            "only if they are wanted: have the owner of schema headrace run headrace keys create",
        )
    return _OWN.error(
        f"{lacks}, and the role may not add it: the service answers 503",
        "have the owner of schema headrace run sql/schema.sql, or make the role its owner",
    )


def _contents(settings: Settings, contents: Contents) -> Iterator[Finding]:
    ended = contents.slots - contents.slots_connected
    yield _OWN.ok(f"flush slots that are connected: {contents.slots_connected}; others in the ledger: {ended}")
    size = f"about {contents.keys:,} idempotency keys in {contents.keys_bytes / MIB:,.1f} MiB"
    late = (contents.oldest_key_seconds or 0) > settings.idempotency_seconds + _LATE_SECONDS
    # While no service runs, nobody deletes anything, and that is no fault.
    if contents.slots_connected and ((contents.oldest_slot_seconds or 0) > _SLOT_SECONDS_MAX or late):
        yield _OWN.warning(
            f"what is too old is not deleted; there are {contents.slots} rows in the ledger, {size}",
            'see what the log of the service says about "clean up" (HEADRACE_LOG_LEVEL=info)',
        )
    else:
        yield _OWN.ok(size)
    if contents.quarantined:
        more = contents.quarantined > QUARANTINE_COUNTED_MAX
        count = f"more than {QUARANTINE_COUNTED_MAX:,} rows are" if more else f"{contents.quarantined:,} rows are"
        yield _OWN.warning(
            f"{'1 row is' if contents.quarantined == 1 else count} in quarantine: they were refused and kept",
            "headrace quarantine list shows them; then replay or drop them",
        )
    else:
        yield _OWN.ok("no rows are in quarantine")
