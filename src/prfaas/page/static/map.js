// The map: a card for each cluster, its machines and engines in it, lines drawn as what flows.

import { h, replace, s, say, table } from "./dom.js";
import { shareOf } from "./figures.js";
import { bits, percent, plural, seconds } from "./words.js";

const STATES = {
  p: "prefill, idle", P: "prefill, working", d: "decode, idle", D: "decode, working",
  s: "suspected", c: "drained", x: "down",
};
const SMALL = 40; // Engines of a cluster from which on its machines are not named one by one.
const FEW_LINES = 8; // More are labelled only where they say something.
const MOST_TOLD = 5;
const LABEL_PX = 44;

export class FleetMap {
  constructor(element, lines, summary) {
    this.element = element;
    this.summary = summary;
    this.lines = lines;
    this.svg = s("svg", { class: "wires", "aria-hidden": "true" });
    this.labels = h("div", { class: "labels", "aria-hidden": "true" });
    new ResizeObserver(() => this.route()).observe(element);
  }

  draw(sample, topology) {
    if (!topology) return this.empty();
    if (this.topology !== topology) this.build(topology);
    this.sample = sample;
    topology.engines.forEach((engine, i) => this.dot(i, sample.engines[i], sample.loads[i]));
    topology.clusters.forEach((cluster, i) => this.cluster(cluster, sample.clusters[i], sample));
    this.wires();
    this.table();
  }

  empty() {
    this.topology = null;
    say(this.summary, "");
    replace(this.element, h("p", { class: "nothing" }, "No deployment is shown. Drop a journal here, or open a gateway's /ui."));
    replace(this.lines);
  }

  build(topology) {
    this.topology = topology;
    this.sample = null; // It was of another topology.
    this.dots = [];
    this.cards = new Map();
    const far = h("div", { class: "column" }), near = h("div", { class: "column" });
    for (const cluster of topology.clusters) {
      const card = this.card(cluster, topology);
      this.cards.set(cluster.name, card);
      (cluster.kind === "prfaas" ? far : near).append(card.element);
    }
    this.element.classList.toggle("many", topology.clusters.length > 6);
    replace(this.element, this.svg, [far, near].filter((column) => column.children.length), this.labels);
    this.columns = [far, near];
    this.between = topology.links.map((link, i) => ({ ...link, i })).filter((link) => link.source !== link.target);
    this.paths = this.between.map(() => ({ bed: s("path", { class: "bed" }), flow: s("path", { class: "flow" }) }));
    this.texts = this.between.map(() => h("div", { class: "label" }, h("strong"), h("span")));
    replace(this.svg, this.paths.flatMap((path) => [path.bed, path.flow]));
    replace(this.labels, this.texts);
    this.route();
  }

  card(cluster, topology) {
    const engines = topology.engines.map((engine, i) => ({ ...engine, i })).filter((e) => e.cluster === cluster.name);
    const dense = engines.length > SMALL;
    const machines = new Map();
    for (const engine of engines) {
      const name = dense ? "" : engine.machine || "";
      machines.set(name, [...(machines.get(name) ?? []), engine]);
    }
    const groups = [...machines].map(([name, members]) => {
      const dots = members.map((engine) => {
        const dot = h("span", { class: "dot" });
        this.dots[engine.i] = { dot, engine, letter: null };
        return dot;
      });
      return h("div", { class: "machine" }, name ? h("span", { class: "machine-name" }, name) : null, h("span", { class: dense ? "dots dense" : "dots", "aria-hidden": "true" }, dots));
    });
    const kind = cluster.kind === "prfaas" ? "prefill cluster" : "prefill and decode";
    const facts = h("p", { class: "facts" }), engineWords = h("p", { class: "sr-only" });
    const element = h("article", { class: "cluster", "aria-label": `Cluster ${cluster.name}` },
      h("header", {}, h("h3", {}, cluster.name), h("span", { class: "kind" }, kind)), groups, facts, engineWords);
    return { element, facts, engineWords, engines };
  }

  dot(i, letter = "x", load = "0") {
    const known = this.dots[i];
    if (!known || known.letter === letter + load) return;
    known.letter = letter + load;
    known.dot.className = `dot s-${letter} l-${load}`;
    known.dot.title = `${known.engine.name}: ${STATES[letter] ?? "unknown"}`;
  }

  cluster(cluster, counts, sample) {
    const card = this.cards.get(cluster.name);
    const letters = card.engines.map((engine) => sample.engines[engine.i] ?? "x");
    const down = letters.filter((letter) => letter === "x").length;
    card.element.classList.toggle("down", letters.length > 0 && down === letters.length);
    const facts = [];
    if (counts.prefill_up) facts.push(`${counts.prefill_busy} of ${counts.prefill_up} prefilling`);
    if (counts.prefill_waiting) facts.push(`${counts.prefill_waiting} waiting`);
    if (counts.decode_slots) facts.push(`${counts.decode_running} of ${counts.decode_slots} decoding`);
    const inside = this.topology.links.findIndex((l) => l.source === cluster.name && l.target === cluster.name);
    const network = inside < 0 ? null : sample.lines[inside];
    if (network?.goodput_bytes_per_s) facts.push(`${bits(network.goodput_bytes_per_s)} inside`);
    if (down) facts.push(down === letters.length ? "down" : `${down} down`);
    say(card.facts, facts.join(" · ") || "nothing to do");
    const states = Object.entries(STATES).map(([letter, name]) => [letters.filter((l) => l === letter).length, name]).filter(([n]) => n);
    say(card.engineWords, `${plural(letters.length, "engine")}: ${states.map(([n, name]) => `${n} ${name}`).join("; ")}.`);
  }

  // Where the lines run: from the side of one card to the side of another.
  route() {
    if (!this.topology) return;
    const frame = this.element.getBoundingClientRect();
    this.svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
    const places = new Map([...this.cards].map(([name, card]) => [name, card.element.getBoundingClientRect()]));
    this.middles = this.between.map((link, n) => {
      const a = places.get(link.source), b = places.get(link.target);
      const path = curve(a, b, frame, this.spread(link));
      this.paths[n].bed.setAttribute("d", path.d);
      this.paths[n].flow.setAttribute("d", path.d);
      return path.middle;
    });
    this.placeLabels(frame);
    if (this.sample) this.wires();
  }

  // Lines that end at one card do not all end at one point.
  spread(link) {
    const out = this.between.filter((l) => l.source === link.source), into = this.between.filter((l) => l.target === link.target);
    return { from: (out.indexOf(link) + 1) / (out.length + 1), to: (into.indexOf(link) + 1) / (into.length + 1) };
  }

  placeLabels(frame) {
    const order = this.middles.map((middle, n) => ({ ...middle, n })).filter(({ n }) => !this.texts[n].hidden).sort((a, b) => a.y - b.y);
    const placed = [];
    if (this.element.classList.contains("many")) { // Cards must not be covered.
      const [far, near] = this.columns.map((column) => column.getBoundingClientRect());
      const aside = far.right <= near.left;
      for (const label of order) {
        if (aside) label.x = (far.right + near.left) / 2 - frame.left;
        else label.y = (far.bottom + near.top) / 2 - frame.top - LABEL_PX;
      }
    }
    for (const label of order) {
      while (placed.some((p) => Math.abs(p.x - label.x) < 150 && Math.abs(p.y - label.y) < LABEL_PX)) label.y += 6;
      placed.push(label);
      const x = Math.min(Math.max(label.x, 70), frame.width - 70);
      this.texts[label.n].style.transform = `translate(${x}px, ${label.y}px) translate(-50%, -50%)`;
    }
  }

  wires() {
    let hidden = false;
    const told = this.toldLines();
    this.between.forEach((link, n) => {
      const line = this.sample.lines[link.i];
      const share = shareOf(line), { bed, flow } = this.paths[n];
      const state = !line.up ? "cut" : line.congestion > 0.7 ? "full" : line.congestion > 0.35 ? "tight" : "clear";
      bed.setAttribute("class", `bed ${state}`);
      flow.setAttribute("class", `flow ${state}${line.up && (line.goodput_bytes_per_s > 0 || line.transfers) ? " moves" : ""}`);
      flow.style.strokeWidth = `${1.5 + 9 * share}px`;
      const text = this.texts[n], quiet = !told.has(link);
      if (text.hidden !== quiet) hidden = true;
      text.hidden = quiet;
      text.className = `label ${state}`;
      say(text.firstChild, line.up ? flowWords(line) : "down");
      say(text.lastChild, line.up ? budgetWords(line, share) : "no KV travels");
    });
    if (hidden) this.placeLabels(this.element.getBoundingClientRect());
    say(this.summary, this.summaryWords());
  }

  // Of many lines those that are down, and the fullest; the table has all.
  toldLines() {
    if (this.between.length <= FEW_LINES) return new Set(this.between);
    const grave = (link) => { const line = this.sample.lines[link.i]; return line.up ? shareOf(line) + line.congestion : 9; };
    return new Set([...this.between].sort((a, b) => grave(b) - grave(a)).slice(0, MOST_TOLD));
  }

  summaryWords() {
    if (this.between.length < 2) return "";
    const lines = this.between.map((link) => this.sample.lines[link.i]);
    const down = lines.filter((line) => !line.up).length, tight = lines.filter((line) => line.up && line.congestion > 0.35).length;
    const flow = lines.reduce((total, line) => total + (line.goodput_bytes_per_s ?? 0), 0);
    const parts = [plural(lines.length, "line"), `${bits(flow)} in all`, tight && `${tight} congested`, down && `${down} down`];
    return parts.filter(Boolean).join(" · ");
  }

  table() {
    const rows = this.topology.links.map((link, i) => {
      const line = this.sample.lines[i];
      const most = line.limit_bytes_per_s ?? line.rate_bytes_per_s;
      return [
        link.source === link.target ? `inside ${link.source}` : `${link.source} to ${link.target}`,
        line.up ? "up" : "down", flowWords(line), most ? bits(most) : "none", percent(shareOf(line)),
        line.rtt_s ? seconds(line.rtt_s) : "–", percent(line.congestion), String(line.transfers),
      ];
    });
    table(this.lines, "Lines between clusters", ["line", "state", "carries", "budget", "used", "RTT", "congestion", "transfers"], rows);
  }
}

function flowWords(line) {
  return line.goodput_bytes_per_s == null ? plural(line.transfers, "transfer") : bits(line.goodput_bytes_per_s);
}

function budgetWords(line, share) {
  const most = line.limit_bytes_per_s ?? line.rate_bytes_per_s;
  const parts = [most ? `${percent(share)} of ${bits(most)}` : "no limit set"];
  if (line.rtt_s) parts.push(seconds(line.rtt_s));
  return parts.join(" · ");
}

function curve(a, b, frame, spread) {
  const apart = Math.max(a.left, b.left) >= Math.min(a.right, b.right);
  if (apart) {
    const right = a.left < b.left;
    const x1 = (right ? a.right : a.left) - frame.left, x2 = (right ? b.left : b.right) - frame.left;
    const y1 = a.top + a.height * spread.from - frame.top, y2 = b.top + b.height * spread.to - frame.top;
    const bend = (x2 - x1) / 2;
    return { d: `M${x1},${y1} C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}`, middle: { x: (x1 + x2) / 2, y: (y1 + y2) / 2 } };
  }
  const down = a.top < b.top, near = Math.abs((down ? b.top - a.bottom : a.top - b.bottom)) < 120;
  const x1 = a.left + a.width * (near ? spread.from : 0.96) - frame.left, x2 = b.left + b.width * (near ? spread.to : 0.96) - frame.left;
  const y1 = (down ? a.bottom : a.top) - frame.top, y2 = (down ? b.top : b.bottom) - frame.top;
  const bend = (y2 - y1) / 2;
  return { d: `M${x1},${y1} C${x1},${y1 + bend} ${x2},${y2 - bend} ${x2},${y2}`, middle: { x: (x1 + x2) / 2, y: (y1 + y2) / 2 } };
}
