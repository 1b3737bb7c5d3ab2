"""The catalog: what it says of the tables of a real database."""

from __future__ import annotations

import pytest

from sql import Catalog, Kind, Table, ValueType, quote_identifier
from sql.catalog import Key, load
from tests.harness import Connection, rows_of


async def loaded(db: Connection, ddl: str, *schemas: str) -> Catalog:
    """The catalog after these statements."""
    await db.execute(f"begin; {ddl}; commit")
    return await load(db, schemas or ("public",))


async def table(db: Connection, ddl: str, name: str = "t") -> Table:
    """The one table that the test is about."""
    return (await loaded(db, ddl)).tables["public", name]


async def test_columns_are_in_the_order_of_the_table(db: Connection) -> None:
    """Rows of a batch are lines of fields; their order is the table's, whatever the names."""
    found = await table(db, "create table t (b int, a int, c int)")
    assert list(found.columns) == ["b", "a", "c"]


KINDS = {
    "text": Kind.TEXT,
    "character varying(3)": Kind.TEXT,
    "bpchar": Kind.TEXT,
    '"char"': Kind.TEXT,
    "timestamp(3) with time zone": Kind.TEXT,
    "interval day to second(3)": Kind.TEXT,
    "bit varying(7)": Kind.TEXT,
    "int4range": Kind.TEXT,
    "point": Kind.TEXT,
    "mood": Kind.TEXT,
    "code": Kind.TEXT,
    "smallint": Kind.INTEGER,
    "integer": Kind.INTEGER,
    "bigint": Kind.INTEGER,
    "small": Kind.INTEGER,
    "real": Kind.NUMBER,
    "numeric(5,2)": Kind.NUMBER,
    "money": Kind.NUMBER,
    "regclass": Kind.NUMBER,
    "boolean": Kind.BOOLEAN,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    "document": Kind.JSON,
    "integer[]": Kind.ARRAY,
    "numeric(5,2)[]": Kind.ARRAY,
    "mood[]": Kind.ARRAY,
    "two": Kind.ARRAY,
    "small[]": Kind.ARRAY,
    "pair": Kind.COMPOSITE,
    "pair[]": Kind.COMPOSITE,
    "place": Kind.COMPOSITE,
    "place[]": Kind.COMPOSITE,
    "two[]": Kind.COMPOSITE,
    'elsewhere."Odd type"': Kind.TEXT,
}
"""Types as `format_type` writes them."""


async def test_a_type_is_as_sql_writes_it_and_has_a_kind(db: Connection) -> None:
    """The recordset statement repeats the type, so it must keep its modifiers; the codec goes by the kind."""
    await db.execute(
        """
        create type mood as enum ('sad');
        create type pair as (x int, y text);
        create domain positive as int;
        create domain small as positive;
        create domain code as varchar(3);
        create domain two as int[];
        create domain document as jsonb;
        create domain place as pair;
        create schema elsewhere;
        create type elsewhere."Odd type" as enum ('odd')
        """
    )
    found = await table(db, f"create table t ({', '.join(f'c{n} {type_}' for n, type_ in enumerate(KINDS))})")
    assert {each.type: each.kind for each in found.columns.values()} == KINDS


async def test_arrays_know_their_elements(db: Connection) -> None:
    """Boxes stand between semicolons, and a string in an array of JSON keeps its quotes."""
    columns = (await table(db, "create domain d as json; create table t (a int[], b box[], c jsonb[], d d[])")).columns
    assert [each.delimiter for each in columns.values()] == [",", ";", ",", ","]
    assert [each.json_elements for each in columns.values()] == [False, False, True, True]


async def test_a_column_says_what_its_values_are(db: Connection) -> None:
    """Whoever describes a table looks behind domains and into arrays; the modifier says how long a text may be."""
    ddl = """
    create type mood as enum ('calm', 'happy');
    create domain code as varchar(3);
    create domain short as code;
    create domain moods as mood[];
    create table t (a int, b varchar(5), c numeric(6, 2)[], d short, e short[], f mood, g moods)
    """
    columns = (await table(db, ddl)).columns
    assert [each.value for each in columns.values()] == [
        ValueType("int4"),
        ValueType("varchar", 9),
        ValueType("numeric", (6 << 16 | 2) + 4, is_array=True),
        ValueType("varchar", 7),
        ValueType("varchar", 7, is_array=True),
        ValueType("mood", labels=("calm", "happy")),
        ValueType("mood", labels=("calm", "happy"), is_array=True),
    ]


async def test_a_domain_may_forbid_null(db: Connection) -> None:
    """The column does not say so; the row is refused all the same."""
    ddl = "create domain d as int not null; create domain e as d; create table t (a d, b e, c int)"
    assert [each.not_null for each in (await table(db, ddl)).columns.values()] == [True, True, False]


async def test_a_view_says_what_can_be_stored_through_it(db: Connection) -> None:
    """PostgreSQL refuses the others, whatever is sent."""
    ddl = """
    create table t (a int, b int);
    create view part as select a, a + b as sum from t;
    create view none as select count(*) from t;
    create view all_by_trigger as select count(*) from t;
    create function f() returns trigger language plpgsql as 'begin return new; end';
    create trigger g instead of insert on all_by_trigger for each row execute function f()
    """
    tables = (await loaded(db, ddl)).tables
    assert {name: each.insertable for (_, name), each in tables.items()} == {
        "t": True, "part": True, "none": False, "all_by_trigger": True,
    }  # fmt: skip
    assert [each.insertable for each in tables["public", "part"].columns.values()] == [True, False]
    assert [each.insertable for each in tables["public", "t"].columns.values()] == [True, True]


async def test_comments_are_read(db: Connection) -> None:
    """They are what people have written for those who read the documentation."""
    found = await table(db, "create table t (a int, b int); comment on table t is 'T'; comment on column t.b is 'B'")
    assert (found.comment, [each.comment for each in found.columns.values()]) == ("T", [None, "B"])


async def test_a_column_says_where_its_value_can_come_from(db: Connection) -> None:
    """Who leaves a column out must know whether the row can be stored, and who names it whether it takes values."""
    ddl = """
    create domain filled_type as text default 'x';
    create domain derived as filled_type;
    create table t (
        by_type derived not null, plain int, needed int not null, filled int not null default 7, serial serial,
        always int generated always as identity, by_default int generated by default as identity,
        computed int generated always as (plain * 2) stored
    )
    """
    columns = (await table(db, ddl)).columns
    assert {name: each.identity for name, each in columns.items() if each.identity} == {
        "always": "always",
        "by_default": "by default",
    }
    assert [name for name, each in columns.items() if each.generated] == ["computed"]
    assert columns["filled"].default == "7"
    assert columns["serial"].default == "nextval('t_serial_seq'::regclass)"
    assert columns["by_type"].default == "'x'::text"
    assert columns["plain"].default is None
    assert [name for name, each in columns.items() if not each.has_default] == ["plain", "needed"]
    assert {name for name, each in columns.items() if each.not_null} == {
        "by_type", "needed", "filled", "serial", "always", "by_default",
    }  # fmt: skip


async def test_dropped_columns_are_gone(db: Connection) -> None:
    """PostgreSQL keeps them in its catalog under other names."""
    found = await table(
        db, "create table t (a int, b int, c int); alter table t drop column b; alter table t add d int"
    )
    assert list(found.columns) == ["a", "c", "d"]


async def test_keys_are_primary_and_unique_over_plain_columns(db: Connection) -> None:
    """Only such a key says that two rows are the same one."""
    ddl = """
    create table t (a int, b text, c int, primary key (b, a), constraint u1 unique (a) include (c));
    create unique index u2 on t (c desc nulls last, a);
    create unique index partial on t (a) where c > 0;
    create unique index expression on t (a, lower(b));
    create index not_unique on t (c)
    """
    found = await table(db, ddl)
    assert found.keys == (Key("t_pkey", ("b", "a"), True), Key("u1", ("a",), False), Key("u2", ("c", "a"), False))


async def test_a_table_may_have_no_key_and_no_column(db: Connection) -> None:
    """Odd, but it is not ours to fail over somebody's odd table."""
    found = await table(db, "create table t ()")
    assert (dict(found.columns), found.keys, found.copyable) == ({}, (), True)


async def test_views_are_there_and_never_copied(db: Connection) -> None:
    """COPY writes no view, while INSERT writes those that PostgreSQL or their owner knows how to."""
    ddl = """
    create table t (a int);
    create function f() returns trigger language plpgsql as 'begin return new; end';
    create view simple as select * from t;
    create view counted as select count(*) from t;
    create view ruled as select count(*) from t;
    create rule r as on insert to ruled do instead insert into t values (new.count);
    create view triggered as select count(*) from t;
    create trigger g instead of insert on triggered for each row execute function f()
    """
    tables = (await loaded(db, ddl)).tables
    views = {name: found for (_, name), found in tables.items() if found.is_view}
    assert views.keys() == {"simple", "counted", "ruled", "triggered"}
    assert not any(found.copyable for found in views.values())
    assert all(found.filtering_triggers for found in views.values()), "what is behind a view may drop rows"
    assert tables["public", "t"].copyable


async def test_other_relations_are_no_tables(db: Connection) -> None:
    """Nobody can post rows to them."""
    ddl = """
    create table t (a int primary key);
    create materialized view m as select * from t;
    create sequence s;
    create type c as (a int);
    create temporary table temporary (a int)
    """
    assert list((await loaded(db, ddl)).tables) == [("public", "t")]


async def test_a_broken_foreign_table_breaks_nothing_else(db: Connection) -> None:
    """One table whose wrapper is not installed must not keep all others from being written."""
    ddl = """
    create foreign data wrapper absent;
    create server s foreign data wrapper absent;
    create foreign table f (a int) server s;
    create table t (a int)
    """
    assert set((await loaded(db, ddl)).tables) == {("public", "f"), ("public", "t")}


async def test_row_security_counts_for_whom_it_applies_to(db: Connection) -> None:
    """COPY refuses a table whose policies apply to the role; for others it is the faster way."""
    ddl = """
    create table t (a int);
    alter table t enable row level security;
    grant all on t to pg_monitor
    """
    assert (await table(db, ddl)).copyable
    await db.execute("set role pg_monitor")
    found = await table(db, "")
    assert found.row_security
    assert not found.copyable


async def test_rules_keep_copy_away(db: Connection) -> None:
    """COPY ignores rules, and rows would go where the owner did not want them."""
    ddl = """
    create table t (a int);
    create table other (a int);
    create rule r as on insert to t do instead insert into other values (new.a)
    """
    found = await table(db, ddl)
    assert (found.insert_rules, found.copyable, found.filtering_triggers) == (True, False, True)
    others = "create table u (a int); create rule r as on update to u do instead nothing"
    assert (await table(db, others, "u")).copyable


@pytest.mark.parametrize(
    ("trigger", "filtering"),
    [
        ("before insert on t for each row", True),
        ("before insert or update on t for each row", True),
        ("before insert on t for each row when (new.a > 0)", True),
        ("after insert on t for each row", False),
        ("before update on t for each row", False),
        ("before insert on t for each statement", False),
    ],
)
async def test_triggers_that_may_drop_rows_are_known(trigger: str, *, filtering: bool, db: Connection) -> None:
    """Returned rows are told apart by their number, so it must be known where the number may change."""
    ddl = f"""
    create function f() returns trigger language plpgsql as 'begin return null; end';
    create table t (a int references u);
    create trigger g {trigger} execute function f()
    """
    found = await table(db, f"create table u (a int primary key); {ddl}")
    assert found.filtering_triggers is filtering
    assert found.copyable
    assert not (await table(db, "alter table t disable trigger g")).filtering_triggers


async def test_partitioned_tables_are_tables(db: Connection) -> None:
    """Rows posted to the parent are the usual case; posting to a partition is possible, too."""
    ddl = """
    create table t (a int, b int, primary key (a, b)) partition by list (a);
    create table t1 partition of t for values in (1) partition by list (b);
    create table t11 partition of t1 for values in (1);
    create table t2 partition of t for values in (2)
    """
    tables = (await loaded(db, ddl)).tables
    assert [name for _, name in tables] == ["t", "t1", "t11", "t2"]
    assert all(found.copyable for found in tables.values())
    assert tables["public", "t"].keys == (Key("t_pkey", ("a", "b"), True),)


async def test_a_trigger_of_a_partition_concerns_its_parents(db: Connection) -> None:
    """A row posted to the parent meets it all the same."""
    ddl = """
    create table t (a int, b int) partition by list (a);
    create table t1 partition of t for values in (1) partition by list (b);
    create table t11 partition of t1 for values in (1);
    create table t2 partition of t for values in (2);
    create function f() returns trigger language plpgsql as 'begin return null; end';
    create trigger g before insert on t11 for each row execute function f()
    """
    tables = (await loaded(db, ddl)).tables
    assert [name for (_, name), found in tables.items() if found.filtering_triggers] == ["t", "t1", "t11"]


async def test_only_exposed_schemas_are_read(db: Connection) -> None:
    """What is in the others is nobody's business."""
    odd = quote_identifier('Odd "schema"')
    ddl = f"""
    create schema hidden;
    create schema {odd};
    create table hidden.t (a int);
    create table {odd}.t (b int);
    create table t (c int)
    """
    catalog = await loaded(db, ddl, 'Odd "schema"', "public", "no such schema")
    assert [(key, list(found.columns)) for key, found in catalog.tables.items()] == [
        (('Odd "schema"', "t"), ["b"]),
        (("public", "t"), ["c"]),
    ]
    assert catalog.schemas == ('Odd "schema"', "public", "no such schema")
    assert catalog.tables['Odd "schema"', "t"].identifier == f'{odd}."t"'


async def test_names_may_be_anything(db: Connection) -> None:
    """PostgreSQL allows it, so somebody has it."""
    for name in ("Events", "two words", 'a "quoted" one', "it's", "select", "größe", "a\nb", "a.b", "\\", "x" * 63):
        quoted, key = quote_identifier(name), name[:40] + " key"
        ddl = f"create table {quoted} ({quoted} int, constraint {quote_identifier(key)} primary key ({quoted}))"
        found = await table(db, ddl, name)
        assert (found.name, list(found.columns), found.keys) == (name, [name], (Key(key, (name,), primary=True),))
        assert await rows_of(db, f"select {quoted} from {found.identifier}") == []


async def test_the_version_decides_on_the_marker_for_defaults(db: Connection) -> None:
    """Saying DEFAULT to a COPY that does not know it fails every batch."""
    catalog = await loaded(db, "")
    assert catalog.server_version == int(await db.fetchval("show server_version_num"))
    assert catalog.copy_default is (catalog.server_version >= 160000)
    assert not Catalog((), {}, 159999).copy_default
