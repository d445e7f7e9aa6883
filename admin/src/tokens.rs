//! Tokens: who may use the API. A token is shown once, when it is made.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Name};
use brolly_dispatch::{Grant, Precondition, Rights, Role, Token};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    auth::Caller,
    body,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
};

/// A token, without the token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenBody {
    /// Its name.
    name: String,
    /// What it allows.
    role: Role,
    /// Whether it may see payloads: those of messages and dead letters, captures, and plugins' state.
    payloads: bool,
    /// Whether it may see values that topics and queues mask.
    unmasked: bool,
    /// When it was made, in milliseconds since 1970.
    created_at_ms: u64,
}

/// A token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantedToken {
    /// Its name.
    name: String,
    /// What it allows.
    role: Role,
    /// Whether it may see payloads: those of messages and dead letters, captures, and plugins' state; by
    /// default operators and admins may.
    payloads: Option<bool>,
    /// Whether it may see values that topics and queues mask; by default admins may, if they may see
    /// payloads.
    unmasked: Option<bool>,
}

/// A new token.
#[derive(Serialize, ToSchema)]
struct NewToken {
    /// Its name.
    name: String,
    /// What it allows.
    role: Role,
    /// Whether it may see payloads: those of messages and dead letters, captures, and plugins' state.
    payloads: bool,
    /// Whether it may see values that topics and queues mask.
    unmasked: bool,
    /// What to send as `Authorization: Bearer …`. It is shown this once.
    token: String,
}

/// Who makes the request.
#[derive(Debug, Serialize, ToSchema)]
struct Myself {
    /// The token's name.
    name: String,
    /// What it allows.
    role: Role,
    /// Whether it may see payloads: those of messages and dead letters, captures, and plugins' state.
    payloads: bool,
    /// Whether it may see values that topics and queues mask.
    unmasked: bool,
    /// What changes that are made in a session must bring in the header `x-csrf-token`; null for a
    /// caller that brings a token.
    csrf_token: Option<String>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(delete_token))
        .routes(routes!(who_am_i))
}

/// Lists tokens by name.
#[utoipa::path(get, path = "/tokens", tag = "tokens", params(Part),
    responses((status = 200, body = Items<TokenBody>)))]
async fn list_tokens(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<TokenBody>>, Problem> {
    let page = admin.handle.list::<Token>(part.after_name()?.as_ref(), part.limit()?);
    let items = page.items.iter().map(|(name, entry)| {
        let Rights { role, payloads, unmasked } = entry.value.rights();
        TokenBody { name: name.to_string(), role, payloads, unmasked, created_at_ms: entry.created_at.0 }
    });
    Ok(Json(Items { items: items.collect(), next: page.next }))
}

/// Makes a token.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = WantedToken,
    responses((status = 201, body = NewToken),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use: the name is taken"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition: unmasked without payloads")))]
async fn create_token(
    By(handle): By,
    body::Json(wanted): body::Json<WantedToken>,
) -> Result<Response, Problem> {
    let name = Name::new(&wanted.name)?;
    let grant = Grant { role: wanted.role, payloads: wanted.payloads, unmasked: wanted.unmasked };
    let Rights { role, payloads, unmasked } = grant.check()?;
    let created = handle.create_token(&name, grant).await;
    let token = created.map_err(|error| match error {
        brolly_dispatch::Error::Refused(refusal) if refusal.code == Code::Changed => {
            let detail = format!("there is a token named {name} already; delete it or choose another name");
            Problem::refused(Code::InUse, detail)
        }
        other => other.into(),
    })?;
    let body = NewToken { name: wanted.name, role, payloads, unmasked, token };
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// Deletes a token, which is refused from then on. The last admin token stays.
#[utoipa::path(delete, path = "/tokens/{token}", tag = "tokens",
    params(("token" = String, Path, description = "Its name")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_token(By(handle): By, NameInPath(name): NameInPath) -> Result<StatusCode, Problem> {
    handle.delete::<Token>(&name, Precondition::None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells whose token or session makes the request, and what it allows.
#[utoipa::path(get, path = "/whoami", tag = "tokens", responses((status = 200, body = Myself)))]
async fn who_am_i(Extension(caller): Extension<Caller>) -> Json<Myself> {
    let Rights { role, payloads, unmasked } = caller.rights;
    Json(Myself { name: caller.name.to_string(), role, payloads, unmasked, csrf_token: caller.csrf })
}
