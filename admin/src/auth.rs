//! Who may do what: the role that a request needs, and the token that it brings.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Name};
use brolly_dispatch::{Rights, Role, Token};

use crate::{
    Admin, BASE,
    problem::Problem,
    session::{self, Peer},
};

/// Wrong tokens that one address may bring in the header Authorization before it has to wait.
pub(crate) const FREE_TOKENS: u32 = 20;

/// Who makes a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The token's name.
    pub name: Name,
    /// What it allows.
    pub rights: Rights,
    /// What proves that a change made in a session was asked for by our own page; none for whoever
    /// brings the token itself.
    pub csrf: Option<String>,
}

/// The role that a request needs; none for what anybody may see: the console's files, health,
/// measurements and the description of the API.
pub(crate) fn required(method: &Method, path: &str) -> Option<Role> {
    let call = path.strip_prefix(BASE)?;
    if call == "/openapi.json" || (call == "/session" && *method == Method::POST) {
        return None;
    }
    // Ending one's own session, and asking where a message would go, change nothing.
    if call == "/session" || (call.starts_with("/topics/") && call.ends_with("/explain")) {
        return Some(Role::Viewer);
    }
    // What a plugin asks of its versions is not for those to say who upload them; who has a backup has everything.
    let asks = *method == Method::PUT || (*method == Method::DELETE && call.ends_with("/samples"));
    if (call.starts_with("/plugins/") && asks)
        || call == "/backups"
        || call == "/tokens"
        || call.starts_with("/tokens/")
    {
        return Some(Role::Admin);
    }
    Some(if matches!(*method, Method::GET | Method::HEAD) { Role::Viewer } else { Role::Operator })
}

/// Lets a request through whose token allows it, and tells the handlers who makes it.
pub(crate) async fn authenticate(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let Some(needed) = required(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let caller = match caller(&admin, &request, needed) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    let status = response.status().as_u16();
    if matches!(method, Method::GET | Method::HEAD) {
        tracing::debug!(%method, path, status, by = %caller.name, "request");
    } else {
        tracing::info!(%method, path, status, by = %caller.name, "request");
    }
    response
}

fn caller(admin: &Admin, request: &Request, needed: Role) -> Result<Caller, Problem> {
    let headers = request.headers();
    let caller = match headers.get(header::AUTHORIZATION) {
        Some(value) => bearer(admin, value, Peer::or_unknown(request.extensions().get::<Peer>().copied()))?,
        None => admin.sessions.caller(&admin.handle, headers).ok_or_else(|| {
            let detail = "there is no token; send it as the header Authorization: Bearer TOKEN, or sign in";
            Problem::refused(Code::Unauthorized, detail)
        })?,
    };
    if caller.rights.role < needed {
        let (name, role) = (&caller.name, word(caller.rights.role));
        let detail = format!("the token {name} has the role {role}; this needs {}", word(needed));
        return Err(Problem::refused(Code::Forbidden, detail));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        session::check_proof(&caller, headers)?;
    }
    Ok(caller)
}

fn bearer(admin: &Admin, value: &HeaderValue, address: IpAddr) -> Result<Caller, Problem> {
    let unauthorized = |detail: &str| Problem::refused(Code::Unauthorized, detail);
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(unauthorized("the header Authorization is not of the form Bearer TOKEN"));
    };
    let now = admin.handle.now();
    let wait = admin.guesses.wait(address, now);
    let found = admin.handle.authenticate(token.trim());
    let found = found.and_then(|(name, rights)| {
        let revision = admin.handle.get::<Token>(&name).ok()?.revision;
        Some((name, rights, revision))
    });
    match (found, wait) {
        (Some((name, rights, revision)), None) => {
            admin.guesses.right(address, &name, revision);
            Ok(Caller { name, rights, csrf: None })
        }
        (Some((name, rights, revision)), Some(_)) if admin.guesses.knows(address, &name, revision) => {
            Ok(Caller { name, rights, csrf: None })
        }
        // A right token is refused as well: whoever tries must not learn which one it is.
        (_, Some(wait)) => Err(Problem::too_many_attempts(wait)),
        (None, None) => {
            admin.guesses.failed(address, now);
            if let Some(wait) = admin.guesses.wait(address, now) {
                tracing::warn!(%address, ?wait, "many wrong tokens come from one address; it has to wait");
            }
            Err(unauthorized("the token is not known; it may have been deleted"))
        }
    }
}

/// The word for a role.
pub(crate) fn word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}
