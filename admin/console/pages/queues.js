// Queues: what they hold, how old it is, whose they are; and a look inside that takes nothing.

import { get } from "../api.js";
import { definitions, put, remove } from "../catalog.js";
import { facts, h, link, liveTable, place, say } from "../dom.js";
import { ask, button, field, optional, ownerLines, pointerLines } from "../form.js";
import { age, bytes, count, moment, owners } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";
import { rules } from "./rules.js";
import { brokerOptions } from "./topics.js";

const OLD_MS = 60_000;
const LOOK = 50;

export function queues(view) {
  return view.path[0] ? detail(view, view.path[0]) : list(view);
}

const isOld = (queue) => queue.oldest_at_ms !== null && Date.now() - queue.oldest_at_ms > OLD_MS;

async function list({ root, signal, again }) {
  const filter = h("input", { type: "search", "aria-label": t("filter"), placeholder: t("filter") });
  const table = liveTable([
    { head: t("queue"), row: true, node: (q) => link(place("queues", q.name), q.name), sign: (q) => q.name },
    { head: t("ready"), class: "number", text: (q) => count(q.ready) },
    { head: t("in_flight"), class: "number", text: (q) => count(q.in_flight) },
    { head: t("delayed"), class: "number", text: (q) => count(q.delayed) },
    { head: t("dead_letters"), class: "number", text: (q) => count(q.dead), tone: (q) => (q.dead > 0 ? "bad" : "") },
    { head: t("oldest"), class: "number", text: (q) => age(q.oldest_at_ms), tone: (q) => (isOld(q) ? "bad" : "") },
    { head: t("taken_by"), node: (q) => (q.taker ? link(place("subscriptions", q.taker), q.taker) : t("nobody")), sign: (q) => q.taker ?? "" },
    { head: t("owners"), class: "prose", text: (q) => owners(q.owners) },
    { head: t("broker"), text: (q) => q.broker ?? "–" },
  ], { key: (q) => q.name, label: t("page.queues"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
  root.append(h("div", { class: "bar-of-page" }, filter, button(t("add_queue"), () => edit(undefined, again))), table.node);
  let defined = new Map();
  let revision = -1;
  live.follow(async (now) => {
    if (now.revision !== revision) {
      revision = now.revision;
      defined = new Map((await definitions("queues")).map((queue) => [queue.name, queue]));
      if (signal.aborted) return;
    }
    const takers = new Map([...now.subscriptions].map(([name, one]) => [one.queue, name]));
    const word = filter.value.trim().toLowerCase();
    const rows = [...now.queues].filter(([name]) => name.toLowerCase().includes(word));
    table.update(rows.map(([name, queue]) => ({ ...queue, name, taker: takers.get(name), owners: defined.get(name)?.owners,
      broker: defined.get(name)?.broker })).sort((a, b) => a.name.localeCompare(b.name)));
  }, signal);
}

async function detail({ root, title, signal, again }, name) {
  title.textContent = `${t("queue")} ${name}`;
  const queue = await get(`/queues/${encodeURIComponent(name)}`);
  const numbers = Object.fromEntries(["ready", "in_flight", "delayed", "dead_letters", "oldest"].map((word) => [word, h("b", {})]));
  const trouble = h("p", { class: "error", role: "alert" }, queue.trouble ?? "");
  root.append(
    h("p", {}, link("queues", `← ${t("page.queues")}`)), trouble,
    h("dl", { class: "numbers" }, Object.entries(numbers).map(([word, node]) => h("div", {}, h("dt", {}, t(word)), h("dd", {}, node)))),
    h("p", { class: "buttons" }, button(t("edit"), () => edit(queue, again), { label: t("edit_name", { name }) }),
      button(t("delete"), () => askDelete(queue), { label: t("delete_name", { name }) }),
      queue.counts.dead > 0 && queue.subscription && link(place("dead-letters", queue.subscription), t("look_dead_letters"), { class: "button" })),
    facts([
      [t("description"), queue.description], [t("owners"), owners(queue.owners)], [t("broker"), queue.broker],
      [t("queue_type"), queue.type], [t("address"), queue.address],
      [t("taken_by"), queue.subscription ? link(place("subscriptions", queue.subscription), queue.subscription) : t("nobody")],
      [t("max_messages"), count(queue.retention.max_messages)], [t("max_bytes"), bytes(queue.retention.max_bytes)],
      [t("max_age"), queue.retention.max_age_ms === null ? t("no_limit") : `${count(queue.retention.max_age_ms)} ms`],
      [t("mask"), (queue.mask ?? []).join(", ")], [t("changed"), moment(queue.changed_at_ms)],
    ]), rules(queue, again), peek(name));
  live.follow((now) => {
    const held = now.queues.get(name);
    if (!held) return;
    say(numbers.ready, count(held.ready));
    say(numbers.in_flight, count(held.in_flight));
    say(numbers.delayed, count(held.delayed));
    say(numbers.dead_letters, count(held.dead));
    say(numbers.oldest, age(held.oldest_at_ms));
    say(trouble, held.trouble ?? "");
  }, signal);
}

function peek(name) {
  const table = liveTable([
    { head: t("message"), row: true, node: (m) => link(`${place("messages", m.id)}?topic=${encodeURIComponent(m.topic)}`, m.id) },
    { head: t("topic"), text: (m) => m.topic },
    { head: t("key"), text: (m) => m.key || "–" },
    { head: t("published"), text: (m) => moment(m.published_at_ms) },
    { head: t("size"), class: "number", text: (m) => bytes(m.size_bytes) },
  ], { key: (m) => `${m.topic} ${m.id}`, label: t("peek"), empty: t("nothing_waits") });
  table.update([]);
  const error = h("p", { class: "hint", role: "status" });
  const look = button(t("peek_now"), async () => {
    error.textContent = "";
    try {
      const part = await get(`/queues/${encodeURIComponent(name)}/messages?limit=${LOOK}`);
      table.update(part.items);
      if (part.next) error.textContent = t("first_ones", { n: LOOK });
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }, { role: "viewer" });
  return h("section", { "aria-labelledby": "peek-title" }, h("h2", { id: "peek-title" }, t("peek")),
    h("p", { class: "hint" }, t("peek_hint")), h("p", { class: "buttons" }, look), error, table.node);
}

function askDelete(queue) {
  const force = field({ name: "force", label: t("delete_force"), kind: "check", value: false });
  ask({ title: t("delete_name", { name: queue.name }), intro: t("delete_queue_hint"), fields: [force], action: t("delete"), danger: true,
    save: async ({ force: drop }) => {
      await remove("queues", queue.name, queue.revision, drop ? "?force=true" : "");
      location.hash = "#/queues";
    } });
}

async function edit(queue, again) {
  const { name, revision, created_at_ms, changed_at_ms, counts, oldest_age_ms, trouble, subscription, ...old } = queue ?? {};
  const retention = old.retention ?? { max_messages: 10_000_000, max_bytes: 64 * 2 ** 30, max_age_ms: null };
  ask({
    title: queue ? t("edit_name", { name }) : t("add_queue"),
    fields: [
      field({ name: "name", label: t("name"), value: name, required: true, fixed: Boolean(queue) }),
      field({ name: "description", label: t("description"), value: old.description }),
      field({ name: "owners", label: t("owners"), kind: "area", value: ownerLines.show(old.owners), hint: t("owners_hint"), read: ownerLines.read }),
      field({ name: "broker", label: t("broker"), kind: "select", value: old.broker, options: await brokerOptions(), fixed: Boolean(queue) }),
      field({ name: "max_messages", label: t("max_messages"), kind: "number", min: 1, value: retention.max_messages }),
      field({ name: "max_age_ms", label: t("max_age_ms"), kind: "number", min: 1, value: retention.max_age_ms ?? "", read: optional, hint: t("max_age_hint") }),
      field({ name: "mask", label: t("mask"), kind: "area", rows: 2, value: pointerLines.show(old.mask), hint: t("mask_hint"), read: pointerLines.read }),
    ],
    save: async (values) => {
      const { name: wanted, max_messages, max_age_ms, ...fields } = values;
      const kept = { ...retention, max_messages, max_age_ms: max_age_ms ?? null };
      await put("queues", queue ? name : wanted, { ...old, ...fields, retention: kept }, revision);
      again();
    },
  });
}
