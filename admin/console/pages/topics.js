// Topics and routes: the picture, editing in place, and the route tester.

import { all } from "../api.js";
import { definitions, put, remove } from "../catalog.js";
import { h, link, liveTable, place } from "../dom.js";
import { ask, button, confirm, field, ownerLines, pointerLines } from "../form.js";
import { owners, short } from "../format.js";
import * as live from "../live.js";
import { MOST_ROUTES, flows, picture } from "../picture.js";
import { t } from "../text/text.js";
import { tester } from "./tester.js";

export async function topics({ root, path, signal, again }) {
  const drawn = h("section", { "aria-label": t("picture") });
  const filter = h("input", { type: "search", "aria-label": t("filter"), placeholder: t("filter"), oninput: () => draw() });
  const bar = h("div", { class: "bar-of-page" }, filter,
    button(t("add_topic"), () => editTopic(undefined, again)), button(t("add_route"), async () => editRoute(undefined, again)));
  const routes = routeTable(again);
  const tables = topicTable(again);
  root.append(bar, drawn, h("section", {}, h("h2", {}, t("routes")), routes.node),
    h("section", {}, h("h2", {}, t("topics")), tables.node), tester(signal));
  let known;
  function draw() {
    const word = filter.value.trim().toLowerCase();
    const has = (...texts) => word === "" || texts.some((text) => text?.toLowerCase().includes(word));
    const wanted = known.routes.filter((route) => has(route.name, route.topic, route.queue));
    const rows = flows(known.topics.filter((topic) => has(topic.name)), wanted,
      known.queues.filter((queue) => has(queue.name)), known.subscriptions);
    drawn.replaceChildren(picture(rows.slice(0, MOST_ROUTES)), flowList(rows.slice(0, MOST_ROUTES)),
      rows.length > MOST_ROUTES ? h("p", { class: "hint" }, t("more_rows", { n: rows.length - MOST_ROUTES })) : "");
    routes.update(wanted);
    tables.update(known.topics.filter((topic) => has(topic.name)));
  }
  async function read() {
    const [topics, routes, queues, subscriptions] =
      await Promise.all(["topics", "routes", "queues", "subscriptions"].map(definitions));
    if (signal.aborted) return;
    known = { topics, routes, queues, subscriptions };
    draw();
  }
  let revision = live.now.revision;
  await read();
  live.follow((now) => {
    if (now.revision === revision) return;
    revision = now.revision;
    read();
  }, signal);
  openNamed(path, known, again);
}

// A box of the picture leads here: the thing opens for editing.
function openNamed([kind, name], known, again) {
  if (kind === "topic") editTopic(known.topics.find((topic) => topic.name === name), again);
  if (kind === "route") editRoute(known.routes.find((route) => route.name === name), again);
  if (kind) history.replaceState(null, "", "#/topics");
}

// The same as the picture, for narrow screens.
function flowList(rows) {
  const step = (kind, path, text) => h("span", { class: "step" }, h("small", {}, t(kind)), " ", link(path, text));
  return h("ul", { class: "flows" }, rows.map((row) => h("li", {}, [
    row.topic && step("topic", place("topics", "topic", row.topic), row.topic),
    row.route && step("route", place("topics", "route", row.route.name), row.route.name),
    row.queue && step("queue", place("queues", row.queue), row.queue),
    row.subscription && step("subscription", place("subscriptions", row.subscription.name), row.subscription.name),
    row.plugin && step("plugin", place("plugins", row.plugin.name), `${row.plugin.name} ${short(row.plugin.version)}`),
  ])));
}

function routeTable(again) {
  return liveTable([
    { head: t("route"), row: true, text: (r) => r.name },
    { head: t("topic"), text: (r) => r.topic },
    { head: t("key_pattern"), class: "mono", text: (r) => r.key_pattern },
    { head: t("route_filter"), class: "mono prose", text: (r) => r.filter ?? "–" },
    { head: t("queue"), node: (r) => link(place("queues", r.queue), r.queue), sign: (r) => r.queue },
    { head: t("actions"), class: "actions", sign: (r) => String(r.revision), node: (r) => [
      button(t("edit"), () => editRoute(r, again), { label: t("edit_name", { name: r.name }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: r.name }), intro: t("delete_route_hint"), action: t("delete"),
        run: async () => { await remove("routes", r.name, r.revision); again(); } }), { label: t("delete_name", { name: r.name }) }),
    ] },
  ], { key: (r) => r.name, label: t("routes"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
}

function topicTable(again) {
  return liveTable([
    { head: t("topic"), row: true, text: (one) => one.name },
    { head: t("description"), class: "prose", text: (one) => one.description || "–" },
    { head: t("broker"), text: (one) => one.broker },
    { head: t("owners"), class: "prose", text: (one) => owners(one.owners) },
    { head: t("actions"), class: "actions", sign: (one) => String(one.revision), node: (one) => [
      button(t("edit"), () => editTopic(one, again), { label: t("edit_name", { name: one.name }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: one.name }), intro: t("delete_topic_hint"), action: t("delete"),
        run: async () => { await remove("topics", one.name, one.revision); again(); } }), { label: t("delete_name", { name: one.name }) }),
    ] },
  ], { key: (one) => one.name, label: t("topics"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
}

// The brokers that something can be put on.
export async function brokerOptions() {
  const brokers = await all("/brokers");
  return brokers.map((broker) => [broker.name, broker.name]);
}

async function editTopic(topic, again) {
  const { name, revision, created_at_ms, changed_at_ms, ...old } = topic ?? {};
  ask({
    title: topic ? t("edit_name", { name }) : t("add_topic"),
    fields: [
      field({ name: "name", label: t("name"), value: name, required: true, fixed: Boolean(topic) }),
      field({ name: "description", label: t("description"), value: old.description }),
      field({ name: "owners", label: t("owners"), kind: "area", value: ownerLines.show(old.owners), hint: t("owners_hint"), read: ownerLines.read }),
      field({ name: "broker", label: t("broker"), kind: "select", value: old.broker, options: await brokerOptions(), fixed: Boolean(topic) }),
      field({ name: "mask", label: t("mask"), kind: "area", rows: 2, value: pointerLines.show(old.mask), hint: t("mask_hint"), read: pointerLines.read }),
    ],
    save: async (values) => {
      const { name: wanted, ...fields } = values;
      await put("topics", topic ? name : wanted, { ...old, ...fields }, revision);
      again();
    },
  });
}

async function editRoute(route, again) {
  const [topics, queues] = await Promise.all([definitions("topics"), definitions("queues")]);
  const options = (list) => list.map((one) => [one.name, one.name]);
  const { name, revision, created_at_ms, changed_at_ms, ...old } = route ?? {};
  ask({
    title: route ? t("edit_name", { name }) : t("add_route"),
    fields: [
      field({ name: "name", label: t("name"), value: name, required: true, fixed: Boolean(route) }),
      field({ name: "topic", label: t("topic"), kind: "select", value: old.topic, options: options(topics) }),
      field({ name: "queue", label: t("queue"), kind: "select", value: old.queue, options: options(queues) }),
      field({ name: "key_pattern", label: t("key_pattern"), value: old.key_pattern ?? "#", required: true, hint: t("key_pattern_hint") }),
      field({ name: "filter", label: t("route_filter"), value: old.filter ?? "", kind: "area", rows: 2, hint: t("route_filter_hint") }),
      field({ name: "description", label: t("description"), value: old.description }),
    ],
    save: async (values) => {
      const { name: wanted, filter, ...fields } = values;
      const { filter: _, ...kept } = old;
      const definition = { ...kept, ...fields, ...(filter.trim() === "" ? {} : { filter: filter.trim() }) };
      await put("routes", route ? name : wanted, definition, revision);
      again();
    },
  });
}
