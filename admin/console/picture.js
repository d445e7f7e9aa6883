// The picture of how messages go: topic → route → queue → subscription → plugin.

import { h, place, svg } from "./dom.js";
import { short } from "./format.js";
import { t } from "./text/text.js";

const [WIDE, GAP, HIGH, STEP, TOP] = [178, 30, 34, 46, 30];
const COLUMNS = ["topic", "route", "queue", "subscription", "plugin"];
const LETTERS = 23;
// Beyond this a picture says nothing any more; the page's filter makes it smaller.
export const MOST_ROUTES = 60;

// Rows of the picture: each route with where it begins and where it leads; topics and queues that no
// route touches stand alone.
export function flows(topics, routes, queues, subscriptions) {
  const rows = routes.map((route) => flow(route.topic, route, route.queue, subscriptions));
  const touched = new Set(routes.flatMap((route) => [`topic ${route.topic}`, `queue ${route.queue}`]));
  for (const topic of topics) {
    if (!touched.has(`topic ${topic.name}`)) rows.push({ topic: topic.name });
  }
  for (const queue of queues) {
    if (!touched.has(`queue ${queue.name}`)) rows.push(flow(undefined, undefined, queue.name, subscriptions));
  }
  return rows.sort((a, b) => (a.topic ?? "\uffff").localeCompare(b.topic ?? "\uffff"));
}

function flow(topic, route, queue, subscriptions) {
  const subscription = subscriptions.find((one) => one.queue === queue);
  const plugin = subscription?.plugin && { name: subscription.plugin, version: subscription.version };
  return { topic, route, queue, subscription, plugin };
}

export function picture(rows) {
  const places = COLUMNS.map(() => new Map());
  const links = new Set();
  for (const row of rows) {
    const names = [row.topic, row.route?.name, row.queue, row.subscription?.name, row.plugin?.name];
    names.forEach((name, column) => {
      if (name === undefined) return;
      if (!places[column].has(name)) places[column].set(name, { y: TOP + places[column].size * STEP, row });
      const before = names[column - 1];
      if (before !== undefined) links.add(JSON.stringify([column, before, name]));
    });
  }
  const width = COLUMNS.length * WIDE + (COLUMNS.length - 1) * GAP;
  const height = TOP + Math.max(1, ...places.map((column) => column.size)) * STEP;
  const heads = COLUMNS.map((word, column) =>
    svg("text", { class: "head", x: column * (WIDE + GAP) + 2, y: 16 }, t(word)));
  const lines = [...links].map((link) => edge(JSON.parse(link), places));
  const nodes = places.flatMap((column, index) => [...column].map(([name, { y, row }]) => box(index, name, y, row)));
  return h("div", { class: "picture", tabindex: "0", role: "region", "aria-label": t("picture") },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, heads, lines, nodes));
}

function edge([column, before, name], places) {
  const from = (column - 1) * (WIDE + GAP) + WIDE;
  const to = column * (WIDE + GAP);
  const [y1, y2] = [places[column - 1].get(before).y + HIGH / 2, places[column].get(name).y + HIGH / 2];
  const middle = (from + to) / 2;
  return svg("path", { class: "edge", d: `M${from} ${y1}C${middle} ${y1} ${middle} ${y2} ${to} ${y2}` });
}

function box(column, name, y, row) {
  const kind = COLUMNS[column];
  const x = column * (WIDE + GAP);
  const detail = {
    route: () => [row.route.key_pattern === "#" ? "" : row.route.key_pattern, row.route.filter].filter(Boolean).join("  "),
    subscription: () => t(`state.${row.subscription.state}`),
    plugin: () => short(row.plugin.version),
  }[kind]?.();
  const path = { topic: ["topics", "topic", name], route: ["topics", "route", name] }[kind] ?? [`${kind}s`, name];
  const tone = kind === "subscription" ? ` ${row.subscription.state}` : "";
  return svg("a", { href: `#/${place(...path)}`, class: `box ${kind}${tone}` },
    svg("title", {}, [`${t(kind)} ${name}`, detail].filter(Boolean).join(" – ")),
    svg("rect", { x: x + 1, y, width: WIDE - 2, height: HIGH, rx: 4 }),
    svg("text", { x: x + 9, y: y + (detail ? 15 : 21) }, cut(name)),
    detail && svg("text", { class: "detail", x: x + 9, y: y + 28 }, cut(detail, LETTERS + 4)));
}

const cut = (text, most = LETTERS) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
