//! Channels: the ways by which the owners of queues are told something.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use brolly_core::{Channel, Code, Name};
use brolly_dispatch::{ChannelHealth, Entry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::{Defined, Optional},
    definitions::{self, Entity},
    etag,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
};

/// How a channel is doing.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `unused` (nothing was sent since the host started), `ok` or `failing` (what did not get through is
    /// tried again for a day).
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: Option<u64>,
    /// Why the latest notice did not get through.
    error: Option<String>,
    /// Notices that are still to be sent.
    waiting: usize,
}

impl From<ChannelHealth> for Health {
    fn from(health: ChannelHealth) -> Self {
        let ChannelHealth { works, since, error, waiting } = health;
        let state = match works {
            None => "unused",
            Some(true) => "ok",
            Some(false) => "failing",
        };
        Self { state, since_ms: since.map(|at| at.0), error, waiting }
    }
}

/// A channel with how it is doing. Its secrets are shown as `***`.
#[derive(Debug, Serialize, ToSchema)]
struct LiveChannel {
    #[serde(flatten)]
    entity: Entity<Channel>,
    health: Health,
}

impl LiveChannel {
    fn new(admin: &Admin, name: &Name, entry: &Entry<Channel>) -> Self {
        let mut entity = Entity::new(name, entry);
        entity.definition = entity.definition.hidden();
        Self { entity, health: admin.handle.channel_health(name).into() }
    }
}

/// Whom a test is sent to.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Test {
    /// For a channel of the kind `smtp`: an e-mail address; those in `to` if not given.
    #[serde(default)]
    email: Option<String>,
    /// For a channel of the kind `sms`: a phone number; those in `to` if not given.
    #[serde(default)]
    phone: Option<String>,
}

impl Test {
    fn person(self, channel: &Channel) -> Result<Option<String>, Problem> {
        let refuse = |detail: &str| Err(Problem::refused(Code::InvalidRequest, detail));
        match (channel, self.email, self.phone) {
            (Channel::Smtp(_), _, Some(_)) => {
                refuse("phone has no meaning for an e-mail channel; give email")
            }
            (Channel::Sms(_), Some(_), _) => {
                refuse("email has no meaning for a channel to phones; give phone")
            }
            (Channel::Webhook(_), Some(_), _) | (Channel::Webhook(_), _, Some(_)) => {
                refuse("a webhook tells whoever its URL leads to; leave email and phone out")
            }
            (_, email, phone) => Ok(email.or(phone)),
        }
    }
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
struct Tested {
    /// For each person, or for the program that a webhook leads to.
    results: Vec<TestResult>,
}

/// What became of a test for one person.
#[derive(Debug, Serialize, ToSchema)]
struct TestResult {
    /// The address or phone; empty for a webhook.
    to: String,
    /// Whether the other side took it.
    ok: bool,
    /// Why not.
    error: Option<String>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_channels))
        .routes(routes!(get_channel, put_channel, delete_channel))
        .routes(routes!(test_channel))
}

/// Lists channels by name.
#[utoipa::path(get, path = "/channels", tag = "alerts", params(Part), responses((status = 200, body = Items<LiveChannel>)))]
async fn list_channels(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<LiveChannel>>, Problem> {
    let page = admin.handle.list::<Channel>(part.after_name()?.as_ref(), part.limit()?);
    let items = page.items.iter().map(|(name, entry)| LiveChannel::new(&admin, name, entry)).collect();
    Ok(Json(Items { items, next: page.next }))
}

/// Shows a channel and how it is doing.
#[utoipa::path(get, path = "/channels/{channel}", tag = "alerts", params(("channel" = String, Path)),
    responses((status = 200, body = LiveChannel, headers(("etag" = String))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_channel(State(admin): State<Admin>, NameInPath(name): NameInPath) -> Result<Response, Problem> {
    let entry = admin.handle.get::<Channel>(&name)?;
    Ok(([etag::header(entry.revision)], Json(LiveChannel::new(&admin, &name, &entry))).into_response())
}

/// Creates or replaces a channel. A secret shown as `***` stays as it is.
#[utoipa::path(put, path = "/channels/{channel}", tag = "alerts", request_body = Channel,
    params(("channel" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = LiveChannel, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = LiveChannel, description = "Created", headers(("etag" = String))),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "in-use: the alerts of a queue would have nobody to tell"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "invalid-definition")))]
async fn put_channel(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<Channel>,
) -> Result<Response, Problem> {
    let put = handle.put_channel(&name, value, etag::precondition(&headers)?).await?;
    Ok(definitions::answer(&put, LiveChannel::new(&admin, &name, &put.entry)))
}

/// Deletes a channel that the alerts of no queue use.
#[utoipa::path(delete, path = "/channels/{channel}", tag = "alerts",
    params(("channel" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_channel(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    handle.delete_channel(&name, etag::precondition(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a test by a channel, and answers when the other side has taken it or refused it.
#[utoipa::path(post, path = "/channels/{channel}/test", tag = "alerts", params(("channel" = String, Path)),
    request_body = Option<Test>,
    responses((status = 200, body = Tested),
        (status = 400, body = Problem, content_type = "application/problem+json",
            description = "invalid-request: nobody to tell"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn test_channel(
    By(handle): By,
    NameInPath(name): NameInPath,
    Optional(test): Optional<Test>,
) -> Result<Json<Tested>, Problem> {
    let person = test.person(&handle.get::<Channel>(&name)?.value)?;
    let results = handle.test_channel(&name, person).await?.into_iter();
    let results = results.map(|(to, sent)| TestResult {
        to,
        ok: sent.is_ok(),
        error: sent.err().map(|failure| failure.to_string()),
    });
    Ok(Json(Tested { results: results.collect() }))
}
