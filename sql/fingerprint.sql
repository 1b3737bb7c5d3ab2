-- A number that changes when the definition of a table, view, type, default, trigger, rule or index does, or a comment:
-- each change makes a new version of a row of the system catalogs (xmin is its transaction, ctid its place). Statistics
-- do not count: ANALYZE changes rows in place. What PostgreSQL itself came with (oid below 16384) is left out.
select coalesce(sum(hashtext(version)), 0)::bigint from (
    select xmin::text || ctid::text as version from pg_attribute where attrelid >= 16384
    union all select xmin::text || ctid::text from pg_class where oid >= 16384
    union all select xmin::text || ctid::text from pg_attrdef
    union all select xmin::text || ctid::text from pg_trigger
    union all select xmin::text || ctid::text from pg_index where indexrelid >= 16384
    union all select xmin::text || ctid::text from pg_rewrite where oid >= 16384
    union all select xmin::text || ctid::text from pg_type where oid >= 16384
    union all select xmin::text || ctid::text from pg_enum where oid >= 16384
    union all select xmin::text || ctid::text from pg_description where objoid >= 16384
    union all select xmin::text || ctid::text from pg_namespace where oid >= 16384
) as versions
