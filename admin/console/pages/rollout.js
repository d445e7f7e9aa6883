// A candidate beside the running version: begun, watched, compared, promoted or abandoned.

import { call, get } from "../api.js";
import { definitions, forget } from "../catalog.js";
import { differences, shownValue, shownWay } from "../difference.js";
import { announce, h, keyed, link, liveTable, say } from "../dom.js";
import { ask, button, confirm, field, lines, optional } from "../form.js";
import { bytes, count, micros, moment, short } from "../format.js";
import { t } from "../text/text.js";
import { messagePath } from "./messages.js";
import { versionOptions } from "./versions.js";

const NUMBERS = ["compared", "same", "differing", "worse", "skipped"];
const OUTCOMES = ["ack", "retry", "reject", "fault"];
const FAILURES = OUTCOMES.slice(1);
const SHARE_RULES = ["worse_percent", "differing_percent", "slower_percent"];

// `renew` reads everything anew.
export function rollout({ name, renew }) {
  const base = `/subscriptions/${encodeURIComponent(name)}/rollout`;
  const none = h("p", { class: "hint" }, t("rollout_hint"));
  const [line, rules, why] = [h("p", { class: "state-line" }), h("p", { class: "hint" }), h("p", { class: "reason" })];
  const press = h("p", { class: "buttons" });
  const numbers = Object.fromEntries(NUMBERS.map((word) => [word, h("b", {})]));
  const differ = h("p", {});
  const sides = sidesTable();
  const examples = h("ul", { class: "examples" });
  // Only ever more of them come; another attempt at one message is another of them.
  const fill = keyed(examples, (one) => `${one.of} ${one.index}`, example);
  const found = h("section", {}, h("h3", {}, t("examples")), examples);
  const body = h("details", { class: "comparison" }, h("summary", {}, t("rollout_result")),
    h("dl", { class: "numbers" }, NUMBERS.map((word) => h("div", {}, h("dt", {}, t(`rollout_number.${word}`)), h("dd", {}, numbers[word])))),
    differ, sides.node, found);
  const node = h("section", {}, h("h2", {}, t("rollout")), none, line, why, rules, press, body);
  let report = null;
  let subscription;
  let drawn;

  function end(promoted) {
    const word = promoted ? "promote" : "abandon";
    const values = Object.fromEntries(NUMBERS.map((number) => [number, count(report[number])]));
    confirm({
      title: t(promoted ? "promote_name" : "abandon_name", { name, version: short(report.version) }), intro: t(`rollout_hint.${word}`),
      said: [h("p", { class: promoted && report.differing + report.worse > 0 ? "error" : null }, t("rollout_so_far", values))],
      action: t(word),
      run: async () => {
        await (promoted ? call("POST", `${base}/promote`) : call("DELETE", base));
        forget();
        announce(t(`rollout_done.${word}`, { name, version: short(report.version) }));
        await renew();
      },
    });
  }

  function buttons(stage) {
    if (stage === "running") {
      return [button(t("promote"), () => end(true), { tone: "primary", label: t("promote_name", { name, version: short(report.version) }) }),
        button(t("abandon"), () => end(false), { tone: "danger", label: t("abandon_name", { name, version: short(report.version) }) })];
    }
    return [button(t("begin_rollout"), () => begin(subscription, base, renew))];
  }

  return {
    node,
    // What came of the latest one: read while one runs or has been, and after each change.
    async read(shown) {
      const rests = !shown.rollout && report?.stage !== "running" && subscription?.revision === shown.revision;
      if (rests) return report;
      return get(base).catch((problem) => {
        if (problem.status === 404) return null;
        throw problem;
      });
    },
    update(shown, latest) {
      subscription = shown;
      report = latest;
      none.hidden = report !== null;
      for (const one of [line, why, rules, body]) one.hidden = report === null;
      const stage = report?.stage ?? "none";
      const sign = `${stage} ${report?.since_ms}`;
      if (drawn !== sign) {
        drawn = sign;
        press.replaceChildren(...buttons(stage).filter(Boolean));
        body.open = stage === "running";
      }
      if (report === null) return;
      say(line, stageLine(report));
      say(why, report.why ?? "");
      say(rules, stage === "running" ? rulesLine(report.rules) : "");
      for (const word of NUMBERS) say(numbers[word], count(report[word]));
      numbers.worse.className = report.worse > 0 ? "bad" : "";
      say(differ, differingLine(report.differs));
      sides.update(report);
      found.hidden = report.examples.length === 0;
      fill(report.examples.map((one, index) => ({ ...one, index, of: report.since_ms })));
    },
  };
}

function stageLine(report) {
  const values = { percent: report.percent, candidate: short(report.version), against: short(report.against), since: moment(report.since_ms),
    ended: moment(report.ended_at_ms) };
  if (report.stage === "running") return t(`rollout_line.${report.mode}`, values);
  return t(`rollout_ended.${report.stage}`, { ...values, mode: t(`mode.${report.mode}`) });
}

function rulesLine(rules) {
  const limits = SHARE_RULES.filter((rule) => rules[rule] !== null).map((rule) => t(`rule_text.${rule}`, { n: rules[rule] }));
  const ends = limits.length > 0 ? t("rules_text", { limits: limits.join(t("or")), after: count(rules.after) }) : t("rules_none");
  return rules.promote_after === null ? ends : `${ends} ${t("rules_promote", { n: count(rules.promote_after) })}`;
}

function differingLine(differs) {
  const parts = Object.entries(differs).map(([what, n]) => t("differs_in", { what: t(`differs.${what}`), n: count(n) }));
  return parts.length > 0 ? `${t("differing")}: ${parts.join(", ")}` : "";
}

// Both versions side by side.
function sidesTable() {
  const time = (us) => (us === null ? "–" : us < 1000 ? `${count(us)} µs` : micros(us));
  const rows = [
    ...OUTCOMES.map((word) => ({ what: `${t("outcome")}: ${t(`outcome.${word}`)}`, value: (side) => side.outcomes[word] ?? 0, show: count, bad: FAILURES.includes(word) })),
    { what: t("mean_time"), value: (side) => side.mean_us, show: time },
    { what: t("longest_time"), value: (side) => side.longest_us, show: time },
    { what: t("mean_cpu"), value: (side) => side.mean_cpu_us, show: time },
    { what: t("memory_most"), value: (side) => side.memory_bytes, show: bytes },
    { what: t("published"), value: (side) => side.published, show: count },
    { what: t("state_writes"), value: (side) => side.state_writes, show: count },
  ];
  const table = liveTable([
    { head: t("measure"), row: true, text: (one) => one.what },
    { head: t("running_version"), class: "number", text: (one) => one.show(one.running) },
    { head: t("candidate"), class: "number", text: (one) => one.show(one.candidate),
      tone: (one) => (one.bad && one.candidate > one.running ? "bad" : "") },
  ], { key: (one) => one.what, label: t("rollout_result"), empty: "" });
  return {
    node: table.node,
    update: (report) => table.update(rows.map((row) => ({ ...row, running: row.value(report.running), candidate: row.value(report.candidate) }))),
  };
}

// One delivery in which the versions differ.
function example(one) {
  const differs = one.differs.map((what) => t(`differs.${what}`)).join(", ");
  const title = [one.message_id, one.key && `${t("key")} ${one.key}`, differs].filter(Boolean).join(" · ");
  const hidden = one.running.state === null || one.candidate.state === null;
  const rows = differences(parts(one.running), parts(one.candidate)).map(([way, running, candidate]) => ({ way: shownWay(way), running, candidate }));
  const table = liveTable([
    { head: t("what"), row: true, text: (row) => row.way },
    { head: t("running_version"), class: "prose mono", text: (row) => shownValue(row.running) },
    { head: t("candidate"), class: "prose mono", text: (row) => shownValue(row.candidate) },
  ], { key: (row) => row.way, label: title, empty: hidden ? "" : t("differs_unseen") });
  table.update(rows);
  const node = h("li", {}, h("details", {}, h("summary", {}, title),
    h("p", {}, link(messagePath({ id: one.message_id, topic: one.topic }), t("its_history")), ` · ${moment(one.at_ms)}`), table.node,
    hidden && h("p", { class: "hint" }, t("payload_hidden")),
    (one.running.cut || one.candidate.cut) && h("p", { class: "hint" }, t("differs_cut"))));
  return { node, update() {} };
}

// What one side did, under the words that people read.
function parts({ outcome, reason, state, published }) {
  const written = Object.entries(state ?? {}).map(([key, value]) => [key, value === null ? t("deleted_key") : value]);
  const sent = (published ?? []).map((message, index) => [index + 1, { ...message, payload: parsed(message.payload) }]);
  return {
    [t("outcome")]: t(`outcome.${outcome}`), [t("reason")]: reason ?? undefined,
    [t("differs.state")]: Object.fromEntries(written), [t("differs.published")]: Object.fromEntries(sent),
  };
}

function parsed(payload) {
  try {
    return JSON.parse(payload);
  } catch {
    return payload;
  }
}

async function begin(subscription, base, renew) {
  const plugin = (await definitions("plugins")).find((one) => one.name === subscription.plugin);
  const options = versionOptions(plugin, subscription.version);
  const newest = options.find(([digest]) => digest !== subscription.version) ?? options[0];
  const config = lines.show(subscription.config);
  const number = (name, value, more) => field({ name, label: t(`rule.${name}`), kind: "number", value, min: 0, step: "any", read: optional, ...more });
  ask({
    title: t("begin_rollout"), intro: t("rollout_hint"), action: t("begin"),
    fields: [
      field({ name: "version", label: t("candidate"), kind: "select", value: newest?.[0], options }),
      field({ name: "mode", label: t("mode"), kind: "select", value: "shadow", hint: t("mode_hint"),
        options: ["shadow", "canary"].map((word) => [word, t(`mode.${word}`)]) }),
      field({ name: "percent", label: t("percent_of_keys"), kind: "number", value: 10, min: 1, max: 100, hint: t("percent_hint") }),
      field({ name: "config", label: t("candidate_config"), kind: "area", value: config, hint: t("config_hint") }),
      number("worse_percent", 1, { max: 100, hint: t("rule_hint.worse_percent") }),
      number("differing_percent", "", { max: 100, hint: t("rule_hint.differing_percent") }),
      number("slower_percent", "", { max: 100_000, hint: t("rule_hint.slower_percent") }),
      number("after", 100, { min: 1, max: 1_000_000, step: 1, hint: t("rule_hint.after") }),
      number("promote_after", "", { max: 1_000_000_000, step: 1, hint: t("rule_hint.promote_after") }),
    ],
    save: async ({ version, mode, percent, config: wanted, after, ...limits }) => {
      const own = wanted === config ? {} : { config: lines.read(wanted) };
      const empty = Object.fromEntries(Object.entries(limits).map(([rule, value]) => [rule, value ?? null]));
      await call("PUT", base, { body: { version, mode, percent, ...own, rules: { after, ...empty } } });
      forget();
      announce(t("rollout_begun", { name: subscription.name, version: short(version) }));
      await renew();
    },
  });
}
