// Dead letters: grouped by reason; look, replay one, some or all, delete.

import { call, get, may } from "../api.js";
import { announce, h, link, liveTable, place, say } from "../dom.js";
import { ask, button, confirm, field, optional } from "../form.js";
import { count, moment } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";
import { letter } from "./letter.js";

const PART = 100;
const NAMED = 200;

export function deadLetters(view) {
  if (view.path[1]) return letter(view, ...view.path);
  return view.path[0] ? desk(view, view.path[0]) : list(view);
}

async function list({ root, signal }) {
  const table = liveTable([
    { head: t("subscription"), row: true, node: (s) => link(place("dead-letters", s.name), s.name), sign: (s) => s.name },
    { head: t("dead_letters"), class: "number", text: (s) => count(s.count), tone: () => "bad" },
    { head: t("last_failure"), class: "prose", text: (s) => s.last_failure ?? "–" },
    { head: t("queue"), node: (s) => link(place("queues", s.queue), s.queue), sign: (s) => s.queue },
  ], { key: (s) => s.name, label: t("page.dead-letters"), empty: t("no_dead_letters"), more: (n) => t("more_rows", { n }) });
  root.append(table.node);
  live.follow((now) => {
    const rows = [...now.subscriptions].map(([name, one]) => ({ ...one, name, count: now.queues.get(one.queue)?.dead ?? 0 }));
    table.update(rows.filter((one) => one.count > 0).sort((a, b) => b.count - a.count));
  }, signal);
}

async function desk({ root, title, signal }, name) {
  title.textContent = `${t("page.dead-letters")}: ${name}`;
  const base = `/subscriptions/${encodeURIComponent(name)}`;
  const outcome = h("div", { role: "status" });
  const chosen = new Set();
  const selection = h("p", { class: "buttons" });
  const note = h("p", { class: "hint" });
  const more = h("p", { class: "buttons" });
  let items = [];
  const showChosen = () => selection.querySelectorAll("button").forEach((node) => { node.hidden = chosen.size === 0; });

  async function read() {
    chosen.clear();
    showChosen();
    const [reasons] = await Promise.all([get(`${base}/dead-letter-reasons`), readLetters()]);
    if (signal.aborted) return;
    groups.update(reasons.items);
    say(note, reasons.looked_at >= 50_000 || reasons.others > 0
      ? t("reasons_bounded", { n: count(reasons.looked_at), others: count(reasons.others) }) : "");
  }
  async function readLetters(after) {
    const part = await get(`${base}/dead-letters?limit=${PART}${after ? `&after=${after}` : ""}`);
    items = after ? [...items, ...part.items] : part.items;
    letters.update(items);
    more.replaceChildren(part.next ? button(t("more"), () => readLetters(part.next), { role: "viewer" }) ?? "" : "");
  }
  const act = actions(base, name, outcome, read);
  const groups = groupTable(act);
  const letters = letterTable(name, chosen, showChosen, act);
  const picked = () => ({ ids: [...chosen] });
  selection.append(...[
    button(t("replay_chosen"), () => act.replay(picked()), { tone: "primary" }),
    button(t("delete_chosen"), () => act.drop(picked(), t("delete_chosen"))),
  ].filter(Boolean));
  root.append(h("p", {}, link("dead-letters", `← ${t("page.dead-letters")}`), " · ", link(place("subscriptions", name), t("open_subscription"))),
    h("p", { class: "buttons" }, button(t("replay_all"), () => act.replay({ all: true })), button(t("delete_all"), () => act.drop({ all: true }, t("delete_all"))),
      button(t("refresh"), read, { role: "viewer" })), may("operator") ? matching(act) : "", outcome,
    h("section", {}, h("h2", {}, t("by_reason")), groups.node, note),
    h("section", {}, h("h2", {}, t("each")), selection, letters.node, more));
  showChosen();
  await read();
}

// Those whose reason contains a text.
function matching(act) {
  const text = h("input", { type: "search", "aria-label": t("reason_contains"), placeholder: t("reason_contains"), required: true });
  const chosen = (run) => async () => {
    if (text.reportValidity()) await run({ reason: text.value });
  };
  return h("div", { class: "bar-of-page" }, text, button(t("replay_matching"), chosen(act.replay)),
    button(t("delete_matching"), chosen((selection) => act.drop(selection, t("delete_matching")))));
}

function actions(base, name, outcome, read) {
  // Calls as often as there is more than one call handles.
  async function repeat(once, selection) {
    const all = { done: [], not_found: [], refused: [] };
    for (let round = 0; round < 1_000; round += 1) {
      const result = await once();
      all.done.push(...result.done);
      all.not_found.push(...result.not_found);
      all.refused.push(...result.refused);
      if (result.refused.length > 0) break;
      if (!result.more || selection.ids) break;
    }
    return all;
  }
  async function show(words, result) {
    announce(t(words, { n: count(result.done.length) }), result.not_found.length + result.refused.length > 0 ? "warn" : "good");
    outcome.replaceChildren(results(words, result));
    await read();
  }
  return {
    replay: (selection) => ask({
      title: t("replay"), intro: t("replay_hint", { name }), action: t("replay"),
      fields: [field({ name: "per_second", label: t("per_second_most"), kind: "number", min: 1, read: optional, hint: t("per_second_hint") })],
      save: async ({ per_second }) => {
        const body = { ...selection, ...(per_second ? { per_second } : {}) };
        await show("replayed", await repeat(() => call("POST", `${base}/dead-letters/replay`, { body }), selection));
      },
    }),
    drop: (selection, title) => confirm({
      title, intro: t("delete_letters_hint"), action: t("delete"),
      run: async () => show("deleted", await repeat(() => dropPart(base, selection), selection)),
    }),
  };
}

// Ids stand in the address, which has an end: some at a time.
async function dropPart(base, { ids, ...others }) {
  if (!ids) return call("DELETE", `${base}/dead-letters?${new URLSearchParams(others)}`);
  const result = { done: [], not_found: [], refused: [], more: false };
  for (let i = 0; i < ids.length; i += 50) {
    const query = ids.slice(i, i + 50).map((id) => `id=${encodeURIComponent(id)}`).join("&");
    const part = await call("DELETE", `${base}/dead-letters?${query}`);
    result.done.push(...part.done);
    result.not_found.push(...part.not_found);
  }
  return result;
}

// What became of each that was meant.
function results(words, result) {
  const lines = [...result.done.map((id) => [id, t(words === "replayed" ? "result.replayed" : "result.deleted"), "good"]),
    ...result.refused.map((one) => [one.id, one.detail, "bad"]), ...result.not_found.map((id) => [id, t("result.not_found"), "bad"])];
  const failed = result.not_found.length + result.refused.length;
  return h("details", { class: "panel", open: failed > 0 }, h("summary", {}, t("results", { done: count(result.done.length), failed: count(failed) })),
    h("ul", { class: "plain" }, lines.slice(0, NAMED).map(([id, text, tone]) => h("li", {}, link(place("messages", id), id), " ", h("span", { class: tone }, text)))),
    lines.length > NAMED && h("p", { class: "hint" }, t("more_rows", { n: lines.length - NAMED })));
}

function groupTable(act) {
  return liveTable([
    { head: t("reason"), row: true, class: "prose", text: (g) => g.shape || t("no_reason") },
    { head: t("count"), class: "number", text: (g) => count(g.count) },
    { head: t("latest_example"), class: "prose", text: (g) => g.example },
    { head: t("first"), text: (g) => moment(g.first_at_ms) },
    { head: t("latest"), text: (g) => moment(g.latest_at_ms) },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: (g) => g.shape, node: (g) => [
      button(t("replay"), () => act.replay({ shape: g.shape }), { label: t("replay_name", { name: g.shape }), tone: "primary" }),
      button(t("delete"), () => act.drop({ shape: g.shape }, t("delete_name", { name: g.shape })), { label: t("delete_name", { name: g.shape }) }),
    ] }] : []),
  ], { key: (g) => g.shape, label: t("by_reason"), empty: t("no_dead_letters") });
}

function letterTable(name, chosen, changed, act) {
  const pick = (letter) => h("input", { type: "checkbox", "aria-label": t("choose_name", { name: letter.message_id }), checked: chosen.has(letter.message_id),
    onchange: (event) => {
      if (event.target.checked) chosen.add(letter.message_id);
      else chosen.delete(letter.message_id);
      changed();
    } });
  return liveTable([
    ...(may("operator") ? [{ head: t("choose"), class: "pick", node: pick, sign: (one) => String(chosen.has(one.message_id)) }] : []),
    { head: t("message"), row: true, node: (one) => link(`${place("dead-letters", name, one.message_id)}?topic=${encodeURIComponent(one.topic)}`, one.message_id), sign: (one) => one.message_id },
    { head: t("key"), text: (one) => one.key || "–" },
    { head: t("reason"), class: "prose", text: (one) => one.reason },
    { head: t("attempts"), class: "number", text: (one) => count(one.attempts) },
    { head: t("given_up"), text: (one) => moment(one.at_ms) },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: () => "", node: (one) =>
      button(t("replay"), () => act.replay({ ids: [one.message_id] }), { label: t("replay_name", { name: one.message_id }) }) }] : []),
  ], { key: (one) => `${one.topic} ${one.message_id} ${one.at_ms}`, label: t("each"), empty: t("no_dead_letters"), most: 2_000, more: (n) => t("more_rows", { n }) });
}
