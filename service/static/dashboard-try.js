// The form that sends a row: a table and its example from the catalog, the answer, and the same as a command.

import { compact, indented, plural } from "./dashboard-format.js";
import { fill, put } from "./dashboard-lists.js";

const FILTERED_FROM = 9; // fewer tables are found in the list itself
const ANSWER_CHARACTERS_MAX = 100_000; // of a longer body the rest is left out, or the page would hang
const ANSWER_SECONDS_MAX = 120; // the service answers sooner, if there is one
const HEADERS = [
  "Location",
  "Content-Range",
  "Content-Profile",
  "Preference-Applied",
  "Retry-After",
  "Headrace-Row",
  "Headrace-Column",
  "Server-Timing",
  "X-Request-Id",
];

const element = (id) => document.getElementById(id);

let tables = [];

/** Prepare the form. The tables are read when it comes near the window for the first time: there may be thousands. */
export function makeForm() {
  const filter = element("try-filter").querySelector("input");
  filter.addEventListener("input", listTables);
  element("try-table").addEventListener("change", showTable);
  element("try-example").addEventListener("click", showTable);
  element("try-reload").addEventListener("click", readTables);
  for (const id of ["try-body", "try-key", "try-return"]) element(id).addEventListener("input", showCommand);
  element("try-copy").addEventListener("click", copyCommand);
  element("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!element("try-send").disabled) send();
  });
  element("try-body").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("try-form").requestSubmit();
  });
  const seen = new IntersectionObserver(
    ([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      readTables();
    },
    { rootMargin: "400px" },
  );
  seen.observe(element("try"));
}

// -------------------------------------------------------------------- tables

async function readTables() {
  element("try-reload").disabled = true;
  try {
    const response = await fetch("dashboard/tables", { cache: "no-store" });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message);
    tables = answer;
    listTables();
  } catch (error) {
    put(element("try-about"), `The tables cannot be read: ${error.message}. Try again in a moment.`);
  } finally {
    element("try-reload").disabled = false;
  }
}

const nameOf = (table) => (table.profile ? `${table.schema}.${table.table}` : table.table);

function listTables() {
  const filter = element("try-filter");
  filter.hidden = tables.length < FILTERED_FROM;
  const wanted = filter.hidden ? "" : filter.querySelector("input").value.trim().toLowerCase();
  const select = element("try-table");
  const before = select.value;
  const found = tables.map((table, n) => [nameOf(table), n]).filter(([name]) => name.toLowerCase().includes(wanted));
  select.replaceChildren(...found.map(([name, n]) => new Option(name, n)));
  select.disabled = found.length === 0;
  if (found.some(([, n]) => String(n) === before)) select.value = before;
  if (select.value !== before || element("try-body").value === "") showTable();
}

const chosen = () => tables[element("try-table").value];

function showTable() {
  const table = chosen();
  element("try-send").disabled = table === undefined;
  put(element("try-about"), table ? aboutOf(table) : tables.length > 0 ? "No table has this in its name." : "There are no tables.");
  fill(element("try-columns"), table?.columns ?? [], (one) => one.name, (one) => [
    { text: one.name, title: one.comment ?? "", kind: "name" },
    { text: one.type, kind: "reason" },
    { text: one.required ? "required" : (one.default ?? ""), kind: "reason aside" },
  ]);
  if (table) element("try-body").value = indented(JSON.stringify(table.example));
  showCommand();
}

function aboutOf(table) {
  const how = table.way === "copy" ? "written by COPY" : "written by INSERT";
  return [`${table.kind === "view" ? "View" : "Table"}, ${plural(table.columns.length, "column")}, ${how}.`, table.comment]
    .filter(Boolean)
    .join(" ");
}

// -------------------------------------------------------------------- request

/** Where the rows of a table go. Relative to the page, so that it is right behind a proxy that adds a path. */
function urlOf(table) {
  return new URL("./" + table.path.replace(/^\/+/, ""), document.baseURI).href;
}

function headersOf(table) {
  return {
    "Content-Type": "application/json",
    ...(element("try-return").checked ? { Prefer: "return=representation" } : {}),
    ...(table.profile ? { "Content-Profile": table.profile } : {}),
  };
}

/** What proves who sends it. It is in this field only: not in what is shown, and gone with the page. */
function credential() {
  const key = element("try-key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function showCommand() {
  const table = chosen();
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = table && [
    `curl -i ${quoted(urlOf(table))}`,
    ...Object.entries(headersOf(table)).map((header) => `-H ${quoted(header.join(": "))}`),
    ...Object.keys(credential()).map((name) => `-H "${name}: Bearer $HEADRACE_API_KEY"`),
    `--data-raw ${quoted(compact(element("try-body").value))}`,
  ];
  put(element("try-curl"), parts?.join(" \\\n  ") ?? "");
  element("try-copy").disabled = !table;
}

async function copyCommand() {
  const button = element("try-copy");
  try {
    await navigator.clipboard.writeText(element("try-curl").textContent);
  } catch {
    // Without HTTPS browsers have no clipboard for pages; the old way is to copy what is selected.
    getSelection().selectAllChildren(element("try-curl"));
    document.execCommand("copy");
  }
  put(button, "Copied");
  setTimeout(() => put(button, "Copy"), 2000);
}

async function send() {
  const table = chosen();
  const button = element("try-send");
  button.disabled = true;
  put(button, "Sending …");
  const began = performance.now();
  try {
    const response = await fetch(urlOf(table), {
      method: "POST",
      headers: { ...headersOf(table), ...credential() },
      body: element("try-body").value,
      signal: AbortSignal.timeout(ANSWER_SECONDS_MAX * 1000),
    });
    const text = await response.text();
    showAnswer(response, text, performance.now() - began);
  } catch (error) {
    showNoAnswer(error, performance.now() - began);
  } finally {
    button.disabled = chosen() === undefined;
    put(button, "Send");
  }
}

// -------------------------------------------------------------------- answer

function showAnswer(response, text, milliseconds) {
  const problem = response.ok ? null : problemIn(text);
  const headers = HEADERS.map((name) => [name, response.headers.get(name)]).filter(([, value]) => value !== null);
  present({
    good: response.ok,
    status: [response.status, response.statusText].filter(Boolean).join(" "),
    milliseconds,
    problem: problem ? Object.entries(problem).filter(([, value]) => value !== null) : [],
    body: problem ? "" : bodyOf(text),
    headers,
  });
}

function showNoAnswer(error, milliseconds) {
  const problem = [["message", error.message]];
  present({ good: false, status: "No answer", milliseconds, problem, body: "", headers: [] });
}

function problemIn(text) {
  try {
    const { code, message, details, hint } = JSON.parse(text);
    return message === undefined ? null : { code, message, details, hint };
  } catch {
    return null;
  }
}

function bodyOf(text) {
  const left = text.length - ANSWER_CHARACTERS_MAX;
  if (left > 0) return `${text.slice(0, ANSWER_CHARACTERS_MAX)}\n… and ${plural(left, "character")} more`;
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  return indented(text);
}

function present({ good, status, milliseconds, problem, body, headers }) {
  const answer = element("try-answer");
  answer.hidden = false;
  answer.dataset.level = good ? "ok" : "error";
  put(element("try-status"), status);
  put(element("try-time"), `after ${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms, as this page saw it`);
  list(element("try-problem"), problem);
  list(element("try-headers"), headers);
  element("try-answer-body").hidden = body === "";
  put(element("try-answer-body"), body);
}

function list(place, pairs) {
  place.hidden = pairs.length === 0;
  const entries = pairs.flatMap(([name, value]) => [
    Object.assign(document.createElement("dt"), { textContent: name }),
    Object.assign(document.createElement("dd"), { textContent: String(value) }),
  ]);
  place.replaceChildren(...entries);
}
