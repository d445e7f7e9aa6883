// Calls of the public API. The session's cookie goes along by itself; a change also brings the proof
// that this page asked for it.

export const BASE = "/api/v1";
const PATIENCE_MS = 30_000;
const LONG_MS = 3_600_000;
const RANKS = ["viewer", "operator", "admin"];

let me = null;
let whenSignedOut = () => {};

// What the host said when it refused.
export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

export const whoAmI = () => me;
export const onSignedOut = (told) => { whenSignedOut = told; };

// Whether the role of this session allows what a role may do.
export const may = (role) => me !== null && RANKS.indexOf(me.role) >= RANKS.indexOf(role);

async function problemOf(answer) {
  const body = await answer.json().catch(() => ({}));
  return new Problem(answer.status, body.code ?? "", body.detail ?? `HTTP ${answer.status}`);
}

// The headers of a change.
function proof() {
  return me === null ? {} : { "x-csrf-token": me.csrf_token };
}

async function send(method, path, { body, headers = {}, patience = PATIENCE_MS } = {}) {
  const isChange = method !== "GET";
  const answer = await fetch(BASE + path, {
    method,
    headers: {
      ...(body === undefined ? {} : { "content-type": "application/json" }),
      ...(isChange ? proof() : {}),
      ...headers,
    },
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(isChange ? LONG_MS : patience),
  });
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem.status === 401 && me !== null) {
    me = null;
    whenSignedOut(problem.message);
  }
  throw problem;
}

export async function call(method, path, options) {
  const answer = await send(method, path, options);
  return answer.status === 204 ? null : answer.json();
}

export const get = (path) => call("GET", path);

// Every item of a list, part by part, up to a limit.
export async function all(path, most = 20_000) {
  const items = [];
  let after = "";
  do {
    const part = await get(`${path}${path.includes("?") ? "&" : "?"}limit=1000${after}`);
    items.push(...part.items);
    after = part.next === null ? null : `&after=${encodeURIComponent(part.next)}`;
  } while (after !== null && items.length < most);
  return items;
}

// Finds out whether a session is open already.
export async function resume() {
  try {
    me = await get("/whoami");
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 401) throw error;
    me = null;
  }
  return me;
}

export async function signIn(token) {
  me = await call("POST", "/session", { body: { token } });
  return me;
}

export async function signOut() {
  await call("DELETE", "/session");
  me = null;
}

// Uploads bytes and tells how far it is, which fetch cannot.
export function upload(path, file, progress) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", BASE + path);
    for (const [name, value] of Object.entries(proof())) request.setRequestHeader(name, value);
    request.setRequestHeader("content-type", "application/wasm");
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total);
    });
    request.addEventListener("load", () => {
      const body = request.response ?? {};
      if (request.status < 300) done(body);
      else failed(new Problem(request.status, body.code ?? "", body.detail ?? `HTTP ${request.status}`));
    });
    request.addEventListener("error", () => failed(new Problem(0, "", "")));
    request.send(file);
  });
}
