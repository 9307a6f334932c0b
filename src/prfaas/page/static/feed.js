// Follows a gateway: all it has kept, then a tick a second. EventSource cannot carry a key, so the
// stream of events is read from `fetch`.

import { Source } from "./store.js";

const RETRY_MS = 2000;
const KEY = "prfaas-operator-key";

export class KeyNeeded extends Error {}

export const rememberKey = (key) => sessionStorage.setItem(KEY, key);

// `on`: {source(source), tick(), state(name, words)}; never returns but for a key that is needed.
export async function follow(on) {
  for (;;) {
    try {
      on.state("waiting", "connecting");
      const stream = await get("stream"); // First, so that nothing falls between the two.
      const source = filled(await (await get("history")).json());
      on.source(source);
      on.state("live", "live");
      for await (const tick of events(stream)) {
        if (!source.deployed.has(tick.sample.topology)) break; // The history has it.
        if (tick.sample.at <= source.last) continue; // The history has told it.
        source.add(tick.sample);
        source.addRequests(tick.ended);
        source.addNews(tick.news);
        source.live = tick.live;
        on.tick(tick);
      }
      on.state("lost", "reading again");
    } catch (error) {
      if (error instanceof KeyNeeded) throw error;
      on.state("lost", "the gateway does not answer");
    }
    await new Promise((wake) => setTimeout(wake, RETRY_MS));
  }
}

async function get(path) {
  const key = sessionStorage.getItem(KEY);
  const answer = await fetch(path, { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (answer.status === 401 || answer.status === 403) {
    const body = await answer.json().catch(() => ({}));
    throw new KeyNeeded(body.error?.message ?? "The gateway asks for an operator's key.");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer;
}

function filled(history) {
  const source = new Source("this deployment", history);
  for (const { number, topology } of history.deployed) source.deploy(number, topology);
  for (const sample of history.samples) source.add(sample);
  source.addRequests(history.ended);
  source.addNews(history.news);
  return source;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}
