// The audit log: who changed what, from what, to what.

import { get } from "../api.js";
import { h, liveTable } from "../dom.js";
import { button, field } from "../form.js";
import { moment } from "../format.js";
import { t } from "../text/text.js";

const PART = 100;
const KINDS = ["broker", "topic", "queue", "route", "plugin", "subscription", "channel", "token", "backup"];

export async function audit({ root, signal }) {
  const fields = [
    field({ name: "kind", label: t("kind"), kind: "select", options: [["", t("any")], ...KINDS.map((kind) => [kind, t(kind)])] }),
    field({ name: "name", label: t("name") }),
    field({ name: "by", label: t("by_token") }),
  ];
  const table = liveTable([
    { head: t("when"), text: (one) => moment(one.at_ms) },
    { head: t("who"), text: (one) => one.by ?? t("the_host") },
    { head: t("what"), row: true, text: (one) => `${t(`action.${one.action}`)}: ${t(one.kind)} ${one.name}` },
    { head: t("change"), class: "prose", node: change, sign: (one) => String(one.number) },
  ], { key: (one) => one.number, label: t("page.audit"), empty: t("nothing_found"), most: 5_000 });
  const error = h("p", { class: "error", role: "alert" });
  const more = h("p", { class: "buttons" });
  let items = [];
  async function load(after) {
    error.textContent = "";
    const query = fields.map((one) => [one.name, one.value().trim()]).filter(([, value]) => value !== "")
      .map(([name, value]) => `&${name}=${encodeURIComponent(value)}`).join("");
    try {
      const part = await get(`/audit?limit=${PART}${query}${after ? `&after=${after}` : ""}`);
      if (signal.aborted) return;
      items = after ? [...items, ...part.items] : part.items;
      table.update(items);
      more.replaceChildren(part.next ? button(t("more"), () => load(part.next), { role: "viewer" }) : "");
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }
  root.append(h("form", { class: "search", onsubmit: (event) => { event.preventDefault(); load(); } }, fields.map((one) => one.node),
    h("p", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, t("search")))), error, table.node, more);
  await load();
}

const text = (value) => (value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));

// The fields that differ; both sides whole when one wants to see them.
function change({ before, after }) {
  const names = [...new Set([...Object.keys(before ?? {}), ...Object.keys(after ?? {})])];
  const differ = names.filter((name) => JSON.stringify(before?.[name]) !== JSON.stringify(after?.[name]));
  const both = before !== null && after !== null;
  const list = both && h("ul", { class: "plain" }, differ.map((name) =>
    h("li", {}, h("code", {}, name), ": ", h("del", {}, text(before[name])), " → ", h("ins", {}, text(after[name])))));
  const whole = h("details", {}, h("summary", {}, t("whole")),
    before !== null && h("h4", {}, t("before")), before !== null && h("pre", {}, JSON.stringify(before, null, 2)),
    after !== null && h("h4", {}, t("after")), after !== null && h("pre", {}, JSON.stringify(after, null, 2)));
  return [list, whole].filter(Boolean);
}
