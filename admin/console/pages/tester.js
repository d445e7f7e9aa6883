// The route tester: paste a message, see where it would go and why. Nothing is published.

import { call } from "../api.js";
import { definitions, wayOf } from "../catalog.js";
import { h, link, liveTable, place } from "../dom.js";
import { field, lines } from "../form.js";
import { handler } from "../format.js";
import { t } from "../text/text.js";

const TONES = { matches: "good", "filter-fails": "bad", "key-differs": "", "filtered-out": "" };

export function tester(signal) {
  const topic = field({ name: "topic", label: t("topic"), kind: "select", options: [] });
  const key = field({ name: "key", label: t("key") });
  const headers = field({ name: "headers", label: t("headers"), kind: "area", rows: 2, hint: t("headers_hint"), read: lines.read });
  const payload = field({ name: "payload", label: t("payload"), kind: "area", rows: 6, value: '{\n  "amount_cents": 100\n}' });
  const error = h("p", { class: "error", role: "alert" });
  const verdict = h("p", { class: "result", role: "status" });
  const table = results();
  const answer = h("div", { class: "answer", hidden: true }, verdict, table.node);
  async function test(event) {
    event.preventDefault();
    error.textContent = "";
    try {
      const body = { key: key.value(), headers: headers.value(), ...payloadOf(payload.value()) };
      const said = await call("POST", `/topics/${encodeURIComponent(topic.value())}/explain`, { body });
      const subscriptions = await definitions("subscriptions");
      table.update(said.routes.map((one) => ({ ...one, taker: wayOf(one.queue, subscriptions) })));
      verdict.textContent = said.queues.length === 0 ? t("goes_nowhere") : t("goes_to", { queues: said.queues.join(", ") });
      answer.hidden = false;
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }
  const form = h("form", { onsubmit: test, class: "tester" }, topic.node, key.node, headers.node, payload.node,
    h("p", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, t("test"))), error);
  definitions("topics").then((list) => {
    if (!signal.aborted) topic.input.replaceChildren(...list.map((one) => h("option", { value: one.name }, one.name)));
  });
  return h("section", { "aria-labelledby": "tester-title" },
    h("h2", { id: "tester-title" }, t("tester")), h("p", { class: "hint" }, t("tester_hint")),
    h("div", { class: "split" }, form, answer));
}

// JSON goes as JSON, anything else as text.
function payloadOf(text) {
  if (text.trim() === "") return {};
  try {
    return { payload: JSON.parse(text) };
  } catch {
    return { text };
  }
}

function results() {
  return liveTable([
    { head: t("route"), row: true, text: (one) => one.route },
    { head: t("verdict"), text: (one) => t(`route_verdict.${one.verdict}`), tone: (one) => TONES[one.verdict] },
    { head: t("why"), class: "prose mono", text: why },
    { head: t("queue"), node: (one) => link(place("queues", one.queue), one.queue) },
    { head: t("taken_by"), node: (one) => (one.taker
      ? link(place("subscriptions", one.taker.name), `${one.taker.name} – ${handler(one.taker)}`)
      : t("nobody")) },
  ], { key: (one) => one.route, label: t("tester"), empty: t("no_routes") });
}

function why(one) {
  if (one.reason) return one.reason;
  if (one.verdict === "key-differs") return one.key_pattern;
  return one.filter ?? (one.key_pattern === "#" ? t("every_key") : one.key_pattern);
}
