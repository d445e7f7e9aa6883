//! Subscriptions: who handles the messages of a queue, with what they are doing.

use axum::{
    Json,
    extract::{FromRequest, Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Name, Subscription};
use brolly_dispatch::{Dependency, Entry, Percentiles, Status};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::{Defined, check_objects, json_problem},
    definitions::{self, Entity},
    etag,
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
    queues::Counts,
};

/// A failed attempt.
#[derive(Debug, Serialize, ToSchema)]
struct Failure {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// Why.
    reason: String,
}

/// Percentiles of durations, in microseconds; each within 2 % of the true one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PercentilesBody {
    /// How many durations they are of.
    count: u64,
    /// Half took at most so long.
    p50_us: u64,
    /// 95 of 100 took at most so long.
    p95_us: u64,
    /// 99 of 100 took at most so long.
    p99_us: u64,
}

/// How long things took in the last five to ten minutes; null where nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LatencyBody {
    /// One attempt of the handler, however it ended.
    attempt: Option<PercentilesBody>,
    /// From the acceptance of a message to the end of the attempt that acknowledged it.
    handled: Option<PercentilesBody>,
}

impl LatencyBody {
    pub(crate) fn of(status: &Status) -> Self {
        let body =
            |Percentiles { count, p50_us, p95_us, p99_us }| PercentilesBody { count, p50_us, p95_us, p99_us };
        Self { attempt: status.attempt.map(body), handled: status.handled.map(body) }
    }
}

/// What a subscription is doing. The numbers count since the host started.
#[derive(Debug, Serialize, ToSchema)]
struct StatusBody {
    /// starting, running, paused or failed.
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// Why, where it failed.
    error: Option<String>,
    /// The plugin version that takes deliveries.
    version: Option<String>,
    /// Attempts acknowledged.
    acked: u64,
    /// Attempts that are tried again.
    retried: u64,
    /// Deliveries that became dead letters.
    dead: u64,
    /// The latest failed attempt.
    last_failure: Option<Failure>,
    /// How long attempts, and messages, took.
    latency: LatencyBody,
    /// What its handler cannot reach.
    dependencies: Vec<DependencyBody>,
}

/// Something that a handler needs and named as out of reach.
#[derive(Debug, Serialize, ToSchema)]
struct DependencyBody {
    /// As the handler calls it.
    name: String,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// When the next delivery is let through to find out, in milliseconds since 1970.
    next_probe_ms: u64,
    /// Deliveries that are held back for it.
    held: u64,
    /// Whether a probe was handled, and the others are let go on slowly.
    recovering: bool,
    /// What the latest attempt that named it said.
    reason: String,
}

impl From<Dependency> for DependencyBody {
    fn from(dependency: Dependency) -> Self {
        Self {
            name: dependency.name,
            since_ms: dependency.since.0,
            next_probe_ms: dependency.next_probe.0,
            held: dependency.held,
            recovering: dependency.recovering,
            reason: dependency.reason,
        }
    }
}

impl From<Status> for StatusBody {
    fn from(status: Status) -> Self {
        let latency = LatencyBody::of(&status);
        Self {
            latency,
            dependencies: status.dependencies.into_iter().map(DependencyBody::from).collect(),
            state: status.state.as_str(),
            since_ms: status.since.0,
            error: status.error,
            version: status.version.map(|digest| digest.to_string()),
            acked: status.acked,
            retried: status.retried,
            dead: status.dead,
            last_failure: status.last_failure.map(|(at, reason)| Failure { at_ms: at.0, reason }),
        }
    }
}

/// A subscription with what it is doing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LiveSubscription {
    #[serde(flatten)]
    entity: Entity<Subscription>,
    /// starting, running, paused or failed.
    state: &'static str,
    /// What it is doing.
    status: StatusBody,
    /// What its queue holds.
    counts: Counts,
    /// Age of the oldest message that waits, in milliseconds; null if nothing does.
    oldest_age_ms: Option<u64>,
}

impl LiveSubscription {
    async fn new(admin: &Admin, name: &Name, entry: &Entry<Subscription>) -> Result<Self, Problem> {
        let status = admin.handle.status(name)?;
        let counts = admin.handle.counts(&entry.value.queue).await?;
        Ok(Self {
            entity: Entity::new(name, entry),
            state: status.state.as_str(),
            status: status.into(),
            oldest_age_ms: counts.oldest_age_ms,
            counts: counts.into(),
        })
    }
}

/// The body of a PUT: a definition, in which `state` may stand for `paused`.
struct Wanted(Subscription);

impl FromRequest<Admin> for Wanted {
    type Rejection = Problem;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Problem> {
        let Defined(mut fields) = Defined::<Map<String, Value>>::from_request(request, admin).await?;
        let state = fields.remove("state").map(StateWord::deserialize).transpose();
        let state =
            state.map_err(|error| Problem::refused(Code::InvalidDefinition, format!("state: {error}")))?;
        let said = Value::Object(fields);
        let parsed = Subscription::deserialize(&said);
        let mut wanted = parsed.map_err(|error| json_problem(&error, Code::InvalidDefinition))?;
        check_objects(&said, &wanted)?;
        if let Some(state) = state {
            let paused = matches!(state, StateWord::Paused);
            if wanted.paused.is_some_and(|said| said != paused) {
                let detail = "state and paused say the opposite of each other; send one of them";
                return Err(Problem::refused(Code::InvalidDefinition, detail));
            }
            wanted.paused = Some(paused);
        }
        Ok(Self(wanted))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateWord {
    Running,
    Paused,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_subscriptions))
        .routes(routes!(get_subscription, put_subscription, delete_subscription))
        .routes(routes!(pause_subscription))
        .routes(routes!(resume_subscription))
}

/// Lists subscriptions by name, with what they are doing.
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", params(Part),
    responses((status = 200, body = Items<LiveSubscription>)))]
async fn list_subscriptions(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<LiveSubscription>>, Problem> {
    let page = admin.handle.list::<Subscription>(part.after_name()?.as_ref(), part.limit()?);
    let mut items = Vec::with_capacity(page.items.len());
    for (name, entry) in &page.items {
        match LiveSubscription::new(&admin, name, entry).await {
            Ok(subscription) => items.push(subscription),
            // Deleted while the list was made.
            Err(_) if admin.handle.get::<Subscription>(name).is_err() => {}
            Err(problem) => return Err(problem),
        }
    }
    Ok(Json(Items { items, next: page.next }))
}

/// Shows a subscription with what it is doing.
#[utoipa::path(get, path = "/subscriptions/{subscription}", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = LiveSubscription, headers(("etag" = String))),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_subscription(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
) -> Result<Response, Problem> {
    show(&admin, &name, &admin.handle.get::<Subscription>(&name)?).await
}

async fn show(admin: &Admin, name: &Name, entry: &Entry<Subscription>) -> Result<Response, Problem> {
    let body = LiveSubscription::new(admin, name, entry).await?;
    Ok(([etag::header(entry.revision)], Json(body)).into_response())
}

/// Creates or replaces a subscription, after its plugin was tried within its limits. `"state":
/// "paused"` or `"running"` may stand for `paused`; with neither, the present state stays.
#[utoipa::path(put, path = "/subscriptions/{subscription}", tag = "subscriptions", request_body = Subscription,
    params(("subscription" = String, Path),
        ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = LiveSubscription, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = LiveSubscription, description = "Created", headers(("etag" = String))),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "in-use: the queue has another subscription"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition, invalid-plugin, samples-failed, unknown-reference, unsupported")))]
async fn put_subscription(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Wanted(value): Wanted,
) -> Result<Response, Problem> {
    let put = handle.put_subscription(&name, value, etag::precondition(&headers)?).await?;
    let body = LiveSubscription::new(&admin, &name, &put.entry).await?;
    Ok(definitions::answer(&put, body))
}

/// Deletes a subscription. Its state and its history stay; its queue keeps what it holds.
#[utoipa::path(delete, path = "/subscriptions/{subscription}", tag = "subscriptions",
    params(("subscription" = String, Path),
        ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn delete_subscription(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    definitions::delete::<Subscription>(&handle, &name, &headers).await
}

/// Pauses a subscription: it finishes what it has in hand and takes nothing more, also after a restart.
#[utoipa::path(post, path = "/subscriptions/{subscription}/pause", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = LiveSubscription),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn pause_subscription(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
) -> Result<Response, Problem> {
    show(&admin, &name, &handle.set_paused(&name, true).await?).await
}

/// Lets a paused subscription go on.
#[utoipa::path(post, path = "/subscriptions/{subscription}/resume", tag = "subscriptions",
    params(("subscription" = String, Path)),
    responses((status = 200, body = LiveSubscription),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn resume_subscription(
    State(admin): State<Admin>,
    By(handle): By,
    NameInPath(name): NameInPath,
) -> Result<Response, Problem> {
    show(&admin, &name, &handle.set_paused(&name, false).await?).await
}
