// The console: reads queues and subscriptions over the API every two seconds and shows them.
// Names, reasons and owners were written by others, so they only ever become text nodes.
"use strict";

const API = "/api/v1";
const KEY = "brolly-token";
const EVERY_MS = 2000;
const OLD_MS = 60_000;
const MOST_ROWS = 1000;
const find = (id) => document.getElementById(id);

let role = null;
let timer = null;
let round = 0;

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function call(path, method = "GET") {
  const headers = { authorization: `Bearer ${sessionStorage.getItem(KEY)}` };
  const answer = await fetch(API + path, { method, headers, signal: AbortSignal.timeout(20_000) });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, problem.detail || `status ${answer.status}`);
  }
  return answer.json();
}

function element(tag, text, ...classes) {
  const made = document.createElement(tag);
  made.classList.add(...classes.filter(Boolean));
  if (text !== undefined && text !== null) made.textContent = text;
  return made;
}

const number = (n) => (n === null ? "not measurable" : n.toLocaleString("en"));

function age(ms) {
  if (ms === null) return "–";
  const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1000, "s"]];
  const [size, word] = units.find(([size]) => ms >= size) || [1, "ms"];
  return `${Math.floor(ms / size)} ${word}`;
}

function owner(who) {
  if (typeof who === "string") return who;
  return [who.name, who.email, who.phone].filter(Boolean).join(", ");
}

// What is stuck, the worst first: [is it bad, sentence].
function troubles(queues, subscriptions) {
  const found = [];
  for (const s of subscriptions) {
    if (s.state === "failed") found.push([true, `${s.name} has failed: ${s.status.error || "no reason given"}`]);
    if (s.state === "starting") found.push([false, `${s.name} is still starting`]);
    if (s.paused) {
      const waits = s.counts.ready ? `; ${number(s.counts.ready)} messages wait` : "";
      found.push([Boolean(s.counts.ready), `${s.name} is paused${waits}`]);
    }
  }
  for (const q of queues) {
    if (q.counts.dead > 0) found.push([true, `${q.name} has ${number(q.counts.dead)} dead letters`]);
    if (q.oldest_age_ms !== null && q.oldest_age_ms >= OLD_MS) {
      found.push([true, `${q.name}: the oldest message has waited for ${age(q.oldest_age_ms)}`]);
    } else if (!q.subscription && q.counts.ready > 0) {
      found.push([false, `${q.name} has ${number(q.counts.ready)} messages and nothing takes them`]);
    }
  }
  return found.sort((a, b) => Number(b[0]) - Number(a[0]));
}

function showVerdict(queues, subscriptions) {
  const found = troubles(queues, subscriptions);
  const bad = found.some(([isBad]) => isBad);
  const verdict = find("verdict");
  verdict.className = `verdict ${bad ? "bad" : found.length ? "warn" : "good"}`;
  const headline = bad ? "Something is stuck" : found.length ? "Nothing is stuck, but look at this" : "Nothing is stuck";
  // Set only when it changes: a screen reader announces it each time.
  if (find("headline").textContent !== headline) find("headline").textContent = headline;
  const shown = found.slice(0, 20).map(([, sentence]) => element("li", sentence));
  if (found.length > 20) shown.push(element("li", `and ${found.length - 20} more`));
  find("troubles").replaceChildren(...shown);
  find("fresh").textContent = `As of ${new Date().toLocaleTimeString()}`;
}

function subscriptionRow(s) {
  const row = element("tr");
  const colour = { running: "good", paused: "warn", starting: "warn", failed: "bad" }[s.state];
  const state = element("td", s.state, colour);
  const name = element("th", s.name);
  name.scope = "row";
  const version = element("td", undefined, "mono");
  const digest = s.status.version || s.version;
  version.append(element("span", `${s.plugin} ${digest.replace("sha256:", "").slice(0, 12)}`));
  version.title = digest;
  const failure = element("td", s.status.error, "prose");
  if (!s.status.error && s.status.last_failure) {
    failure.textContent = s.status.last_failure.reason;
    failure.title = new Date(s.status.last_failure.at_ms).toLocaleString();
  }
  const action = element("td");
  const word = s.paused ? "resume" : "pause";
  const button = element("button", s.paused ? "Resume" : "Pause");
  button.type = "button";
  button.dataset.subscription = s.name;
  button.setAttribute("aria-label", `${button.textContent} ${s.name}`);
  button.disabled = role === "viewer";
  button.addEventListener("click", () => change(button, s.name, word));
  action.append(button);
  row.append(name, state, action, version, element("td", number(s.workers), "number"),
    element("td", number(s.status.acked), "number"), element("td", number(s.status.retried), "number"),
    element("td", number(s.status.dead), "number", s.status.dead > 0 && "bad"), failure);
  return row;
}

function queueRow(q) {
  const row = element("tr");
  const name = element("th", q.name);
  name.scope = "row";
  const old = q.oldest_age_ms !== null && q.oldest_age_ms >= OLD_MS;
  row.append(name, element("td", number(q.counts.ready), "number"),
    element("td", number(q.counts.in_flight), "number"), element("td", number(q.counts.delayed), "number"),
    element("td", number(q.counts.dead), "number", q.counts.dead > 0 && "bad"),
    element("td", age(q.oldest_age_ms), "number", old && "bad"),
    element("td", q.subscription || "nothing"), element("td", q.owners.map(owner).join("; ") || "nobody", "prose"));
  return row;
}

async function change(button, name, word) {
  if (button.ariaDisabled === "true") return;
  // Not disabled: that would take the keyboard's place away.
  button.ariaDisabled = "true";
  find("failure").textContent = "";
  try {
    await call(`/subscriptions/${encodeURIComponent(name)}/${word}`, "POST");
  } catch (error) {
    find("failure").textContent = `${name}: ${error.message}`;
  }
  await refresh();
}

async function all(path) {
  const items = [];
  let after = "";
  do {
    const part = await call(`${path}?limit=1000${after}`);
    items.push(...part.items);
    after = part.next === null ? null : `&after=${encodeURIComponent(part.next)}`;
  } while (after !== null && items.length < 100_000);
  return items;
}

function fill(body, rows) {
  // The keyboard's place is kept although the rows are made anew.
  const focused = document.activeElement?.dataset?.subscription;
  body.replaceChildren(...rows.slice(0, MOST_ROWS));
  if (focused !== undefined) {
    [...body.querySelectorAll("button")].find((button) => button.dataset.subscription === focused)?.focus();
  }
  if (rows.length > MOST_ROWS) {
    const row = element("tr");
    const cell = element("td", `${number(rows.length - MOST_ROWS)} more are not shown`);
    cell.colSpan = 9;
    row.append(cell);
    body.append(row);
  }
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  try {
    if (role === null) role = await whoAmI();
    const [queues, subscriptions] = await Promise.all([all("/queues"), all("/subscriptions")]);
    if (mine !== round) return;
    showVerdict(queues, subscriptions);
    fill(find("subscriptions"), subscriptions.map(subscriptionRow));
    fill(find("queues"), queues.map(queueRow));
    find("no-subscriptions").hidden = subscriptions.length > 0;
    find("no-queues").hidden = queues.length > 0;
    show(true);
    if (lost) find("failure").textContent = "";
    lost = false;
  } catch (error) {
    if (mine !== round) return;
    if (error instanceof Refused && error.status === 401) return signOut(error.message);
    lost = true;
    show(true);
    find("verdict").className = "verdict bad";
    find("headline").textContent = "The host does not answer; what is below may be old";
    find("failure").textContent = error.message;
  }
  timer = setTimeout(refresh, EVERY_MS);
}
let lost = false;

async function whoAmI() {
  const me = await call("/whoami");
  find("who-name").textContent = `${me.name} (${me.role})`;
  return me.role;
}

function show(signedIn) {
  find("sign-in").hidden = signedIn;
  find("overview").hidden = !signedIn;
  find("who").hidden = !signedIn;
}

function signOut(why) {
  clearTimeout(timer);
  round++;
  role = null;
  sessionStorage.removeItem(KEY);
  for (const id of ["subscriptions", "queues", "troubles"]) find(id).replaceChildren();
  show(false);
  find("token-error").textContent = why || "";
  find("token").focus();
}

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = find("token");
  sessionStorage.setItem(KEY, field.value.trim());
  field.value = "";
  find("token-error").textContent = "";
  refresh();
});
find("sign-out").addEventListener("click", () => signOut(""));
if (sessionStorage.getItem(KEY)) refresh();
else signOut("");
