//! Queues: the durable buffers, with what they hold.

use std::collections::HashMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use brolly_core::{Name, Queue, Subscription};
use brolly_dispatch::{Entry, Handle, QueueCounts, Waiting};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::{self, Entity},
    etag,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
    sight::Sight,
};

/// What a queue holds; null where the broker cannot tell.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Waiting to be taken.
    ready: Option<u64>,
    /// Taken and not settled.
    in_flight: Option<u64>,
    /// Held back until their time.
    delayed: Option<u64>,
    /// Dead letters.
    dead: u64,
}

impl From<QueueCounts> for Counts {
    fn from(counts: QueueCounts) -> Self {
        let QueueCounts { ready, in_flight, delayed, dead, .. } = counts;
        Self { ready, in_flight, delayed, dead }
    }
}

/// A queue with what it holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveQueue {
    #[serde(flatten)]
    entity: Entity<Queue>,
    /// What it holds.
    counts: Counts,
    /// Age of the oldest message that waits, in milliseconds; null if nothing does, or the broker
    /// cannot tell.
    oldest_age_ms: Option<u64>,
    /// Why the queue is not as it is wanted on its broker, or cannot be looked at; null if all is well.
    trouble: Option<String>,
    /// The subscription that takes from it.
    subscription: Option<String>,
}

impl LiveQueue {
    async fn new(
        admin: &Admin,
        name: &Name,
        entry: &Entry<Queue>,
        consumer: Option<&Name>,
    ) -> Result<Self, Problem> {
        let counts = admin.handle.counts(name).await?;
        Ok(Self {
            entity: Entity::new(name, entry),
            oldest_age_ms: counts.oldest_age_ms,
            trouble: counts.trouble.clone(),
            counts: counts.into(),
            subscription: consumer.map(ToString::to_string),
        })
    }
}

/// Which subscription takes from which queue.
fn consumers(admin: &Admin) -> HashMap<Name, Name> {
    let subscriptions = admin.handle.list::<Subscription>(None, usize::MAX).items;
    subscriptions.into_iter().map(|(name, entry)| (entry.value.queue.clone(), name)).collect()
}

/// What is masked now.
fn masked(handle: &Handle, name: &Name) -> Vec<String> {
    handle.get::<Queue>(name).map(|entry| entry.value.mask.clone()).unwrap_or_default()
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_queues))
        .routes(routes!(get_queue, put_queue, delete_queue))
        .routes(routes!(peek))
}

/// Lists queues by name, with what they hold.
#[utoipa::path(get, path = "/queues", tag = "queues", params(Part), responses((status = 200, body = Items<LiveQueue>)))]
async fn list_queues(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<LiveQueue>>, Problem> {
    let page = admin.handle.list::<Queue>(part.after_name()?.as_ref(), part.limit()?);
    let consumers = consumers(&admin);
    let mut items = Vec::with_capacity(page.items.len());
    for (name, entry) in &page.items {
        match LiveQueue::new(&admin, name, entry, consumers.get(name)).await {
            Ok(queue) => items.push(queue),
            // Deleted while the list was made.
            Err(_) if admin.handle.get::<Queue>(name).is_err() => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Shows a queue with what it holds.
#[utoipa::path(get, path = "/queues/{queue}", tag = "queues", params(("queue" = String, Path)),
    responses((status = 200, body = LiveQueue, headers(("etag" = String))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_queue(State(admin): State<Admin>, NameInPath(name): NameInPath) -> Result<Response, Problem> {
    let entry = admin.handle.get::<Queue>(&name)?;
    let queue = LiveQueue::new(&admin, &name, &entry, consumers(&admin).get(&name)).await?;
    Ok(([etag::header(entry.revision)], Json(queue)).into_response())
}

/// Creates or replaces a queue. Putting the same again changes nothing.
#[utoipa::path(put, path = "/queues/{queue}", tag = "queues", request_body = Queue,
    params(("queue" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = LiveQueue, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = LiveQueue, description = "Created", headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition, unknown-reference, unsupported")))]
async fn put_queue(
    State(admin): State<Admin>,
    By(handle): By,
    sight: Sight,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<Queue>,
) -> Result<Response, Problem> {
    sight.may_unmask(&masked(&handle, &name), &value.mask)?;
    let put = handle.put_queue(&name, value, etag::precondition(&headers)?).await?;
    let queue = LiveQueue::new(&admin, &name, &put.entry, consumers(&admin).get(&name)).await?;
    Ok(definitions::answer(&put, queue))
}

/// A message that waits.
#[derive(Debug, Serialize, ToSchema)]
struct WaitingMessage {
    /// Unique within its topic.
    id: String,
    /// Its topic.
    topic: String,
    /// Its key.
    key: String,
    /// Media type of the payload.
    content_type: String,
    /// When it was accepted, in milliseconds since 1970.
    published_at_ms: u64,
    /// Bytes of the payload.
    size_bytes: u64,
}

impl From<Waiting> for WaitingMessage {
    fn from((_, stored): Waiting) -> Self {
        let message = stored.message;
        Self {
            id: message.id.clone(),
            topic: message.topic.to_string(),
            key: message.key.clone(),
            content_type: message.content_type.clone(),
            published_at_ms: message.published_at.0,
            size_bytes: message.payload.len() as u64,
        }
    }
}

/// Shows what waits in a queue of the embedded broker, in flight or not, the oldest first. Nothing is
/// taken.
#[utoipa::path(get, path = "/queues/{queue}/messages", tag = "queues", params(("queue" = String, Path), Part),
    responses((status = 200, body = Items<WaitingMessage>),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "unsupported: the queue lives on a broker elsewhere")))]
async fn peek(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
    Query(part): Query<Part>,
) -> Result<Json<Items<WaitingMessage>>, Problem> {
    let page = admin.handle.peek(&name, part.after_number()?, part.limit()?).await?;
    Ok(Json(Items { items: page.items.into_iter().map(WaitingMessage::from).collect(), next: page.next }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Deletion {
    /// Drop the messages and dead letters that it holds.
    #[serde(default)]
    force: bool,
}

/// Deletes a queue that nothing uses and that is empty.
#[utoipa::path(delete, path = "/queues/{queue}", tag = "queues",
    params(("queue" = String, Path), Deletion, ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use, not-empty")))]
async fn delete_queue(
    By(handle): By,
    sight: Sight,
    NameInPath(name): NameInPath,
    Query(deletion): Query<Deletion>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    sight.may_unmask(&masked(&handle, &name), &[])?;
    handle.delete_queue(&name, etag::precondition(&headers)?, deletion.force).await?;
    Ok(StatusCode::NO_CONTENT)
}
