// Figures out of samples and requests. No element of the page is touched here.

import { ROUTES, percent, plural, seconds } from "./words.js";
import { uncached } from "./store.js";

export function quantile(sorted, q) {
  if (!sorted.length) return null;
  const place = (sorted.length - 1) * q, low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
}

// A first token is seen where the answer is streamed; a simulation has no other answers.
export const ttft = (row) => (row.stream === false || row.outcome !== "ok" ? null : row.first_token_s);

export function tpot(row) {
  if (row.stream === false || row.completed_s == null || !(row.output_tokens > 1)) return null;
  return (row.completed_s - row.first_token_s) / (row.output_tokens - 1);
}

export function sorted(rows, of) {
  return rows.map(of).filter((value) => value != null).sort((a, b) => a - b);
}

export function byRoute(rows) {
  const found = ROUTES.map((route) => {
    const mine = rows.filter((row) => row.route === route.id);
    const firsts = sorted(mine, ttft), pers = sorted(mine, tpot);
    const three = (values) => [0.5, 0.9, 0.99].map((q) => quantile(values, q));
    return { ...route, count: mine.length, ttft: three(firsts), tpot: three(pers) };
  });
  return found.filter((route) => route.count);
}

// Bins between two times with a quantile of each, for every route: columns for a chart.
export function overTime(rows, of, from, to, bins = 48) {
  const width = (to - from) / bins;
  const times = Array.from({ length: bins }, (_, i) => from + (i + 0.5) * width);
  const series = ROUTES.flatMap((route) => {
    const cells = Array.from({ length: bins }, () => []);
    for (const row of rows) {
      const value = row.route === route.id ? of(row) : null;
      const bin = Math.floor((row.arrived_at + (row.first_token_s ?? 0) - from) / width);
      if (value != null && cells[bin]) cells[bin].push(value);
    }
    cells.forEach((cell) => cell.sort((a, b) => a - b));
    return [0.5, 0.9].map((q) => cells.map((cell) => quantile(cell, q)));
  });
  return [times, ...series];
}

// Counts by length (two bins an octave) and route.
export function lengths(rows) {
  const known = rows.map((row) => [uncached(row), row.route]).filter(([n]) => n != null);
  if (!known.length) return null;
  const place = (n) => Math.floor(Math.log2(n) * 2);
  const places = known.map(([n]) => place(n));
  const low = Math.min(...bounds(places)), high = Math.max(...bounds(places));
  const bins = Array.from({ length: high - low + 1 }, (_, i) => ({
    from: 2 ** ((low + i) / 2), to: 2 ** ((low + i + 1) / 2), counts: {},
  }));
  known.forEach(([, route], i) => {
    const counts = bins[places[i] - low].counts;
    counts[route ?? "none"] = (counts[route ?? "none"] ?? 0) + 1;
  });
  return bins;
}

function bounds(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  return [low, high];
}

const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : 0);

// What share of its time, or places, each stage is busy, and how many wait for it.
export function stages(samples, topology) {
  const found = [];
  topology.clusters.forEach((cluster, i) => {
    const mine = samples.map((sample) => sample.clusters[i]).filter(Boolean);
    const prefill = mine.filter((c) => c.prefill_up);
    const decode = mine.filter((c) => c.decode_slots);
    if (prefill.length) found.push({
      id: `prefill ${cluster.name}`, name: `prefill in ${cluster.name}`, what: "prompts",
      share: mean(prefill.map((c) => c.prefill_busy / c.prefill_up)),
      waiting: mean(prefill.map((c) => c.prefill_waiting)),
    });
    if (decode.length) found.push({
      id: `decode ${cluster.name}`, name: `decode in ${cluster.name}`, what: "requests",
      share: mean(decode.map((c) => c.decode_running / c.decode_slots)),
      waiting: mean(decode.map((c) => c.decode_waiting)),
    });
    const memory = mine.filter((c) => c.memory_bytes);
    if (memory.length) found.push({
      id: `memory ${cluster.name}`, name: `hand-off memory in ${cluster.name}`, what: "hand-offs",
      share: mean(memory.map((c) => c.memory_reserved_bytes / c.memory_bytes)), waiting: 0,
    });
  });
  topology.links.forEach((link, i) => {
    const mine = samples.map((sample) => sample.lines[i]).filter(Boolean);
    if (!mine.length) return;
    const inside = link.source === link.target;
    found.push({
      id: `line ${link.source} ${link.target}`,
      name: inside ? `the network of ${link.source}` : `the line ${link.source} to ${link.target}`,
      what: "hand-offs", share: mean(mine.map((line) => shareOf(line))), waiting: 0,
      down: !mine[mine.length - 1].up,
    });
  });
  return found;
}

// Of a line's budget.
export function shareOf(line) {
  const most = line.limit_bytes_per_s ?? line.rate_bytes_per_s;
  if (line.goodput_bytes_per_s == null || !most) return line.utilisation;
  return Math.min(1, line.goodput_bytes_per_s / most);
}

const BUSY = 0.8, HALF = 0.5;

export function bottleneck(found, requests, troubles) {
  if (troubles.length) return { grade: "bad", text: troubles[0].replace(/\.$/, ""), more: troubles.slice(1).join(" ") };
  if (!found.length) return { grade: "note", text: "Nothing to show yet", more: "No engine has been up in this time." };
  const most = found.reduce((a, b) => (b.share + 0.02 * Math.min(b.waiting, 10) > a.share + 0.02 * Math.min(a.waiting, 10) ? b : a));
  const waits = Math.round(most.waiting);
  const queue = waits ? `, and ${plural(waits, most.what.slice(0, -1))} ${waits === 1 ? "waits" : "wait"} for it` : "";
  const name = most.name[0].toUpperCase() + most.name.slice(1);
  if (!requests && most.share < 0.01) return { grade: "good", text: "All is well, and nobody asks", more: "Requests show up here as they come." };
  if (most.share >= BUSY) return { grade: "warn", text: `${name} is the bottleneck`, more: `It is ${percent(most.share)} busy${queue}.` };
  if (most.share >= HALF) return { grade: "good", text: `${name} is the busiest, with room to spare`, more: `It is ${percent(most.share)} busy${queue}.` };
  return { grade: "good", text: "There is room everywhere", more: `The busiest is ${most.name}, at ${percent(most.share)}${queue}.` };
}

// What is wrong at a moment, in sentences, the gravest first.
export function troubles(sample, topology) {
  if (!sample || !topology) return [];
  const found = [];
  topology.clusters.forEach((cluster) => {
    const letters = topology.engines.map((e, i) => [e, sample.engines[i]]).filter(([e]) => e.cluster === cluster.name);
    const down = letters.filter(([, letter]) => letter === "x" || letter === "s");
    if (!down.length) return;
    if (down.length === letters.length) found.unshift(`Cluster ${cluster.name} is down: none of its ${plural(letters.length, "engine")} answers.`);
    else found.push(down.length === 1 ? `Engine ${down[0][0].name} is down.` : `${down.length} of ${letters.length} engines of ${cluster.name} are down.`);
  });
  topology.links.forEach((link, i) => {
    if (sample.lines[i] && !sample.lines[i].up) found.push(`The line ${link.source} to ${link.target} is down.`);
  });
  return found;
}

export function keyNumbers(rows, span, live) {
  const done = rows.filter((row) => row.outcome === "ok");
  const firsts = sorted(rows, ttft), pers = sorted(rows, tpot);
  const prompt = sum(rows, (row) => row.total_tokens), cached = sum(rows, (row) => (row.total_tokens == null ? 0 : row.cached_tokens));
  const offloaded = rows.filter((row) => row.route === "offload");
  return {
    rate: span > 0 ? rows.length / span : 0, live, requests: rows.length, failed: rows.length - done.length,
    ttft50: quantile(firsts, 0.5), ttft90: quantile(firsts, 0.9), ttft99: quantile(firsts, 0.99),
    tpot50: quantile(pers, 0.5), tpot90: quantile(pers, 0.9),
    offloaded: rows.length ? offloaded.length / rows.length : null,
    hits: prompt ? cached / prompt : null, tokens: sum(rows, (row) => row.output_tokens),
    kvBytes: sum(offloaded, (row) => row.kv_bytes), hidden: hiddenShare(offloaded), firsts,
  };
}

function hiddenShare(rows) {
  const told = rows.filter((row) => row.kv_bytes_hidden != null && row.kv_bytes);
  const all = sum(told, (row) => row.kv_bytes);
  return all ? sum(told, (row) => row.kv_bytes_hidden) / all : null;
}

export const sum = (rows, of) => rows.reduce((total, row) => total + (of(row) ?? 0), 0);

// Prompt tokens by the cluster that answered, and how many of them it held.
export function hitsByCluster(rows, clusterOf) {
  const found = new Map();
  for (const row of rows) {
    const cluster = clusterOf.get(row.decode_engine);
    if (cluster == null || row.total_tokens == null) continue;
    const sums = found.get(cluster) ?? { prompt: 0, cached: 0 };
    sums.prompt += row.total_tokens;
    sums.cached += row.cached_tokens;
    found.set(cluster, sums);
  }
  return found;
}

export const inWords = (value) => seconds(value);
