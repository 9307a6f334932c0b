// Numbers and events in words.

const UNITS = ["", "K", "M", "G", "T"];

export function bits(bytesPerS) {
  if (bytesPerS == null) return "unknown";
  return scaled(bytesPerS * 8, 1000) + "bit/s";
}

export function bytes(n) {
  if (n == null) return "unknown";
  let power = 0;
  while (n >= 1024 && power < 4) { n /= 1024; power += 1; }
  return `${short(n)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

// As in deployment files: K is 1024.
const TOKENS = { "": 1, K: 1024, M: 1024 ** 2 };

export function tokens(n) {
  if (n == null) return "–";
  if (n >= 10 * TOKENS.M) return `${short(n / TOKENS.M)}M`;
  return n >= 10000 ? `${short(n / TOKENS.K)}K` : Math.round(n).toLocaleString("en");
}

// What a file says ("16K"), as a number; null where it says none.
export function tokensOf(text) {
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([KM]?)\s*$/.exec(String(text)) ?? [];
  return digits ? Math.round(Number(digits) * TOKENS[unit]) : null;
}

export function seconds(s) {
  if (s == null || Number.isNaN(s)) return "–";
  if (s < 0.9995) return `${short(s * 1000)} ms`;
  if (s < 120) return `${short(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  return `${short(s / 3600)} h`;
}

export const percent = (share) => (share == null ? "–" : `${Math.round(share * 100)}%`);

export function short(n) {
  if (n === 0) return "0";
  const size = Math.abs(n);
  return size >= 100 ? n.toFixed(0) : size >= 10 ? n.toFixed(1).replace(/\.0$/, "") : n.toFixed(2).replace(/\.?0+$/, "");
}

function scaled(n, base) {
  let power = 0;
  while (n >= base && power < UNITS.length - 1) { n /= base; power += 1; }
  return `${short(n)} ${UNITS[power]}`;
}

// A journal's dates, or a simulation's own seconds.
export function moment(at, dated) {
  if (dated) return new Date(at * 1000).toLocaleTimeString("en-GB");
  const whole = Math.max(0, Math.floor(at));
  const pad = (n) => String(n).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
}

export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// What an entry of the journal says: how grave it is, a word for its kind, a sentence.
const NEWS = {
  EngineDown: (e) => ["bad", "down", `Engine ${e.engine} is down: ${e.reason}`],
  EngineSuspected: (e) => ["warn", "suspected", `Engine ${e.engine} may be failing: ${e.reason}`],
  EngineUp: (e) => ["good", "up", `Engine ${e.engine} is back`],
  EngineCordoned: (e) => ["note", "drain", `Engine ${e.engine} takes no more work: ${e.reason}`],
  EngineUncordoned: (e) => ["note", "drain", `Engine ${e.engine} serves again`],
  ReportDrained: (e) => ["note", "drain", `Engine ${e.engine} is drained: nothing is left on it`],
  ChangeRole: (e) => ["note", "role", `Engine ${e.engine} ${e.dry_run ? "would now work" : "now works"} as ${e.role}: ${e.reason}`],
  LinkStateChanged: (e) => e.up
    ? ["good", "line", `The line ${e.source} to ${e.target} is up again`]
    : ["bad", "line", `The line ${e.source} to ${e.target} is down`],
  MachinesCut: (e) => ["bad", "line", `Machine ${e.source} does not reach ${e.target}`],
  MachinesJoined: (e) => ["good", "line", `Machine ${e.source} reaches ${e.target} again`],
  PrefillFailed: (e) => ["warn", "fallback", `A prefill failed and is tried elsewhere: ${e.reason}`],
  TransferFailed: (e) => ["warn", "fallback", `A transfer failed and is tried again: ${e.reason}`],
  DecodeFailed: (e) => ["warn", "fallback", `A decode failed: ${e.reason}`],
  FailRequest: (e) => e.kind === "overloaded"
    ? ["warn", "refused", `A request was refused: ${e.message}`]
    : ["bad", "failed", `A request failed: ${e.message}`],
  RequestEnded: (e) => ["warn", "refused", `A request was refused (${e.status}): ${e.error ?? e.outcome}`],
  TopologyChanged: () => ["note", "fleet", "The deployment file was changed and taken over"],
  LinesLost: (e) => ["warn", "journal", `${plural(e.lines, "line")} of the journal could not be written`],
};

export function newsWords(entry) {
  const tell = NEWS[entry.type];
  if (!tell) return null;
  const [grade, kind, text] = tell(entry);
  return { grade, kind, text };
}

export const isNews = (type) => type in NEWS;

export const ROUTES = [
  { id: "offload", name: "offloaded" },
  { id: "pd-p", name: "local prefill" },
  { id: "direct", name: "decode alone" },
];
