// A journal (`prfaas gateway --events`, `prfaas simulate --events`) as a Source. It is read in this
// browser, line by line, and sent nowhere.

import { Source } from "./store.js";
import { isNews, tokensOf } from "./words.js";

const MOST_SAMPLES = 3000;
const TIMES = ["prefill_started_s", "prefilled_s", "transferred_s", "decode_started_s", "first_token_s", "completed_s"];

// Raises Error for a file that is no journal. `progress`: told the share that is read, 0 to 1.
export async function readJournal(file, progress = () => {}) {
  const fold = new Fold(file.name);
  let read = 0, number = 0, rest = "";
  const reader = file.stream().getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { value, done } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      number += 1;
      if (line.trim()) fold.line(line, number);
    }
    if (done) break;
    read += value.length;
    progress(file.size ? read / file.size : 1);
  }
  return fold.finished();
}

class Fold {
  constructor(name) {
    this.source = new Source(name);
    this.open = new Map();
    this.step = 1;
    this.next = null;
    this.unreadable = 0;
  }

  line(text, number) {
    if (text.includes('"type":"SetTimer"') || text.includes('"type":"TransferProgressed"') || text.includes('"type":"TimerFired"')) return;
    let entry;
    try { entry = JSON.parse(text); } catch { entry = null; }
    if (entry == null || typeof entry.at !== "number" || typeof entry.type !== "string") {
      if (!this.fleet) throw new Error(`line ${number} is not of a journal; make one with --events`);
      this.unreadable += 1; // A torn last line: what came before stands.
      return;
    }
    if (entry.type === "JournalOpened") return this.begin(entry);
    if (!this.fleet) throw new Error("it does not begin with JournalOpened: it is no journal of this version");
    this.tick(entry.at);
    this.take(entry.at, entry);
  }

  begin(entry) {
    for (const live of this.open.values()) this.end(live, "unfinished");
    this.offset = entry.unix_time == null ? 0 : entry.unix_time - entry.at;
    const source = this.source;
    Object.assign(source, { dated: entry.unix_time != null, policy: entry.scheduler.policy ?? "auto", driver: entry.driver });
    this.notes = entry.driver === "gateway";
    this.fleet = null; // A gateway that was started again finds out anew how its fleet is.
    this.deploy(entry.topology);
    this.configured = entry.scheduler;
    this.next = entry.at;
  }

  deploy(topology) {
    const number = (this.source.newest ?? -1) + 1;
    this.source.deploy(number, topology);
    const known = this.fleet?.engines ?? new Map();
    this.fleet = {
      number, topology, clusterOf: this.source.topology.clusterOf,
      engines: new Map(topology.engines.map((e) => [e.name, known.get(e.name) ?? { up: e.up !== false, role: e.role, slots: e.max_requests ?? 32, prefills: new Set(), running: new Set() }])),
      lines: new Map(topology.links.map((l) => [`${l.source} ${l.target}`, this.fleet?.lines.get(`${l.source} ${l.target}`) ?? { up: true, rate_bytes_per_s: l.rate_bytes_per_s, rtt_s: l.rtt_s ?? 0, utilisation: 0, congestion: 0, crossing: new Set() }])),
      memory: this.fleet?.memory ?? new Map(),
    };
  }

  // Samples at whole steps; where there would be too many, every other one goes.
  tick(at) {
    if (at - this.next > this.step * MOST_SAMPLES) this.next = at;
    while (this.next <= at) {
      this.source.samples.push(this.sample(this.next));
      this.next += this.step;
      if (this.source.samples.length > MOST_SAMPLES) {
        this.source.samples = this.source.samples.filter((_, i) => i % 2 === 0);
        this.step *= 2;
      }
    }
  }

  sample(at) {
    const { topology, engines, lines, number } = this.fleet;
    const of = (name) => topology.engines.filter((e) => e.cluster === name).map((e) => engines.get(e.name));
    const sized = (set) => set.size;
    const thresholds = this.configured.policy === "threshold" ? this.threshold(topology) : {};
    return {
      at: at + this.offset, topology: number, live: this.open.size, optima: {}, thresholds,
      engines: topology.engines.map((e) => letter(engines.get(e.name))).join(""),
      loads: topology.engines.map((e) => load(engines.get(e.name))).join(""),
      clusters: topology.clusters.map((cluster) => {
        const mine = of(cluster.name).filter((e) => e.up), prefill = mine.filter((e) => e.role === "prefill"), decode = mine.filter((e) => e.role === "decode");
        const busy = prefill.filter((e) => e.prefills.size).length;
        const waiting = [...this.open.values()].filter((r) => r.ready && this.fleet.clusterOf.get(r.row.decode_engine) === cluster.name).length;
        const told = this.memoryOf(cluster.name);
        return {
          prefill_up: prefill.length, prefill_busy: busy, prefill_waiting: prefill.reduce((n, e) => n + sized(e.prefills), 0) - busy,
          decode_up: decode.length, decode_running: decode.reduce((n, e) => n + sized(e.running), 0), decode_slots: decode.reduce((n, e) => n + e.slots, 0),
          decode_waiting: waiting, cached_blocks: 0, kv_tokens: 0, kv_tokens_used: 0,
          memory_bytes: told.reduce((n, m) => n + m.total_bytes, 0), memory_reserved_bytes: told.reduce((n, m) => n + m.reserved_bytes, 0),
        };
      }),
      lines: topology.links.map((l) => {
        const line = lines.get(`${l.source} ${l.target}`);
        const goodput = line.rate_bytes_per_s == null || !line.told ? null : line.utilisation * line.rate_bytes_per_s;
        return { ...line, crossing: undefined, goodput_bytes_per_s: goodput, limit_bytes_per_s: null, transfers: line.crossing.size, outstanding_bytes: 0 };
      }),
    };
  }

  threshold(topology) {
    const tokens = tokensOf(this.configured.options?.threshold ?? this.configured.threshold ?? "4K");
    if (tokens == null) return {};
    return Object.fromEntries(topology.clusters.filter((c) => c.kind === "pd").map((c) => [c.name, tokens]));
  }

  memoryOf(cluster) {
    const machines = new Set(this.fleet.topology.engines.filter((e) => e.cluster === cluster).map((e) => e.machine));
    return [...machines].map((name) => this.fleet.memory.get(name)).filter(Boolean);
  }

  take(at, entry) {
    this.ofFleet(entry);
    if (this.isNews(entry)) this.source.addNews([{ at: at + this.offset, entry }]);
    if (entry.type === "RequestArrived") return this.arrived(at, entry);
    const live = this.open.get(entry.request_id);
    if (entry.type === "RequestEnded") return this.noted(entry, live);
    if (live) this.ofRequest(live, at - live.began, entry);
  }

  isNews(entry) {
    if (!isNews(entry.type)) return false;
    if (entry.type === "RequestEnded") return entry.rendered_s == null && (entry.status === 429 || entry.status === 503);
    if (entry.type === "EngineUp" || entry.type === "LinkStateChanged") return entry.turned === true;
    return true;
  }

  ofFleet(entry) {
    const engine = this.fleet.engines.get(entry.engine);
    const line = this.fleet.lines.get(`${entry.source} ${entry.target}`);
    switch (entry.type) {
      case "EngineUp": if (engine) { entry.turned = engine.was === true; Object.assign(engine, { up: true, was: false, suspected: false }); } break;
      case "EngineDown": if (engine) { Object.assign(engine, { up: false, was: true, suspected: false }); engine.prefills.clear(); engine.running.clear(); } break;
      case "EngineSuspected": if (engine) Object.assign(engine, { up: false, was: true, suspected: true }); break;
      case "EngineCordoned": if (engine) engine.cordoned = true; break;
      case "EngineUncordoned": if (engine) engine.cordoned = false; break;
      case "ChangeRole": if (engine && !entry.dry_run) engine.role = entry.role; break;
      case "MemoryReported": this.fleet.memory.set(entry.machine, entry); break;
      case "TopologyChanged": this.deploy(entry.topology); break;
      case "LinkStateChanged": if (line) {
        entry.turned = line.up !== entry.up;
        Object.assign(line, { told: true, up: entry.up, utilisation: entry.utilisation ?? 0, congestion: entry.congestion ?? 0, rtt_s: entry.rtt_s || line.rtt_s });
        if (entry.rate_bytes_per_s != null) line.rate_bytes_per_s = entry.rate_bytes_per_s;
      } break;
    }
  }

  arrived(at, entry) {
    const row = {
      request_id: entry.request_id, arrived_at: at + this.offset, total_tokens: entry.total_tokens, cached_tokens: 0,
      max_output_tokens: entry.max_output_tokens, attempts: 0, kv_bytes: 0, outcome: "unfinished", route: null, reason: null,
      prefill_engine: null, decode_engine: null, output_tokens: null,
    };
    for (const name of TIMES) row[name] = null;
    this.open.set(entry.request_id, { row, began: at, cached: entry.cached ?? {}, decodes: new Map() });
  }

  ofRequest(live, now, entry) {
    const { row } = live, { engines } = this.fleet;
    switch (entry.type) {
      case "StartPrefill":
        this.attempt(live, entry, entry.decode_engine);
        Object.assign(row, { prefill_engine: entry.engine, prefill_started_s: now, prefilled_s: null, transferred_s: null });
        engines.get(entry.engine)?.prefills.add(row.request_id);
        this.lineOf(entry.engine, entry.decode_engine)?.crossing.add(row.request_id);
        break;
      case "StartDecode":
        this.attempt(live, entry, entry.engine);
        row.decode_started_s = now;
        live.ready = false;
        live.decodes.set(entry.attempt, [entry.engine, now]);
        if (entry.transfer_id == null) row.prefill_engine = null;
        engines.get(entry.engine)?.running.add(row.request_id);
        break;
      case "PrefillCompleted": row.prefilled_s = now; this.leave(row, "prefills"); break;
      case "PrefillFailed": case "CancelPrefill": this.leave(row, "prefills"); break;
      case "TransferCompleted": row.transferred_s = now; live.ready = row.decode_started_s == null; this.uncross(row); break;
      case "TransferFailed": case "CancelTransfer": this.uncross(row); break;
      case "DecodeFailed": case "CancelDecode": engines.get(live.decodes.get(entry.attempt)?.[0])?.running.delete(row.request_id); break;
      case "FirstToken":
        row.first_token_s = now;
        if (live.decodes.has(entry.attempt)) [row.decode_engine, row.decode_started_s] = live.decodes.get(entry.attempt);
        break;
      case "RequestCompleted":
        Object.assign(row, { completed_s: now, outcome: "ok", output_tokens: entry.output_tokens ?? null });
        this.settle(live);
        break;
      case "FailRequest": Object.assign(row, { outcome: entry.kind, error: entry.message }); this.settle(live); break;
      case "RequestCancelled": row.outcome = "cancelled"; this.settle(live); break;
    }
  }

  attempt(live, entry, decodeEngine) {
    const { clusterOf } = this.fleet, place = clusterOf.get(decodeEngine);
    const held = Object.entries(live.cached).filter(([name]) => clusterOf.get(name) === place).map(([, n]) => n);
    Object.assign(live.row, {
      attempts: Math.max(live.row.attempts, entry.attempt), route: entry.route, reason: entry.reason,
      decode_engine: decodeEngine, cached_tokens: Math.max(0, ...held),
    });
  }

  settle(live) {
    this.leave(live.row, "prefills");
    this.leave(live.row, "running");
    this.uncross(live.row);
    live.ready = false;
    if (!this.notes) this.end(live, live.row.outcome);
  }

  noted(note, live) {
    if (!live) {
      live = { row: { ...note, arrived_at: note.received_at + this.offset, total_tokens: null, cached_tokens: 0, route: null }, began: note.received_at };
    } else {
      const by = live.began - note.received_at;
      for (const name of TIMES) if (live.row[name] != null) live.row[name] += by;
      live.row.arrived_at = note.received_at + this.offset;
      const { at, type, received_at, request_id, ...told } = note;
      Object.assign(live.row, told);
      if (note.why_alone != null) live.row.total_tokens = null;
      this.settle(live);
    }
    this.end(live, note.outcome);
  }

  end(live, outcome) {
    live.row.outcome = outcome;
    this.open.delete(live.row.request_id);
    this.source.addRequests([live.row]);
  }

  lineOf(from, to) {
    const { clusterOf, lines } = this.fleet;
    return lines.get(`${clusterOf.get(from)} ${clusterOf.get(to)}`);
  }

  leave(row, which) {
    for (const name of [row.prefill_engine, row.decode_engine]) this.fleet.engines.get(name)?.[which].delete(row.request_id);
  }

  uncross(row) {
    for (const line of this.fleet.lines.values()) line.crossing.delete(row.request_id);
  }

  finished() {
    if (!this.fleet) throw new Error("it is empty");
    this.source.samples.push(this.sample(this.next));
    for (const live of [...this.open.values()]) this.end(live, "unfinished");
    if (this.unreadable) this.source.addNews([{ at: this.source.last, entry: { type: "LinesLost", lines: this.unreadable } }]);
    return this.source;
  }
}

function letter(engine) {
  if (engine.cordoned) return "c";
  if (!engine.up) return engine.suspected ? "s" : "x";
  const works = engine.role === "prefill" ? engine.prefills.size : engine.running.size;
  const letter = engine.role === "prefill" ? "p" : "d";
  return works ? letter.toUpperCase() : letter;
}

function load(engine) {
  return engine.role === "prefill" ? Math.min(9, engine.prefills.size) : Math.min(9, Math.round((9 * engine.running.size) / Math.max(1, engine.slots)));
}
