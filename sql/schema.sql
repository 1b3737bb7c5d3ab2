-- What Headrace keeps in a database: schema headrace. Run by the first slot that finds a part of it missing.
create schema if not exists headrace;

create table if not exists headrace.ledger (
    slot  uuid primary key,
    flush bigint not null,
    fence bigint not null,
    at    timestamptz not null default now()
) with (fillfactor = 50);
comment on table headrace.ledger is
    'One row for each flush slot of each worker: its last committed flush. Advanced in the transaction that holds the rows.';

create table if not exists headrace.idempotency (
    key         text primary key,
    fingerprint bytea not null,
    answer      json,
    at          timestamptz not null default now()
);
create index if not exists idempotency_at on headrace.idempotency (at);
comment on table headrace.idempotency is
    'Idempotency keys of committed requests: a digest of the request, and what was answered beside "stored".';

create table if not exists headrace.quarantine (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default now(),
    schema_name text not null,
    table_name  text not null,
    row         text,
    row_bytes   bytea,
    code        text not null,
    message     text not null,
    details     text,
    hint        text,
    column_name text,
    request_id  text not null,
    row_number  bigint not null,
    intent      json,
    check (num_nonnulls(row, row_bytes) = 1)
);
alter table headrace.quarantine add column if not exists intent json;  -- of an earlier version
comment on table headrace.quarantine is
    'Rows that could not be stored, as they came, with the reason. row_bytes: no text that a column can hold. intent: what the request asked for beside storing them.';
