// What everything is doing now: follows the stream of events, keeps the latest of everything, and
// computes rates. Pages subscribe for as long as they are open.

import { BASE, get } from "./api.js";

const RATE_MS = 15_000;
const HOUR_MS = 3_600_000;
// The stream tells totals each second; the charts need fewer.
const SAMPLE_MS = 5_000;
const SILENCE_MS = 8_000;
const AGAIN_MS = 2_000;

const empty = () => ({
  totals: null, revision: 0, more: 0, lost: false, at: 0,
  queues: new Map(), subscriptions: new Map(), brokers: new Map(), samples: [], rates: new Map(),
});

export let now = empty();
let source = null;
let watch = null;
let again = null;
let past = new Map();
const followers = new Set();

export function follow(told, signal) {
  followers.add(told);
  signal.addEventListener("abort", () => followers.delete(told));
  if (now.totals !== null) told(now);
}

// Runs something now and then again and again, one after the other, for as long as a page is open.
export async function repeat(run, everyMs, signal) {
  while (!signal.aborted) {
    await run();
    await new Promise((done) => setTimeout(done, everyMs));
  }
}

function tell() {
  for (const told of [...followers]) told(now);
}

export function start() {
  stop();
  now = empty();
  past = new Map();
  connect();
  watch = setInterval(() => {
    if (now.totals !== null && !now.lost && Date.now() - now.at > SILENCE_MS) lose();
  }, 1_000);
}

export function stop() {
  source?.close();
  source = null;
  clearInterval(watch);
  clearTimeout(again);
}

function connect() {
  source?.close();
  source = new EventSource(`${BASE}/events`);
  source.addEventListener("all", (event) => {
    now.queues = new Map();
    now.subscriptions = new Map();
    now.brokers = new Map();
    take(JSON.parse(event.data));
  });
  source.addEventListener("changes", (event) => take(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    if (source.readyState !== EventSource.CLOSED) return;
    lose();
    clearTimeout(again);
    again = setTimeout(ask, AGAIN_MS);
  });
}

// The stream was refused: perhaps the session is over, which this call finds out.
async function ask() {
  try {
    await get("/whoami");
    connect();
  } catch (problem) {
    if (problem.status !== 401) again = setTimeout(ask, AGAIN_MS);
  }
}

function lose() {
  now.lost = true;
  tell();
}

function take(told) {
  for (const kind of ["queues", "subscriptions", "brokers"]) {
    for (const [name, value] of Object.entries(told[kind])) now[kind].set(name, value);
    for (const name of told.gone?.[kind] ?? []) now[kind].delete(name);
  }
  now.totals = told.totals;
  now.revision = told.revision;
  now.more = told.more;
  now.lost = false;
  now.at = Date.now();
  if (told.history) now.samples = told.history.samples;
  sample(told.totals);
  rates(told.totals.at_ms);
  tell();
}

function sample(totals) {
  const last = now.samples.at(-1);
  if (last && totals.at_ms - last.at_ms < SAMPLE_MS) return;
  now.samples = [...now.samples.filter((old) => totals.at_ms - old.at_ms < HOUR_MS), totals];
}

// Attempts a second over the last seconds, for each subscription.
function rates(at) {
  for (const [name, { acked, retried, dead }] of now.subscriptions) {
    const points = (past.get(name) ?? []).filter((point) => at - point.at < RATE_MS && point.acked <= acked);
    points.push({ at, acked, retried, dead });
    past.set(name, points);
    const first = points[0];
    const seconds = (at - first.at) / 1000;
    now.rates.set(name, seconds > 0
      ? { acked: (acked - first.acked) / seconds, retried: (retried - first.retried) / seconds }
      : null);
  }
}
