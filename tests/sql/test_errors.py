"""Errors of PostgreSQL: what they call for, and which line of a COPY they speak of."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
import pytest

from sql import Crowded, Fault, Rejected, SqlError, Target, Unavailable, Way
from sql.catalog import load
from sql.copy import copy
from sql.errors import Meaning, fault_of, line_of, meaning_of, one_line, unavailable
from tests.harness import Connection


async def raised(db: Connection, statement: str) -> asyncpg.PostgresError:
    """The error of a statement."""
    with pytest.raises(asyncpg.PostgresError) as info:
        await db.execute(statement)
    return info.value


# ------------------------------------------------------------------ meanings

MEANINGS = {
    "22P02": Meaning.ROW,  # a type's input function
    "22001": Meaning.ROW,
    "22P05": Meaning.ROW,
    "23502": Meaning.ROW,
    "23503": Meaning.ROW,
    "23505": Meaning.ROW,
    "23514": Meaning.ROW,
    "23P01": Meaning.ROW,
    "44000": Meaning.ROW,  # a view's check option
    "428C9": Meaning.ROW,
    "54000": Meaning.ROW,
    "54001": Meaning.ROW,
    "P0001": Meaning.ROW,
    "P0002": Meaning.ROW,
    "42601": Meaning.ROW,  # a bad tsquery is a "syntax error"
    "55000": Meaning.REQUEST,  # a view that takes no rows
    "PT402": Meaning.ROW,  # triggers may make up their own
    "42P01": Meaning.TABLE_CHANGED,
    "42703": Meaning.TABLE_CHANGED,
    "42804": Meaning.TABLE_CHANGED,
    "42809": Meaning.TABLE_CHANGED,
    "42P10": Meaning.TABLE_CHANGED,
    "42704": Meaning.TABLE_CHANGED,
    "3F000": Meaning.TABLE_CHANGED,
    "0A000": Meaning.TABLE_CHANGED,
    "55P03": Meaning.BUSY,
    "57014": Meaning.BUSY,
    "25006": Meaning.BUSY,
    "40001": Meaning.BUSY,
    "40P01": Meaning.BUSY,
    "53100": Meaning.BUSY,
    "53300": Meaning.BUSY,
    "58030": Meaning.BUSY,
    "42501": Meaning.ROW,
    # Those that end the connection are FATAL. An ERROR may be a foreign server's, and the connection is well.
    "08006": Meaning.ROW,
    "57P01": Meaning.ROW,
    "57P02": Meaning.ROW,
    "57P03": Meaning.ROW,
}


def error_of(state: str, severity: str = "ERROR") -> asyncpg.PostgresError:
    """An error of the server's own, as asyncpg reads it from the connection."""
    fields = {"S": severity, "V": severity, "C": state, "M": "no", "R": "SomeFunction"}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


def test_a_sqlstate_has_a_meaning() -> None:
    """Who is told, and whether the others' rows are tried again, is decided by these five characters."""
    for state, meaning in MEANINGS.items():
        assert meaning_of(error_of(state)) is meaning, state
    for state in ("08006", "40003", "57P01", "57P02", "57P03"):
        assert meaning_of(error_of(state, "FATAL")) is Meaning.AWAY, state


async def test_whatever_a_function_raises_is_about_the_row(db: Connection) -> None:
    """Its author has chosen the code for the one who sends such rows: trying again would only delay his answer."""
    await db.execute(
        "create function refuse(text) returns void language plpgsql as"
        " $$ begin raise exception 'no' using errcode = $1; end $$"
    )
    for state in MEANINGS:
        for block in (
            f"raise sqlstate '{state}' using message = 'no'",
            f"perform refuse('{state}')",
            f"perform 1/0; exception when others then raise exception 'no' using errcode = '{state}'",
        ):
            error = await raised(db, f"do $$ begin {block}; end $$")
            assert (error.sqlstate, meaning_of(error)) == (state, Meaning.ROW)


# The SQLSTATE, what the session is like, and what it does.
BUSY = {
    "a lock that is not waited for": ("55P03", "select", "lock table t in exclusive mode nowait"),
    "a lock": ("55P03", "set lock_timeout = 10", "lock table t in exclusive mode"),
    "a statement": ("57014", "set statement_timeout = 10", "lock table t in exclusive mode"),
    "no writing": ("25006", "set default_transaction_read_only = on", "insert into t values (1)"),
    "no room for temporary files": (
        "53400",
        "set temp_file_limit = 64; set work_mem = 64",
        "perform count(*) from (select distinct g from generate_series(1, 100000) g) x",
    ),
    "no room for locks": ("53200", "select", "perform pg_advisory_xact_lock(g) from generate_series(1, 1000000) g"),
}


@pytest.mark.parametrize("handler", ["", "exception when others or query_canceled then raise;"], ids=["", "passed on"])
@pytest.mark.parametrize("what", BUSY)
async def test_a_database_that_is_busy_is_no_fault_of_a_row(what: str, handler: str, db: Connection, dsn: str) -> None:
    """Nobody has raised it, so it passes. A function that only passes it on changes nothing."""
    state, session, statement = BUSY[what]
    await db.execute("create table t (n int)")
    other = await asyncpg.connect(dsn)
    async with db.transaction():
        await db.execute("insert into t values (1)")
        await other.execute(session)
        error = await raised(other, f"do $$ begin {statement}; {handler} end $$")
    assert (error.sqlstate, meaning_of(error)) == (state, Meaning.BUSY)
    await other.close()


async def test_two_that_update_the_same_are_no_fault_of_a_row(db: Connection, dsn: str) -> None:
    """A deadlock, and a transaction that cannot be serialized: the next attempt finds another state of things."""
    await db.execute("create table t (n int primary key, m int); insert into t values (1), (2)")
    await db.execute("set deadlock_timeout = 10")
    other = await asyncpg.connect(dsn)

    async def update(connection: Connection, n: int) -> None:
        await connection.execute("update t set m = 0 where n = $1", n)

    await db.execute("begin")
    await other.execute("begin")
    await update(db, 1)
    await update(other, 2)
    waiting = asyncio.create_task(update(other, 1))
    with pytest.raises(asyncpg.DeadlockDetectedError) as deadlock:
        await update(db, 2)
    assert meaning_of(deadlock.value) is Meaning.BUSY
    await db.execute("rollback")
    await waiting
    await other.execute("commit")

    await other.execute("begin isolation level repeatable read; select from t")
    await update(db, 1)
    with pytest.raises(asyncpg.SerializationError) as conflict:
        await update(other, 1)
    assert meaning_of(conflict.value) is Meaning.BUSY
    await other.close()


async def test_a_change_of_the_table_is_recognised(db: Connection) -> None:
    """These are the real errors of a COPY by a catalog that is out of date."""
    await db.execute("create table t (a int, b int)")
    catalog = await load(db, ["public"])
    target = Target(catalog.tables["public", "t"], ("a", "b"), Way.COPY, catalog.copy_default)
    for change in (
        "alter table t drop column b",
        "alter table t add b int generated always as (a * 2) stored",
        "alter table t rename to u",
        "create view t as select 1 as a, 2 as b",
    ):
        await db.execute(change)
        with pytest.raises(asyncpg.PostgresError) as info:
            await copy(db, target, [b"1\t2\n"])
        assert meaning_of(info.value) is Meaning.TABLE_CHANGED, change


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        BrokenPipeError(),
        TimeoutError(),
        asyncpg.InterfaceError("closed"),
        asyncpg.ConnectionDoesNotExistError("gone"),
    ],
    ids=repr,
)
def test_what_breaks_a_connection_means_away(error: Exception) -> None:
    """Such a connection must not be used again."""
    assert meaning_of(error) is Meaning.AWAY


def test_what_nobody_foresaw_is_a_bug() -> None:
    """Guessing that nothing was stored could store it twice."""
    assert meaning_of(ValueError("a bug")) is Meaning.BUG


# ------------------------------------------------------------------ words


async def test_a_fault_has_the_words_of_the_server_but_not_the_context(db: Connection) -> None:
    """Clients show them to people; the context may quote rows of others that shared the batch."""
    error = await raised(
        db,
        "do $$ begin raise exception 'the message' using errcode = '23514', detail = 'the detail', hint = 'the hint',"
        " column = 'c'; end $$",
    )
    assert error.context
    assert fault_of(error) == Fault("23514", "the message", "the detail", "the hint", None, "c")


async def test_a_fault_has_nothing_where_the_server_says_nothing(db: Connection) -> None:
    """Absent is null in the answer, not a text like "None"."""
    fault = fault_of(await raised(db, "select 1/0"))
    assert fault == Fault("22012", "division by zero", None, None, None, None)


def test_a_fault_is_placed_without_losing_what_it_knows() -> None:
    """COPY knows the line, the server sometimes knows the column."""
    fault = Fault("23502", "no", column="a")
    assert fault.at(3) == Fault("23502", "no", row=3, column="a")
    assert fault.at(3, "b") == Fault("23502", "no", row=3, column="b")
    assert str(Rejected(fault)) == "no"


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("a\nb\t c"), "a b c"), (ValueError(), "ValueError"), (TimeoutError("\n"), "TimeoutError")],
)
def test_an_exception_fits_on_a_line(error: Exception, text: str) -> None:
    """Logs are read line by line, and an empty reason is none."""
    assert one_line(error) == text


def test_what_was_not_stored_is_told_from_what_may_be() -> None:
    """Trying again is right after `Unavailable` only."""
    assert issubclass(Unavailable, SqlError)
    assert not issubclass(Rejected, Unavailable)


# ------------------------------------------------------------------ lines


def line(context: str | None, relation: str = "t") -> tuple[int, str | None] | None:
    """What is read from a CONTEXT field."""
    error = asyncpg.PostgresError("no")
    error.context = context
    return line_of(error, relation)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, None),
        ("", None),
        ("COPY t, line 3", (3, None)),
        ('COPY t, line 3: "1\\t2"', (3, None)),
        ('COPY t, line 12, column a: "x"', (12, "a")),
        ("COPY t, line 12, column a: null input", (12, "a")),
        ('COPY t, line 12, column a: b: "x: "y""', (12, "a: b")),
        ('COPY t, line 12, column a\nb: "x"', (12, "a\nb")),
        ('PL/pgSQL function f() line 1 at RAISE\nCOPY t, line 2: "x"', (2, None)),
        ('JSON data, line 1: {x...\nCOPY t, line 2, column a: "{x"', (2, "a")),
        ("COPY t", None),
        ("COPY t, line ", None),
        ("COPY t, line x", None),
        ("COPY t, line 3 and so on", None),
        ("COPY u, line 3", None),
        ("COPY t2, line 3", None),
        ("copy t, line 3", None),
        ("xCOPY t, line 3", None),
        ('COPY t, Zeile 3, Spalte a: "x"', None),
        ("PL/pgSQL function f() line 1 at EXECUTE", None),
    ],
)
def test_the_frame_of_copy_is_read(context: str | None, expected: tuple[int, str | None] | None) -> None:
    """Finding the line saves halving the batch again and again; what is not understood must stay unknown."""
    assert line(context) == expected


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ('COPY t, line 3, column a: "x\nCOPY t, line 1, column a: "y"', (3, "a")),
        ('COPY t, line 3, column a: "x\nCOPY t, line 1', (3, "a")),
        ('PL/pgSQL function f(text)\nCOPY t, line 3, column a: "x\nCOPY t, line 1, column a: "y"', None),
        ('PL/pgSQL function f(text)\nCOPY t, line 3, column a: "x\nCOPY t, line 1\nthe end"', None),
        ('SQL statement "x\nCOPY t, line 1: "x"\nPL/pgSQL function f() line 1 at EXECUTE', None),
        ('SQL statement "x\nCOPY t, line 1"\nPL/pgSQL function f()\nCOPY t, line 2: "x\\nCOPY t, line 1"', None),
    ],
)
def test_a_value_that_looks_like_a_frame_is_not_believed(context: str, expected: tuple[int, str | None] | None) -> None:
    """Rows of several clients share a batch; nobody may have somebody else's row rejected instead of his own."""
    assert line(context) == expected


@pytest.mark.parametrize("relation", ['a "quoted" one', "two\nlines", "t, line 1, column x: ", "(.*)", "größe", "a\\b"])
def test_names_of_tables_may_look_like_anything(relation: str) -> None:
    """Whoever chose the name did not think of us."""
    assert line(f'COPY {relation}, line 7, column a: "x"', relation) == (7, "a")
    assert line(f'PL/pgSQL function f() line 1 at RAISE\nCOPY {relation}, line 7: "x"', relation) == (7, None)


@dataclass(frozen=True, slots=True)
class Case:
    """A table, a COPY into it whose second line is bad, and what is to be found."""

    table: str
    payload: bytes
    state: str
    found: tuple[int, str | None] | None = (2, None)
    name: str = "t"


FAKE = b'\\nCOPY t, line 1, column a: "x'

CASES = {
    "NOT NULL": Case("(a int not null)", b"1\n\\N\n", "23502"),
    "CHECK": Case("(a int check (a > 0))", b"1\n-1\n", "23514"),
    "UNIQUE": Case("(a int unique)", b"1\n1\n2\n", "23505"),
    "exclusion": Case("(a int4range, exclude using gist (a with &&))", b"[1,2)\n[1,5)\n[7,8)\n", "23P01"),
    "type": Case("(a int)", b"1\nx\n", "22P02", (2, "a")),
    "type, spoofed": Case("(a int)", b"1\nx" + FAKE + b"\n", "22P02", (2, "a")),
    "range of a type": Case("(a int2)", b"1\n40000\n", "22003", (2, "a")),
    "varchar": Case("(a varchar(3))", b"abc\nabcd\n", "22001", (2, "a")),
    "enum": Case("(a mood)", b"sad\nglad\n", "22P02", (2, "a")),
    "domain": Case("(a positive)", b"1\n-1\n", "23514", (2, "a")),
    "domain NOT NULL": Case("(a needed)", b"1\n\\N\n", "23502", (2, "a")),
    "NUL": Case("(a text)", b"a\nb\\000c\n", "22021"),
    "invalid UTF-8": Case("(a text)", b"a\n\xff\n", "22021"),
    "too few fields": Case("(a int, b int)", b"1\t2\n1\n", "22P04"),
    "BEFORE trigger": Case(
        "(a text); create trigger g before insert on t for each row execute function refuse()", b"a\nbad\n", "P0001"
    ),
    "BEFORE trigger, spoofed": Case(
        "(a text); create trigger g before insert on t for each row execute function refuse()",
        b"a\nbad" + FAKE + b"\n",
        "P0001",
    ),
    "AFTER trigger": Case(
        "(a text); create trigger g after insert on t for each row execute function refuse()",
        b"a\nbad\n",
        "P0001",
        None,
    ),
    "AFTER trigger, spoofed": Case(
        "(a text); create trigger g after insert on t for each row execute function execute()",
        b"1\n2" + FAKE + b"\n",
        "22P02",
        None,
    ),
    "JSON": Case("(a jsonb)", b"1\n{x\n", "22P02", (2, "a")),
    "function of a domain": Case("(a checked)", b"a\nbad\n", "P0001", (2, "a")),
    "function of a domain, spoofed": Case("(a checked)", b"a\nbad" + FAKE + b"\n", "P0001", None),
    "generated column": Case("(a int, b int2 generated always as (a) stored)", b"1\n40000\n", "22003"),
    "partition": Case(
        "(a int) partition by list (a); create table t1 partition of t for values in (1)", b"1\n2\n", "23514"
    ),
    "FOREIGN KEY": Case("(a int references u)", b"1\n2\n", "23503", None),
    "deferred": Case("(a int unique deferrable initially deferred)", b"1\n1\n", "23505", None),
    "name with a line end": Case("(a int)", b"1\nx\n", "22P02", (2, "a"), "two\nlines"),
    "name like a frame": Case("(a int)", b"1\nx\n", "22P02", (2, "a"), "t, line 1, column a: "),
}

DECLARATIONS = """
create type mood as enum ('sad');
create table u (a int primary key);
insert into u values (1);
create domain positive as int check (value > 0);
create domain needed as int not null;
create function good(text) returns bool language plpgsql as $$
    begin if $1 like 'bad%' then raise 'no %', $1; end if; return true; end $$;
create domain checked as text check (good(value));
create function refuse() returns trigger language plpgsql as $$ begin perform good(new.a); return new; end $$;
create function execute() returns trigger language plpgsql as $$
    begin execute format('select %L::int', new.a); return new; end $$;
"""


async def test_lines_are_found_in_what_postgresql_really_says(db: Connection) -> None:
    """The texts are PostgreSQL's, and another version may say it otherwise."""
    await db.execute(DECLARATIONS)
    for what, case in CASES.items():
        quoted = f'"{case.name}"'
        await db.execute(f"create table {quoted} {case.table}")
        catalog = await load(db, ["public"])
        columns = ("a", "b") if "b int)" in case.table else ("a",)
        target = Target(catalog.tables["public", case.name], columns, Way.COPY, catalog.copy_default)
        with pytest.raises(asyncpg.PostgresError) as info:
            await copy(db, target, [case.payload])
        assert (info.value.sqlstate, line_of(info.value, case.name)) == (case.state, case.found), what
        await db.execute(f"drop table {quoted}")


@pytest.mark.parametrize(
    ("state", "words", "is_crowded"),
    [
        ("53300", "sorry, too many clients already", True),
        ("53300", 'Zu viele Verbindungen für Rolle "x"', True),
        ("08P01", "no more connections allowed (max_client_conn)", True),
        ("08P01", "server login failed: FATAL sorry, too many clients already", True),
        ("08P01", 'server login failed: FATAL too many connections for role "x"', True),
        ("08P01", "server login failed: FATAL password authentication failed", False),
        ("28P01", "password authentication failed for user too many clients already", False),
        ("57P03", "the database system is starting up", False),
    ],
)
def test_no_room_for_another_connection(state: str, words: str, is_crowded: bool) -> None:  # noqa: FBT001 - a case
    """By SQLSTATE, whatever the language; of PgBouncer, which has one for everything, by its words."""
    error = error_of(state, "FATAL")
    error.args = (words,)
    assert isinstance(unavailable(error), Crowded) is is_crowded
    assert str(unavailable(error)) == words
