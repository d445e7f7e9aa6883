// One dead letter: what it is and why, edited, tried against a version without effect, sent back.

import { call, get, may } from "../api.js";
import { definitions } from "../catalog.js";
import { announce, facts, h, link, place } from "../dom.js";
import { button, confirm, field, lines } from "../form.js";
import { bytes, count, json, micros, moment, short } from "../format.js";
import { t } from "../text/text.js";
import { attempted, messagePath, payload } from "./messages.js";

const TONES = { ack: "good", retry: "warn", reject: "bad", fault: "bad", unavailable: "warn" };

export async function letter({ root, title, query }, name, id) {
  title.textContent = `${t("dead_letter")}: ${id}`;
  const topic = query.get("topic");
  const base = `/subscriptions/${encodeURIComponent(name)}/dead-letters/${encodeURIComponent(id)}`;
  const inTopic = topic ? `?topic=${encodeURIComponent(topic)}` : "";
  const [shown, defined] = await Promise.all([get(`${base}${inTopic}`), get(`/subscriptions/${encodeURIComponent(name)}`)]);
  const plugin = (await definitions("plugins")).find((one) => one.name === defined.plugin);
  const { message } = shown;
  const back = () => { location.hash = `#/${place("dead-letters", name)}`; };
  root.append(
    h("p", {}, link(place("dead-letters", name), `← ${t("page.dead-letters")}: ${name}`), " · ", link(messagePath(message), t("its_history"))),
    h("div", { class: "verdict bad" }, h("h2", {}, shown.reason || t("no_reason")),
      h("p", { class: "hint" }, [moment(shown.at_ms), t("attempts_n", { n: count(shown.attempts_made.length) }), lastVersion(shown)].filter(Boolean).join(" · "))),
    h("p", { class: "buttons" },
      button(t("replay"), async () => { await call("POST", `${base}/replay`); announce(t("replayed", { n: 1 })); back(); }, { tone: "primary", label: t("replay_name", { name: id }) }),
      button(t("delete"), () => confirm({ title: t("delete_name", { name: id }), intro: t("delete_letters_hint"), action: t("delete"),
        run: async () => { await call("DELETE", base); back(); } }), { label: t("delete_name", { name: id }) })),
    h("div", { class: "split" },
      h("section", {}, h("h2", {}, t("payload")), payload(message), envelope(message)),
      h("section", {}, h("h2", {}, t("attempts")), h("ol", { class: "timeline" },
        shown.attempts_made.map((attempt) => attempted({ subscription: name }, attempt))))),
    may("operator") ? mend({ base, inTopic, shown, defined, plugin, back }) : "");
}

const lastVersion = (shown) => {
  const version = shown.attempts_made.at(-1)?.version;
  return version && `${t("version")} ${short(version)}`;
};

function envelope(message) {
  const headers = Object.keys(message.headers).length > 0;
  return facts([[t("topic"), message.topic], [t("key"), message.key], [t("content_type"), message.content_type],
    [t("size"), bytes(message.size_bytes)], [t("published"), moment(message.published_at_ms)],
    [t("headers"), headers ? h("pre", {}, lines.show(message.headers)) : null]]);
}

// The form that a copy is made of; what is not touched is not sent, so that it stays as it is, to the byte.
function mend({ base, inTopic, shown, defined, plugin, back }) {
  const { message } = shown;
  const versions = [...(plugin?.versions ?? [])].reverse().map((one) => [one.digest,
    `${short(one.digest)} – ${moment(one.uploaded_at_ms)}${one.digest === defined.version ? ` (${t("in_use")})` : ""}`]);
  const text = shown.payload_text;
  const fields = {
    key: field({ name: "key", label: t("key"), value: message.key }),
    content_type: field({ name: "content_type", label: t("content_type"), value: message.content_type }),
    headers: field({ name: "headers", label: t("headers"), kind: "area", rows: 3, value: lines.show(message.headers), hint: t("headers_hint") }),
    text: text === null ? null : field({ name: "text", label: t("payload"), kind: "area", rows: rowsOf(text), value: text }),
  };
  const version = field({ name: "version", label: t("version"), kind: "select", value: defined.version, options: versions });
  const before = new Map(Object.entries(fields).filter(([, one]) => one).map(([name, one]) => [name, one.value()]));
  const error = h("p", { class: "error", role: "alert" });
  const outcome = h("div", { role: "status" });
  const changes = () => {
    const touched = [...before].filter(([name, was]) => fields[name].value() !== was);
    return Object.fromEntries(touched.map(([name]) => [name, name === "headers" ? lines.read(fields.headers.value()) : fields[name].value()]));
  };
  const checked = (run) => async () => {
    error.textContent = "";
    try {
      await run();
    } catch (problem) {
      error.textContent = problem.message || t("no_answer");
    }
  };
  const tries = button(t("try"), checked(async () => {
    outcome.replaceChildren(h("p", { class: "hint" }, t("trying")));
    const body = { version: version.value(), changes: changes() };
    try {
      outcome.replaceChildren(trial(await call("POST", `${base}/try${inTopic}`, { body })));
    } catch (problem) {
      outcome.replaceChildren();
      throw problem;
    }
  }));
  const sends = button(t("replay_edited"), checked(async () => {
    const body = changes();
    if (Object.keys(body).length === 0) throw new Error(t("nothing_edited"));
    const copy = await call("POST", `${base}/edit${inTopic}`, { body });
    announce(t("edited_sent", { id: copy.id }));
    back();
  }), { tone: "primary" });
  return h("section", { class: "mend", "aria-labelledby": "mend-title" }, h("h2", { id: "mend-title" }, t("mend")),
    h("p", { class: "hint" }, t("mend_hint")), h("div", { class: "fields" }, [fields.key, fields.content_type].map((one) => one.node)),
    fields.headers.node, fields.text?.node ?? h("p", { class: "hint" }, t("payload_not_edited")),
    defined.forward ? "" : h("div", { class: "bar-of-page" }, version.node), h("p", { class: "buttons" }, defined.forward ? "" : tries, sends), error, outcome);
}

// As many rows as a text takes, about; of a long one not all.
const rowsOf = (text) => Math.min(20, Math.max(4, text.split("\n").length + 1, Math.ceil(text.length / 90) + 1));

// What came of a trial.
function trial(one) {
  const value = (entry) => (entry.encoding === "hidden" ? t("payload_hidden") : h("pre", {}, json(entry.value)));
  const written = one.state.map((entry) => [entry.key, entry.encoding === null ? t("deleted_key") : value(entry)]);
  const published = one.published.map((child) => h("li", {}, h("b", {}, `${child.topic} / ${child.id ?? "–"}`), child.key && ` (${t("key")}: ${child.key})`,
    payload(child)));
  const logs = one.logs.map((line) => h("li", { class: line.level }, h("b", {}, line.level), " ", line.text));
  return h("div", { class: "panel trial" },
    h("h3", {}, t("tried"), " ", h("b", { class: TONES[one.outcome] }, t(`outcome.${one.outcome}`))),
    one.reason && h("p", { class: "reason" }, one.reason),
    h("p", { class: "hint" }, [`${t("version")} ${short(one.version)}`, micros(one.duration_us), bytes(one.memory_bytes)].join(" · ")),
    h("h4", {}, t("would_write")), written.length > 0 ? facts(written) : h("p", { class: "hint" }, t("nothing")),
    h("h4", {}, t("would_publish")), published.length > 0 ? h("ul", { class: "plain" }, published) : h("p", { class: "hint" }, t("nothing")),
    h("h4", {}, t("log")), logs.length > 0 ? h("ul", { class: "logs" }, logs) : h("p", { class: "hint" }, t("nothing")),
    one.logs_dropped > 0 && h("p", { class: "hint" }, t("logs_dropped", { n: one.logs_dropped })));
}
