// Out of reach: what handlers of a subscription need and cannot reach, and what is held back for it.

import { h, liveTable } from "../dom.js";
import { age, count, span } from "../format.js";
import { t } from "../text/text.js";

export const nextProbe = (one) =>
  (one.next_probe_ms > Date.now() ? t("in_time", { time: span(one.next_probe_ms - Date.now()) }) : t("any_moment"));

export const reachWord = (one) => t(one.recovering ? "out_of_reach.recovering" : "out_of_reach.down");

export function outOfReach() {
  const table = liveTable([
    { head: t("dependency"), row: true, text: (one) => one.name },
    { head: t("state"), text: reachWord, tone: (one) => (one.recovering ? "warn" : "bad") },
    { head: t("since_when"), text: (one) => t("since", { age: age(one.since_ms) }) },
    { head: t("held"), class: "number", text: (one) => count(one.held) },
    { head: t("next_probe"), text: nextProbe },
    { head: t("reason"), class: "prose", text: (one) => one.reason || t("no_reason") },
  ], { key: (one) => one.name, label: t("out_of_reach"), empty: "" });
  const node = h("section", { hidden: true }, h("h2", {}, t("out_of_reach")), h("p", { class: "hint" }, t("out_of_reach_hint")), table.node);
  return {
    node,
    update(list) {
      node.hidden = list.length === 0;
      table.update(list);
    },
  };
}
