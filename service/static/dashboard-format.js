// Numbers, times and codes as people read them. Pure. A no-break space stands between a number and its unit.

export const NONE = "–";
const SPACE = "\u00a0";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const digits = [0, 1, 2].map(
  (n) => new Intl.NumberFormat("en-US", { minimumFractionDigits: n, maximumFractionDigits: n }),
);

const isNone = (number) => number === null || number === undefined || !Number.isFinite(number);

/** 12,345 */
export function count(number) {
  return isNone(number) ? NONE : whole.format(number);
}

/** 12,345, and below ten 0.3: a table that gets a row every three seconds is not idle. */
export function rate(perSecond) {
  if (isNone(perSecond)) return NONE;
  if (perSecond > 0 && perSecond < 0.1) return "< 0.1";
  return perSecond < 10 && !Number.isInteger(perSecond) ? digits[1].format(perSecond) : whole.format(perSecond);
}

/** 0.42 ms, 4.2 ms, 42 ms, 4.2 s, 3 min */
export function milliseconds(ms) {
  if (isNone(ms)) return NONE;
  if (ms >= 120_000) return duration(ms / 1000);
  const [number, unit] = ms < 999.5 ? [ms, "ms"] : [ms / 1000, "s"];
  const places = number === 0 || number >= 9.95 ? 0 : unit === "ms" && number < 0.995 ? 2 : 1;
  return digits[places].format(number) + SPACE + unit;
}

/** 45 s, 12 min, 3 h 12 min, 5 d 3 h */
export function duration(seconds) {
  if (isNone(seconds)) return NONE;
  const s = Math.floor(seconds);
  const [m, h, d] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86400)];
  if (d > 0) return `${whole.format(d)}${SPACE}d ${h % 24}${SPACE}h`;
  if (h > 0) return `${h}${SPACE}h ${m % 60}${SPACE}min`;
  return m > 0 ? `${m}${SPACE}min` : `${s}${SPACE}s`;
}

/** 12 KiB, 3.4 MiB: the limits are powers of two, mostly. */
export function bytes(number) {
  if (isNone(number)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let scaled = number;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  return digits[unit > 0 && scaled < 9.95 ? 1 : 0].format(scaled) + SPACE + units[unit];
}

/** 20k, 1.5M: for axes, where there is little room. */
export function short(number) {
  const [scaled, unit] = number >= 1e6 ? [number / 1e6, "M"] : number >= 1e3 ? [number / 1e3, "k"] : [number, ""];
  return Number(scaled.toPrecision(3)) + unit;
}

/** 14:03:22 by the clock of whoever looks at it; with the date if that was not today. */
export function clock(at) {
  const when = new Date(at * 1000);
  const time = when.toLocaleTimeString("en-GB");
  if (when.toDateString() === new Date().toDateString()) return time;
  return `${when.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${time}`;
}

/** One of them, or many. */
export function plural(number, one, many = one + "s") {
  return `${count(number)}${SPACE}${number === 1 ? one : many}`;
}

const CODES = {
  HR400: "no proper HTTP request",
  HR408: "arrived too slowly",
  HR409: "its key is under way",
  HR413: "too large",
  HR414: "URL too long",
  HR415: "Content-Encoding not known",
  HR422: "key was used for another request",
  HR427: "a producer's rate is reached",
  HR428: "a producer's share of the queue is taken",
  HR429: "queue full: try again later",
  HR431: "head too large",
  HR500: "a bug: see the service's log",
  HR501: "no idempotency keys here",
  HR503: "not written before its deadline",
  HR504: "the table was changed meanwhile",
  HR505: "the service is stopping",
  HR506: "outcome not known",
  HR507: "too many connections",
  HR508: "too many dashboards are open",
  HR509: "the API keys are not known yet",
  PGRST000: "the database is away or busy",
  PGRST002: "the tables are not known yet",
  PGRST100: "the query cannot be read",
  PGRST102: "the body is not what it says",
  PGRST106: "the schema is not exposed",
  PGRST107: "no such media type to answer in",
  PGRST116: "not exactly one row",
  PGRST117: "the method is not taken",
  PGRST122: "a preference is not known",
  PGRST125: "no such path",
  PGRST204: "no such column",
  PGRST205: "no such table",
  PGRST301: "the key or token proves nothing",
  PGRST302: "no credential was shown",
  PGRST303: "the key or token has expired, or is for others",
  "22001": "value too long",
  "22003": "number out of range",
  "22007": "no date or time",
  "22P02": "value not of the column's type",
  "23502": "a column must not be null",
  "23503": "a foreign key has no match",
  "23505": "not unique",
  "23514": "a check fails",
  "42501": "not permitted",
  P0001: "raised by a trigger",
};

/** What a code means, in a few words. */
export function meaning(code) {
  return CODES[code] ?? (/^[0-9A-Z]{5}$/.test(code) && !code.startsWith("HR") ? "SQLSTATE" : "");
}

/** JSON, indented. By its own characters, since JSON.parse would round numbers that have many digits. */
export function indented(text) {
  let depth = 0;
  const line = () => "\n" + "  ".repeat(depth);
  return tokens(text).reduce((out, token, n, all) => {
    if (token === ":") return out + ": ";
    if (token === ",") return out + "," + line();
    if (token === "{" || token === "[") {
      depth += 1;
      return out + token + (all[n + 1] === "}" || all[n + 1] === "]" ? "" : line());
    }
    if (token === "}" || token === "]") {
      depth = Math.max(0, depth - 1);
      return out + (all[n - 1] === "{" || all[n - 1] === "[" ? "" : line()) + token;
    }
    return out + token;
  }, "");
}

/** JSON on one line. What is none stays as it is. */
export function compact(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  return tokens(text).join("");
}

function tokens(json) {
  return json.match(/"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s{}[\]:,"]+/g) ?? [];
}
