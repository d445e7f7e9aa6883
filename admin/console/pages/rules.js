// The alert rules of a queue: shown, made, edited, deleted; each change is one of the queue's definition.

import { may } from "../api.js";
import { definitions, put } from "../catalog.js";
import { h, liveTable } from "../dom.js";
import { ask, button, confirm, field, optional } from "../form.js";
import { span } from "../format.js";
import { t } from "../text/text.js";
import { measured, watched } from "./alerts.js";

const WHENS = ["ready", "oldest_age", "dead", "failure_rate", "no_consumer"];
// What the definition of a queue does not have of what is answered.
const SHOWN = ["name", "revision", "created_at_ms", "changed_at_ms", "counts", "oldest_age_ms", "trouble", "subscription"];

export function rules(queue, again) {
  const list = queue.alerts ?? [];
  const table = liveTable([
    { head: t("rule"), row: true, text: (one) => nameOf(one) },
    { head: t("what"), class: "prose", text: watched },
    { head: t("clears"), text: (one) => (one.when === "no_consumer" ? "–" : measured(one.when, one.clear ?? one.above)) },
    { head: t("for_at_least"), class: "number", text: (one) => span(one.for_ms) },
    { head: t("repeated"), text: (one) => (one.repeat_ms === null ? t("never") : t("every", { time: span(one.repeat_ms) })) },
    { head: t("quiet"), text: (one) => (one.quiet ? `${one.quiet.from}–${one.quiet.to} ${one.quiet.zone}` : "–") },
    { head: t("channels"), class: "prose", text: (one) => one.channels.join(", ") },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: () => "", node: (one) => [
      button(t("edit"), () => edit(queue, one, again), { label: t("edit_name", { name: nameOf(one) }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: nameOf(one) }), intro: t("delete_rule_hint"), action: t("delete"),
        run: () => save(queue, list.filter((other) => other !== one), again) }), { label: t("delete_name", { name: nameOf(one) }) }),
    ] }] : []),
  ], { key: nameOf, label: t("alert_rules"), empty: t("no_rules") });
  table.update(list);
  return h("section", {}, h("h2", {}, t("alert_rules")), table.node, h("p", { class: "buttons" }, button(t("add_rule"), () => edit(queue, undefined, again))));
}

const nameOf = (rule) => rule.name ?? rule.when;

async function save(queue, alerts, again) {
  const definition = Object.fromEntries(Object.entries(queue).filter(([field]) => !SHOWN.includes(field)));
  await put("queues", queue.name, { ...definition, alerts }, queue.revision);
  again();
}

const seconds = (text) => Math.round(Number(text) * 1000);

async function edit(queue, rule, again) {
  const channels = (await definitions("channels")).map((one) => [one.name, `${one.name} (${one.kind})`]);
  const old = rule ?? { when: "ready", above: 1_000, for_ms: 60_000, repeat_ms: 3_600_000, channels: [] };
  const quiet = old.quiet ?? {};
  const zone = quiet.zone ?? Intl.DateTimeFormat().resolvedOptions().timeZone;
  const number = (name, label, value, more) => field({ name, label, kind: "number", value, ...more });
  ask({
    title: rule ? t("edit_name", { name: nameOf(rule) }) : t("add_rule"),
    fields: [
      field({ name: "when", label: t("watch"), kind: "select", value: old.when, options: WHENS.map((word) => [word, t(`when.${word}`)]) }),
      number("above", t("above"), old.above ?? "", { min: 0, read: optional, hint: t("above_hint") }),
      number("clear", t("clear"), old.clear ?? "", { min: 0, read: optional, hint: t("clear_hint") }),
      number("for_ms", t("for_seconds"), old.for_ms / 1000, { min: 0, max: 86_400, read: seconds }),
      number("repeat_ms", t("repeat_seconds"), old.repeat_ms === null ? "" : old.repeat_ms / 1000, { min: 1, read: (text) => (text.trim() === "" ? null : seconds(text)), hint: t("repeat_hint") }),
      field({ name: "channels", label: t("channels"), kind: "checks", value: old.channels, options: channels, empty: t("no_channels_yet") }),
      field({ name: "from", label: t("quiet_from"), value: quiet.from ?? "", hint: t("quiet_hint") }),
      field({ name: "to", label: t("quiet_to"), value: quiet.to ?? "" }),
      field({ name: "zone", label: t("quiet_zone"), value: zone }),
      field({ name: "name", label: t("name"), value: old.name ?? "", hint: t("rule_name_hint") }),
    ],
    save: async ({ above, clear, from, to, zone: where, name, ...fields }) => {
      const limits = fields.when === "no_consumer" ? {} : { above, ...(clear === undefined ? {} : { clear }) };
      const wanted = { ...fields, ...limits, ...(name.trim() === "" ? {} : { name: name.trim() }),
        ...(from.trim() === "" && to.trim() === "" ? {} : { quiet: { from: from.trim(), to: to.trim(), zone: where.trim() } }) };
      const list = queue.alerts ?? [];
      await save(queue, rule ? list.map((one) => (one === rule ? wanted : one)) : [...list, wanted], again);
    },
  });
}
