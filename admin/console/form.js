// Forms in dialogs, questions before what cannot be undone, and buttons that do something.

import { may } from "./api.js";
import { announce, h } from "./dom.js";
import { t } from "./text/text.js";

let numbered = 0;

// A field: `kind` is text, number, area, select, check or checks (several of the options). `read` turns its
// text into a value.
export function field(wanted) {
  return wanted.kind === "checks" ? checks(wanted) : single(wanted);
}

// Several of some options; `value` is the list of those that are chosen.
function checks({ name, label, value = [], options, hint, empty }) {
  const id = `field-${(numbered += 1)}`;
  const boxes = options.map(([option, text]) => [option, text, h("input", { id: `${id}-${option}`, type: "checkbox", checked: value.includes(option) })]);
  const node = h("fieldset", { class: "field checks", "aria-describedby": hint ? `${id}-hint` : null }, h("legend", {}, label),
    boxes.length > 0 ? boxes.map(([, text, box]) => h("span", {}, box, h("label", { for: box.id }, text))) : h("p", { class: "hint" }, empty),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint));
  return { name, node, value: () => boxes.filter(([, , box]) => box.checked).map(([option]) => option) };
}

function single({ name, label, value = "", kind = "text", hint, options, required, min, max, step, read, fixed, rows }) {
  const id = `field-${(numbered += 1)}`;
  const common = { id, name, required, disabled: fixed, "aria-describedby": hint ? `${id}-hint` : null };
  const input = {
    select: () => h("select", common, options.map(([option, text]) =>
      h("option", { value: option, selected: option === value }, text))),
    area: () => h("textarea", { ...common, rows: rows ?? 4, spellcheck: "false", value }),
    check: () => h("input", { ...common, type: "checkbox", checked: value }),
    number: () => h("input", { ...common, type: "number", min, max, step, value }),
    text: () => h("input", { ...common, type: "text", autocomplete: "off", spellcheck: "false", value }),
  }[kind]();
  const node = h("div", { class: `field ${kind}` },
    h("label", { for: id }, label), input, hint && h("p", { class: "hint", id: `${id}-hint` }, hint));
  const raw = () => (kind === "check" ? input.checked : input.value);
  return { name, node, input, value: () => (read ? read(raw()) : kind === "number" ? Number(raw()) : raw()) };
}

// Shows a dialog with a form. `save` gets the values by name and may throw, which is shown. `said` are
// elements that say what it is about.
export function ask({ title, fields, save, action = t("save"), intro, said = [], danger }) {
  const error = h("p", { class: "error", role: "alert" });
  const close = () => {
    dialog.close();
    dialog.remove();
    // What was pressed may be gone by what it did.
    const back = before?.isConnected ? before : document.querySelector("main h1");
    back?.focus({ preventScroll: back !== before });
  };
  const before = document.activeElement;
  const submit = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const form = h("form", { method: "dialog", onsubmit: send },
    h("h2", { id: "dialog-title" }, title), intro && h("p", {}, intro), said, fields.map((one) => one.node), error,
    h("p", { class: "buttons" }, submit, h("button", { type: "button", onclick: close }, t("cancel"))));
  async function send(event) {
    event.preventDefault();
    submit.disabled = true;
    error.textContent = "";
    try {
      await save(Object.fromEntries(fields.map((one) => [one.name, one.value()])));
      close();
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
    submit.disabled = false;
  }
  const dialog = h("dialog", { "aria-labelledby": "dialog-title", oncancel: (event) => { event.preventDefault(); close(); } }, form);
  document.body.append(dialog);
  dialog.showModal();
  return close;
}

export function confirm({ title, intro, said, action, run }) {
  return ask({ title, intro, said, fields: [], save: run, action, danger: true });
}

// A button for those whose role allows it; none for others.
export function button(text, run, { role = "operator", label, tone } = {}) {
  if (!may(role)) return null;
  const node = h("button", { type: "button", class: tone, "aria-label": label, onclick: press }, text);
  async function press() {
    // Not disabled: that would take the keyboard's place away.
    if (node.ariaDisabled === "true") return;
    node.ariaDisabled = "true";
    try {
      await run(node);
    } catch (problem) {
      announce(problem.message || t("no_answer"), "bad");
    }
    node.ariaDisabled = "false";
  }
  return node;
}

// A line `name: value` each.
export const lines = {
  show: (object) => Object.entries(object ?? {}).map(([name, value]) => `${name}: ${value}`).join("\n"),
  read(text) {
    const pairs = text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
      const at = line.indexOf(":");
      if (at < 1) throw new Error(t("not_a_pair", { line }));
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    });
    return Object.fromEntries(pairs);
  },
};

// A line for each owner: name, e-mail, phone.
export const ownerLines = {
  show: (list) => (list ?? []).map((who) =>
    (typeof who === "string" ? who : [who.name, who.email ?? "", who.phone ?? ""].join(", ").replace(/[, ]+$/, ""))).join("\n"),
  read: (text) => text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
    const [name, ...ways] = line.split(",").map((part) => part.trim());
    const email = ways.find((way) => way.includes("@"));
    const phone = ways.find((way) => way !== "" && !way.includes("@"));
    if (!email && !phone) return name;
    return { name, ...(email ? { email } : {}), ...(phone ? { phone } : {}) };
  }),
};

// A JSON pointer a line.
export const pointerLines = {
  show: (list) => (list ?? []).join("\n"),
  read: (text) => text.split("\n").map((line) => line.trim()).filter(Boolean),
};

// A number, or nothing.
export const optional = (text) => (String(text).trim() === "" ? undefined : Number(text));
