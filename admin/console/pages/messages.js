// Messages: the search, and the history of one as a timeline.

import { get } from "../api.js";
import { definitions } from "../catalog.js";
import { facts, h, link, liveTable, place } from "../dom.js";
import { button, field } from "../form.js";
import { bytes, count, json, micros, moment, short } from "../format.js";
import { t } from "../text/text.js";

const PART = 50;
const STATUSES = ["waiting", "acked", "dead", "discarded", "replaced"];
const STATUS_TONES = { waiting: "warn", acked: "good", dead: "bad", discarded: "", replaced: "" };
const OUTCOMES = { ack: "good", retry: "warn", reject: "bad", fault: "bad", expired: "bad", unfit: "bad" };

export function messages(view) {
  return view.path[0] ? story(view, view.path[0]) : search(view);
}

export const messagePath = (message) => `${place("messages", message.id)}?topic=${encodeURIComponent(message.topic)}`;

async function search({ root, query, signal }) {
  const [topics, subscriptions] = await Promise.all([definitions("topics"), definitions("subscriptions")]);
  if (signal.aborted) return;
  const any = [["", t("any")]];
  const options = (list) => [...any, ...list.map((one) => [one.name, one.name])];
  const fields = [
    field({ name: "id", label: t("message_id"), value: query.get("id") ?? "" }),
    field({ name: "topic", label: t("topic"), kind: "select", value: query.get("topic") ?? "", options: options(topics) }),
    field({ name: "key", label: t("key"), value: query.get("key") ?? "" }),
    field({ name: "subscription", label: t("subscription"), kind: "select", value: query.get("subscription") ?? "", options: options(subscriptions) }),
    field({ name: "status", label: t("outcome"), kind: "select", value: query.get("status") ?? "", options: [...any, ...STATUSES.map((word) => [word, t(`status.${word}`)])] }),
    field({ name: "header", label: t("header"), value: query.get("header") ?? "", hint: t("header_hint") }),
  ];
  const table = found();
  const error = h("p", { class: "error", role: "alert" });
  const hint = h("p", { class: "hint", role: "status" });
  const more = h("p", { class: "buttons" });
  let items = [];
  let asked = "";
  async function load(after) {
    error.textContent = "";
    try {
      const part = await get(`/messages?limit=${PART}${asked}${after ? `&after=${after}` : ""}`);
      items = after ? [...items, ...part.items] : part.items;
      table.update(items);
      hint.textContent = part.next && part.items.length === 0 ? t("searched_far") : "";
      more.replaceChildren(part.next ? button(t("more"), () => load(part.next), { role: "viewer" }) : "");
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }
  function send(event) {
    event?.preventDefault();
    const values = Object.fromEntries(fields.map((one) => [one.name, one.value().trim()]).filter(([, value]) => value !== ""));
    if (values.id) {
      location.hash = `#/${place("messages", values.id)}${values.topic ? `?topic=${encodeURIComponent(values.topic)}` : ""}`;
      return;
    }
    asked = Object.entries(values).map(([name, value]) => `&${name}=${encodeURIComponent(value)}`).join("");
    history.replaceState(null, "", `#/messages${asked.replace("&", "?")}`);
    load();
  }
  root.append(h("form", { class: "search", role: "search", onsubmit: send }, fields.map((one) => one.node),
    h("p", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, t("search")))), error, table.node, hint, more);
  send();
}

function found() {
  return liveTable([
    { head: t("message"), row: true, node: (m) => link(messagePath(m), m.id) },
    { head: t("topic"), text: (m) => m.topic },
    { head: t("key"), text: (m) => m.key || "–" },
    { head: t("published"), text: (m) => moment(m.published_at_ms) },
    { head: t("deliveries"), class: "prose", node: (m) => (m.deliveries.length === 0 ? t("not_attempted") : m.deliveries.map((one) =>
      h("span", { class: `chip ${STATUS_TONES[one.status]}` }, `${one.subscription}: ${t(`status.${one.status}`)}`))) },
    { head: t("size"), class: "number", text: (m) => bytes(m.size_bytes) },
  ], { key: (m) => `${m.topic} ${m.id}`, label: t("page.messages"), empty: t("nothing_found"), most: 2_000, more: (n) => t("more_rows", { n }) });
}

async function story({ root, title, query }, id) {
  title.textContent = `${t("message")} ${id}`;
  const topic = query.get("topic");
  const { message, deliveries, other_topics: others } = await get(`/messages/${encodeURIComponent(id)}${topic ? `?topic=${encodeURIComponent(topic)}` : ""}`);
  const bad = deliveries.filter((one) => one.status === "dead");
  root.append(
    h("p", {}, link("messages", `← ${t("page.messages")}`)),
    bad.length > 0 ? h("div", { class: "verdict bad" }, bad.map((one) => summary(one, message))) : "",
    h("h2", {}, t("timeline")), timeline(message, deliveries),
    h("div", { class: "split" }, h("section", {}, h("h2", {}, t("envelope")), envelope(message, others)),
      h("section", {}, h("h2", {}, t("payload")), payload(message))));
}

const letterPath = (subscription, message) =>
  `${place("dead-letters", subscription, message.id)}?topic=${encodeURIComponent(message.topic)}`;

// A payload as far as it may be seen; that something is hidden is said.
export function payload(message) {
  if (message.payload_encoding === "hidden") return h("p", { class: "panel" }, t("payload_hidden"));
  return [message.payload_masked && h("p", { class: "hint" }, t("payload_masked")), shownPayload(message)];
}

function shownPayload(message) {
  return h("pre", { class: "payload", tabindex: "0", "aria-label": t("payload") }, json(message.payload));
}

// Which version failed, and why: what somebody who is called at night wants to know.
function summary(delivery, message) {
  const last = delivery.attempts.at(-1);
  return h("div", {}, h("h2", {}, t("failed_at", { name: delivery.subscription })),
    h("p", {}, last?.reason ?? ""), h("p", { class: "hint" }, last?.version ? `${t("version")} ${short(last.version)}` : "", " ",
      link(letterPath(delivery.subscription, message), t("mend"))));
}

function envelope(message, others) {
  const reference = (one) => link(messagePath(one), `${one.topic} / ${one.id}`);
  return facts([
    [t("topic"), message.topic], [t("key"), message.key], [t("content_type"), message.content_type], [t("size"), bytes(message.size_bytes)],
    [t("published"), moment(message.published_at_ms)], [t("expires"), message.expires_at_ms && moment(message.expires_at_ms)],
    [t("headers"), Object.keys(message.headers).length > 0 && h("pre", {}, Object.entries(message.headers).map(([name, value]) => `${name}: ${value}`).join("\n"))],
    [t("parent"), message.parent && reference(message.parent)],
    [t("other_topics"), others.length > 0 && h("span", {}, others.flatMap((topic, index) =>
      [index > 0 ? ", " : "", link(messagePath({ id: message.id, topic }), topic)]))],
  ].map(([name, value]) => [name, value === false ? null : value]));
}

// Everything that happened, in the order of time.
function timeline(message, deliveries) {
  const events = [{ at: message.published_at_ms, node: published(message) }];
  for (const delivery of deliveries) {
    for (const attempt of delivery.attempts) events.push({ at: attempt.at_ms, node: attempted(delivery, attempt) });
    if (delivery.published.length > 0) {
      const last = delivery.attempts.at(-1);
      events.push({ at: last.at_ms + Math.ceil(last.duration_us / 1000), node: children(delivery) });
    }
    if (delivery.status === "waiting") events.push({ at: Infinity, node: waits(delivery) });
  }
  events.sort((a, b) => a.at - b.at);
  return h("ol", { class: "timeline" }, events.map((event) => event.node));
}

function published(message) {
  const queues = message.queues.flatMap((queue, index) => [index > 0 ? ", " : "", link(place("queues", queue), queue)]);
  return h("li", {}, h("time", {}, moment(message.published_at_ms)),
    h("p", {}, message.queues.length > 0 ? [t("published_to"), " ", queues] : t("published_nowhere")),
    message.filter_errors.map((one) => h("p", { class: "warn" }, t("filter_failed", { route: one.route }), " ", h("code", {}, one.reason))));
}

export function attempted(delivery, attempt) {
  const logs = attempt.logs.map((line) => h("li", { class: line.level }, h("b", {}, line.level), " ", line.text));
  return h("li", { class: OUTCOMES[attempt.outcome] }, h("time", {}, moment(attempt.at_ms)),
    h("p", {}, link(place("subscriptions", delivery.subscription), delivery.subscription), " – ", t("attempt", { n: attempt.number }), ": ",
      h("b", { class: OUTCOMES[attempt.outcome] }, t(`outcome.${attempt.outcome}`))),
    attempt.reason && h("p", { class: "reason" }, attempt.reason),
    h("p", { class: "meta" }, [micros(attempt.duration_us), bytes(attempt.memory_bytes),
      attempt.version && `${t("version")} ${short(attempt.version)}`,
      attempt.retry_after_ms !== null && t("retry_after", { ms: count(attempt.retry_after_ms) })].filter(Boolean).join(" · ")),
    logs.length > 0 && h("details", { open: attempt.outcome !== "ack" }, h("summary", {}, t("log_lines", { n: logs.length })), h("ul", { class: "logs" }, logs)),
    attempt.logs_dropped > 0 && h("p", { class: "hint" }, t("logs_dropped", { n: attempt.logs_dropped })));
}

function children(delivery) {
  const words = delivery.status === "replaced" ? "replaced_by" : "published_children";
  return h("li", { class: "child" }, h("p", {}, t(words, { name: delivery.subscription })),
    h("ul", {}, delivery.published.map((one) => h("li", {}, link(messagePath(one), `${one.topic} / ${one.id}`)))),
    delivery.published_more > 0 && h("p", { class: "hint" }, t("more_rows", { n: delivery.published_more })));
}

function waits(delivery) {
  return h("li", { class: "waits" }, h("p", {}, link(place("subscriptions", delivery.subscription), delivery.subscription), " – ", t("still_waits")));
}
