// Charts over time by uPlot, and the histogram of lengths.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { h, replace, s } from "./dom.js";
import { ROUTES, moment, short, tokens } from "./words.js";

const HEIGHT = 190;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Lines over time, two for each route: the median, and the 90th percentile thinner.
export class RouteChart {
  constructor(element, scale, what) {
    Object.assign(this, { element, scale, what });
    new ResizeObserver(() => this.resize()).observe(element);
  }

  draw(columns, dated) {
    const told = columns.slice(1).some((column) => column.some((value) => value != null));
    this.element.classList.toggle("empty", !told);
    const data = [columns[0], ...columns.slice(1).map((column) => column.map((v) => (v == null ? null : v * this.scale)))];
    this.dated = dated;
    if (!this.plot) this.make(data); else this.plot.setData(data);
    this.element.setAttribute("aria-label", told ? this.what : `${this.what}: no request in this time`);
  }

  make(data) {
    const series = ROUTES.flatMap((route) => ["p50", "p90"].map((q) => ({
      label: `${route.name} ${q}`, stroke: () => colour(`--${route.id}`), width: q === "p50" ? 2 : 1,
      dash: q === "p50" ? undefined : [4, 4], spanGaps: true, points: { size: 4 },
    })));
    this.plot = new uPlot(options(this.element, series, (at) => moment(at, this.dated)), data, this.element);
    this.element.setAttribute("role", "img");
  }

  redraw() { this.plot?.redraw(false, true); }

  resize() { this.plot?.setSize({ width: this.element.clientWidth, height: HEIGHT }); }
}

// Two sources' shares of requests within a time.
export class ShareChart {
  constructor(element) {
    this.element = element;
    new ResizeObserver(() => this.plot?.setSize({ width: element.clientWidth, height: HEIGHT })).observe(element);
  }

  draw(one, other) {
    const xs = [...new Set([...steps(one), ...steps(other)])].sort((a, b) => a - b);
    const data = [xs, xs.map((x) => within(one, x)), xs.map((x) => within(other, x))];
    const series = ["--one", "--other"].map((name) => ({ stroke: () => colour(name), width: 2, points: { show: false } }));
    if (!this.plot) this.plot = new uPlot({ ...options(this.element, series, (x) => `${short(x)} s`), scales: { x: { time: false }, y: { range: [0, 1] } } }, data, this.element);
    else this.plot.setData(data);
    this.element.setAttribute("role", "img");
    this.element.setAttribute("aria-label", "Share of requests by time to first token, for both");
  }
}

const steps = (sorted) => Array.from({ length: 101 }, (_, i) => sorted[Math.floor(((sorted.length - 1) * i) / 100)]).filter((x) => x != null);

function within(sorted, x) {
  if (!sorted.length) return null;
  let low = 0, high = sorted.length;
  while (low < high) { const middle = (low + high) >> 1; if (sorted[middle] <= x) low = middle + 1; else high = middle; }
  return low / sorted.length;
}

function options(element, series, label) {
  const axis = { stroke: () => colour("--quiet"), grid: { stroke: () => colour("--hair"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  return {
    width: element.clientWidth || 400, height: HEIGHT, legend: { show: false }, cursor: { y: false },
    scales: { x: { time: false }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [{ ...axis, values: (_, marks) => marks.map(label), space: 90 }, { ...axis, size: 46, values: (_, marks) => marks.map(short) }],
    series: [{}, ...series],
  };
}

const WIDE = 640, TALL = 200, FOOT = 22, HEAD = 26;

// Bars by length, stacked by route; the threshold stands where it is now.
export function histogram(element, bins, marks) {
  if (!bins) return replace(element, h("p", { class: "nothing" }, "No prompt has ended in this time."));
  const low = Math.min(Math.log2(bins[0].from), ...marks.map((m) => Math.log2(m.tokens) - 0.5));
  const high = Math.max(Math.log2(bins[bins.length - 1].to), ...marks.map((m) => Math.log2(m.tokens) + 0.5));
  const x = (n) => ((Math.log2(n) - low) / (high - low)) * WIDE;
  const total = (bin) => Object.values(bin.counts).reduce((a, b) => a + b, 0);
  const most = Math.max(...bins.map(total));
  const room = TALL - FOOT - HEAD;
  const bars = bins.flatMap((bin) => {
    let top = TALL - FOOT;
    return [...ROUTES.map((r) => r.id), "none"].filter((id) => bin.counts[id]).map((id) => {
      const tall = (bin.counts[id] / most) * room;
      top -= tall;
      return s("rect", { class: `r-${id}`, x: x(bin.from) + 1, y: top, width: Math.max(1, x(bin.to) - x(bin.from) - 2), height: tall, rx: 1.5 });
    });
  });
  const labels = ticks(low, high).map((n) => s("text", { x: x(n), y: TALL - 6, "text-anchor": "middle" }, tokens(n)));
  marks.sort((a, b) => a.tokens - b.tokens);
  const anchor = (i) => (marks.length === 1 ? "middle" : i < marks.length / 2 ? "end" : "start");
  const lines = marks.flatMap((mark, i) => [
    s("line", { class: "mark-halo", x1: x(mark.tokens), x2: x(mark.tokens), y1: 16, y2: TALL - FOOT }),
    s("line", { class: `mark ${mark.kind}`, x1: x(mark.tokens), x2: x(mark.tokens), y1: 16, y2: TALL - FOOT }),
    s("text", { class: `mark-text ${mark.kind}`, x: x(mark.tokens), y: 11, "text-anchor": anchor(i) }, mark.text),
  ]);
  const words = `Histogram of uncached lengths, ${tokens(bins[0].from)} to ${tokens(bins[bins.length - 1].to)} tokens. ${marks.map((m) => m.text).join(", ")}`;
  replace(element, s("svg", { viewBox: `0 0 ${WIDE} ${TALL}`, role: "img", "aria-label": words },
    s("line", { class: "floor", x1: 0, x2: WIDE, y1: TALL - FOOT, y2: TALL - FOOT }), bars, labels, lines));
}

function ticks(low, high) {
  const step = Math.max(1, Math.ceil((high - low) / 7));
  const found = [];
  for (let power = Math.ceil(low + 0.3); power <= high - 0.3; power += step) found.push(2 ** power);
  return found;
}
