//! Who may do what: the role that a request needs, and the token that it brings.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Name};
use brolly_dispatch::Role;

use crate::{Admin, BASE, problem::Problem};

/// Who makes a request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The token's name.
    pub name: Name,
    /// What it allows.
    pub role: Role,
}

/// The role that a request needs; none for what anybody may see: the console's files, health,
/// measurements and the description of the API.
pub(crate) fn required(method: &Method, path: &str) -> Option<Role> {
    let call = path.strip_prefix(BASE)?;
    if call == "/openapi.json" {
        return None;
    }
    if call == "/tokens" || call.starts_with("/tokens/") {
        return Some(Role::Admin);
    }
    Some(if matches!(*method, Method::GET | Method::HEAD) { Role::Viewer } else { Role::Operator })
}

/// Lets a request through whose token allows it, and tells the handlers who makes it.
pub(crate) async fn authenticate(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let Some(needed) = required(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let caller = match caller(&admin, request.headers(), needed) {
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

fn caller(admin: &Admin, headers: &HeaderMap, needed: Role) -> Result<Caller, Problem> {
    let unauthorized = |detail: &str| Problem::refused(Code::Unauthorized, detail);
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized("there is no token; send it as the header Authorization: Bearer TOKEN"));
    };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let Some((_, token)) = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else {
        return Err(unauthorized("the header Authorization is not of the form Bearer TOKEN"));
    };
    let Some((name, role)) = admin.handle.authenticate(token.trim()) else {
        return Err(unauthorized("the token is not known; it may have been deleted"));
    };
    if role < needed {
        let detail = format!("the token {name} has the role {}; this needs {}", word(role), word(needed));
        return Err(Problem::refused(Code::Forbidden, detail));
    }
    Ok(Caller { name, role })
}

/// The word for a role.
pub(crate) fn word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}
