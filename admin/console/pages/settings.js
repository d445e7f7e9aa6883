// Settings: brokers and how they are doing, tokens.

import { call, get, may, whoAmI } from "../api.js";
import { put, remove } from "../catalog.js";
import { facts, h, liveTable } from "../dom.js";
import { ask, button, confirm, field } from "../form.js";
import { age, count, moment } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";
import { channels } from "./channels.js";

const TONES = { connected: "good", connecting: "warn", blocked: "bad", failed: "bad" };
const ROLES = ["viewer", "operator", "admin"];

export async function settings({ root, signal, again }) {
  const me = whoAmI();
  root.append(h("section", {}, h("h2", {}, t("session")), facts([[t("token"), me.name],
    [t("role"), `${t(`role.${me.role}`)} – ${t(`role_may.${me.role}`)}`], [t("sees"), t(`sees.${sight(me)}`)]])));
  await brokers(root, signal, again);
  await channels(root, signal);
  if (may("admin")) await tokens(root);
}

// What a token sees of payloads, in one word.
const sight = (one) => (one.unmasked ? "all" : one.payloads ? "masked" : "none");
const RIGHTS = { "": {}, none: { payloads: false }, masked: { payloads: true, unmasked: false }, all: { payloads: true, unmasked: true } };

async function brokers(root, signal, again) {
  const defined = new Map((await get("/brokers?limit=1000")).items.map((one) => [one.name, one]));
  const table = liveTable([
    { head: t("broker"), row: true, text: (b) => b.name },
    { head: t("kind"), text: (b) => b.defined?.kind ?? "–" },
    { head: t("state"), text: (b) => t(`connection.${b.state}`), tone: (b) => TONES[b.state] },
    { head: t("for"), text: (b) => age(b.since_ms) },
    { head: t("server"), text: (b) => b.defined?.status.server ?? "–" },
    { head: t("outbox"), class: "number", text: (b) => count(b.outbox) },
    { head: t("why"), class: "prose", text: (b) => b.detail ?? "–" },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: (b) => String(b.defined?.revision), node: (b) => (b.defined?.revision === undefined ? "" : [
      button(t("edit"), () => editBroker(b.defined, again), { label: t("edit_name", { name: b.name }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: b.name }), intro: t("delete_broker_hint"), action: t("delete"),
        run: async () => { await remove("brokers", b.name, b.defined.revision); again(); } }), { label: t("delete_name", { name: b.name }) }),
    ]) }] : []),
  ], { key: (b) => b.name, label: t("brokers"), empty: t("none_yet") });
  root.append(h("section", {}, h("h2", {}, t("brokers")), table.node, h("p", { class: "buttons" }, button(t("add_broker"), () => editBroker(undefined, again)))));
  live.follow((now) => {
    table.update([...now.brokers].map(([name, one]) => ({ ...one, name, defined: defined.get(name) })).sort((a, b) => a.name.localeCompare(b.name)));
  }, signal);
}

function editBroker(broker, again) {
  const { name, revision, created_at_ms, changed_at_ms, status, ...old } = broker ?? {};
  const example = { kind: "amqp", url: "amqp://user:password@host:5672/%2f" };
  ask({
    title: broker ? t("edit_name", { name }) : t("add_broker"),
    fields: [
      field({ name: "name", label: t("name"), value: name, required: true, fixed: Boolean(broker) }),
      field({ name: "definition", label: t("definition"), kind: "area", rows: 8, hint: t("broker_hint"),
        value: JSON.stringify(broker ? old : example, null, 2), read: JSON.parse }),
    ],
    save: async (values) => {
      await put("brokers", broker ? name : values.name, values.definition, revision);
      again();
    },
  });
}

async function tokens(root) {
  const table = liveTable([
    { head: t("token"), row: true, text: (one) => one.name },
    { head: t("role"), text: (one) => t(`role.${one.role}`) },
    { head: t("sees"), text: (one) => t(`sees.${sight(one)}`) },
    { head: t("made"), text: (one) => moment(one.created_at_ms) },
    { head: t("actions"), class: "actions", sign: (one) => one.name, node: (one) => button(t("delete"), () => confirm({
      title: t("delete_name", { name: one.name }), intro: t("delete_token_hint"), action: t("delete"),
      run: async () => { await call("DELETE", `/tokens/${encodeURIComponent(one.name)}`); await read(); } }), { role: "admin", label: t("delete_name", { name: one.name }) }) },
  ], { key: (one) => one.name, label: t("tokens"), empty: t("none_yet") });
  const made = h("div", { role: "status" });
  const read = async () => table.update((await get("/tokens?limit=1000")).items);
  const add = button(t("add_token"), () => ask({
    title: t("add_token"), fields: [
      field({ name: "name", label: t("name"), required: true }),
      field({ name: "role", label: t("role"), kind: "select", value: "viewer", options: ROLES.map((role) => [role, `${t(`role.${role}`)} – ${t(`role_may.${role}`)}`]) }),
      field({ name: "sees", label: t("sees"), kind: "select", value: "", hint: t("sees_hint"), options: Object.keys(RIGHTS).map((word) => [word, t(`sees.${word || "role"}`)]) }),
    ],
    save: async ({ name, role, sees }) => {
      const token = await call("POST", "/tokens", { body: { name, role, ...RIGHTS[sees] } });
      made.replaceChildren(h("div", { class: "panel" }, h("p", {}, t("token_once", { name: token.name })), h("code", { class: "whole" }, token.token)));
      await read();
    },
  }), { role: "admin" });
  root.append(h("section", {}, h("h2", {}, t("tokens")), made, table.node, h("p", { class: "buttons" }, add)));
  await read();
}
