// Overview: is anything stuck, whose is it, since when, why, and what to press.

import { definitions, pause } from "../catalog.js";
import { chart, perSecond } from "../chart.js";
import { h, keyed, link, liveTable, place, say } from "../dom.js";
import { button } from "../form.js";
import { STATE_TONES, age, clock, count, rate } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";
import { acknowledgeButton, condition, firingAlerts, reading } from "./alerts.js";
import { returnedLately, unreachable } from "./attention.js";

const OLD_MS = 60_000;
const ALERTS_MS = 3_000;
const SLOW_START_MS = 10_000;
const MOST = 30;

export async function overview({ root, signal }) {
  const headline = h("h2", { role: "status", "aria-live": "polite" }, t("looking"));
  const fresh = h("p", { class: "hint" });
  const verdict = h("section", { class: "verdict" }, headline, fresh);
  const list = h("ul", { class: "troubles" });
  const fill = keyed(list, (trouble) => trouble.key, card);
  const throughput = chart({ label: t("throughput"), show: (value) => rate(value) });
  const backlog = chart({ label: t("backlog"), show: (value) => count(Math.round(value)) });
  const table = subscriptionTable();
  root.append(verdict, list, h("section", { class: "charts" }, throughput.node, backlog.node),
    h("section", {}, h("h2", {}, t("page.subscriptions")), table.node));
  let queues = new Map();
  let revision = -1;
  let firing = [];
  // The alerts that were told last stay while the host cannot be asked; that it cannot is shown anyway.
  live.repeat(async () => { firing = await firingAlerts().catch(() => firing); }, ALERTS_MS, signal);
  let shipped = [];
  const returned = returnedLately();
  const told = new Promise((done) => { live.follow(done, signal); });
  live.repeat(async () => {
    await told;
    shipped = await Promise.all([unreachable(live.now), returned(live.now)]).then((lists) => lists.flat(), () => shipped);
  }, ALERTS_MS, signal);
  live.follow(async (now) => {
    if (now.revision !== revision) {
      revision = now.revision;
      const read = await definitions("queues").catch(() => []);
      queues = new Map(read.map((queue) => [queue.name, queue]));
      if (signal.aborted) return;
    }
    const found = [...firing.map(alertTrouble), ...troubles(now, queues, shipped)];
    const worst = found.some((one) => one.bad) ? "bad" : found.length > 0 ? "warn" : "good";
    verdict.className = `verdict ${worst}`;
    say(headline, now.lost ? t("lost") : t(`verdict.${worst}`, { n: found.length }));
    say(fresh, t("as_of", { time: clock(now.totals.at_ms) }));
    fill(found.slice(0, MOST));
    draw(now, throughput, backlog);
    table.update([...now.subscriptions].map(([name, one]) =>
      ({ name, ...one, queueNow: now.queues.get(one.queue), rate: now.rates.get(name) }))
      .sort((a, b) => a.name.localeCompare(b.name)));
  }, signal);
}

function draw(now, throughput, backlog) {
  const until = now.totals.at_ms;
  const line = (name, tone, read) => ({ name: t(name), tone, points: perSecond(now.samples, read) });
  const level = (name, tone, read) => ({ name: t(name), tone, points: now.samples.map((s) => [s.at_ms, read(s)]) });
  throughput.update([
    line("acked", "good", (s) => s.acked), line("retried", "warn", (s) => s.retried), line("dead", "bad", (s) => s.dead),
  ], until);
  backlog.update([
    level("waiting", "accent", (s) => s.ready + s.in_flight + s.delayed), level("dead_letters", "bad", (s) => s.dead_letters),
  ], until);
}

// Everything that needs somebody, the worst first.
function troubles(now, queues, shipped) {
  const ownersOf = (queue) => queues.get(queue)?.owners ?? [];
  const found = shipped.map((one) => ({ ...one, owners: ownersOf(one.queue) }));
  for (const [name, broker] of now.brokers) {
    const slow = broker.state === "connecting" && Date.now() - broker.since_ms > SLOW_START_MS;
    if (broker.state === "failed" || broker.state === "blocked" || slow) {
      found.push({ key: `broker ${name}`, bad: broker.state !== "connecting", what: t(`trouble_broker.${broker.state}`, { name }),
        since: broker.since_ms, why: broker.detail, go: ["settings", t("open_settings")], owners: [] });
    }
  }
  for (const [name, one] of now.subscriptions) {
    const trouble = subscriptionTrouble(name, one, now.queues.get(one.queue));
    if (trouble) found.push({ ...trouble, owners: ownersOf(one.queue) });
  }
  const taken = new Map([...now.subscriptions].map(([name, one]) => [one.queue, { name, ...one }]));
  for (const [name, queue] of now.queues) {
    found.push(...queueTroubles(name, queue, taken.get(name)).map((one) => ({ ...one, owners: ownersOf(name) })));
  }
  return found.sort((a, b) => Number(b.bad) - Number(a.bad) || (a.since ?? a.ago ?? Infinity) - (b.since ?? b.ago ?? Infinity));
}

function subscriptionTrouble(name, one, queue) {
  const waits = (queue?.ready ?? 0) + (queue?.delayed ?? 0);
  const go = [place("subscriptions", name), t("open_subscription")];
  const base = { key: `subscription ${name}`, since: one.since_ms, go };
  if (one.state === "failed") return { ...base, bad: true, what: t("trouble.failed", { name }), why: one.error };
  if (one.state === "paused") {
    const why = waits > 0 ? t("trouble.waits", { n: count(waits), age: age(queue.oldest_at_ms) }) : t("trouble.nothing_waits");
    return { ...base, bad: waits > 0, what: t("trouble.paused", { name }), why, press: name };
  }
  if (one.state === "starting" && Date.now() - one.since_ms > SLOW_START_MS) {
    return { ...base, bad: false, what: t("trouble.starting", { name }), why: one.error };
  }
  return null;
}

function queueTroubles(name, queue, taker) {
  const found = [];
  const go = [place("queues", name), t("open_queue")];
  if (queue.trouble) found.push({ key: `trouble ${name}`, bad: true, what: t("trouble.queue", { name }), why: queue.trouble, go });
  if (queue.dead > 0 && taker) {
    found.push({ key: `dead ${name}`, bad: true, what: t("trouble.dead", { name, n: count(queue.dead) }),
      why: taker.last_failure, go: [place("dead-letters", taker.name), t("look_dead_letters")] });
  }
  const old = queue.oldest_at_ms !== null && Date.now() - queue.oldest_at_ms > OLD_MS;
  if (!taker && (queue.ready ?? 0) > 0) {
    found.push({ key: `nobody ${name}`, bad: false, what: t("trouble.nobody", { name }), since: queue.oldest_at_ms,
      why: t("trouble.waits", { n: count(queue.ready), age: age(queue.oldest_at_ms) }), go });
  } else if (old && taker?.state === "running") {
    found.push({ key: `old ${name}`, bad: true, what: t("trouble.old", { name }), since: queue.oldest_at_ms,
      why: taker.last_failure ?? t("trouble.waits", { n: count(queue.ready), age: age(queue.oldest_at_ms) }), go });
  }
  return found;
}

// An alert that was told to somebody, and not only seen here.
function alertTrouble(alert) {
  const seen = alert.acknowledged && t("acknowledged_by", { name: alert.acknowledged.by ?? t("the_host") });
  return { key: `alert ${alert.id} ${alert.acknowledged !== null}`, bad: alert.acknowledged === null, what: `${t("alert")}: ${condition(alert)}`, since: alert.since_ms,
    why: [reading(alert), seen].filter(Boolean).join("; "), owners: alert.owners, go: [place("alerts", alert.id), t("open_alert")],
    acknowledge: alert.acknowledged === null ? acknowledgeButton(alert) : "" };
}

// One trouble; the text is renewed, the buttons stay.
function card(trouble) {
  const [what, since, why] = [h("h3", {}), h("span", {}), h("p", { class: "why" })];
  const whose = h("p", { class: "owners" });
  const node = h("li", {}, what, h("p", { class: "meta" }, since), why, whose, h("p", { class: "buttons" },
    trouble.press && button(t("resume"), () => pause(trouble.press, false), { label: t("resume_name", { name: trouble.press }), tone: "primary" }),
    trouble.acknowledge,
    link(trouble.go[0], trouble.go[1], { class: "button" })));
  let known;
  return {
    node,
    update(one) {
      node.className = one.bad ? "bad" : "warn";
      say(what, one.what);
      say(since, one.since ? t("since", { age: age(one.since) }) : one.ago ? t("ago", { age: age(one.ago) }) : "");
      say(why, one.why ?? "");
      if (known === JSON.stringify(one.owners)) return;
      known = JSON.stringify(one.owners);
      whose.replaceChildren(...contacts(one.owners));
    },
  };
}

// Owners with ways to reach them, for one thumb.
function contacts(list) {
  if (list.length === 0) return [t("no_owner")];
  const shown = [`${t("owners")}: `];
  list.forEach((who, index) => {
    if (index > 0) shown.push("; ");
    if (typeof who === "string") return shown.push(who);
    shown.push(who.name);
    if (who.phone) shown.push(" ", h("a", { href: `tel:${encodeURIComponent(who.phone)}` }, who.phone));
    if (who.email) shown.push(" ", h("a", { href: `mailto:${encodeURIComponent(who.email)}` }, who.email));
  });
  return shown;
}

function subscriptionTable() {
  return liveTable([
    { head: t("subscription"), row: true, node: (s) => link(place("subscriptions", s.name), s.name), sign: (s) => s.name },
    { head: t("state"), text: (s) => t(`state.${s.state}`), tone: (s) => STATE_TONES[s.state] },
    { head: t("rate"), class: "number", text: (s) => rate(s.rate?.acked) },
    { head: t("ready"), class: "number", text: (s) => count(s.queueNow?.ready ?? null) },
    { head: t("oldest"), class: "number", text: (s) => age(s.queueNow?.oldest_at_ms) },
    { head: t("retried"), class: "number", text: (s) => count(s.retried) },
    { head: t("dead_letters"), class: "number", text: (s) => count(s.queueNow?.dead ?? 0), tone: (s) => (s.queueNow?.dead > 0 ? "bad" : "") },
  ], { key: (s) => s.name, label: t("page.subscriptions"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
}

