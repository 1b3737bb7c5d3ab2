"""What is said of rights on the exposed tables, and of schema headrace."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from service.doctor.check_tables import check_own, check_tables
from service.doctor.findings import Finding, Level
from service.settings import Settings
from sql import QUARANTINE_COUNTED_MAX, Contents, OwnSchema, Rights

FULL = Rights("public", "t", True, True, True, True, True, (), (), False)
NONE = structs.replace(FULL, inserts=False, inserts_some=False, updates=False, selects=False)


def about(*rights: Rights, schemas: tuple[str, ...] = ("public",), missing: tuple[str, ...] = ()) -> list[Finding]:
    """All that is said of these tables to a role called `in gest`."""
    return list(check_tables(schemas, missing, rights, "in gest"))


def named(rights: Rights, *names: str) -> list[Rights]:
    """The same rights on several tables."""
    return [structs.replace(rights, name=name) for name in names]


def test_all_rights() -> None:
    """Nothing to do."""
    (found,) = about(*named(FULL, "a", "b"))
    assert (found.level, found.advice) == (Level.OK, None)
    assert found.text == "rows can be inserted into 2 tables, returned from 2, upserted in 2"


def test_what_clients_may_miss_is_no_warning() -> None:
    """INSERT alone is what the documentation advises; more is granted when clients need it."""
    inserting = structs.replace(FULL, selects=False, updates=False)
    returning = structs.replace(FULL, name="r", updates=False)
    (found,) = about(inserting, returning, structs.replace(FULL, name="u"))
    assert found.level is Level.OK
    assert found.text == "rows can be inserted into 3 tables, returned from 2, upserted in 1"
    assert found.advice == ('only if clients need it: grant select, update on "public"."t", "public"."r" to "in gest"')


def test_an_update_that_may_not_read_is_no_upsert() -> None:
    """PostgreSQL reads the key."""
    (found,) = about(structs.replace(FULL, selects=False))
    assert found.text == "rows can be inserted into 1 table, returned from 0, upserted in 0"


def test_some_tables_without_insert() -> None:
    """It may be meant so."""
    warning, summary = about(*named(NONE, "a", "b"), FULL)
    assert warning.level is Level.WARNING
    assert warning.text.startswith("no right to insert into public.a, public.b")
    assert warning.advice == 'if that is not meant so: grant insert on "public"."a", "public"."b" to "in gest"'
    assert summary.text.startswith("rows can be inserted into 1 table")


def test_no_table_with_insert() -> None:
    """It cannot be meant so."""
    (found,) = about(*named(NONE, *"abcdefg"))
    assert found.level is Level.ERROR
    assert found.text == "the role may insert into none of 7 tables: all requests are refused"
    assert found.advice is not None
    assert found.advice.endswith('"public"."e" to "in gest" (and so on)')


def test_many_names_are_cut_short() -> None:
    """A thousand tables must not fill the screen."""
    warning, _ = about(*named(NONE, *"abcdefg"), FULL)
    assert warning.text.startswith(
        "no right to insert into public.a, public.b, public.c, public.d, public.e and 2 more"
    )


def test_rights_of_some_columns() -> None:
    """Rows with others are refused."""
    (found,) = about(structs.replace(FULL, inserts=False))
    assert found.text.endswith("upserted in 1; only some columns of public.t may be given")


def test_a_schema_that_may_not_be_entered() -> None:
    """Grants on its tables are worth nothing."""
    closed = structs.replace(FULL, schema="closed", enters=False)
    found = about(closed, FULL, schemas=("public", "closed"))
    assert [each.level for each in found] == [Level.ERROR, Level.OK]
    assert found[0].advice == 'grant usage on schema "closed" to "in gest"'
    assert [each.level for each in about(closed, schemas=("closed",))] == [Level.ERROR]


def test_sequences() -> None:
    """Of serial columns they are needed for each row, of identity columns hardly ever."""
    serial = structs.replace(FULL, denied_sequences=["public.t_a_seq", "public.n"])
    found = about(serial)
    assert [each.level for each in found] == [Level.OK, Level.ERROR]
    assert found[1].advice == 'grant usage on sequence public.t_a_seq, public.n to "in gest"'
    identity = structs.replace(FULL, denied_identities=["public.t_a_seq"])
    found = about(identity)
    assert [each.level for each in found] == [Level.OK, Level.OK]
    assert (found[1].advice or "").startswith("only if clients need it: grant usage on sequence public.t_a_seq")
    assert len(about(structs.replace(identity, selects=False))) == 1
    assert len(about(structs.replace(NONE, denied_sequences=["s"]), structs.replace(FULL, name="b"))) == 2


def test_unlogged_tables() -> None:
    """An acknowledged row that a crash takes away is the last thing that anybody expects."""
    _, found = about(structs.replace(FULL, unlogged=True), structs.replace(FULL, name="b"))
    assert found.level is Level.WARNING
    assert found.text.startswith("unlogged: public.t; after a crash")


def test_schemas_without_tables() -> None:
    """A typing error in HEADRACE_SCHEMAS, mostly."""
    found = about(FULL, schemas=("public", "pulic", "empty"), missing=("pulic",))
    assert [(each.level, each.text) for each in found[:2]] == [
        (Level.WARNING, "there is no schema pulic"),
        (Level.WARNING, "there is no table in schema empty"),
    ]
    (found_none,) = about(schemas=("a", "b"), missing=("a",))
    assert (found_none.level, found_none.text) == (Level.ERROR, "there is no table in a, b: nothing can be written")


# -------------------------------------------------------------------- schema headrace

GOOD = OwnSchema(exists=True, may_create=True, lacking=(), denied=())
QUIET = Contents(2, 2, 100.0, 0, 7, 3 * 1024 * 1024, 3600.0, 0, 0)


def about_own(own: OwnSchema, contents: Contents | None = None, **settings: Any) -> list[Finding]:
    """All that is said."""
    return list(check_own(Settings(**settings), own, contents, "ingest", "plant"))


@pytest.mark.parametrize(
    ("facts", "level", "words", "advised"),
    [
        ({}, Level.OK, "complete", None),
        ({"exists": False, "lacking": ["ledger"]}, Level.OK, "the service makes it when it starts", None),
        (
            {"exists": False, "may_create": False, "lacking": ["ledger"]},
            Level.ERROR,
            "may not make it",
            'grant create on database "plant" to "ingest"',
        ),
        (
            {"denied": ["INSERT on headrace.ledger"]},
            Level.ERROR,
            "the role lacks INSERT on headrace.ledger",
            'grant usage on schema headrace to "ingest"; grant select, insert, update, delete',
        ),
        ({"lacking": ["quarantine.intent", "idempotency_at"]}, Level.WARNING, "the service adds", "start the service"),
        ({"lacking": ["quarantine.intent"], "may_create": False}, Level.ERROR, "may not add it", "sql/schema.sql"),
        ({"lacking": ["api_keys"], "may_create": False}, Level.WARNING, "no API keys", "headrace keys create"),
        ({"lacking": ["api_keys", "ledger"], "may_create": False}, Level.ERROR, "may not add it", "sql/schema.sql"),
        ({"lacking": ["ledger.fence"]}, Level.ERROR, "another version of Headrace has made it", "drop schema headrace"),
    ],
)
def test_the_schema_as_it_is(facts: dict[str, Any], level: Level, words: str, advised: str | None) -> None:
    """Without it the service answers 503, so what is missing is an error unless it mends that itself."""
    (found,) = about_own(structs.replace(GOOD, **facts))
    assert found.level is level
    assert words in found.text
    assert found.advice is None if advised is None else advised in (found.advice or "")


def test_at_least_once_needs_no_schema() -> None:
    """Whoever has said that is not to be told what to grant."""
    (found,) = about_own(structs.replace(GOOD, exists=False, may_create=False), at_least_once=True)
    assert found.level is Level.OK


def test_quiet_contents() -> None:
    """Numbers, and nothing to do."""
    found = about_own(GOOD, structs.replace(QUIET, slots=5))
    assert {each.level for each in found} == {Level.OK}
    assert [each.text for each in found[1:]] == [
        "flush slots that are connected: 2; others in the ledger: 3",
        "about 7 idempotency keys in 3.0 MiB",
        "no rows are in quarantine",
    ]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (1, "1 row is in quarantine"),
        (2_500, "2,500 rows are in quarantine"),
        (QUARANTINE_COUNTED_MAX + 1, "more than 10,000 rows are in quarantine"),
    ],
)
def test_rows_in_quarantine(rows: int, words: str) -> None:
    """Somebody has to look at them."""
    found = about_own(GOOD, structs.replace(QUIET, quarantined=rows))[-1]
    assert found.level is Level.WARNING
    assert found.text.startswith(words)
    assert "headrace quarantine list" in (found.advice or "")


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"oldest_slot_seconds": 8 * 86_400 + 1.0}, Level.WARNING),
        ({"oldest_key_seconds": 86_400 + 3601.0}, Level.WARNING),
        ({"oldest_key_seconds": 86_400 + 3599.0}, Level.OK),
        ({"oldest_slot_seconds": 8 * 86_400 + 1.0, "slots_connected": 0}, Level.OK),
        ({"oldest_slot_seconds": None, "oldest_key_seconds": None}, Level.OK),
    ],
)
def test_what_is_not_cleaned_up(facts: dict[str, Any], level: Level) -> None:
    """If a service runs, it should be; if none does, nobody is to blame."""
    found = about_own(GOOD, structs.replace(QUIET, **facts))
    assert found[2].level is level
