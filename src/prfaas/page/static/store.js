// One deployment's past and present: what the gateway tells, or what a journal says.

const CLUSTER = {
  prefill_up: 0, prefill_busy: 0, prefill_waiting: 0, decode_up: 0, decode_running: 0,
  decode_slots: 0, decode_waiting: 0, cached_blocks: 0, kv_tokens: 0, kv_tokens_used: 0,
  memory_bytes: 0, memory_reserved_bytes: 0,
};
const LINE = {
  up: true, goodput_bytes_per_s: null, limit_bytes_per_s: null, rate_bytes_per_s: null,
  utilisation: 0, congestion: 0, rtt_s: 0, transfers: 0, outstanding_bytes: 0,
};
const MOST_REQUESTS = 200000, MOST_SAMPLES = 8000, MOST_NEWS = 5000;
let made = 0;

export class Source {
  constructor(name, { dated = true, model = null, policy = "", driver = "gateway" } = {}) {
    Object.assign(this, { id: ++made, name, dated, model, policy, driver });
    this.deployed = new Map();
    this.samples = [];
    this.requests = [];
    this.news = [];
    this.live = [];
  }

  deploy(number, topology) {
    const cluster = new Map(topology.engines.map((e) => [e.name, e.cluster]));
    this.deployed.set(number, { number, ...topology, clusterOf: cluster });
    this.newest = number;
  }

  add(sample) {
    this.samples.push(normal(sample));
    if (this.samples.length > MOST_SAMPLES) this.samples.splice(0, 1000);
  }

  // Rows stand by when they ended: a page that was away fills its gap with what it is told.
  addRequests(rows) {
    for (const row of rows) this.requests.push(row);
    if (this.requests.length > MOST_REQUESTS) this.requests.splice(0, MOST_REQUESTS / 10);
  }

  addNews(items) {
    for (const item of items) this.news.push(item);
    if (this.news.length > MOST_NEWS) this.news.splice(0, MOST_NEWS / 10);
  }

  get first() { return this.samples.length ? this.samples[0].at : 0; }
  get last() { return this.samples.length ? this.samples[this.samples.length - 1].at : 0; }
  get topology() { return this.deployed.get(this.newest); }

  // The last sample at or before a time.
  at(time) {
    let low = 0, high = this.samples.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.samples[middle].at <= time) low = middle; else high = middle - 1;
    }
    return this.samples[low];
  }

  // The samples of the last seconds that are of one fleet with that of now: where files are long,
  // samples are further apart, and it alone.
  recent(now, seconds) {
    const last = this.at(now);
    const before = this.samples.filter((sample) => sample.at > now - seconds && sample.at < last.at);
    return [...before.filter((sample) => sample.topology === last.topology), last];
  }

  endedBetween(from, to) {
    return this.requests.filter((row) => { const end = endOf(row); return end > from && end <= to; });
  }

  // Requests under way at a time of the past.
  liveAt(time) {
    return this.requests.filter((row) => row.arrived_at <= time && endOf(row) > time);
  }

  newsBetween(from, to) {
    return this.news.filter((item) => item.at > from && item.at <= to);
  }
}

export function endOf(row) {
  const end = row.completed_s ?? row.first_token_s ?? row.decode_started_s ?? row.transferred_s
    ?? row.prefilled_s ?? row.prefill_started_s ?? 0;
  return row.arrived_at + end;
}

export const uncached = (row) => (row.total_tokens == null ? null : Math.max(1, row.total_tokens - row.cached_tokens));

function normal(sample) {
  return {
    ...sample,
    clusters: sample.clusters.map((c) => ({ ...CLUSTER, ...c })),
    lines: sample.lines.map((l) => ({ ...LINE, ...l })),
  };
}
