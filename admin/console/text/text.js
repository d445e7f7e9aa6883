// The texts of the page, in the language that was chosen, or else the browser's.

import { TEXTS as en } from "./en.js";
import { TEXTS as zh } from "./zh.js";

const CATALOGUES = { en, zh };
const KEPT = "brolly-language";

function chosen() {
  const kept = localStorage.getItem(KEPT);
  if (kept in CATALOGUES) return kept;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

let current = chosen();

export const language = () => current;

export function speak(wanted) {
  current = wanted;
  localStorage.setItem(KEPT, wanted);
}

// A text, with `{name}` replaced by a value.
export function t(key, values = {}) {
  return CATALOGUES[current][key].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
