// What the stream of events does not tell and the overview shows: handlers that cannot reach something,
// and versions that the host has taken back.

import { get } from "../api.js";
import { place } from "../dom.js";
import { count, short } from "../format.js";
import { t } from "../text/text.js";
import { nextProbe } from "./reach.js";

const DAY_MS = 86_400_000;
// Subscriptions that are asked at a time.
const MOST = 20;
// The audit log is read in parts; of a busy day not more than these.
const PARTS = 5;

const base = (name) => `/subscriptions/${encodeURIComponent(name)}`;
const go = (name) => [place("subscriptions", name), t("open_subscription")];

// Whether a queue may hold something back; one that cannot be measured may.
const holdsBack = (queue) => !queue || [queue.delayed, queue.in_flight].some((n) => n === null || n > 0);

// Answers of which some may be missing: of what was deleted meanwhile, or while the host does not answer.
async function each(names, path) {
  const answers = await Promise.all(names.map((name) => get(path(name)).catch(() => null)));
  return names.map((name, index) => [name, answers[index]]).filter(([, answer]) => answer !== null);
}

// Asks only where an attempt has failed and something is held back: there is no dependency without.
export async function unreachable(now) {
  const asked = [...now.subscriptions].filter(([, one]) => one.last_failure !== null && holdsBack(now.queues.get(one.queue)));
  const names = asked.slice(0, MOST).map(([name]) => name);
  const shown = await each(names, base);
  return shown.flatMap(([name, one]) => one.status.dependencies.map((what) => ({
    key: `reach ${name} ${what.name}`, bad: !what.recovering, queue: one.queue, since: what.since_ms, go: go(name),
    what: t("trouble.reach", { name, dependency: what.name }),
    why: [what.reason || t("no_reason"), t("trouble.held", { n: count(what.held) }),
      what.recovering ? t("out_of_reach.recovering") : t("trouble.probe", { when: nextProbe(what) })].join("; "),
  })));
}

// What the host itself has changed in the last day stands in the audit log without a name. It is read anew
// when definitions have changed, as far as it is new.
export function returnedLately() {
  const names = new Map();
  let newest = 0;
  let revision;
  async function read() {
    const oldest = Date.now() - DAY_MS;
    let [after, first] = ["", newest];
    for (let part = 0; part < PARTS && after !== null; part += 1) {
      const { items, next } = await get(`/audit?kind=subscription&limit=100${after}`);
      for (const one of items) {
        newest = Math.max(newest, one.number);
        if (one.by === null && one.number > first) names.set(one.name, Math.max(one.at_ms, names.get(one.name) ?? 0));
      }
      const last = items.at(-1);
      const done = next === null || (last && (last.number <= first || last.at_ms < oldest));
      after = done ? null : `&after=${encodeURIComponent(next)}`;
    }
  }
  return async (now) => {
    if (now.revision !== revision) {
      await read();
      revision = now.revision;
    }
    const oldest = Date.now() - DAY_MS;
    for (const [name, at] of names) {
      if (at < oldest || !now.subscriptions.has(name)) names.delete(name);
    }
    const latest = await each([...names.keys()].slice(-MOST), (name) => `${base(name)}/swaps?limit=1`);
    return latest.filter(([, { items: [swap] }]) => swap?.cause === "returned" && swap.at_ms >= oldest).map(([name, { items: [swap] }]) => ({
      key: `returned ${name}`, bad: false, queue: now.subscriptions.get(name)?.queue, ago: swap.at_ms, go: go(name),
      what: t("trouble.returned", { name, version: short(swap.from) }), why: swap.why,
    }));
  };
}
