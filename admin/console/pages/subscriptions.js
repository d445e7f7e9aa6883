// Subscriptions: what each is doing, and everything about it that can be changed while it runs.

import { get } from "../api.js";
import { definitions, onVersion, pause, put, remove, subscriptionDefinition } from "../catalog.js";
import { announce, facts, h, link, liveTable, place, say } from "../dom.js";
import { ask, button, confirm, field, lines, optional } from "../form.js";
import { STATE_TONES, age, bytes, count, handler, micros, moment, rate, short, span } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";
import { outOfReach } from "./reach.js";
import { rollout } from "./rollout.js";
import { versionOptions, versions } from "./versions.js";

const LIMITS = ["memory_bytes", "time_ms", "cpu_ms", "log_bytes", "publish_messages", "publish_bytes", "state_writes",
  "state_bytes", "table_elements", "instances"];
const RENEW_MS = 2_000;
const LIMIT_UNITS = { bytes, ms: (ms) => `${count(ms)} ms` };

export function subscriptions(view) {
  return view.path[0] ? detail(view, view.path[0]) : list(view);
}

// Pause or resume, whichever is the other of what is wanted now.
function pauseButton(name, state, again) {
  const paused = state === "paused";
  const word = paused ? "resume" : "pause";
  return button(t(word), async () => {
    await pause(name, !paused);
    announce(t(paused ? "resumed_name" : "paused_name", { name }));
    again?.();
  }, { label: t(paused ? "resume_name" : "pause_name", { name }), tone: paused ? "primary" : "" });
}

async function list({ root, signal, again }) {
  const filter = h("input", { type: "search", "aria-label": t("filter"), placeholder: t("filter") });
  const table = liveTable([
    { head: t("subscription"), row: true, sign: (s) => `${s.name} ${s.defined && handler(s.defined)}`, node: (s) => [
      link(place("subscriptions", s.name), s.name),
      s.defined && h("span", { class: "below" }, handledBy(s.defined))] },
    { head: t("state"), text: (s) => t(`state.${s.state}`), tone: (s) => STATE_TONES[s.state] },
    { head: t("actions"), class: "actions", node: (s) => pauseButton(s.name, s.state), sign: (s) => String(s.state === "paused") },
    { head: t("rate"), class: "number", text: (s) => rate(s.rate?.acked) },
    { head: t("ready"), class: "number", text: (s) => count(s.held?.ready ?? null) },
    { head: t("acked"), class: "number", text: (s) => count(s.acked) },
    { head: t("retried"), class: "number", text: (s) => count(s.retried) },
    { head: t("dead"), class: "number", text: (s) => count(s.dead), tone: (s) => (s.dead > 0 ? "bad" : "") },
    { head: t("handled_p95"), class: "number", text: (s) => (s.latency.handled ? micros(s.latency.handled.p95_us) : "–") },
    { head: t("last_failure"), class: "prose", text: (s) => s.error ?? s.last_failure ?? "–" },
  ], { key: (s) => s.name, label: t("page.subscriptions"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
  root.append(h("div", { class: "bar-of-page" }, filter, button(t("add_subscription"), () => add(again))), table.node,
    h("p", { class: "hint" }, t("since_start")));
  let defined = new Map();
  let revision = -1;
  live.follow(async (now) => {
    if (now.revision !== revision) {
      revision = now.revision;
      defined = new Map((await definitions("subscriptions")).map((one) => [one.name, one]));
      if (signal.aborted) return;
    }
    const word = filter.value.trim().toLowerCase();
    const rows = [...now.subscriptions].filter(([name]) => name.toLowerCase().includes(word));
    table.update(rows.map(([name, one]) => ({ ...one, name, held: now.queues.get(one.queue), rate: now.rates.get(name),
      defined: defined.get(name) })).sort((a, b) => a.name.localeCompare(b.name)));
  }, signal);
}

async function detail({ root, title, signal, again }, name) {
  title.textContent = `${t("subscription")} ${name}`;
  let shown = await get(`/subscriptions/${encodeURIComponent(name)}`);
  const state = h("b", {});
  const words = ["rate", "ready", "in_flight", "oldest", "acked", "retried", "dead", "dead_letters"];
  const numbers = Object.fromEntries(words.map((word) => [word, h("b", {})]));
  const why = h("p", { class: "error" });
  const press = h("span", {});
  const latency = latencyTable();
  const terms = h("div", { class: "split" });
  const shipping = shipped(name, drawDefinition);
  let drawn;
  function drawDefinition(latest) {
    if (latest.revision === shown.revision && terms.hasChildNodes()) return;
    shown = latest;
    terms.replaceChildren(h("section", {}, h("h2", {}, t("definition")), definition(shown)), h("section", {}, h("h2", {}, t("limits")), limits(shown)));
  }
  root.append(h("p", {}, link("subscriptions", `← ${t("page.subscriptions")}`)),
    h("p", { class: "state-line" }, `${t("state")}: `, state, " ", press), why,
    h("dl", { class: "numbers" }, words.map((word) => h("div", {}, h("dt", {}, t(word)), h("dd", {}, numbers[word])))),
    latency.node,
    h("p", { class: "buttons" },
      button(t("edit"), () => edit(shown, again), { label: t("edit_name", { name }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name }), intro: t("delete_subscription_hint"), action: t("delete"),
        run: async () => { await remove("subscriptions", name, shown.revision); location.hash = "#/subscriptions"; } }), { label: t("delete_name", { name }) }),
      link(place("dead-letters", name), t("look_dead_letters"), { class: "button" }),
      link(`messages?subscription=${encodeURIComponent(name)}`, t("its_messages"), { class: "button" })),
    ...shipping.nodes(shown), terms);
  drawDefinition(shown);
  // That the host does not answer is shown anyway.
  live.repeat(() => shipping.renew().catch(() => {}), RENEW_MS, signal);
  live.follow((now) => {
    const one = now.subscriptions.get(name);
    if (!one) return;
    const held = now.queues.get(one.queue);
    say(state, `${t(`state.${one.state}`)} (${age(one.since_ms)})`);
    state.className = STATE_TONES[one.state];
    say(why, one.error ?? (one.last_failure ? `${t("last_failure")}: ${one.last_failure}` : ""));
    if (drawn !== one.state) {
      drawn = one.state;
      press.replaceChildren(pauseButton(name, one.state) ?? "");
    }
    const values = [rate(now.rates.get(name)?.acked), count(held?.ready ?? null), count(held?.in_flight ?? null), age(held?.oldest_at_ms),
      count(one.acked), count(one.retried), count(one.dead), count(held?.dead ?? 0)];
    latency.update(["handled", "attempt"].map((what) => ({ what, ...one.latency[what] })));
    words.forEach((word, index) => say(numbers[word], values[index]));
  }, signal);
}

// What the stream of events does not tell of a subscription: what it cannot reach, its candidate, its versions.
function shipped(name, drawDefinition) {
  const base = `/subscriptions/${encodeURIComponent(name)}`;
  const renew = async () => {
    const [shown, swaps] = await Promise.all([get(base), get(base + changes.path())]);
    const report = await candidate.read(shown);
    missing.update(shown.status.dependencies);
    candidate.update(shown, report);
    changes.update(shown, swaps);
    drawDefinition(shown);
  };
  const [missing, candidate, changes] = [outOfReach(), rollout({ name, renew }), versions({ name, renew })];
  return { renew, nodes: (shown) => [missing.node, ...(shown.forward ? [] : [candidate.node, changes.node])] };
}

// How long attempts, and messages, took lately.
function latencyTable() {
  const cell = (name) => (one) => (one[name] === undefined ? "–" : micros(one[name]));
  return liveTable([
    { head: t("latency"), row: true, text: (one) => t(`latency.${one.what}`) },
    ...["p50", "p95", "p99"].map((name) => ({ head: name, class: "number", text: cell(`${name}_us`) })),
    { head: t("count"), class: "number", text: (one) => count(one.count ?? 0) },
  ], { key: (one) => one.what, label: t("latency"), empty: "" });
}

function handledBy(one) {
  return link(one.forward ? place("topics", "topic", one.forward.topic) : place("plugins", one.plugin), handler(one));
}

function definition(shown) {
  return facts([
    [t("description"), shown.description], [t("queue"), link(place("queues", shown.queue), shown.queue)],
    ...(shown.forward ? [[t("forward"), handledBy(shown)]] : [
      [t("plugin"), link(place("plugins", shown.plugin), shown.plugin)],
      [t("version"), h("code", { title: shown.version }, short(shown.version))],
    ]),
    [t("workers"), count(shown.workers)], [t("max_in_flight"), count(shown.max_in_flight)],
    ...(shown.forward ? [] : [[t("guard"), shown.guard ? t("guard_text", { n: shown.guard.faults, time: span(shown.guard.for_ms) }) : t("guard_none")]]),
    [t("rate_most"), shown.rate && rateText(shown.rate)],
    [t("order"), t(`order.${shown.order}`)], [t("instances"), t(`instances.${shown.instances}`)],
    [t("retry"), t("retry_text", { n: shown.retry.max_attempts, first: count(shown.retry.initial_delay_ms), last: count(shown.retry.max_delay_ms) })],
    [t("grants"), shown.grants.publish ? shown.grants.publish.join(", ") || t("no_topic") : t("any_topic")],
    [t("reach"), reach(shown.grants)],
    [t("config"), Object.keys(shown.config).length > 0 ? h("pre", {}, lines.show(shown.config)) : "–"],
    [t("changed"), moment(shown.changed_at_ms)],
  ]);
}

function rateText({ per_second, burst, shared }) {
  const parts = [t("per_second", { n: count(per_second) }), burst && t("rate_text.burst", { n: count(burst) }), shared && t("rate_text.shared", { name: shared })];
  return parts.filter(Boolean).join(", ");
}

// What a handler may reach outside of its delivery.
function reach(grants) {
  const http = grants.http && t(grants.http.private ? "reach_http_private" : "reach_http", { hosts: grants.http.hosts.join(", ") });
  return [grants.clock && t("reach_clock"), grants.random && t("reach_random"), http].filter(Boolean).join("; ") || t("reach_nothing");
}

function limits(shown) {
  return facts(LIMITS.filter((limit) => limit in shown.limits).map((limit) =>
    [t(`limit.${limit}`), LIMIT_UNITS[limit.split("_").at(-1)]?.(shown.limits[limit]) ?? count(shown.limits[limit])]));
}

// How fast it may go, and what watches over a new version; both may be left empty.
function paceFields(old) {
  const number = (name, value, more) => field({ name, label: t(name), kind: "number", value: value ?? "", min: 1, read: optional, ...more });
  return [
    number("rate_most", old.rate?.per_second, { max: 1_000_000, hint: t("per_second_hint") }),
    number("rate_burst", old.rate?.burst, { max: 1_000_000, hint: t("rate_burst_hint") }),
    field({ name: "rate_shared", label: t("rate_shared"), value: old.rate?.shared ?? "", hint: t("rate_shared_hint") }),
    ...(old.forward ? [] : [
      number("guard_faults", old.guard?.faults, { max: 1_000, hint: t("guard_hint") }),
      number("guard_seconds", (old.guard?.for_ms ?? 600_000) / 1000, { max: 86_400, step: "any" }),
    ]),
  ];
}

// The two as they are defined; what was left empty is none.
function paceOf(old, { rate_most, rate_burst, rate_shared, guard_faults, guard_seconds }) {
  const shared = rate_shared.trim() || undefined;
  const rate = rate_most === undefined ? undefined : { per_second: rate_most, burst: rate_burst, shared };
  if (old.forward) return { rate };
  return { rate, guard: guard_faults === undefined ? null : { faults: guard_faults, for_ms: Math.round((guard_seconds ?? 600) * 1000) } };
}

async function edit(shown, again) {
  const plugin = (await definitions("plugins")).find((one) => one.name === shown.plugin);
  const old = subscriptionDefinition(shown);
  const number = (name, label, value, more) => field({ name, label, kind: "number", value, ...more });
  ask({
    title: t("edit_name", { name: shown.name }),
    fields: [
      ...(old.forward ? [] : [field({ name: "version", label: t("version"), kind: "select", value: old.version, options: versionOptions(plugin, old.version) })]),
      number("workers", t("workers"), old.workers, { min: 1, max: 256 }),
      number("max_in_flight", t("max_in_flight"), old.max_in_flight, { min: 1, max: 10_000 }),
      field({ name: "order", label: t("order"), kind: "select", value: old.order, options: ["none", "key"].map((word) => [word, t(`order.${word}`)]) }),
      number("max_attempts", t("max_attempts"), old.retry.max_attempts, { min: 1, max: 100 }),
      number("initial_delay_ms", t("initial_delay"), old.retry.initial_delay_ms, { min: 0 }),
      number("max_delay_ms", t("max_delay"), old.retry.max_delay_ms, { min: 0 }),
      number("memory_bytes", t("memory_bytes"), old.limits.memory_bytes, { min: 65_536, max: 268_435_456 }),
      number("time_ms", t("time_ms"), old.limits.time_ms, { min: 10, max: 600_000 }),
      ...paceFields(old),
      field({ name: "config", label: t("config"), kind: "area", value: lines.show(old.config), hint: t("config_hint"), read: lines.read }),
      field({ name: "description", label: t("description"), value: old.description }),
    ],
    save: async (values) => {
      const { max_attempts, initial_delay_ms, max_delay_ms, memory_bytes, time_ms, workers, max_in_flight, order, config, description } = values;
      const retry = { ...old.retry, max_attempts, initial_delay_ms, max_delay_ms };
      const fields = { workers, max_in_flight, order, config, description, retry, limits: { ...old.limits, memory_bytes, time_ms } };
      const wanted = { ...(old.forward ? old : onVersion(old, values.version)), ...fields, ...paceOf(old, values) };
      await put("subscriptions", shown.name, wanted, shown.revision);
      again();
    },
  });
}

async function add(again) {
  const [queues, plugins] = await Promise.all([definitions("queues"), definitions("plugins")]);
  const free = queues.filter((queue) => !queue.subscription).map((queue) => [queue.name, queue.name]);
  const versions = plugins.flatMap((plugin) => versionOptions(plugin).map(([digest, text]) =>
    [JSON.stringify([plugin.name, digest]), `${plugin.name} ${text}`]));
  ask({
    title: t("add_subscription"),
    fields: [
      field({ name: "name", label: t("name"), required: true }),
      field({ name: "queue", label: t("queue"), kind: "select", options: free, hint: t("free_queues_hint") }),
      field({ name: "plugin", label: t("plugin"), kind: "select", options: versions, read: (text) => (text ? JSON.parse(text) : []) }),
      field({ name: "workers", label: t("workers"), kind: "number", min: 1, max: 256, value: 1 }),
      field({ name: "order", label: t("order"), kind: "select", value: "none", options: ["none", "key"].map((word) => [word, t(`order.${word}`)]) }),
      field({ name: "config", label: t("config"), kind: "area", hint: t("config_hint"), read: lines.read }),
    ],
    save: async ({ name, plugin: [plugin, version], ...fields }) => {
      await put("subscriptions", name, { ...fields, plugin, version });
      again();
    },
  });
}
