-- What the connection's role may do with the tables and views of the exposed schemas ($1), one row each. Views that
-- PostgreSQL can store nothing through are left out.
-- Needs PostgreSQL 13 or newer and no right beyond reading the system catalogs.
select
    n.nspname as schema,
    c.relname as name,
    has_schema_privilege(n.oid, 'usage') as enters,
    has_table_privilege(c.oid, 'insert') or may.insert_all as inserts,
    has_any_column_privilege(c.oid, 'insert') as inserts_some,
    has_table_privilege(c.oid, 'update') or may.update_all as updates,
    has_table_privilege(c.oid, 'select') or may.select_all as selects,
    array(  -- of defaults that call nextval, as those of serial columns do
        select distinct format('%I.%I', sn.nspname, s.relname)
          from pg_attrdef d
          join pg_depend p on p.classid = 'pg_attrdef'::regclass and p.objid = d.oid
           and p.refclassid = 'pg_class'::regclass
          join pg_class s on s.oid = p.refobjid
          join pg_namespace sn on sn.oid = s.relnamespace
         where d.adrelid = c.oid
           and case s.relkind when 'S' then not has_sequence_privilege(s.oid, 'usage, update') end
    ) as denied_sequences,
    array(  -- of identity columns: nobody needs a right for them, unless a statement of ours names the sequence
        select format('%I.%I', sn.nspname, s.relname)
          from pg_depend p
          join pg_attribute a on a.attrelid = p.refobjid and a.attnum = p.refobjsubid and a.attidentity = 'd'
          join pg_class s on s.oid = p.objid
          join pg_namespace sn on sn.oid = s.relnamespace
         where p.classid = 'pg_class'::regclass and p.refclassid = 'pg_class'::regclass and p.refobjid = c.oid
           and p.deptype = 'i'
           and case s.relkind when 'S' then not has_sequence_privilege(s.oid, 'usage, update') end
    ) as denied_identities,
    c.relpersistence = 'u' as unlogged
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 cross join lateral (
    select
        coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'insert'))
            filter (where a.attgenerated = '' and a.attidentity <> 'a'), false) as insert_all,
        coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'update'))
            filter (where a.attgenerated = '' and a.attidentity <> 'a'), false) as update_all,
        coalesce(bool_and(has_column_privilege(c.oid, a.attnum, 'select')), false) as select_all
      from pg_attribute a
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 ) as may
 where n.nspname = any ($1::text[])
   and (c.relkind in ('r', 'p', 'f') or c.relkind = 'v' and pg_relation_is_updatable(c.oid, true) & 8 = 8)
 order by array_position($1::text[], n.nspname::text), c.relname
