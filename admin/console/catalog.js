// Definitions as they stand: read once for each revision, which the stream of events tells.

import { all, call, get } from "./api.js";
import { now } from "./live.js";

// What a subscription is defined by; the rest of what is answered says what it is doing.
const SUBSCRIPTION = ["queue", "plugin", "version", "forward", "workers", "max_in_flight", "order", "instances", "config",
  "limits", "retry", "grants", "rate", "guard", "rollout", "paused", "description"];

let read = new Map();

export function definitions(kind) {
  const known = read.get(kind);
  if (known && known.revision === now.revision) return known.items;
  const items = all(`/${kind}`);
  read.set(kind, { revision: now.revision, items });
  items.catch(() => read.delete(kind));
  return items;
}

// After a change of our own, which the stream has not told yet.
export function forget() {
  read = new Map();
}

export async function put(kind, name, definition, revision) {
  const headers = revision === undefined ? { "if-none-match": "*" } : { "if-match": `"r${revision}"` };
  const answer = await call("PUT", `/${kind}/${encodeURIComponent(name)}`, { body: definition, headers });
  forget();
  return answer;
}

export async function remove(kind, name, revision, query = "") {
  const headers = revision === undefined ? {} : { "if-match": `"r${revision}"` };
  await call("DELETE", `/${kind}/${encodeURIComponent(name)}${query}`, { headers });
  forget();
}

export function subscriptionDefinition(shown) {
  return Object.fromEntries(SUBSCRIPTION.filter((field) => field in shown).map((field) => [field, shown[field]]));
}

// The same on another version. A candidate that takes over so is none any more.
export function onVersion(definition, version) {
  if (version === definition.version || version !== definition.rollout?.version) return { ...definition, version };
  const { rollout, ...rest } = definition;
  return { ...rest, version };
}

// Gives a subscription another version, of the definition that stands now.
export async function swap(name, version) {
  const shown = await get(`/subscriptions/${encodeURIComponent(name)}`);
  return put("subscriptions", name, onVersion(subscriptionDefinition(shown), version), shown.revision);
}

// Goes back to what handled a subscription before a change.
export async function rollBack(name, swap) {
  const answer = await call("POST", `/subscriptions/${encodeURIComponent(name)}/rollback`, { body: { swap } });
  forget();
  return answer;
}

export async function pause(name, paused) {
  const answer = await call("POST", `/subscriptions/${encodeURIComponent(name)}/${paused ? "pause" : "resume"}`);
  forget();
  return answer;
}

// The route's way on: queue, subscription and plugin.
export function wayOf(queue, subscriptions) {
  return subscriptions.find((subscription) => subscription.queue === queue);
}
