// The dashboard: the live feed, what is wrong, the numbers. Charts, lists and the form have files of their own.
//
// Events arrive once a second and are kept; they are drawn with the next frame, and not at all while nobody looks. The
// service ends the feed now and then, and the browser asks for the next one: only silence means that something is wrong.

import { WINDOW_SECONDS, drawCharts, makeCharts, recolourCharts } from "./dashboard-charts.js";
import { NONE, bytes, clock, count, duration, milliseconds, plural, rate } from "./dashboard-format.js";
import { makeTables, put, showQuarantine, showRefusals, showSlow, showTables, showTotals } from "./dashboard-lists.js";
import { makeForm } from "./dashboard-try.js";

const SILENCE_SECONDS = 3; // an event comes each second
const REOPEN_SECONDS = 10; // a connection that is silent for so long is dead, though nobody has said so
const RETRY_SECONDS = 2; // while the service is away; the browser would try several times a second, or not at all
const TOO_SOON_SECONDS = 0.5; // a new feed begins with a look at the second that has hardly begun
const SLOTS_DRAWN_MAX = 32;

const element = (id) => document.getElementById(id);

let points = [];
let glance = null;
let drawing = false;

// -------------------------------------------------------------------- the feed

const feed = { source: null, heard: performance.now(), heardAt: null, lost: false, retry: 0 };

function listen() {
  clearTimeout(feed.retry);
  feed.source?.close();
  const source = new EventSource("dashboard/events");
  feed.source = source;
  source.addEventListener("history", (event) => {
    keep(JSON.parse(event.data));
    heard();
  });
  source.addEventListener("glance", (event) => {
    glance = JSON.parse(event.data);
    const since = glance.point.at - (points[points.length - 1]?.at ?? 0);
    if (since < 0 || since >= TOO_SOON_SECONDS) keep([glance.point]);
    heard();
  });
  source.addEventListener("error", () => {
    if (source !== feed.source) return;
    feed.lost = true;
    if (source.readyState !== EventSource.CLOSED && silentSeconds() < SILENCE_SECONDS) return;
    source.close();
    feed.retry = setTimeout(listen, RETRY_SECONDS * 1000);
  });
}

function heard() {
  feed.heard = performance.now();
  feed.heardAt = Date.now() / 1000;
  feed.lost = false;
  draw();
}

/** Add points; history comes again after each interruption, and may be shorter than what is known. */
function keep(more) {
  if (more.length === 0) return;
  const first = more[0].at;
  const last = more[more.length - 1].at;
  points = [...points.filter((point) => point.at < first), ...more].filter((point) => point.at > last - WINDOW_SECONDS - 2);
}

const silentSeconds = () => (performance.now() - feed.heard) / 1000;

/** Once a second: nobody else says that nothing comes. */
function watch() {
  const silent = silentSeconds();
  if (silent > REOPEN_SECONDS && feed.source.readyState === EventSource.OPEN) {
    feed.heard += REOPEN_SECONDS * 1000; // the new connection has its time, too
    listen();
  }
  if (silent > SILENCE_SECONDS) draw();
}

// -------------------------------------------------------------------- what is wrong

const NAMES = {
  ok: "All is well",
  draining: "The service is stopping",
  away: "The database is away",
  full: "The queue is full",
  busy: "The service is busy",
};

/** What to say: how bad it is, in a few words for the browser's tab, and each problem with what to do, worst first. */
function stateOf() {
  const gone = goneState();
  if (gone) return gone;
  if (glance === null) return { level: "waiting", name: "", problems: [{ text: "Asking the service …" }] };
  const errors = glance.problems.filter((one) => one.level === "error");
  const problems = [...errors, ...glance.problems.filter((one) => one.level !== "error")];
  const level = errors.length > 0 ? "error" : problems.length > 0 || glance.status !== "ok" ? "warning" : "ok";
  const name = NAMES[glance.status] ?? glance.status;
  if (problems.length === 0) return { level, name, problems: [{ text: name }] };
  return { level, name: glance.status === "ok" ? problems[0].text : name, problems };
}

function goneState() {
  if (silentSeconds() <= SILENCE_SECONDS) return null;
  const since = feed.heardAt === null ? " yet" : ` since ${clock(feed.heardAt)}`;
  if (feed.lost && glance?.status === "draining") {
    const advice = "It was told to. This page goes on when it is started again.";
    return { level: "error", name: "Stopped", problems: [{ text: `The service stopped at ${clock(feed.heardAt)}`, advice }] };
  }
  const text = (feed.lost ? "The service has not answered" : "Nothing has come from the service") + since;
  const doing = feed.lost ? "This page keeps trying" : "The connection is open, but nothing comes; this page will try another one";
  const old = glance === null ? "" : " The numbers below are old.";
  const advice = `${doing}. Look whether the service runs, and whether this computer can reach it.${old}`;
  return { level: "error", name: "No answer", problems: [{ text, advice }] };
}

const LEVELS = { ok: "", waiting: "", warning: "Warning: ", error: "Error: " };

/** The first problem is the headline. Only what changes is touched, as a screen reader reads that out. */
function showState({ level, name, problems: [first, ...others] }) {
  element("status").dataset.level = level;
  put(element("status-level"), LEVELS[level]);
  put(element("status-title"), first.text);
  const lines = [...(first.advice ? [{ text: "", advice: first.advice }] : []), ...others];
  const list = element("problems");
  while (list.children.length > lines.length) list.lastElementChild.remove();
  lines.forEach(({ text, advice }, n) => {
    const item = list.children[n] ?? list.appendChild(problemItem());
    put(item.firstElementChild, text);
    putWords(item.lastElementChild, advice);
  });
  document.title = level === "ok" || level === "waiting" ? "Headrace" : `${name} · Headrace`;
  const silent = silentSeconds();
  put(element("silence"), feed.heardAt !== null && silent > SILENCE_SECONDS ? `silent for ${duration(silent)}` : "");
  element("main").dataset.feed = goneState() ? "gone" : glance === null ? "waiting" : "live";
}

/** What stands between backticks is a command or a name. */
function putWords(place, text) {
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  const code = (words) => Object.assign(document.createElement("code"), { textContent: words });
  place.replaceChildren(...text.split("`").map((words, n) => (n % 2 === 1 ? code(words) : words)));
}

function problemItem() {
  const item = document.createElement("li");
  item.append(document.createElement("strong"), " ", document.createElement("span"));
  return item;
}

// -------------------------------------------------------------------- numbers

const NUMBERS = {
  rows: (g) => rate(g.point.rows),
  requests: (g) => rate(g.point.requests),
  batchRows: (g) => rate(g.point.batch_rows),
  p50: (g) => milliseconds(g.point.p50_ms),
  p99: (g) => milliseconds(g.point.p99_ms),
  queued: (g) => count(g.queue.queued_rows),
  oldest: (g) => milliseconds(g.queue.oldest_ms),
  refused: (g) => rate(g.point.refused),
  failed: (g) => rate(g.point.failed),
};

const TEXTS = {
  version: (g) => g.version,
  workers: (g) => plural(g.workers, "worker"),
  uptime: (g) => `up ${duration(g.uptime_seconds)}`,
  clients: (g) => plural(g.connections, "connection"),
  committed: (g) => `${plural(g.totals.committed?.[1] ?? 0, "row")} committed since the start`,
  pendingRows: (g) => `${count(g.queue.pending_rows)} of ${count(g.queue.pending_rows_max)}`,
  pendingBytes: (g) => `${bytes(g.queue.pending_bytes)} of ${bytes(g.queue.pending_bytes_max)}`,
  slots: ({ slots }) => `${slots.busy} busy, ${slots.idle} idle` + (slots.away ? `, ${slots.away} away` : ""),
  queue50: (g) => milliseconds(g.queue_time.p50_ms),
  queue90: (g) => milliseconds(g.queue_time.p90_ms),
  queue99: (g) => milliseconds(g.queue_time.p99_ms),
  write50: (g) => milliseconds(g.write_time.p50_ms),
  write90: (g) => milliseconds(g.write_time.p90_ms),
  write99: (g) => milliseconds(g.write_time.p99_ms),
  latency50: (g) => milliseconds(g.latency.p50_ms),
  latency90: (g) => milliseconds(g.latency.p90_ms),
  latency99: (g) => milliseconds(g.latency.p99_ms),
  database: ({ database }) => (database.up ? "up" : `away: ${database.reason ?? "the reason is not known"}`),
  databaseVersion: (g) => g.database.version ?? NONE,
  writable: ({ database }) => (database.read_only === null ? NONE : database.read_only ? "no: it is read-only" : "yes"),
  skew: (g) => skewOf(g.database.skew_seconds),
  connections: ({ database }) => `${count(database.connections)} of ${count(database.connections_max)}`,
};

const METERS = {
  pendingRows: ({ queue }) => [queue.pending_rows, queue.pending_rows_max],
  pendingBytes: ({ queue }) => [queue.pending_bytes, queue.pending_bytes_max],
  connections: ({ database }) => [database.connections, database.connections_max],
};

const IN_STEP_SECONDS = 0.1; // less than what asking may take

function skewOf(seconds) {
  if (seconds === null) return NONE;
  if (Math.abs(seconds) < IN_STEP_SECONDS) return "in step with ours";
  return `${milliseconds(Math.abs(seconds) * 1000)} ${seconds > 0 ? "ahead" : "behind"}`;
}

function showNumbers() {
  for (const place of document.querySelectorAll("[data-number]")) {
    const [value, unit = ""] = NUMBERS[place.dataset.number](glance).split("\u00a0");
    if (place.childElementCount === 0) place.append(document.createElement("b"), " ", document.createElement("small"));
    put(place.firstElementChild, value);
    put(place.lastElementChild, unit);
    place.classList.toggle("none", value === "0" || value === NONE);
  }
  for (const place of document.querySelectorAll("[data-show]")) put(place, TEXTS[place.dataset.show](glance));
  for (const place of document.querySelectorAll("[data-meter]")) {
    const [value, most] = METERS[place.dataset.meter](glance);
    const percent = value !== null && most ? Math.min(100, (100 * value) / most) : 0;
    place.firstElementChild.style.width = `${percent.toFixed(1)}%`;
    place.dataset.level = percent >= 95 ? "error" : percent >= 75 ? "warning" : "ok";
    place.setAttribute("aria-valuenow", percent.toFixed(0));
    place.setAttribute("aria-valuetext", place.previousElementSibling.textContent);
  }
  showSlots(glance.slots);
}

function showSlots({ busy, idle, away }) {
  const states = [...Array(busy).fill("busy"), ...Array(idle).fill("idle"), ...Array(away).fill("away")];
  const drawn = states.length > SLOTS_DRAWN_MAX ? [] : states;
  const place = element("slots");
  while (place.children.length > drawn.length) place.lastElementChild.remove();
  while (place.children.length < drawn.length) place.append(document.createElement("i"));
  drawn.forEach((state, n) => (place.children[n].className = state));
}

// -------------------------------------------------------------------- drawing

function draw() {
  if (drawing || document.hidden) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    showState(stateOf());
    if (points.length > 0) drawCharts(points, points[points.length - 1].at + Math.max(0, silentSeconds() - 1));
    if (glance === null) return;
    showNumbers();
    showTables(glance);
    showRefusals(glance.refusals);
    showSlow(glance.slow);
    showQuarantine(glance.quarantine);
    showTotals(glance);
  });
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");

function showTheme() {
  const other = theme() === "dark" ? "Light" : "Dark";
  put(element("theme"), other);
  element("theme").setAttribute("aria-label", `${other} theme`);
  recolourCharts();
}

function switchTheme() {
  const wanted = theme() === "dark" ? "light" : "dark";
  const own = wanted === (dark.matches ? "dark" : "light"); // the system's: then it is followed again
  if (own) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  try {
    if (own) localStorage.removeItem("headrace-theme");
    else localStorage.setItem("headrace-theme", wanted);
  } catch {
    // There is no storage for this page; the choice holds until it is closed.
  }
  showTheme();
}

makeCharts();
makeTables();
makeForm();
showTheme();
element("theme").addEventListener("click", switchTheme);
dark.addEventListener("change", showTheme);
document.addEventListener("visibilitychange", draw);
listen();
setInterval(watch, 1000);
