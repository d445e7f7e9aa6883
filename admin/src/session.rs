//! Sessions: the console signs in with a token once, and brings a cookie from then on.
//!
//! The token is not kept in the browser. A session lives in memory: it ends with the host, with its
//! token, when its time is over, or when its owner signs out. Whoever guesses at tokens waits longer
//! after each wrong one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Name, Timestamp};
use brolly_dispatch::{Handle, Rights, Role, Token};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Admin, auth::Caller, body, problem::Problem};

/// The cookie's name.
const COOKIE: &str = "brolly_session";
/// What a change made in a session must bring, so that no other site can have it made.
pub(crate) const CSRF: &str = "x-csrf-token";
/// Sessions at once; the one that ends first goes for one more.
const SESSIONS: usize = 1_000;
/// Wrong tokens that one address may bring to the sign-in before it has to wait.
pub(crate) const FREE_SIGN_INS: u32 = 5;

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub IpAddr);

impl Peer {
    /// The address; all whose address nobody knows count as one.
    pub(crate) fn or_unknown(peer: Option<Self>) -> IpAddr {
        peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Self(address)| address)
    }
}

/// The sessions there are.
#[derive(Default)]
pub(crate) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
}

#[derive(Clone)]
struct Session {
    token: Name,
    /// A token that was made anew under the same name is another one.
    revision: u64,
    csrf: String,
    until: Timestamp,
}

impl Sessions {
    /// Makes a session for a token; answers with the cookie's value and what proves a change.
    fn start(&self, handle: &Handle, token: Name, life: Duration) -> Result<(String, String), Problem> {
        let random = || Token::random().map_err(brolly_dispatch::Error::from);
        let (id, csrf) = (random()?, random()?);
        let revision = handle.get::<Token>(&token)?.revision;
        let now = handle.now();
        let mut open = self.open.lock();
        open.retain(|_, session| session.until > now);
        if open.len() >= SESSIONS
            && let Some(first) =
                open.iter().min_by_key(|(_, session)| session.until).map(|(id, _)| id.clone())
        {
            open.remove(&first);
        }
        open.insert(id.clone(), Session { token, revision, csrf: csrf.clone(), until: now.after(life) });
        Ok((id, csrf))
    }

    /// Who has the session that a request brings, if it brings one that is still good.
    pub(crate) fn caller(&self, handle: &Handle, headers: &HeaderMap) -> Option<Caller> {
        let id = cookie(headers)?;
        let session = self.open.lock().get(id).filter(|session| session.until > handle.now())?.clone();
        let token = handle.get::<Token>(&session.token).ok();
        match token.filter(|entry| entry.revision == session.revision) {
            Some(entry) => {
                Some(Caller { name: session.token, rights: entry.value.rights(), csrf: Some(session.csrf) })
            }
            None => {
                self.open.lock().remove(id);
                None
            }
        }
    }
}

/// The session that a request names.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

/// Checks that a change made in a session was asked for by our own page, which alone can read the proof.
pub(crate) fn check_proof(caller: &Caller, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(expected) = &caller.csrf else { return Ok(()) };
    let brought = headers.get(CSRF).map(HeaderValue::as_bytes).unwrap_or_default();
    if bool::from(expected.as_bytes().ct_eq(brought)) {
        return Ok(());
    }
    let detail = format!(
        "a change made in a session must bring the header {CSRF} with the csrf_token of GET /api/v1/whoami"
    );
    Err(Problem::refused(Code::Forbidden, detail))
}

/// The token to sign in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SignIn {
    /// An access token.
    token: String,
}

/// A new session; its cookie is `HttpOnly` and `SameSite=Strict`, and with TLS `Secure`.
#[derive(Serialize, ToSchema)]
struct NewSession {
    /// The token's name.
    name: String,
    /// What it allows.
    role: Role,
    /// Whether it may see payloads.
    payloads: bool,
    /// Whether it may see masked values.
    unmasked: bool,
    /// What changes must bring in the header `x-csrf-token`.
    csrf_token: String,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(sign_in, sign_out))
}

/// Makes a session from a token: the answer sets a cookie that stands for the token until the session
/// ends, after 12 hours unless configured otherwise. From the sixth wrong token on, an address has to
/// wait before each further try: 1 s, 2 s, and so on, up to a minute.
#[utoipa::path(post, path = "/session", tag = "tokens", request_body = SignIn, security(()),
    responses((status = 200, body = NewSession, headers(("set-cookie" = String))),
        (status = 401, body = Problem, content_type = "application/problem+json", description = "unauthorized"),
        (status = 403, body = Problem, content_type = "application/problem+json",
            description = "forbidden: another site has asked for it"),
        (status = 429, body = Problem, content_type = "application/problem+json",
            description = "too-many-attempts; the header Retry-After says how many seconds to wait")))]
async fn sign_in(
    State(admin): State<Admin>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body::Json(wanted): body::Json<SignIn>,
) -> Result<Response, Problem> {
    if let Some(from) = headers.get("sec-fetch-site")
        && from != "same-origin"
        && from != "none"
    {
        return Err(Problem::refused(Code::Forbidden, "another site has asked for this sign-in"));
    }
    let address = Peer::or_unknown(peer.map(|Extension(peer)| peer));
    if let Some(wait) = admin.sign_ins.wait(address, admin.handle.now()) {
        return Err(Problem::too_many_attempts(wait));
    }
    let Some((name, rights)) = admin.handle.authenticate(wanted.token.trim()) else {
        admin.sign_ins.failed(address, admin.handle.now());
        tracing::warn!(%address, "somebody tried to sign in with a wrong token");
        return Err(Problem::refused(Code::Unauthorized, "the token is not known; it may have been deleted"));
    };
    let life = Duration::from_millis(admin.config.session_ms);
    let (id, csrf_token) = admin.sessions.start(&admin.handle, name.clone(), life)?;
    tracing::info!(by = %name, %address, "signed in");
    let set = set_cookie(&admin, &id, life.as_secs())?;
    let Rights { role, payloads, unmasked } = rights;
    let body = NewSession { name: name.to_string(), role, payloads, unmasked, csrf_token };
    Ok((StatusCode::OK, [set], Json(body)).into_response())
}

/// Ends the session that the request brings, if it brings one.
#[utoipa::path(delete, path = "/session", tag = "tokens",
    responses((status = 204, description = "Ended", headers(("set-cookie" = String)))))]
async fn sign_out(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(id) = cookie(&headers) {
        admin.sessions.open.lock().remove(id);
    }
    Ok((StatusCode::NO_CONTENT, [set_cookie(&admin, "", 0)?]).into_response())
}

fn set_cookie(admin: &Admin, id: &str, seconds: u64) -> Result<(HeaderName, HeaderValue), Problem> {
    // By which way it came is not for the client to say: without TLS a browser would not send it back.
    let secure = if admin.tls.is_some() { "; Secure" } else { "" };
    let text = format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    let value = HeaderValue::from_str(&text).map_err(|_| Problem::internal())?;
    Ok((header::SET_COOKIE, value))
}
