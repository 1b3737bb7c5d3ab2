// The charts: the last five minutes, drawn by uPlot (a global, from uplot.js). Knows points, not where they come from.

import { NONE, clock, milliseconds, rate, count, short } from "./dashboard-format.js";

export const WINDOW_SECONDS = 300;
const GAP_SECONDS = 2.5; // points are a second apart; one that is late leaves no gap
const AXIS_WIDTH = 54;
const LABEL_HALF = 18; // of a time below the right end of an axis

const perSecond = { tick: (n) => short(n) + "/s", value: (n) => rate(n) + "/s" };
const rows = { tick: short, value: count };
const time = { tick: (ms) => (ms < 1000 ? `${short(ms)} ms` : `${short(ms / 1000)} s`), value: milliseconds };

// Colours are the names of variables in dashboard.css, with "-wash" for areas.
const CHARTS = [
  {
    name: "flow",
    scales: { y: { unit: perSecond } },
    series: [
      { of: (p) => p.rows, label: "rows", scale: "y", colour: "--blue", area: true },
      { of: (p) => p.requests, label: "requests", scale: "y", colour: "--slate", dash: [5, 4] },
    ],
  },
  {
    name: "latency",
    scales: { y: { unit: time, log: true } },
    series: [
      { of: (p) => p.p50_ms, label: "p50", scale: "y", colour: "--teal", dash: [5, 4] },
      { of: (p) => p.p99_ms, label: "p99", scale: "y", colour: "--blue" },
    ],
  },
  {
    name: "queue",
    scales: { y: { unit: rows }, age: { unit: time, right: true } },
    series: [
      { of: (p) => p.queued_rows, label: "rows", scale: "y", colour: "--blue", area: true },
      { of: (p) => p.oldest_ms, label: "oldest", scale: "age", colour: "--slate", dash: [5, 4] },
    ],
  },
  {
    name: "refused",
    scales: { y: { unit: perSecond } },
    series: [
      { of: (p) => p.refused, label: "refused", scale: "y", colour: "--amber", area: true },
      { of: (p) => p.failed, label: "errors", scale: "y", colour: "--red", dash: [5, 4] },
    ],
  },
];

let colours = {};
let now = 0;
const plots = [];

/** Make the charts in their places on the page. */
export function makeCharts() {
  readColours();
  for (const chart of CHARTS) {
    const place = document.getElementById(`${chart.name}-chart`);
    const plot = new uPlot(optionsOf(chart, place), [[], ...chart.series.map(() => [])], place);
    new ResizeObserver(() => plot.setSize(sizeOf(place))).observe(place);
    plots.push({ chart, plot });
  }
}

/** Show these points, oldest first, up to the time `at`. */
export function drawCharts(points, at) {
  now = at;
  for (const { chart, plot } of plots) plot.setData(columnsOf(points, chart.series));
}

/** Draw again in the colours of the theme. */
export function recolourCharts() {
  readColours();
  for (const { plot } of plots) plot.redraw();
}

// A second without a point becomes one without values, where uPlot leaves a gap.
function columnsOf(points, series) {
  const columns = [[], ...series.map(() => [])];
  points.forEach((point, n) => {
    const before = points[n - 1]?.at ?? point.at;
    if (point.at - before > GAP_SECONDS) {
      columns[0].push(before + 1);
      series.forEach((_, i) => columns[i + 1].push(null));
    }
    columns[0].push(point.at);
    series.forEach((one, i) => columns[i + 1].push(one.of(point)));
  });
  return columns;
}

const sizeOf = (place) => ({ width: place.clientWidth, height: place.clientHeight });

function optionsOf(chart, place) {
  const scales = Object.entries(chart.scales);
  return {
    ...sizeOf(place),
    padding: [10, chart.scales.age ? 0 : LABEL_HALF, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      drag: { x: false, y: false },
      sync: { key: "headrace", scales: ["x", null] },
      points: { size: 7 },
    },
    scales: {
      x: { time: true, range: () => [now - WINDOW_SECONDS, now] },
      ...Object.fromEntries(scales.map(([name, scale]) => [name, scaleOf(scale)])),
    },
    axes: [
      {
        ...axisLook(),
        incrs: [60, 120, 300],
        space: 46,
        size: 26,
        grid: { show: false },
        values: (_, at) => at.map((second) => clock(second).slice(-8, -3)),
      },
      ...scales.map(([name, scale]) => ({
        ...axisLook(),
        scale: name,
        side: scale.right ? 1 : 3,
        size: AXIS_WIDTH,
        space: 34,
        gap: 8,
        grid: { show: !scale.right, stroke: () => colours["--line"], width: 1, ...(scale.log && { filter: powersOfTen }) },
        values: (_, values) => values.map((value) => (value === null ? "" : scale.unit.tick(value))),
      })),
    ],
    series: [{}, ...chart.series.map(seriesOf)],
    hooks: { setLegend: [(plot) => tellCursor(plot, chart)] },
  };
}

function axisLook() {
  return { stroke: () => colours["--muted"], font: `12px ${getComputedStyle(document.body).fontFamily}`, ticks: { show: false } };
}

function scaleOf({ log }) {
  return log ? { distr: 3, range: (_, least, most) => rangeOfLog(least, most) } : { range: (_, __, most) => [0, roomFor(most)] };
}

/** Whole powers of ten and at least one of them, so that the axis does not move with each value. */
function rangeOfLog(least, most) {
  if (!(least > 0)) return [1, 10];
  const from = Math.floor(Math.log10(least));
  return [10 ** from, 10 ** Math.max(Math.ceil(Math.log10(most)), from + 1)];
}

const powersOfTen = (_, values) => values.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));

/** A round number with some air above the highest value. */
function roomFor(most) {
  if (!(most > 0)) return 1;
  const step = 10 ** Math.floor(Math.log10(most * 1.05));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * step).find((n) => n >= most * 1.05);
}

function seriesOf(one) {
  return {
    scale: one.scale,
    width: 1.5,
    dash: one.dash,
    stroke: () => colours[one.colour],
    fill: one.area ? () => colours[`${one.colour}-wash`] : undefined,
    // A value between two gaps would be no line at all.
    points: { size: 4, show: false, filter: alone, stroke: () => colours[one.colour], fill: () => colours[one.colour] },
  };
}

function alone(plot, series) {
  const values = plot.data[series];
  const is = (n) => values[n] !== null && values[n] !== undefined;
  const found = values.flatMap((_, n) => (is(n) && !is(n - 1) && !is(n + 1) ? [n] : []));
  return found.length > 0 ? found : null;
}

/** What was at the cursor. */
function tellCursor(plot, chart) {
  const at = plot.data[0][plot.cursor.idx];
  const words = chart.series.map((one, n) => {
    const value = plot.data[n + 1][plot.cursor.idx];
    return `${one.label} ${value === null || value === undefined ? NONE : chart.scales[one.scale].unit.value(value)}`;
  });
  const shown = plot.cursor.left >= 0 && at !== undefined;
  document.getElementById(`${chart.name}-at`).textContent = shown ? [clock(at), ...words].join(" · ") : "";
}

// A canvas does not know variables of CSS, so an element is coloured with each and asked what that is.
function readColours() {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  for (const name of ["--muted", "--line", "--blue", "--blue-wash", "--slate", "--teal", "--amber", "--amber-wash", "--red"]) {
    probe.style.color = `var(${name})`;
    colours[name] = getComputedStyle(probe).color;
  }
  probe.remove();
}
