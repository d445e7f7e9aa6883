// What differs between two values, field by field, for people to read.

import { h } from "./dom.js";

const MOST_LETTERS = 600;

const hasFields = (value) => typeof value === "object" && value !== null;

// Each field that differs: the way to it, and both values. What one side does not have at all is undefined
// there, and whole on the other.
export function differences(before, after, way = []) {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  if (hasFields(before) && hasFields(after)) {
    const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
    const inside = names.flatMap((name) => differences(before[name], after[name], [...way, name]));
    if (inside.length > 0) return inside;
  }
  return [[way, before, after]];
}

export function shownValue(value) {
  if (value === undefined) return "–";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > MOST_LETTERS ? `${text.slice(0, MOST_LETTERS)} …` : text;
}

export const shownWay = (way) => way.join(" › ");

// As a list: field, old value, new value.
export function differenceList(list) {
  return h("ul", { class: "plain differences" }, list.map(([way, before, after]) =>
    h("li", {}, h("code", {}, shownWay(way)), ": ", h("del", {}, shownValue(before)), " → ", h("ins", {}, shownValue(after)))));
}
