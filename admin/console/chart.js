// Lines over time, as plain SVG.

import { h, svg } from "./dom.js";
import { clock } from "./format.js";

const [WIDE, NARROW, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 360, 190, 50, 8, 10, 24];
const LEAST_MS = 300_000;
// Where there is less room the picture is drawn narrower, so that its letters stay as large.
const narrow = matchMedia("(max-width: 48rem)");

// `lines` are { name, tone, points: [[at, value]] }.
export function chart({ label, show }) {
  const picture = svg("svg", { role: "img", "aria-label": label });
  const legend = h("ul", { class: "legend" });
  const node = h("figure", { class: "chart" }, h("figcaption", {}, label), picture, legend);
  return {
    node,
    update(lines, until) {
      const from = Math.min(until - LEAST_MS, ...lines.flatMap((line) => line.points.slice(0, 1).map(([at]) => at)));
      const top = roof(Math.max(0, ...lines.flatMap((line) => line.points.map(([, value]) => value))));
      const width = narrow.matches ? NARROW : WIDE;
      picture.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      const x = (at) => LEFT + ((at - from) / (until - from)) * (width - LEFT - RIGHT);
      const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
      picture.replaceChildren(...axes(from, until, top, x, y, show), ...lines.map((line) => path(line, x, y)));
      const latest = (line) => line.points.at(-1)?.[1] ?? 0;
      picture.setAttribute("aria-label",
        `${label}: ${lines.map((line) => `${line.name} ${show(latest(line))}`).join(", ")}`);
      legend.replaceChildren(...lines.map((line) =>
        h("li", { class: line.tone }, h("span", { class: "swatch" }), `${line.name} `, h("b", {}, show(latest(line))))));
    },
  };
}

// The next round number.
function roof(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function axes(from, until, top, x, y, show) {
  const marks = [];
  // Half of little would read like all of it.
  const middle = [top / 2].filter((value) => show(value) !== show(0) && show(value) !== show(top));
  for (const value of [0, ...middle, top]) {
    marks.push(svg("line", { class: "grid", x1: x(from), x2: x(until), y1: y(value), y2: y(value) }));
    marks.push(svg("text", { class: "tick", x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, show(value)));
  }
  const anchors = ["start", "middle", "end"];
  [from, (from + until) / 2, until].forEach((at, index) => {
    marks.push(svg("text", { class: "tick", x: x(at), y: HEIGHT - 6, "text-anchor": anchors[index] },
      clock(at).slice(0, 5)));
  });
  return marks;
}

function path({ tone, points }, x, y) {
  const text = points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return svg("polyline", { class: `line ${tone}`, points: text });
}

// Differences a second between totals that only grow; a host that starts again begins at zero.
export function perSecond(samples, read) {
  const points = [];
  for (let i = 1; i < samples.length; i += 1) {
    const [before, after] = [samples[i - 1], samples[i]];
    const [grown, ms] = [read(after) - read(before), after.at_ms - before.at_ms];
    if (grown >= 0 && ms > 0) points.push([after.at_ms, (grown * 1000) / ms]);
  }
  return points;
}
