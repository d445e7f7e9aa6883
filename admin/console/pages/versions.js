// The versions of a subscription: each change of what handles it with the proof that nothing was lost or
// handled twice, and the way back.

import { may } from "../api.js";
import { rollBack } from "../catalog.js";
import { differenceList, differences } from "../difference.js";
import { announce, h, liveTable } from "../dom.js";
import { button, confirm } from "../form.js";
import { count, moment, short } from "../format.js";
import { t } from "../text/text.js";

const FEW = 10;
const ALL = 50;
// What changes hands when a version takes over, and comes back when it goes.
const TERMS = ["plugin", "version", "config", "limits", "grants", "instances"];

// A plugin's versions to choose from, the latest first.
export function versionOptions(plugin, running) {
  return [...(plugin?.versions ?? [])].reverse().map((version) => {
    const words = [version.about?.version, short(version.digest), "–", moment(version.uploaded_at_ms),
      version.digest === running && `(${t("in_use")})`];
    return [version.digest, words.filter(Boolean).join(" ")];
  });
}

const digest = (version) => h("code", { title: version, class: "digest" }, short(version));

function termsOf(one) {
  return Object.fromEntries(TERMS.filter((field) => field in one).map((field) => [field, field === "version" ? short(one.version) : one[field]]));
}

// `renew` reads everything anew.
export function versions({ name, renew }) {
  let limit = FEW;
  let subscription;
  const table = liveTable([
    { head: t("when"), text: (one) => moment(one.at_ms) },
    { head: t("change"), row: true, class: "prose", node: change, sign: (one) => JSON.stringify(one.after) },
    { head: t("why"), class: "prose", node: cause, sign: (one) => one.cause },
    { head: t("proof"), class: "prose", node: proof, sign: (one) => JSON.stringify([one.side, one.old.lost, one.old.twice]) },
    { head: t("memory_freed"), text: freed },
    ...(may("operator") ? [{ head: t("actions"), class: "actions", sign: (one) => String(one.latest), node: (one) =>
      (one.latest && one.before ? [button(t("go_back"), () => goBack(one), { label: t("go_back_name", { name }) })] : []) }] : []),
  ], { key: (one) => one.number, label: t("versions"), empty: t("none_yet") });
  const more = h("p", { class: "buttons", hidden: true }, button(t("more"), () => {
    limit = ALL;
    return renew();
  }, { role: "viewer" }));
  const node = h("section", {}, h("h2", {}, t("versions")), h("p", { class: "hint" }, t("proof_hint")), table.node, more);

  function goBack(latest) {
    const list = differences(termsOf(subscription), termsOf(latest.before));
    const said = [
      list.length > 0 ? differenceList(list) : h("p", {}, t("go_back_nothing")),
      latest.cause === "returned" && h("p", { class: "error" }, t("go_back_returned", { why: latest.why ?? t("no_reason") })),
      subscription.rollout && h("p", { class: "warn" }, t("go_back_rollout")),
    ];
    confirm({
      title: t("go_back_name", { name }), intro: t("go_back_hint"), said, action: t("go_back"),
      run: async () => {
        // By its number: another change that came meanwhile is not meant.
        const back = await rollBack(name, latest.number);
        announce(t("swapped", { name, version: short(back.version) }));
        await renew();
      },
    });
  }

  return {
    node,
    path: () => `/swaps?limit=${limit}`,
    update(shown, { items, next }) {
      subscription = shown;
      more.hidden = next === null || limit === ALL;
      // What a version has come to in the end, the change after it knows.
      table.update(items.map((one, index) => ({ ...one, latest: index === 0, after: items[index - 1]?.before ?? shown, side: items[index - 1]?.old ?? one.new })));
    },
  };
}

function change(one) {
  if (one.from === null) return [t("first_version"), " ", digest(one.version)];
  const list = differences(termsOf(one.before), termsOf(one.after)).filter(([[field]]) => field !== "version");
  return [
    one.from === one.version ? [digest(one.version), " ", t("same_version")] : [digest(one.from), " → ", digest(one.version)],
    list.length > 0 && h("details", { class: "below" }, h("summary", {}, t("and_settings", { n: list.length })), differenceList(list)),
  ];
}

function cause(one) {
  const what = t(one.from === null ? "action.create" : `cause.${one.cause}`);
  return [
    h("span", { class: one.cause === "returned" ? "chip bad" : null }, one.by ? t("cause_by", { cause: what, name: one.by }) : what),
    one.why && h("span", { class: "below" }, one.why),
  ];
}

// What this version has done since, and whether every delivery of both versions is accounted for.
function proof(one) {
  const { taken, acked, retried, dead, released, in_hand } = one.side;
  const parts = [t("proof.taken", { n: count(taken) }), t("proof.acked", { n: count(acked) }), t("proof.failed", { n: count(retried + dead) }),
    released > 0 && t("proof.released", { n: count(released) }), in_hand > 0 && t("proof.in_hand", { n: count(in_hand) })];
  const [lost, twice] = ["lost", "twice"].map((what) => one.old[what] + one.side[what]);
  const sound = lost === 0 && twice === 0;
  return [
    h("span", {}, parts.filter(Boolean).join(", ")), " ",
    h("b", { class: sound ? "proof good" : "proof bad" }, t(sound ? "proof.sound" : "proof.alarm", { lost: count(lost), twice: count(twice) })),
  ];
}

function freed(one) {
  if (one.from === null) return "–";
  return one.freed_at_ms === null ? t("not_freed_yet") : t("after_ms", { ms: count(Math.max(0, one.freed_at_ms - one.at_ms)) });
}
