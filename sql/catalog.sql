-- The tables and views of the exposed schemas ($1), one row each, columns and keys as JSON.
-- Needs PostgreSQL 13 or newer and no right beyond reading the system catalogs.
with recursive domain_base as (  -- every type with the type that a chain of domains ends in, and what they say of it
    select t.oid, t.oid as base, -1 as modifier, false as not_null from pg_type t where t.typtype <> 'd'
    union all
    select t.oid, b.base, greatest(t.typtypmod, b.modifier), t.typnotnull or b.not_null
      from pg_type t join domain_base b on t.typbasetype = b.oid
     where t.typtype = 'd'
),
relation as (
    select c.oid, n.nspname, c.relname, c.relkind
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = any ($1::text[]) and c.relkind in ('r', 'p', 'f', 'v')
),
member as (  -- every relation with itself and all its partitions, in which its rows may end up
    select r.oid as root, r.oid, r.relkind from relation r
    union all
    select m.root, c.oid, c.relkind
      from member m join pg_inherits i on i.inhparent = m.oid join pg_class c on c.oid = i.inhrelid
     where m.relkind = 'p'
),
filtered as (  -- BEFORE or INSTEAD OF row triggers on INSERT may drop or replace rows (pg_trigger.tgtype bits)
    select m.root
      from member m join pg_trigger g on g.tgrelid = m.oid
     where not g.tgisinternal and g.tgenabled <> 'D'
       and g.tgtype & 1 = 1 and g.tgtype & 4 = 4 and g.tgtype & (2 | 64) <> 0
),
view_source as (  -- the one relation that a view is made of, if there is only one
    select r.oid, min(d.refobjid::oid::int8)::oid as source
      from relation r join pg_rewrite w on w.ev_class = r.oid
      join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
       and d.refclassid = 'pg_class'::regclass and d.refobjid <> r.oid and d.deptype = 'n'
     where r.relkind = 'v'
     group by r.oid
    having count(distinct d.refobjid) = 1
),
view_key as (  -- the primary key of that, if the view has columns of the same names and types
    select v.oid, i.indexrelid as key
      from view_source v join pg_index i on i.indrelid = v.source and i.indisprimary
     where not exists (
        select from pg_attribute b
         where b.attrelid = v.source and b.attnum = any (i.indkey::int2[]) and not exists (
            select from pg_attribute a where a.attrelid = v.oid and a.attname = b.attname and a.atttypid = b.atttypid
        )
     )
)
select
    r.nspname as schema,
    r.relname as name,
    r.relkind::text as kind,
    row_security_active(r.oid) as row_security,
    exists (select from pg_rewrite w where w.ev_class = r.oid and w.ev_type = '3') as insert_rules,
    r.oid in (select root from filtered) as filtering_triggers,
    r.relkind <> 'v' or pg_relation_is_updatable(r.oid, true) & 8 = 8 as insertable,  -- 1 << CMD_INSERT
    obj_description(r.oid, 'pg_class') as comment,
    (
        select coalesce(json_agg(json_build_object(
            'name', a.attname,
            'type', format_type(a.atttypid, a.atttypmod),
            'bare_type', format_type(a.atttypid, -1),
            'base', base.typname,
            'category', base.typcategory,
            'element', element.typname,
            'element_category', element.typcategory,
            'delimiter', element.typdelim,
            'modifier', greatest(a.atttypmod, b.modifier, eb.modifier),
            'labels', (
                select json_agg(l.enumlabel order by l.enumsortorder)
                  from pg_enum l where l.enumtypid = coalesce(element.oid, base.oid)
            ),
            'not_null', a.attnotnull or b.not_null,
            'default', coalesce(pg_get_expr(d.adbin, d.adrelid), pg_get_expr(own.typdefaultbin, 0),
                case a.attidentity when 'd' then
                format('nextval(%L::regclass)', pg_get_serial_sequence(format('%I.%I', r.nspname, r.relname), a.attname))
            end),
            'identity', a.attidentity,
            'generated', a.attgenerated <> '',
            'insertable', r.relkind <> 'v' or pg_column_is_updatable(r.oid, a.attnum, true),
            'comment', about.description
        ) order by a.attnum), '[]')
          from pg_attribute a
          join pg_type own on own.oid = a.atttypid
          join domain_base b on b.oid = a.atttypid
          join pg_type base on base.oid = b.base
          left join domain_base eb on eb.oid = base.typelem and base.typcategory = 'A'
          left join pg_type element on element.oid = eb.base
          left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          left join pg_description about
            on about.classoid = 'pg_class'::regclass and about.objoid = a.attrelid and about.objsubid = a.attnum
         where a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    )::text as columns,
    (
        select coalesce(json_agg(json_build_object(
            'name', k.relname,
            'primary', i.indisprimary,
            'columns', (
                select json_agg(a.attname order by p.position)
                  from unnest(i.indkey::int2[]) with ordinality as p (attnum, position)
                  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = p.attnum
                 where p.position <= i.indnkeyatts
            )
        ) order by i.indisprimary desc, k.relname), '[]')
          from pg_index i join pg_class k on k.oid = i.indexrelid
         where i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
           and (i.indrelid = r.oid or i.indexrelid = (select v.key from view_key v where v.oid = r.oid))
    )::text as keys
  from relation r
 order by array_position($1::text[], r.nspname::text), r.relname
