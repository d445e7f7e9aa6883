// Elements. Whatever others wrote (names, reasons, payloads) comes in as strings and becomes text
// nodes; nothing here makes markup out of text, and the page's policy forbids it.

const AS_PROPERTY = new Set(["value", "checked", "disabled", "required", "multiple", "selected", "open", "hidden"]);

function dress(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (AS_PROPERTY.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function h(tag, properties, ...children) {
  return dress(document.createElement(tag), properties, children);
}

export function svg(tag, properties, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

// Sets a text only when it differs, so that screen readers and selections are left alone.
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Keeps children whose keys stay, so that focus and open details survive an update.
// make(item) answers with { node, update(item) }.
export function keyed(parent, key, make) {
  const known = new Map();
  return (items) => {
    const seen = new Set();
    let place = parent.firstChild;
    for (const item of items) {
      const id = key(item);
      seen.add(id);
      if (!known.has(id)) known.set(id, make(item));
      const child = known.get(id);
      child.update(item);
      if (child.node === place) place = place.nextSibling;
      else parent.insertBefore(child.node, place);
    }
    for (const [id, child] of known) {
      if (!seen.has(id)) {
        child.node.remove();
        known.delete(id);
      }
    }
  };
}

// A table that is updated in place. A column has a `head` and either `text(item)` or `node(item)`; a
// node is made anew only when `sign(item)` changes. `row` marks the column that names the row.
export function liveTable(columns, { key, label, empty, most = 500, more = String }) {
  const body = h("tbody", { role: "rowgroup" });
  const heads = columns.map((column) =>
    h("th", { scope: "col", role: "columnheader", class: column.class === "number" ? "number" : null }, column.head));
  const head = h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads));
  const table = h("table", { role: "table", "aria-label": label }, head, body);
  const note = h("p", { class: "hint" });
  const node = h("div", { class: "table" }, table, note);
  const fill = keyed(body, key, () => tableRow(columns));
  return {
    node,
    update(items) {
      fill(items.slice(0, most));
      table.hidden = items.length === 0;
      say(note, items.length === 0 ? empty : items.length > most ? more(items.length - most) : "");
    },
  };
}

function tableRow(columns) {
  const cells = columns.map((column) => {
    const properties = { class: column.class, "data-label": column.head };
    return column.row
      ? h("th", { ...properties, scope: "row", role: "rowheader" })
      : h("td", { ...properties, role: "cell" });
  });
  const signs = new Array(columns.length);
  return {
    node: h("tr", { role: "row" }, cells),
    update(item) {
      columns.forEach((column, index) => {
        const cell = cells[index];
        if (column.tone) cell.className = [column.class, column.tone(item)].filter(Boolean).join(" ");
        if (column.text) return say(cell, column.text(item));
        const sign = column.sign ? column.sign(item) : JSON.stringify(item);
        if (signs[index] === sign) return;
        signs[index] = sign;
        cell.replaceChildren(...[column.node(item)].flat(2).filter(Boolean));
      });
    },
  };
}

// Says something to screen readers and shows it for a while.
export function announce(text, tone = "good") {
  const shown = h("p", { class: `notice ${tone}` }, text);
  document.getElementById("notices").append(shown);
  setTimeout(() => shown.remove(), tone === "bad" ? 15_000 : 6_000);
}

// Facts as names and values; those without a value are left out.
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function link(path, text, properties) {
  return h("a", { href: `#/${path}`, ...properties }, text);
}

// The path of a thing, as the address after `#/` has it.
export const place = (...parts) => parts.map(encodeURIComponent).join("/");
