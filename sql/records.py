"""What is written beside the rows, in their transaction: idempotency keys and bad rows. And the first answer to a key.

Owns the SQL for that. Must not know when it is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING

import asyncpg
import msgspec
from msgspec import Struct

from sql.errors import Fault
from sql.options import Written
from sql.salvage import BadRow, Extra, IdempotencyKey, Salvage, Stored
from sql.statements import literal
from sql.target import Target

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


class _BadRow(Struct, omit_defaults=True):
    """A bad row as it is remembered for the next one who asks with the same key."""

    row: int
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    column: str | None = None


class _Answer(Struct, omit_defaults=True):
    """What an answer says beside "stored". `count` is None if it had not to be told."""

    rows: list[str] = []
    count: int | None = None
    inserted: int = 0
    bad: list[_BadRow] = []


_decode_answer = msgspec.json.Decoder(_Answer).decode


def is_repeated(error: BaseException) -> bool:
    """Whether a write has failed because one of its keys was there already. Nothing was stored."""
    return (
        isinstance(error, asyncpg.UniqueViolationError)
        and error.schema_name == "headrace"
        and error.table_name == "idempotency"
    )


def claims(extras: Iterable[Extra]) -> list[str]:
    """The INSERT of the keys of these requests, with as much of their answers as is known before their rows are stored.

    It comes before the rows: those of a repeated request may fail for being there already.
    """
    # Always in the same order, so that two transactions do not wait for each other in turn.
    keyed = sorted(
        [(extra.key.text, extra.key, extra.salvage) for extra in extras if extra.key is not None], key=itemgetter(0)
    )
    values = [
        f"({literal(text)},{_bytes(key.fingerprint)},{_answer_value(None, salvage)})" for text, key, salvage in keyed
    ]
    return [f"insert into headrace.idempotency (key, fingerprint, answer) values {','.join(values)}"] if values else []


def answers(extras: Iterable[tuple[Extra, Written]]) -> list[str]:
    """The UPDATEs that add to the keys what their requests are told of their rows."""
    return [
        f"update headrace.idempotency set answer = {_answer_value(written, extra.salvage)}"
        f" where key = {literal(extra.key.text)}"
        for extra, written in extras
        if extra.key is not None
    ]


def kept(extras: Iterable[tuple[Target, Extra]]) -> list[str]:
    """The INSERT of the bad rows of these requests, with what they were to be written to."""
    bad: list[str] = []
    for target, extra in extras:
        if extra.salvage is not None:
            intent = extra.salvage.intent
            how = "null" if intent is None else literal(msgspec.json.encode(intent).decode())
            bad += [_bad_values(target, row, extra.salvage.request_id, how) for row in extra.salvage.bad]
    columns = (
        "schema_name, table_name, row, row_bytes, code, message, details, hint, column_name, request_id, row_number,"
        " intent"
    )
    return [f"insert into headrace.quarantine ({columns}) values {','.join(bad)}"] if bad else []


async def first_answers(
    connection: Connection, keys: Sequence[IdempotencyKey], key_seconds: float
) -> Mapping[str, tuple[bytes, Stored]]:
    """Of the keys that are known: the fingerprint of their request, and its outcome. Forgets those that are too old."""
    texts = [key.text for key in keys]
    await connection.execute(
        "delete from headrace.idempotency where key = any($1) and at < now() - make_interval(secs => $2)",
        texts,
        key_seconds,
    )
    records = await connection.fetch(
        "select key, fingerprint, answer::text from headrace.idempotency where key = any($1)", texts
    )
    return {record["key"]: (record["fingerprint"], _stored(record["answer"])) for record in records}


def _stored(answer: str | None) -> Stored:
    if answer is None:
        return Stored(None, (), replayed=True)
    decoded = _decode_answer(answer)
    written = None if decoded.count is None else Written(decoded.rows, decoded.count, decoded.inserted)
    bad = [
        BadRow(row.row, b"", Fault(row.code, row.message, row.details, row.hint, row.row, row.column))
        for row in decoded.bad
    ]
    return Stored(written, bad, replayed=True)


def _answer_value(result: Written | None, salvage: Salvage | None) -> str:
    bad = salvage.bad if salvage is not None else ()
    answer = "null"
    if result is not None or bad:
        remembered = _Answer(bad=[_remembered(row) for row in bad])
        if result is not None:
            remembered.rows, remembered.count, remembered.inserted = list(result.rows), result.count, result.inserted
        answer = literal(msgspec.json.encode(remembered).decode())
    return answer


def _remembered(row: BadRow) -> _BadRow:
    fault = row.fault
    return _BadRow(row.row, fault.code, fault.message, fault.details, fault.hint, fault.column)


def _bad_values(target: Target, row: BadRow, request_id: str, intent: str) -> str:
    fault = row.fault
    try:
        text = None if b"\0" in row.raw else row.raw.decode()
    except UnicodeDecodeError:
        text = None
    values = (
        literal(target.table.schema),
        literal(target.table.name),
        "null" if text is None else literal(text),
        "null" if text is not None else _bytes(row.raw),
        literal(fault.code),
        literal(_clean(fault.message)),
        *("null" if words is None else literal(_clean(words)) for words in (fault.details, fault.hint, fault.column)),
        literal(request_id),
        str(row.row),
        intent,
    )
    return f"({','.join(values)})"


def _bytes(value: bytes) -> str:
    return f"decode('{value.hex()}', 'hex')"


def _clean(words: str) -> str:
    return words.replace("\0", "")  # of a codec that quotes what it was given


# One row after the other, each in a subtransaction, all in one round trip. What is transient must not be taken for a
# bad row, unless it was raised on purpose: then the innermost frame of the context is that of RAISE. (Where messages
# are translated it may not be recognised; `meaning_of` does recognise what is passed on, and the request fails as a
# whole.) Constraints that are deferred to the end of the transaction are asked at once.
_TRY_EACH = """
do $headrace$
declare
    statement text;
    number int := 0;
    bad json[] := '{}';
    state text;
    words text;
    detail_words text;
    hint_words text;
    name text;
    frames text;
begin
    for statement in select json_array_elements_text(current_setting('headrace.statements')::json) loop
        number := number + 1;
        begin
            execute statement;
            set constraints all immediate;
        exception when others or assert_failure or query_canceled then
            get stacked diagnostics state = returned_sqlstate, words = message_text, detail_words = pg_exception_detail,
                hint_words = pg_exception_hint, name = column_name, frames = pg_exception_context;
            if (left(state, 2) in ('40', '53', '58') or state in ('55P03', '25006', '57014'))
                and split_part(frames, E'\\n', 1) !~ ' RAISE$' then
                raise;
            end if;
            bad := bad || json_build_object('place', number - 1, 'code', state, 'message', words,
                'details', nullif(detail_words, ''), 'hint', nullif(hint_words, ''), 'column', nullif(name, ''));
        end;
        set constraints all deferred;
    end loop;
    perform set_config('headrace.bad', array_to_json(bad)::text, true);
end
$headrace$
"""

_TRIED_AT_ONCE = 1_000


class _Tried(Struct):
    place: int
    code: str
    message: str
    details: str | None
    hint: str | None
    column: str | None


_decode_tried = msgspec.json.Decoder(list[_Tried]).decode


async def try_each(connection: Connection, rows: Sequence[str], time_zone: str = "") -> dict[int, Fault]:
    """Which of these INSERTs of one row each would fail, and why, by their places from 0. Nothing is stored.
    `time_zone` is the transaction's, "" for the session's.

    Each is tried with those before it that would not. Raises what asyncpg raises for whatever is not a row's fault.
    """
    faults: dict[int, Fault] = {}
    transaction = connection.transaction()
    await transaction.start()
    try:
        if time_zone:
            await connection.execute(f"set local time zone {literal(time_zone)}")
        for start in range(0, len(rows), _TRIED_AT_ONCE):
            some = msgspec.json.encode(rows[start : start + _TRIED_AT_ONCE]).decode()
            await connection.execute("select set_config('headrace.statements', $1, true)", some)
            await connection.execute(_TRY_EACH)
            for tried in _decode_tried(await connection.fetchval("select current_setting('headrace.bad')")):
                fault = Fault(tried.code, tried.message, tried.details, tried.hint, column=tried.column)
                faults[start + tried.place] = fault
    finally:
        if not connection.is_closed():
            await transaction.rollback()
    return faults
