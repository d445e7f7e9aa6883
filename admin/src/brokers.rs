//! Brokers: the systems that keep messages, and how the way to each of them is doing.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use brolly_core::{BrokerDefinition, Health, Name, defaults};
use brolly_dispatch::Entry;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::{self, Entity},
    etag,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
};

/// How a broker is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Status {
    /// `connecting`, `connected`, `blocked` (it takes no messages for now) or `failed` (it is tried again).
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// Why it is not connected, or what an operator should know of it.
    detail: Option<String>,
    /// What the other side says it is.
    server: Option<String>,
    /// Messages that handlers have published and that are still to be sent to it.
    outbox: u64,
}

impl From<Health> for Status {
    fn from(health: Health) -> Self {
        let Health { state, since, detail, server, outbox } = health;
        Self { state: state.as_str(), since_ms: since.0, detail, server, outbox }
    }
}

/// A broker with how it is doing. The password in its URL is shown as `***`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveBroker {
    #[serde(flatten)]
    entity: Entity<BrokerDefinition>,
    status: Status,
}

/// The broker that every host has.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddedBroker {
    /// `embedded`.
    name: String,
    /// `embedded`.
    kind: &'static str,
    status: Status,
}

/// A broker, defined or built in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum AnyBroker {
    Defined(Box<LiveBroker>),
    Embedded(EmbeddedBroker),
}

impl LiveBroker {
    fn new(admin: &Admin, name: &Name, entry: &Entry<BrokerDefinition>) -> Self {
        let mut entity = Entity::new(name, entry);
        entity.definition = entity.definition.hidden();
        Self { entity, status: admin.handle.broker_health(name).into() }
    }
}

fn embedded(admin: &Admin) -> EmbeddedBroker {
    let name = defaults::broker();
    EmbeddedBroker {
        status: admin.handle.broker_health(&name).into(),
        name: name.to_string(),
        kind: "embedded",
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(list_brokers)).routes(routes!(get_broker, put_broker, delete_broker))
}

/// Lists brokers by name; the embedded one comes first.
#[utoipa::path(get, path = "/brokers", tag = "brokers", params(Part), responses((status = 200, body = Items<AnyBroker>)))]
async fn list_brokers(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<AnyBroker>>, Problem> {
    let after = part.after_name()?;
    let page = admin.handle.list::<BrokerDefinition>(after.as_ref(), part.limit()?);
    let defined = page.items.iter().map(|(name, entry)| LiveBroker::new(&admin, name, entry));
    let defined = defined.map(|broker| AnyBroker::Defined(Box::new(broker)));
    let first = after.is_none().then(|| AnyBroker::Embedded(embedded(&admin)));
    Ok(Json(Items { items: first.into_iter().chain(defined).collect(), next: page.next }))
}

/// Shows a broker and how it is doing.
#[utoipa::path(get, path = "/brokers/{broker}", tag = "brokers", params(("broker" = String, Path)),
    responses((status = 200, body = AnyBroker, headers(("etag" = String))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_broker(State(admin): State<Admin>, NameInPath(name): NameInPath) -> Result<Response, Problem> {
    if name == defaults::broker() {
        return Ok(Json(embedded(&admin)).into_response());
    }
    let entry = admin.handle.get::<BrokerDefinition>(&name)?;
    Ok(([etag::header(entry.revision)], Json(LiveBroker::new(&admin, &name, &entry))).into_response())
}

/// Creates or replaces a broker, and answers when it is connected or has failed to, or after 3 seconds.
/// A password shown as `***` stays as it is.
#[utoipa::path(put, path = "/brokers/{broker}", tag = "brokers", request_body = BrokerDefinition,
    params(("broker" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = LiveBroker, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = LiveBroker, description = "Created", headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition, unsupported")))]
async fn put_broker(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<BrokerDefinition>,
) -> Result<Response, Problem> {
    let put = handle.put_broker(&name, value, etag::precondition(&headers)?).await?;
    Ok(definitions::answer(&put, LiveBroker::new(&admin, &name, &put.entry)))
}

/// Deletes a broker that nothing lives on. What is on the other side stays there.
#[utoipa::path(delete, path = "/brokers/{broker}", tag = "brokers",
    params(("broker" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_broker(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    definitions::delete::<BrokerDefinition>(&handle, &name, &headers).await
}
