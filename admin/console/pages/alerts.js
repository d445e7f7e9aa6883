// Alerts: what is told to people, to whom it was told, and whether somebody has taken it on.

import { call, get, may } from "../api.js";
import { announce, facts, h, link, liveTable, place } from "../dom.js";
import { button, field } from "../form.js";
import { age, count, moment, owners, span } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";

const EVERY_MS = 3_000;
const PART = 100;
const STATUSES = ["pending", "firing", "recovered", "ended"];
const TONES = { pending: "warn", firing: "bad", recovered: "good", ended: "" };
const MOST_FIRING = 50;

export function alerts(view) {
  return view.path[0] ? detail(view, view.path[0]) : list(view);
}

export const firingAlerts = async () => (await get(`/alerts?status=firing&limit=${MOST_FIRING}`)).items;

// A value of a rule, in the rule's unit.
export function measured(when, value) {
  if (value === null || value === undefined) return t("not_measurable");
  if (when === "oldest_age") return span(value);
  return when === "failure_rate" ? t("percent", { n: count(value) }) : count(value);
}

// What a rule watches for.
export function watched(rule) {
  return rule.when === "no_consumer" ? t("when.no_consumer") : t("when_above", { what: t(`when.${rule.when}`), above: measured(rule.when, rule.above) });
}

export const condition = (alert) => `${alert.queue}: ${watched(alert)}`;

export const reading = (alert) => (alert.when === "no_consumer" ? "" : t("now_value", { value: measured(alert.when, alert.value) }));

export function acknowledgeButton(alert, done) {
  return button(t("acknowledge"), async () => {
    await call("POST", `/alerts/${encodeURIComponent(alert.id)}/acknowledge`);
    announce(t("acknowledged_name", { name: alert.queue }));
    await done?.();
  }, { label: t("acknowledge_name", { name: `${alert.queue} ${alert.rule}` }), tone: "primary" });
}

const acknowledgement = (alert) => (alert.acknowledged ? `${alert.acknowledged.by ?? t("the_host")}, ${moment(alert.acknowledged.at_ms)}` : "–");

async function list({ root, query, signal }) {
  const status = field({ name: "status", label: t("state"), kind: "select", value: query.get("status") ?? "",
    options: [["", t("any")], ...STATUSES.map((word) => [word, t(`alert.${word}`)])] });
  const error = h("p", { class: "error", role: "alert" });
  const more = h("p", { class: "hint" });
  const table = liveTable([
    { head: t("queue"), row: true, node: (a) => [link(place("alerts", a.id), a.queue), h("span", { class: "below" }, a.rule)], sign: (a) => a.id },
    { head: t("state"), text: (a) => t(`alert.${a.status}`), tone: (a) => TONES[a.status] },
    { head: t("what"), class: "prose", text: watched },
    { head: t("value"), class: "number", text: (a) => (a.when === "no_consumer" ? "–" : measured(a.when, a.value)) },
    { head: t("for"), class: "number", text: (a) => (a.ended_at_ms ? span(a.ended_at_ms - a.since_ms) : age(a.since_ms)) },
    { head: t("told"), class: "prose", text: told },
    { head: t("acknowledged"), class: "prose", text: acknowledgement },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: (a) => `${a.status} ${a.acknowledged !== null}`,
      node: (a) => (a.status === "firing" && a.acknowledged === null ? acknowledgeButton(a, read) : "") }] : []),
  ], { key: (a) => a.id, label: t("page.alerts"), empty: t("no_alerts"), more: (n) => t("more_rows", { n }) });
  async function read() {
    const wanted = status.value();
    try {
      const part = await get(`/alerts?limit=${PART}${wanted ? `&status=${wanted}` : ""}`);
      if (signal.aborted || wanted !== status.value()) return;
      table.update(part.items);
      more.textContent = part.next ? t("latest_ones", { n: PART }) : "";
      error.textContent = "";
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }
  status.input.addEventListener("change", read);
  root.append(h("div", { class: "bar-of-page" }, status.node), error, table.node, more,
    h("p", { class: "hint" }, t("alerts_hint"), " ", link("queues", t("page.queues")), ", ", link("settings", t("page.settings"))));
  live.repeat(read, EVERY_MS, signal);
}

function sentText(notice) {
  if (notice.sent_at_ms !== null) return moment(notice.sent_at_ms);
  if (notice.given_up) return t("given_up_sending");
  return notice.retry_at_ms ? t("tried_again_at", { time: moment(notice.retry_at_ms) }) : t("not_sent_yet");
}

// Whom it was told to, in short.
function told(alert) {
  const failed = alert.notices.filter((one) => one.sent_at_ms === null && one.error).length;
  const sent = alert.notices.filter((one) => one.sent_at_ms !== null).length;
  return [t("notices_sent", { n: sent }), failed > 0 && t("notices_failed", { n: failed })].filter(Boolean).join(", ");
}

async function detail({ root, title, signal }, id) {
  const shown = h("div", {});
  const notices = liveTable([
    { head: t("what"), row: true, text: (n) => t(`notice.${n.kind}`) },
    { head: t("channel"), text: (n) => n.channel },
    { head: t("to"), class: "prose", text: (n) => n.to || "–" },
    { head: t("sent"), text: sentText, tone: (n) => (n.sent_at_ms !== null ? "good" : n.error ? "bad" : "warn") },
    { head: t("attempts"), class: "number", text: (n) => count(n.attempts) },
    { head: t("why"), class: "prose", text: (n) => n.error ?? "–" },
  ], { key: (n) => `${n.kind} ${n.channel} ${n.to} ${n.queued_at_ms}`, label: t("notices"), empty: t("no_notices") });
  let drawn;
  async function read() {
    const alert = await get(`/alerts/${encodeURIComponent(id)}`);
    if (signal.aborted) return;
    title.textContent = `${t("alert")}: ${alert.queue}`;
    notices.update(alert.notices);
    const { notices: _, ...rest } = alert;
    if (drawn === JSON.stringify(rest)) return;
    drawn = JSON.stringify(rest);
    shown.replaceChildren(...about(alert, read));
  }
  root.append(h("p", {}, link("alerts", `← ${t("page.alerts")}`)), shown, h("section", {}, h("h2", {}, t("notices")), notices.node));
  await read();
  live.repeat(() => read().catch(() => {}), EVERY_MS, signal);
}

function about(alert, read) {
  return [
    h("div", { class: `verdict ${TONES[alert.status]}` }, h("h2", {}, `${t(`alert.${alert.status}`)}: ${watched(alert)}`), h("p", { class: "hint" }, reading(alert))),
    alert.status === "firing" && alert.acknowledged === null ? h("p", { class: "buttons" }, acknowledgeButton(alert, read) ?? "") : "",
    facts([
      [t("queue"), link(place("queues", alert.queue), alert.queue)], [t("rule"), alert.rule], [t("owners"), owners(alert.owners)],
      [t("since_when"), moment(alert.since_ms)], [t("fired_at"), alert.fired_at_ms && moment(alert.fired_at_ms)],
      [t("over_at"), alert.ended_at_ms && moment(alert.ended_at_ms)],
      [t("next_notice"), alert.next_notice_at_ms && moment(alert.next_notice_at_ms)],
      [t("acknowledged"), acknowledgement(alert)], [t("channels"), alert.channels.join(", ")],
    ]),
  ];
}
