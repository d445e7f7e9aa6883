// Channels: the ways on which alerts reach people, how they are doing, and a message to try one.

import { all, call, may } from "../api.js";
import { put, remove } from "../catalog.js";
import { announce, h, liveTable } from "../dom.js";
import { ask, button, confirm, field } from "../form.js";
import { age, count } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";

const EVERY_MS = 5_000;
const TONES = { ok: "good", failing: "bad", unused: "" };
// What a new channel of each kind begins with.
const EXAMPLES = {
  smtp: { kind: "smtp", url: "smtp://mail.example.com:587", from: "brolly@example.com", to: ["ops@example.com"] },
  "sms http": { kind: "sms", preset: "http", url: "https://sms.example.com/send", body: '{"to":"{{ phone }}","text":"{{ text }}"}', to: ["+15550100"] },
  "sms alibaba": { kind: "sms", preset: "alibaba", access_key_id: "", access_key_secret: "", sign_name: "", template_code: "", to: ["+86"] },
  "sms twilio": { kind: "sms", preset: "twilio", account_sid: "", auth_token: "", from: "+15550100", to: ["+15550100"] },
  webhook: { kind: "webhook", url: "https://hooks.example.com/brolly", secret: "" },
  "webhook dingtalk": { kind: "webhook", preset: "dingtalk", url: "https://oapi.dingtalk.com/robot/send?access_token=", secret: "" },
  "webhook wecom": { kind: "webhook", preset: "wecom", url: "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=" },
  "webhook feishu": { kind: "webhook", preset: "feishu", url: "https://open.feishu.cn/open-apis/bot/v2/hook/", secret: "" },
  "webhook slack": { kind: "webhook", preset: "slack", url: "https://hooks.slack.com/services/" },
};

export async function channels(root, signal) {
  const table = liveTable([
    { head: t("channel"), row: true, text: (c) => c.name },
    { head: t("kind"), text: (c) => [c.kind, c.preset].filter(Boolean).join(" ") },
    { head: t("state"), text: (c) => t(`channel.${c.health.state}`), tone: (c) => TONES[c.health.state] },
    { head: t("for"), text: (c) => age(c.health.since_ms) },
    { head: t("waiting"), class: "number", text: (c) => count(c.health.waiting) },
    { head: t("why"), class: "prose", text: (c) => c.health.error ?? "–" },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: (c) => String(c.revision), node: (c) => [
      button(t("test"), () => test(c, read), { label: t("test_name", { name: c.name }) }),
      button(t("edit"), () => edit(c, read), { label: t("edit_name", { name: c.name }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: c.name }), intro: t("delete_channel_hint"), action: t("delete"),
        run: async () => { await remove("channels", c.name, c.revision); await read(); } }), { label: t("delete_name", { name: c.name }) }),
    ] }] : []),
  ], { key: (c) => c.name, label: t("channels"), empty: t("none_yet") });
  const error = h("p", { class: "error", role: "alert" });
  async function read() {
    try {
      const items = await all("/channels");
      if (signal.aborted) return;
      table.update(items);
      error.textContent = "";
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  }
  root.append(h("section", {}, h("h2", {}, t("channels")), h("p", { class: "hint" }, t("channels_hint")), error, table.node,
    h("p", { class: "buttons" }, button(t("add_channel"), () => edit(undefined, read)))));
  live.repeat(read, EVERY_MS, signal);
}

function edit(channel, read) {
  const { name, revision, created_at_ms, changed_at_ms, health, ...old } = channel ?? {};
  const definition = field({ name: "definition", label: t("definition"), kind: "area", rows: 10, hint: t("channel_hint"),
    value: JSON.stringify(channel ? old : EXAMPLES.smtp, null, 2), read: JSON.parse });
  const kind = field({ name: "kind", label: t("kind"), kind: "select", value: "smtp", options: Object.keys(EXAMPLES).map((word) => [word, word]) });
  kind.input.addEventListener("change", () => { definition.input.value = JSON.stringify(EXAMPLES[kind.value()], null, 2); });
  ask({
    title: channel ? t("edit_name", { name }) : t("add_channel"),
    fields: [
      field({ name: "name", label: t("name"), value: name, required: true, fixed: Boolean(channel) }),
      ...(channel ? [] : [kind]), definition,
    ],
    save: async (values) => {
      await put("channels", channel ? name : values.name, values.definition, revision);
      await read();
    },
  });
}

// Sends a message that says it is a test.
function test(channel, read) {
  const fields = { smtp: ["email"], sms: ["phone"] }[channel.kind] ?? [];
  ask({
    title: t("test_name", { name: channel.name }), intro: t("test_channel_hint"), action: t("send"),
    fields: fields.map((word) => field({ name: word, label: t(word), hint: t("test_to_hint") })),
    save: async (values) => {
      const body = Object.fromEntries(Object.entries(values).filter(([, value]) => value.trim() !== ""));
      const { results } = await call("POST", `/channels/${encodeURIComponent(channel.name)}/test`, { body });
      await read();
      const failed = results.filter((one) => !one.ok).map((one) => `${one.to || channel.name}: ${one.error}`);
      if (failed.length > 0) throw new Error(failed.join("; "));
      announce(t("test_sent", { to: results.map((one) => one.to || channel.name).join(", ") }));
    },
  });
}
