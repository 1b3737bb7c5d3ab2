-- What Headrace keeps in a database: schema headrace. Run by the first slot that finds a part of it missing.
do $$ begin
    -- `if not exists` asks for the right to create one, which the role may have lost since.
    if to_regnamespace('headrace') is null then create schema headrace; end if;
end $$;

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

create table if not exists headrace.api_keys (
    id              text primary key,
    name            text not null,
    secret_sha256   bytea not null check (octet_length(secret_sha256) = 32),
    grants          text[] not null check (array_position(grants, null) is null),
    rows_per_second float8 check (rows_per_second >= 0.001 and rows_per_second < 'infinity'),
    queue_share     float8 not null default 0.5 check (queue_share > 0 and queue_share <= 1),
    created_at      timestamptz not null default now(),
    expires_at      timestamptz check (expires_at < '9999-01-01'),
    revoked_at      timestamptz
);
create unique index if not exists api_keys_name on headrace.api_keys (name) where revoked_at is null;
comment on table headrace.api_keys is
    'Who may write. As long as there is a row, revoked or not, nobody writes without a key or a token.';
