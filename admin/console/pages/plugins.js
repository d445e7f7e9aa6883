// Plugins: upload by drag and drop; versions, who runs them, what they may do; swap and roll back.

import { call, may, upload } from "../api.js";
import { definitions, forget, swap } from "../catalog.js";
import { announce, facts, h, link, liveTable, place, say } from "../dom.js";
import { ask, button, confirm, field } from "../form.js";
import { bytes, count, moment, short } from "../format.js";
import * as live from "../live.js";
import { t } from "../text/text.js";

export function plugins(view) {
  return view.path[0] ? detail(view, view.path[0]) : list(view);
}

async function list({ root, signal, again }) {
  const table = liveTable([
    { head: t("plugin"), row: true, node: (p) => link(place("plugins", p.name), p.name), sign: (p) => p.name },
    { head: t("versions"), class: "number", text: (p) => count(p.versions.length) },
    { head: t("latest"), class: "mono", text: (p) => short(p.versions.at(-1)?.digest) },
    { head: t("uploaded"), text: (p) => moment(p.versions.at(-1)?.uploaded_at_ms) },
    { head: t("used_by"), class: "prose", text: (p) => p.versions.flatMap((version) => version.used_by).join(", ") || t("nobody") },
  ], { key: (p) => p.name, label: t("page.plugins"), empty: t("none_yet"), more: (n) => t("more_rows", { n }) });
  root.append(dropZone(undefined, again) ?? "", table.node);
  await renewed(signal, async () => table.update(await definitions("plugins")));
}

// Draws now and whenever definitions have changed.
async function renewed(signal, draw) {
  let revision = live.now.revision;
  await draw();
  live.follow((now) => {
    if (now.revision === revision) return;
    revision = now.revision;
    if (!signal.aborted) draw();
  }, signal);
}

// Where a file is dropped, or chosen; shows how far the upload is, and what came of it.
function dropZone(name, again) {
  if (!may("operator")) return null;
  const plugin = h("input", { type: "text", id: "plugin-name", autocomplete: "off", spellcheck: "false", required: true, value: name ?? "", disabled: Boolean(name) });
  const file = h("input", { type: "file", id: "plugin-file", accept: ".wasm,application/wasm", onchange: () => send(file.files[0]) });
  const bar = h("progress", { max: 1, value: 0, "aria-label": t("progress"), hidden: true });
  const said = h("p", { role: "status", class: "result" });
  const error = h("p", { role: "alert", class: "error" });
  const outcome = h("div", {});
  async function send(chosen) {
    file.value = "";
    if (!chosen) return;
    if (plugin.value.trim() === "") plugin.value = chosen.name.replace(/\.wasm$/i, "").replace(/[^A-Za-z0-9._-]/g, "-");
    const to = plugin.value.trim();
    error.textContent = "";
    outcome.replaceChildren();
    bar.hidden = false;
    try {
      const uploaded = await upload(`/plugins/${encodeURIComponent(to)}/versions`, chosen, (done) => {
        bar.value = done;
        say(said, done < 1 ? t("uploading", { percent: Math.floor(done * 100) }) : t("checking"));
      });
      forget();
      say(said, t(uploaded.created ? "uploaded_new" : "uploaded_known", { name: to, version: short(uploaded.digest) }));
      outcome.replaceChildren(result(uploaded, again));
    } catch (problem) {
      said.textContent = "";
      error.textContent = problem.message || t("no_answer");
    }
    bar.hidden = true;
  }
  const zone = h("div", { class: "drop", ondragover: over, ondragleave: () => zone.classList.remove("over"), ondrop: drop },
    h("p", {}, t("drop_here")), h("label", { class: "button", for: "plugin-file" }, t("choose_file")), file);
  function over(event) {
    event.preventDefault();
    zone.classList.add("over");
  }
  function drop(event) {
    event.preventDefault();
    zone.classList.remove("over");
    send(event.dataTransfer.files[0]);
  }
  return h("section", { "aria-labelledby": "upload-title", class: "upload" }, h("h2", { id: "upload-title" }, t("upload")),
    h("div", { class: "field" }, h("label", { for: "plugin-name" }, t("plugin_name")), plugin, !name && h("p", { class: "hint" }, t("plugin_name_hint"))),
    zone, bar, said, error, outcome);
}

function result(uploaded, again) {
  const changes = uploaded.compared.map((one) => h("li", {}, h("b", {}, one.subscription), " ",
    one.version === uploaded.digest ? t("runs_it_already") : one.new_imports.length === 0 ? t("no_new_imports") : t("new_imports"),
    one.new_imports.length > 0 && h("ul", { class: "warn mono" }, one.new_imports.map((name) => h("li", {}, name))),
    one.version !== uploaded.digest && h("p", {}, swapButton(one.subscription, uploaded.digest, t("swap"), again))));
  const needs = (uploaded.needs ?? []).map((one) => h("li", {}, h("b", {}, one.subscription), h("ul", {}, one.words.map((word) => h("li", {}, word)))));
  const denied = (uploaded.denied ?? []).map((one) => h("li", {}, h("code", {}, one.interface), ` ${one.meaning}`));
  return h("div", { class: "panel" }, versionFacts(uploaded),
    uploaded.samples !== null && h("p", { class: "good" }, t("samples_passed", { n: uploaded.samples })),
    needs.length > 0 && h("h3", {}, t("needs")), needs.length > 0 && h("ul", { class: "plain" }, needs),
    denied.length > 0 && h("h3", {}, t("denied")), denied.length > 0 && h("p", {}, t("denied_hint")), denied.length > 0 && h("ul", { class: "warn" }, denied),
    changes.length > 0 && h("h3", {}, t("compared")), changes.length > 0 && h("ul", { class: "plain" }, changes));
}

function versionFacts(version) {
  const about = version.about ?? {};
  return facts([
    ...["name", "version", "description", "authors"].filter((field) => about[field]).map((field) => [t(`about.${field}`), about[field]]),
    [t("digest"), h("code", { class: "whole" }, version.digest)], [t("size"), bytes(version.size_bytes)], [t("world"), h("code", {}, version.world)],
    [t("imports"), version.imports.length === 0 ? t("no_imports") : h("ul", { class: "plain mono" }, version.imports.map((name) => h("li", {}, name)))],
    [t("compile"), `${count(version.compile_ms)} ms`], [t("uploaded"), version.uploaded_at_ms && moment(version.uploaded_at_ms)],
  ]);
}

function swapButton(subscription, digest, text, again) {
  return button(text, async () => {
    await swap(subscription, digest);
    announce(t("swapped", { name: subscription, version: short(digest) }));
    again();
  }, { label: `${text}: ${subscription} → ${short(digest)}`, tone: "primary" });
}

async function detail({ root, title, signal, again }, name) {
  title.textContent = `${t("plugin")} ${name}`;
  const versions = h("ol", { class: "versions", reversed: true });
  const asked = h("div", {});
  root.append(h("p", {}, link("plugins", `← ${t("page.plugins")}`)), dropZone(name, again) ?? "", h("h2", {}, t("versions")), versions,
    h("h2", {}, t("samples")), h("p", { class: "hint" }, t("samples_hint")), asked);
  await renewed(signal, async () => {
    const plugin = (await definitions("plugins")).find((one) => one.name === name);
    if (signal.aborted) return;
    await samples(asked, name, plugin?.has_samples);
    const list = plugin?.versions ?? [];
    const users = (await definitions("subscriptions")).filter((one) => one.plugin === name);
    versions.replaceChildren(...[...list].reverse().map((version) => versionItem(name, version, list, users, again)));
  });
}

// What every version must do before it is used.
async function samples(asked, name, has) {
  const path = `/plugins/${encodeURIComponent(name)}/samples`;
  const set = has ? await call("GET", path) : null;
  const document = field({ name: "document", label: t("samples"), kind: "area", rows: 20, hint: t("samples_form_hint"), value: set?.document ?? "" });
  const edit = () => ask({ title: t("samples_name", { name }), fields: [document], save: async (values) => {
    const wanted = values.document.trim() !== "";
    const headers = set ? { "if-match": `"r${set.revision}"` } : {};
    if (wanted) await call("PUT", path, { body: values, headers });
    else if (set) await call("DELETE", path, { headers });
    forget();
    await samples(asked, name, wanted);
  } });
  asked.replaceChildren(set ? h("pre", { class: "panel", tabindex: "0" }, set.document) : h("p", {}, t("samples_none")),
    h("p", { class: "buttons" }, button(t("edit_samples"), edit, { role: "admin" })));
}

function versionItem(name, version, list, users, again) {
  const at = (digest) => list.findIndex((one) => one.digest === digest);
  const others = users.filter((user) => user.version !== version.digest);
  const swaps = others.map((user) => {
    const back = at(version.digest) < at(user.version);
    return swapButton(user.name, version.digest, t(back ? "roll_back_name" : "swap_name", { name: user.name }), again);
  });
  const used = version.used_by.flatMap((user, index) => [index > 0 ? ", " : "", link(place("subscriptions", user), user)]);
  const running = others.map((user) => list[at(user.version)]).filter(Boolean);
  const news = version.imports.filter((one) => running.length > 0 && running.some((other) => !other.imports.includes(one)));
  return h("li", { class: version.used_by.length > 0 ? "panel used" : "panel", "data-version": version.digest },
    h("h3", {}, h("code", {}, short(version.digest)), " ", version.used_by.length > 0 && h("span", { class: "good" }, t("in_use"))),
    h("p", {}, `${t("used_by")}: `, used.length > 0 ? used : t("nobody")), versionFacts(version),
    news.length > 0 && h("p", { class: "warn" }, `${t("new_imports")} ${news.join(", ")}`),
    h("p", { class: "buttons" }, swaps, version.used_by.length === 0 && button(t("delete"), () => confirm({
      title: t("delete_name", { name: `${name} ${short(version.digest)}` }), intro: t("delete_version_hint"), action: t("delete"),
      run: async () => {
        await call("DELETE", `/plugins/${encodeURIComponent(name)}/versions/${encodeURIComponent(version.digest)}`);
        forget();
        again();
      },
    }), { label: t("delete_name", { name: short(version.digest) }) })));
}
