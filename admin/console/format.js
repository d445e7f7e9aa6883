// Numbers, times and names as people read them, in the language of the page.

import { language, t } from "./text/text.js";

const locale = () => (language() === "zh" ? "zh-CN" : "en-GB");
const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]];

export function count(value) {
  return value === null || value === undefined ? t("not_measurable") : value.toLocaleString(locale());
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  const digits = value >= 10 || value === 0 ? 0 : 1;
  return t("per_second", { n: value.toLocaleString(locale(), { maximumFractionDigits: digits }) });
}

// A length of time in its two largest units.
export function span(ms) {
  const found = UNITS.findIndex(([size]) => ms >= size);
  if (found < 0) return t("unit.s", { n: 0 });
  const [size, unit] = UNITS[found];
  const text = t(`unit.${unit}`, { n: Math.floor(ms / size) });
  const next = UNITS[found + 1];
  const rest = next ? Math.floor((ms % size) / next[0]) : 0;
  return rest > 0 && unit !== "s" ? `${text} ${t(`unit.${next[1]}`, { n: rest })}` : text;
}

export const age = (at) => (at === null || at === undefined ? "–" : span(Math.max(0, Date.now() - at)));

export function moment(at) {
  if (at === null || at === undefined) return "–";
  return new Date(at).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "medium" });
}

export function clock(at) {
  return new Date(at).toLocaleTimeString(locale());
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${n.toLocaleString(locale(), { maximumFractionDigits: unit > 0 && n < 100 ? 1 : 0 })} ${units[unit]}`;
}

export function micros(us) {
  return us >= 1_000_000 ? t("unit.s", { n: (us / 1_000_000).toFixed(1) }) : `${(us / 1000).toFixed(us < 10_000 ? 2 : 0)} ms`;
}

// How the state of a subscription is coloured.
export const STATE_TONES = { running: "good", paused: "warn", starting: "warn", failed: "bad" };

// A version as short as it is still told apart.
export const short = (digest) => (digest ? digest.replace("sha256:", "").slice(0, 12) : "–");

// What a subscription does with its messages: a plugin with its version, or the topic that it forwards to.
export const handler = (one) => (one.forward ? `→ ${one.forward.topic}` : `${one.plugin} ${short(one.version)}`);

export function owner(who) {
  return typeof who === "string" ? who : [who.name, who.email, who.phone].filter(Boolean).join(", ");
}

export const owners = (list) => (list ?? []).map(owner).join("; ") || t("nobody");

export function json(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
