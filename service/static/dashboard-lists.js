// The lists: tables, refusals, slow writes, quarantine, totals. Everything in them is untrusted and goes in as text.

import { NONE, clock, count, meaning, milliseconds, plural, rate } from "./dashboard-format.js";

const FILTERED_FROM = 9; // fewer tables are seen at a glance
const element = (id) => document.getElementById(id);

/** Set the text of an element, if it is another one: what does not change costs no layout. */
export function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** Fill a table body. Rows keep their elements as long as their keys stay, so that little is drawn anew each second. */
export function fill(body, items, keyOf, cellsOf) {
  const old = new Map(Array.from(body.rows, (row) => [row.dataset.key, row]));
  items.forEach((item, n) => {
    const key = String(keyOf(item));
    const cells = cellsOf(item);
    const row = old.get(key) ?? rowOf(key, cells);
    old.delete(key);
    cells.forEach((cell, i) => {
      const place = row.cells[i];
      put(place, cell.text ?? cell);
      if (cell.title !== undefined && place.title !== cell.title) place.title = cell.title;
      if (cell.share !== undefined) place.style.setProperty("--share", `${cell.share}%`);
    });
    if (body.rows[n] !== row) body.insertBefore(row, body.rows[n] ?? null);
  });
  while (body.rows.length > items.length) body.lastElementChild.remove();
}

function rowOf(key, cells) {
  const row = document.createElement("tr");
  row.dataset.key = key;
  for (const cell of cells) {
    row.insertCell().className = cell.kind ?? "";
  }
  return row;
}

const number = (text) => ({ text, kind: "number" });

// -------------------------------------------------------------------- tables

let sortBy = "rows";
let descending = true;
let last = { tables: [], tables_total: 0 };
let order = [];

/** Prepare what people can do with the list of tables: sort it, and look for some. */
export function makeTables() {
  for (const head of document.querySelectorAll("[data-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      descending = head.dataset.sort === sortBy ? !descending : head.dataset.sort !== "table";
      sortBy = head.dataset.sort;
      showTables(last, true);
    });
  }
  element("tables-filter").querySelector("input").addEventListener("input", () => showTables(last, true));
}

/** Show the tables. While the pointer is on one, none moves; `sorted` says that they must. */
export function showTables(glance, sorted = false) {
  last = glance;
  const { tables, tables_total: total } = glance;
  const filter = element("tables-filter");
  filter.hidden = tables.length < FILTERED_FROM;
  const wanted = filter.hidden ? "" : filter.querySelector("input").value.trim().toLowerCase();
  const body = element("tables");
  const byName = new Map(tables.map((one) => [one.table, one]));
  const sortedNames = [...tables].sort(comparison).map((one) => one.table);
  // A set keeps the order in which names came: those that are shown, then new ones.
  order = sorted || !body.matches(":hover") ? sortedNames : [...new Set([...order, ...sortedNames])];
  const shown = order.flatMap((name) => byName.get(name) ?? []).filter((one) => one.table.toLowerCase().includes(wanted));
  const most = Math.max(...tables.map((one) => one.rows), 1e-9);
  fill(body, shown, (one) => one.table, (one) => [
    { text: one.table || "(no table)", title: one.table, kind: "name" },
    { text: rate(one.rows), kind: "number share", share: Math.round((100 * one.rows) / most) },
    number(rate(one.requests)),
    number(rate(one.refused)),
    number(one.batch_rows === null ? NONE : rate(one.batch_rows)),
    number(milliseconds(one.write_ms)),
    number(count(one.rows_total)),
    number(count(one.refused_total)),
  ]);
  for (const head of document.querySelectorAll("[data-sort]")) {
    if (head.dataset.sort === sortBy) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  put(element("tables-count"), countOf(tables.length, total, wanted, shown.length));
  element("tables-empty").hidden = tables.length > 0;
}

function countOf(listed, total, wanted, shown) {
  if (wanted) return `${count(shown)} of ${plural(listed, "table")}`;
  return total > listed ? `the busiest ${count(listed)} of ${count(total)}` : listed > 1 ? count(listed) : "";
}

function comparison(a, b) {
  const [x, y] = [a[sortBy] ?? -1, b[sortBy] ?? -1];
  const byValue = x < y ? -1 : x > y ? 1 : 0;
  // Idle tables are equal: then by what they got, then by name, so that none moves without a reason.
  return (descending ? -byValue : byValue) || b.rows_total - a.rows_total || (a.table < b.table ? -1 : 1);
}

// -------------------------------------------------------------------- what went wrong

/** Show refusals by status and code. */
export function showRefusals(refusals) {
  const sorted = [...refusals].sort((a, b) => b.per_second - a.per_second || b.total - a.total);
  fill(element("refusals"), sorted, (one) => `${one.status} ${one.code}`, (one) => [
    String(one.status),
    one.code,
    { text: meaning(one.code), kind: "reason aside" },
    number(rate(one.per_second)),
    number(count(one.total)),
  ]);
  element("refusals-empty").hidden = refusals.length > 0;
}

const TABLES_NAMED = 3;

/** Show the last slow writes. */
export function showSlow(slow) {
  fill(element("slow"), slow, (one) => `${one.at} ${one.tables[0]} ${one.rows}`, (one) => [
    clock(one.at),
    number(milliseconds(one.seconds * 1000)),
    number(count(one.requests)),
    number(count(one.rows)),
    { text: `${named(one.tables)}${one.failure ? `: ${one.failure}` : ""}`, title: one.tables.join(", "), kind: "reason" },
  ]);
  element("slow-empty").hidden = slow.length > 0;
}

function named(tables) {
  const more = tables.length - TABLES_NAMED;
  return tables.slice(0, TABLES_NAMED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Show how many rows are in quarantine, and why the last ones are. */
export function showQuarantine(quarantine) {
  const newest = quarantine?.newest ?? [];
  fill(element("quarantine"), newest, (one) => one.id, (one) => [
    number(String(one.id)),
    clock(one.at),
    { text: [one.table, one.column].filter(Boolean).join(", "), kind: "reason" },
    one.code,
    { text: one.condition, kind: "reason aside" },
  ]);
  element("quarantine-show").hidden = newest.length === 0;
  put(element("quarantine-show").querySelector("code"), `headrace quarantine show ${newest[0]?.id}`);
  const many = quarantine !== null && quarantine.rows >= quarantine.counted_max;
  put(element("quarantine-count"), quarantine?.rows ? plural(quarantine.rows, "row") + (many ? " or more" : "") : "");
  element("quarantine-empty").hidden = newest.length > 0;
  put(element("quarantine-empty"), quarantine === null ? "Not known yet." : "No row is in quarantine.");
}

// -------------------------------------------------------------------- since the start

const OUTCOMES = {
  committed: "Committed",
  replayed: "Stored before (same key)",
  rolled_back: "Rolled back (dry run)",
  quarantined: "Put in quarantine",
  rejected: "Rejected (4xx)",
  shed: "Refused for now (429, 503)",
  withdrawn: "Taken back (client left)",
  unknown: "Outcome not known",
  failed: "Failed (5xx)",
};

/** Show what became of everything, and what is out of the ordinary. */
export function showTotals(glance) {
  const known = Object.keys(OUTCOMES).filter((name) => name === "committed" || glance.totals[name]?.some(Boolean));
  const lines = [
    ["Received", glance.received_requests, glance.received_rows],
    ...known.map((name) => [OUTCOMES[name], ...(glance.totals[name] ?? [0, 0])]),
  ];
  fill(element("totals"), lines, ([name]) => name, ([name, requests, rows]) => [
    { text: name, kind: "outcome" },
    number(count(requests)),
    number(count(rows)),
  ]);
  const troubles = troublesOf(glance);
  const list = element("troubles");
  while (list.children.length > troubles.length) list.lastElementChild.remove();
  troubles.forEach((text, n) => put(list.children[n] ?? list.appendChild(document.createElement("li")), text));
}

function troublesOf({ retries, doubts, unbalanced_requests: requests, unbalanced_rows: rows }) {
  const found = [];
  if (retries) found.push(`${plural(retries, "batch was", "batches were")} written again.`);
  const { stored = 0, not_stored: lost = 0, unknown = 0 } = doubts;
  if (stored) found.push(`${plural(stored, "write")} in doubt had been stored.`);
  if (lost) found.push(`${plural(lost, "write")} in doubt had not been stored, and could be written again.`);
  if (unknown) found.push(`${plural(unknown, "write")} stayed in doubt: nobody knows (HR506).`);
  if (requests || rows) {
    found.push(`Bug: ${plural(requests, "request")} with ${plural(rows, "row")} got lost: received, not pending, no outcome. Please report it, with the log.`);
  }
  return found;
}
