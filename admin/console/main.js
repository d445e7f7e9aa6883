// The frame: signing in, the way between pages, language and colours.

import { onSignedOut, resume, signIn, signOut, whoAmI } from "./api.js";
import { forget } from "./catalog.js";
import { announce, h, link, place, say } from "./dom.js";
import * as live from "./live.js";
import { language, speak, t } from "./text/text.js";
import { overview } from "./pages/overview.js";

// Each page is fetched when it is first opened.
const PAGES = {
  "": () => overview,
  topics: async () => (await import("./pages/topics.js")).topics,
  queues: async () => (await import("./pages/queues.js")).queues,
  subscriptions: async () => (await import("./pages/subscriptions.js")).subscriptions,
  plugins: async () => (await import("./pages/plugins.js")).plugins,
  messages: async () => (await import("./pages/messages.js")).messages,
  "dead-letters": async () => (await import("./pages/dead_letters.js")).deadLetters,
  alerts: async () => (await import("./pages/alerts.js")).alerts,
  audit: async () => (await import("./pages/audit.js")).audit,
  settings: async () => (await import("./pages/settings.js")).settings,
};
const THEMES = ["auto", "light", "dark"];
const THEME = "brolly-theme";

let open = new AbortController();

function theme(wanted) {
  const chosen = THEMES.includes(wanted) ? wanted : "auto";
  document.documentElement.dataset.theme = chosen;
  return chosen;
}

// What everybody sees, signed in or not.
function switches() {
  const colours = h("select", {
    "aria-label": t("colours"),
    onchange: () => localStorage.setItem(THEME, theme(colours.value)),
  }, THEMES.map((name) =>
    h("option", { value: name, selected: name === document.documentElement.dataset.theme }, t(`theme.${name}`))));
  const other = language() === "zh" ? "en" : "zh";
  const words = h("button", {
    type: "button", id: "language", lang: other === "zh" ? "zh-CN" : "en",
    onclick: () => { speak(other); show(); },
  }, other === "zh" ? "中文" : "English");
  return h("div", { class: "switches" }, colours, words);
}

function brand() {
  return h("a", { class: "brand", href: "#/" }, h("img", { src: "/icon.svg", alt: "", width: 26, height: 26 }), "Brolly");
}

function showSignIn(why) {
  live.stop();
  open.abort();
  document.title = `${t("sign_in")} – Brolly`;
  const error = h("p", { class: "error", role: "alert", id: "token-error" }, why ?? "");
  const token = h("input", {
    id: "token", type: "password", autocomplete: "current-password", spellcheck: "false", required: true,
    "aria-describedby": "token-hint token-error",
  });
  async function send(event) {
    event.preventDefault();
    error.textContent = "";
    try {
      await signIn(token.value.trim());
      show();
    } catch (problem) {
      token.value = "";
      error.textContent = problem.message || t("no_answer");
      token.focus();
    }
  }
  const form = h("form", { class: "sign-in", onsubmit: send },
    h("h1", {}, t("sign_in")),
    h("div", { class: "field" }, h("label", { for: "token" }, t("token")), token,
      h("p", { class: "hint", id: "token-hint" }, t("token_hint"))),
    error, h("button", { type: "submit", class: "primary" }, t("sign_in")));
  document.body.replaceChildren(h("header", { class: "bar" }, brand(), switches()), h("main", { id: "main" }, form), notices());
  token.focus();
}

const notices = () => h("div", { id: "notices", role: "status", "aria-live": "polite" });

function navigation(toggle) {
  const items = Object.keys(PAGES).map((path) =>
    h("li", {}, link(path, [t(`page.${path || "overview"}`), h("span", { class: "badge", hidden: true })],
      { "data-page": path, onclick: () => { toggle.ariaExpanded = "false"; } })));
  return h("nav", { id: "navigation", "aria-label": t("pages") }, h("ul", {}, items));
}

function search() {
  const id = h("input", { type: "search", "aria-label": t("find_message"), placeholder: t("find_message"), spellcheck: "false" });
  return h("form", { role: "search", class: "find", onsubmit: (event) => {
    event.preventDefault();
    if (id.value.trim() !== "") location.hash = `#/${place("messages", id.value.trim())}`;
    id.value = "";
  } }, id);
}

function frame() {
  const me = whoAmI();
  const toggle = h("button", { type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "navigation",
    onclick: () => { toggle.ariaExpanded = toggle.ariaExpanded === "true" ? "false" : "true"; } }, t("menu"));
  const leave = h("button", { type: "button", id: "sign-out", onclick: async () => {
    await signOut().catch((problem) => announce(problem.message, "bad"));
    showSignIn();
  } }, t("sign_out"));
  const who = h("p", { class: "who" }, h("span", {}, `${me.name} (${t(`role.${me.role}`)})`), leave);
  document.body.replaceChildren(
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main().focus(); } }, t("skip")),
    h("header", { class: "bar" }, toggle, brand(), search(), h("div", { class: "end" }, switches(), who)),
    h("p", { id: "lost", class: "lost", role: "alert", hidden: true }),
    h("div", { class: "columns" }, navigation(toggle), h("main", { id: "main", tabindex: "-1" })),
    notices());
}

const main = () => document.getElementById("main");

function parts() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").map(decodeURIComponent), query: new URLSearchParams(query) };
}

async function route(moved) {
  open.abort();
  open = new AbortController();
  const { signal } = open;
  const { parts: [page, ...rest], query } = parts();
  const known = page in PAGES ? page : "";
  for (const item of document.querySelectorAll("nav a[data-page]")) {
    if (item.dataset.page === known) item.setAttribute("aria-current", "page");
    else item.removeAttribute("aria-current");
  }
  const title = h("h1", { tabindex: "-1" }, t(`page.${known || "overview"}`));
  const root = h("div", { class: `page ${known || "overview"}` });
  main().replaceChildren(title, root);
  document.title = `${title.textContent} – Brolly`;
  if (moved) title.focus();
  try {
    const draw = await PAGES[known]();
    if (signal.aborted) return;
    await draw({ root, title, path: rest, query, signal, again });
  } catch (problem) {
    if (!signal.aborted) root.append(h("p", { class: "error", role: "alert" }, problem.message || t("no_answer")));
  }
}

// Draws the page that is open anew, after a change; the keyboard's place, if it is lost, is at the top.
async function again() {
  await route(false);
  if (document.activeElement === document.body) document.querySelector("main h1")?.focus({ preventScroll: true });
}

// What the frame itself tells: whether the host answers, and how many dead letters there are.
function keepFrame(now) {
  const lost = document.getElementById("lost");
  if (lost === null) return;
  lost.hidden = !now.lost;
  say(lost, now.lost ? t("lost") : "");
  const badge = document.querySelector('nav a[data-page="dead-letters"] .badge');
  const dead = now.totals?.dead_letters ?? 0;
  badge.hidden = dead === 0;
  say(badge, dead > 999 ? "999+" : String(dead));
}

async function show() {
  document.documentElement.lang = language() === "zh" ? "zh-CN" : "en";
  theme(localStorage.getItem(THEME));
  if (whoAmI() === null) return showSignIn();
  frame();
  forget();
  live.start();
  live.follow(keepFrame, new AbortController().signal);
  await route(false);
}

onSignedOut(showSignIn);
addEventListener("hashchange", () => whoAmI() !== null && route(true));
theme(localStorage.getItem(THEME));
resume().then(show, (error) => showSignIn(error.message || t("no_answer")));
