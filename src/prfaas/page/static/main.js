// The page put together: which source is shown, at which moment, over which window.

import { $, legend, replace, h, say } from "./dom.js";
import { RouteChart, ShareChart, histogram } from "./charts.js";
import { KeyNeeded, follow, rememberKey } from "./feed.js";
import * as figures from "./figures.js";
import { readJournal } from "./journal.js";
import { FleetMap } from "./map.js";
import * as panels from "./panels.js";
import { ROUTES, moment, newsWords, plural, tokens } from "./words.js";

const RECENT_S = 30; // The headline and the stages are of the last half minute.

const state = { sources: [], shown: null, at: null, window: 600 };
const map = new FleetMap($("map"), $("lines"), $("map-words"));
const ttftChart = new RouteChart($("ttft"), 1, "Time to first token by route, over time");
const tpotChart = new RouteChart($("tpot"), 1000, "Time per output token by route, over time");
const shareChart = new ShareChart($("compare-chart"));

legend($("map-legend"), [["s-P", "prefill"], ["s-D", "decode"], ["s-x", "down"], ["s-c", "drained"], ["wire", "KV that crosses"]]);
const routeKey = ROUTES.map((route) => [`r-${route.id}`, route.name]);
legend($("lengths-legend"), routeKey);
legend($("latency-legend"), [...routeKey, ["solid", "p50"], ["dashed", "p90"]]);
legend($("requests-legend"), [["queue", "queue"], ["prefill", "prefill"], ["transfer", "transfer"], ["load", "load"], ["decode", "decode"]]);

function draw() {
  const source = state.shown;
  say($("about"), source ? aboutWords(source) : "");
  sourcesPanel();
  comparePanel();
  if (!source || !source.samples.length) return nothing();
  const now = state.at ?? source.last;
  const sample = source.at(now), topology = source.deployed.get(sample.topology) ?? source.topology;
  const from = Math.max(now - state.window, source.first - 1e-6);
  const rows = source.endedBetween(from, now);
  const live = state.at == null ? source.live : source.liveAt(now);
  const stages = figures.stages(source.recent(now, RECENT_S), topology);
  const n = figures.keyNumbers(rows, now - from, live.length || sample.live);
  const head = figures.bottleneck(stages, rows.length + live.length, figures.troubles(sample, topology));
  say($("headline"), head.text);
  $("headline").dataset.grade = head.grade;
  say($("headline-more"), head.more);
  panels.numbers($("numbers"), n);
  map.draw(sample, topology);
  lengthsPanel(rows, sample);
  panels.stages($("stages"), stages);
  ttftChart.draw(figures.overTime(rows, figures.ttft, from, now), source.dated);
  tpotChart.draw(figures.overTime(rows, figures.tpot, from, now), source.dated);
  panels.percentiles($("percentiles"), figures.byRoute(rows));
  panels.requests($("requests"), live, rows, now);
  panels.caches($("caches"), sample, topology, figures.hitsByCluster(rows, topology.clusterOf));
  panels.news($("news"), source.newsBetween(from, now), source.dated);
  timePanel(source, now);
}

// What was shown is closed, and nobody tells anything: no figure of it stays.
function nothing() {
  const head = figures.bottleneck([], 0, []);
  say($("headline"), head.text);
  $("headline").dataset.grade = head.grade;
  say($("headline-more"), "");
  for (const id of ["numbers", "lengths", "stages", "percentiles", "requests", "caches", "news", "spark"]) replace($(id));
  for (const id of ["lengths-words", "moment"]) say($(id), "");
  for (const chart of [ttftChart, tpotChart]) if (chart.plot) chart.draw(figures.overTime([], figures.ttft, 0, 1), false);
  $("slider").disabled = true;
  map.draw(null, null);
}

function aboutWords(source) {
  const fleet = source.topology ? `${plural(source.topology.clusters.length, "cluster")}, ${plural(source.topology.engines.length, "engine")}` : "";
  return [source.model, source.policy && `policy ${source.policy}`, fleet].filter(Boolean).join(" · ");
}

function lengthsPanel(rows, sample) {
  const used = Object.entries(sample.thresholds ?? {}), best = Object.entries(sample.optima ?? {});
  const many = used.length > 1;
  const marks = [
    ...used.map(([name, t]) => ({ tokens: Math.max(1, t), kind: "used", text: `threshold ${many ? `${name} ` : ""}${tokens(t)}` })),
    ...best.map(([name, t]) => ({ tokens: Math.max(1, t), kind: "best", text: `optimum ${best.length > 1 ? `${name} ` : ""}${tokens(t)}` })),
  ].slice(0, 4);
  histogram($("lengths"), figures.lengths(rows), marks);
  const above = rows.filter((row) => row.route === "offload").length;
  say($("lengths-words"), rows.length ? `${plural(above, "prompt")} of ${rows.length.toLocaleString("en")} ${above === 1 ? "was" : "were"} offloaded.` : "");
}

function timePanel(source, now) {
  const slider = $("slider");
  slider.disabled = source.last <= source.first;
  slider.min = Math.floor(source.first);
  slider.max = Math.ceil(source.last);
  if (state.at == null) slider.value = slider.max;
  const words = moment(now, source.dated);
  slider.setAttribute("aria-valuetext", state.at == null && source.driver === "live" ? `${words}, live` : words);
  say($("moment"), words);
  $("live").setAttribute("aria-pressed", String(state.at == null));
  $("live").textContent = source.follows ? "Live" : "End";
  panels.spark($("spark"), source.samples, source.news, source.first, source.last);
}

function sourcesPanel() {
  const files = state.sources.filter((source) => !source.follows);
  $("sources").hidden = !files.length;
  if (!files.length || $("sources").dataset.key === sourcesKey()) return;
  $("sources").dataset.key = sourcesKey();
  replace($("sources"), state.sources.map((source) => {
    const pick = h("button", { type: "button", class: "button", "aria-pressed": String(source === state.shown) }, source.name);
    pick.addEventListener("click", () => show(source));
    if (source.follows) return h("span", { class: "source" }, pick);
    const close = h("button", { type: "button", class: "button", "aria-label": `Close ${source.name}` }, "×");
    close.addEventListener("click", () => { state.sources = state.sources.filter((s) => s !== source); show(state.sources[0] ?? null); });
    return h("span", { class: "source" }, pick, close);
  }));
}

const sourcesKey = () => state.sources.map((source) => source.id + (source === state.shown ? "*" : "")).join("|");

// The two files opened last, or the only one and what the gateway tells.
const compared = () => state.sources.filter((source) => source.samples.length).slice(-2);

function comparePanel() {
  const pair = compared();
  $("compare").hidden = pair.length < 2;
  if (pair.length < 2) return;
  const [one, other] = pair.map((source) => ({ name: source.name, n: figures.keyNumbers(source.requests, source.last - source.first, source.live.length) }));
  legend($("compare-legend"), [["one", one.name], ["other", other.name]]);
  panels.compare($("compare-table"), one, other);
  shareChart.draw(one.n.firsts, other.n.firsts);
}

function show(source) {
  state.shown = source;
  state.at = null;
  draw();
}

async function open(files) {
  for (const file of files) {
    say($("status"), `Reading ${file.name}`);
    $("connection").dataset.state = "waiting";
    try {
      const source = await readJournal(file, (share) => say($("connection"), `reading ${Math.round(share * 100)}%`));
      const opened = state.sources.filter((known) => !known.follows);
      source.name = unlike(file.name, opened.slice(-1));
      state.sources = [...state.sources.filter((known) => known.follows), ...opened.slice(-1), source];
      show(source);
      say($("connection"), connection.words);
      $("connection").dataset.state = connection.name;
      say($("status"), `${source.name} is shown: ${plural(source.requests.length, "request")}`);
    } catch (error) {
      $("connection").dataset.state = "lost";
      say($("connection"), `${file.name}: ${error.message}`);
      say($("status"), `${file.name} cannot be shown: ${error.message}`);
    }
  }
}

// Journals of two directories often have one name.
const unlike = (name, others) => (others.some((other) => other.name === name) ? `${name} (2)` : name);

const connection = { name: "waiting", words: "connecting" };

async function start() {
  let followed = null;
  try {
    await follow({
      source(source) {
        source.follows = true;
        const at = state.sources.indexOf(followed);
        if (at >= 0) state.sources[at] = source; else state.sources.unshift(source);
        if (state.shown === followed || state.shown == null) state.shown = source;
        followed = source;
        draw();
      },
      tick(tick) {
        for (const item of tick.news.slice(-3)) {
          const words = newsWords(item.entry);
          if (words?.grade === "bad") say($("status"), words.text);
        }
        // A large file is not drawn anew each second.
        if (!document.hidden && [state.shown, ...compared()].includes(followed)) draw();
      },
      state(name, words) {
        Object.assign(connection, { name, words });
        $("connection").dataset.state = name;
        say($("connection"), words);
      },
    });
  } catch (error) {
    if (!(error instanceof KeyNeeded)) throw error;
    $("key-form").hidden = false;
    say($("key-why"), error.message);
    Object.assign(connection, { name: "lost", words: "locked" });
    $("connection").dataset.state = "lost";
    say($("connection"), "locked");
  }
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rememberKey($("key").value);
  $("key").value = "";
  $("key-form").hidden = true;
  start();
});
$("slider").addEventListener("input", () => {
  const value = Number($("slider").value);
  state.at = value >= Number($("slider").max) ? null : value;
  draw();
});
$("live").addEventListener("click", () => { state.at = null; draw(); });
for (const radio of document.querySelectorAll("input[name=window]")) {
  radio.addEventListener("change", () => { state.window = Number(radio.value); draw(); });
}
$("file").addEventListener("change", async () => { await open([...$("file").files]); $("file").value = ""; });
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").hidden = false; });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
addEventListener("drop", (event) => { event.preventDefault(); $("drop").hidden = true; open([...event.dataTransfer.files]); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) draw(); });

const dark = matchMedia("(prefers-color-scheme: dark)");
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  ttftChart.redraw();
  tpotChart.redraw();
}
$("theme").addEventListener("click", () => {
  const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("prfaas-theme", name);
  theme(name);
});
dark.addEventListener("change", () => { if (!localStorage.getItem("prfaas-theme")) theme(dark.matches ? "dark" : "light"); });
theme(localStorage.getItem("prfaas-theme") ?? (dark.matches ? "dark" : "light"));

draw();
start();
