// The panels below the map. Each takes its element and figures.

import { h, replace, s, table } from "./dom.js";
import { uncached, endOf } from "./store.js";
import { bytes, moment, newsWords, percent, plural, seconds, short, tokens, ROUTES } from "./words.js";

const SHOWN = 24; // Requests drawn; the sentence says how many there are.
const NEWS_SHOWN = 200;
const SHOWN_STAGES = 12;
const routeName = (id) => ROUTES.find((route) => route.id === id)?.name ?? "not routed";

export function numbers(element, n) {
  const cells = [
    ["requests", `${short(n.rate)}/s`, `${n.live} under way`],
    ["TTFT, median", seconds(n.ttft50), `p99 ${seconds(n.ttft99)}`],
    ["TPOT, median", seconds(n.tpot50), `p90 ${seconds(n.tpot90)}`],
    ["offloaded", percent(n.offloaded), n.hidden == null ? bytes(n.kvBytes) : `${bytes(n.kvBytes)}, ${percent(n.hidden)} hidden`],
    ["prefix cache hits", percent(n.hits), "of prompt tokens"],
    ["not answered", n.failed.toLocaleString("en"), `of ${plural(n.requests, "request")}`],
  ];
  replace(element, cells.map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", {}, more)))));
}

export function stages(element, found) {
  if (!found.length) return replace(element, h("p", { class: "nothing" }, "No engine is up."));
  const most = [...found].sort((a, b) => b.down - a.down || b.share - a.share);
  const rows = most.slice(0, SHOWN_STAGES).map((stage) => {
    const bar = h("span", { class: `fill ${stage.down ? "cut" : stage.share >= 0.8 ? "full" : ""}` });
    bar.style.width = `${Math.max(0.5, stage.share * 100)}%`;
    const waiting = stage.waiting >= 0.5 ? `, ${Math.round(stage.waiting)} waiting` : "";
    return h("li", {}, h("span", { class: "stage-name" }, stage.name), h("span", { class: "stage-share" }, stage.down ? "down" : percent(stage.share) + waiting),
      h("span", { class: "gauge", "aria-hidden": "true" }, bar));
  });
  const left = found.length - rows.length;
  replace(element, h("ul", {}, rows), left > 0 ? h("p", { class: "quiet" }, `and ${left} less busy`) : null);
}

export function percentiles(element, routes) {
  const row = (route) => [routeName(route.id), route.count.toLocaleString("en"), ...route.ttft.map(seconds), ...route.tpot.map(seconds)];
  const rows = routes.length ? routes.map(row) : [["no request in this time", ...Array(7).fill("–")]];
  table(element, "TTFT and TPOT by route", ["route", "requests", "TTFT p50", "p90", "p99", "TPOT p50", "p90", "p99"], rows);
}

// A request as bars from its arrival on: what it waited for, what was computed, what crossed.
export function requests(element, live, ended, now) {
  const rows = [...live.map((row) => ({ row, live: true })), ...ended.slice().reverse().map((row) => ({ row, live: false }))];
  if (!rows.length) return replace(element, h("p", { class: "nothing" }, "No request in this time."));
  const shown = rows.slice(0, SHOWN);
  const lasts = shown.map(({ row, live }) => (live ? now - row.arrived_at : endOf(row) - row.arrived_at));
  const longest = Math.max(0.001, ...lasts) * 1.02;
  const drawn = shown.map(({ row, live }, i) => {
    const words = sentence(row, live, lasts[i]);
    return h("li", { class: live ? "live" : "" },
      h("span", { class: "request-what" }, h("strong", {}, row.total_tokens == null ? "untold" : tokens(row.total_tokens)), " ", h("span", { class: `route r-${row.route ?? "none"}` }, routeName(row.route))),
      h("span", { class: "request-bars", role: "img", "aria-label": words, title: words }, bars(row, lasts[i], longest)),
      h("span", { class: "request-end" }, row.outcome !== "ok" && !live ? row.outcome.replaceAll("_", " ") : seconds(row.first_token_s ?? lasts[i])));
  });
  const axis = h("p", { class: "axis", "aria-hidden": "true" }, h("span", {}, "arrival"), h("span", {}, seconds(longest / 2)), h("span", {}, seconds(longest)));
  replace(element, h("p", { class: "quiet" }, `${plural(live.length, "request")} under way, ${ended.length.toLocaleString("en")} ended in this time; the last ${shown.length} are drawn. At the right: time to first token.`), axis, h("ol", {}, drawn));
}

function bars(row, last, longest) {
  const handed = row.prefill_engine != null && row.prefill_started_s != null;
  const begins = handed ? row.prefill_started_s : row.decode_started_s;
  const parts = [["queue", 0, begins ?? last]];
  if (handed) {
    parts.push(["prefill", row.prefill_started_s, row.prefilled_s ?? last]);
    parts.push(["transfer", row.transfer_first_byte_s ?? row.prefill_started_s, row.transferred_s ?? last]);
    if (row.transferred_s != null) parts.push(["queue", Math.max(row.transferred_s, row.prefilled_s ?? 0), row.decode_started_s ?? last]);
  }
  if (row.decode_started_s != null) parts.push([handed ? "load" : "prefill", row.decode_started_s, row.first_token_s ?? last]);
  if (row.first_token_s != null) parts.push(["decode", row.first_token_s, row.completed_s ?? last]);
  return parts.filter(([, from, to]) => to > from).map(([kind, from, to]) => {
    const bar = h("span", { class: `part ${kind}` });
    bar.style.left = `${(100 * from) / longest}%`;
    bar.style.width = `${Math.max(0.2, (100 * (to - from)) / longest)}%`;
    return bar;
  });
}

function sentence(row, live, last) {
  const told = [`${routeName(row.route)}: ${tokens(row.total_tokens)} prompt tokens, ${tokens(uncached(row))} uncached`];
  if (row.prefill_engine) told.push(`prefill on ${row.prefill_engine}${span(row.prefill_started_s, row.prefilled_s)}`);
  if (row.transferred_s != null) told.push(`its KV there at ${seconds(row.transferred_s)}`);
  if (row.decode_engine) told.push(`answered by ${row.decode_engine}`);
  if (row.first_token_s != null) told.push(`first token at ${seconds(row.first_token_s)}`);
  told.push(live ? `under way for ${seconds(last)}` : `${row.outcome} after ${seconds(last)}`);
  if (row.reason) told.push(row.reason);
  return told.join("; ");
}

const span = (from, to) => (from == null || to == null ? "" : ` for ${seconds(to - from)}`);

export function caches(element, sample, topology, hits) {
  const rows = topology.clusters.flatMap((cluster, i) => {
    const c = sample.clusters[i], found = hits.get(cluster.name);
    const rate = found ? `${percent(found.cached / Math.max(1, found.prompt))} of ${tokens(found.prompt)} tokens` : "–";
    const tiers = [[cluster.name, "prefix cache of the engines", c.cached_blocks ? `${plural(c.cached_blocks, "block")}` : "not known", rate]];
    if (c.kv_tokens) tiers.push(["", "KV memory, running requests", `${percent(c.kv_tokens_used / c.kv_tokens)} of ${tokens(c.kv_tokens)} tokens`, ""]);
    if (c.memory_bytes) tiers.push(["", "agents' memory for hand-offs", `${percent(c.memory_reserved_bytes / c.memory_bytes)} of ${bytes(c.memory_bytes)}`, ""]);
    return tiers;
  });
  table(element, "Caches by tier and cluster", ["cluster", "tier", "holds", "hits"], rows);
}

export function news(element, items, dated) {
  const told = items.map((item) => ({ at: item.at, ...newsWords(item.entry) })).filter((item) => item.text);
  if (!told.length) return replace(element, h("li", { class: "nothing" }, "Nothing out of the ordinary."));
  const folded = [];
  for (const item of told) { // The same again, one after the other, is one line with a count.
    const last = folded[folded.length - 1];
    if (last && last.text === item.text) { last.count += 1; last.at = item.at; } else folded.push({ ...item, count: 1 });
  }
  const rows = folded.slice(-NEWS_SHOWN).reverse().map((item) => h("li", { class: item.grade },
    h("time", {}, moment(item.at, dated)), h("span", { class: "kind" }, item.kind), h("span", {}, item.count > 1 ? `${item.text} (${item.count} times)` : item.text)));
  replace(element, rows);
}

export function spark(element, samples, news, from, to) {
  const wide = 1000, tall = 36, bins = Math.max(2, Math.min(200, samples.length)), width = (to - from) / bins || 1;
  const counts = Array(bins).fill(0);
  for (const sample of samples) {
    const bin = Math.min(bins - 1, Math.floor((sample.at - from) / width));
    counts[bin] = Math.max(counts[bin], sample.live);
  }
  const most = Math.max(1, ...counts);
  const points = counts.map((n, i) => `${(i / (bins - 1)) * wide},${tall - (n / most) * (tall - 6)}`).join(" ");
  const grave = news.map((item) => ({ at: item.at, grade: newsWords(item.entry)?.grade })).filter((n) => n.grade === "bad" || n.grade === "warn").slice(-300);
  element.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
  replace(element, s("polygon", { class: "spark", points: `0,${tall} ${points} ${wide},${tall}` }),
    grave.map((n) => s("line", { class: `tick ${n.grade}`, x1: ((n.at - from) / (to - from || 1)) * wide, x2: ((n.at - from) / (to - from || 1)) * wide, y1: 0, y2: tall })));
}

export function compare(element, one, other) {
  const row = (name, of, form, lowerIsBetter = null) => {
    const a = of(one.n), b = of(other.n);
    const change = a != null && a === b ? 0 : a && b != null ? (b - a) / a : null;
    const appeared = a === 0 && b > 0; // No share of nothing says how much.
    const grade = lowerIsBetter == null || !(appeared || Math.abs(change) >= 0.02) ? "" : (!appeared && change < 0) === lowerIsBetter ? "better" : "worse";
    const words = appeared ? "more" : change == null ? "–" : Math.abs(change) < 0.005 ? "same" : `${change > 0 ? "+" : "−"}${Math.abs(Math.round(change * 100))}%`;
    return [name, form(a), form(b), h("span", { class: grade }, grade ? `${words}, ${grade}` : words)];
  };
  table(element, "Figures of both", ["", one.name, other.name, "change"], [
    row("requests", (n) => n.requests, (v) => v.toLocaleString("en")),
    row("requests a second", (n) => n.rate, short, false),
    row("not answered", (n) => n.failed, (v) => v.toLocaleString("en"), true),
    row("TTFT p50", (n) => n.ttft50, seconds, true),
    row("TTFT p90", (n) => n.ttft90, seconds, true),
    row("TTFT p99", (n) => n.ttft99, seconds, true),
    row("TPOT p50", (n) => n.tpot50, seconds, true),
    row("TPOT p90", (n) => n.tpot90, seconds, true),
    row("offloaded", (n) => n.offloaded, percent),
    row("prefix cache hits", (n) => n.hits, percent, false),
    row("KV over lines", (n) => n.kvBytes || null, bytes),
    row("output tokens", (n) => n.tokens || null, tokens),
  ]);
}
