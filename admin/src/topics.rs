//! Topics: the names that producers publish to.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use brolly_core::{Code, Feed, Gap, Name, Refusal, Standing, Topic};
use brolly_dispatch::{FeedStatus, Handle, Heard};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::{self, Entity},
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
    sight::Sight,
};

/// A time in which nobody listened: what was published then is lost.
#[derive(Debug, Serialize, ToSchema)]
struct GapBody {
    /// The last moment at which somebody is known to have listened, in milliseconds since 1970.
    from_ms: u64,
    /// When somebody did again.
    to_ms: u64,
    /// Why.
    reason: String,
}

/// How the feed of a topic stands.
#[derive(Debug, Serialize, ToSchema)]
struct FeedBody {
    #[serde(flatten)]
    feed: Feed,
    /// listening, standby (another host of the group listens), or lost.
    state: &'static str,
    /// Since when, in milliseconds since 1970.
    since_ms: u64,
    /// Why it is lost.
    detail: Option<String>,
    /// How often something was missed.
    missed: u64,
    /// The latest 100 of these, oldest first.
    gaps: Vec<GapBody>,
}

impl FeedBody {
    fn new(feed: Feed, status: FeedStatus) -> Self {
        let (state, detail) = match status.standing {
            Standing::Listening => ("listening", None),
            Standing::Standby => ("standby", None),
            Standing::Lost(why) => ("lost", Some(why)),
        };
        let gap = |Gap { from, to, reason }| GapBody { from_ms: from.0, to_ms: to.0, reason };
        let Heard { missed, gaps, .. } = status.heard;
        let gaps = gaps.into_iter().map(gap).collect();
        Self { feed, state, since_ms: status.since.0, detail, missed, gaps }
    }
}

/// What is masked now.
fn masked(handle: &Handle, name: &Name) -> Vec<String> {
    handle.get::<Topic>(name).map(|entry| entry.value.mask.clone()).unwrap_or_default()
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_topics))
        .routes(routes!(get_topic, put_topic, delete_topic))
        .routes(routes!(get_feed))
}

/// Lists topics by name.
#[utoipa::path(get, path = "/topics", tag = "topics", params(Part),
    responses((status = 200, body = Items<Entity<Topic>>)))]
async fn list_topics(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<Entity<Topic>>>, Problem> {
    definitions::list(&admin, &part)
}

/// Shows a topic.
#[utoipa::path(get, path = "/topics/{topic}", tag = "topics",
    params(("topic" = String, Path), ("if-none-match" = Option<String>, Header, description = "The ETag that the caller has")),
    responses((status = 200, body = Entity<Topic>, headers(("etag" = String))),
        (status = 304, description = "The caller has it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_topic(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    definitions::get::<Topic>(&admin, &name, &headers)
}

/// Creates or replaces a topic. Putting the same again changes nothing.
#[utoipa::path(put, path = "/topics/{topic}", tag = "topics", request_body = Topic,
    params(("topic" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = Entity<Topic>, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = Entity<Topic>, description = "Created", headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "invalid-definition, unknown-reference, unsupported")))]
async fn put_topic(
    By(handle): By,
    sight: Sight,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<Topic>,
) -> Result<Response, Problem> {
    sight.may_unmask(&masked(&handle, &name), &value.mask)?;
    let put = definitions::put(&handle, &name, value, &headers).await?;
    Ok(definitions::answer(&put, Entity::new(&name, &put.entry)))
}

/// Deletes a topic that nothing uses.
#[utoipa::path(delete, path = "/topics/{topic}", tag = "topics",
    params(("topic" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_topic(
    By(handle): By,
    sight: Sight,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    sight.may_unmask(&masked(&handle, &name), &[])?;
    definitions::delete::<Topic>(&handle, &name, &headers).await
}

/// Shows how the feed of a topic stands, and what was missed.
#[utoipa::path(get, path = "/topics/{topic}/feed", tag = "topics", params(("topic" = String, Path)),
    responses((status = 200, body = FeedBody),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found: there is no such topic, or it has no feed")))]
async fn get_feed(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
) -> Result<Json<FeedBody>, Problem> {
    let topic = admin.handle.get::<Topic>(&name)?;
    let feed = topic.value.feed.clone().zip(admin.handle.feed(&name)?);
    let (feed, status) =
        feed.ok_or_else(|| Refusal::new(Code::NotFound, format!("the topic {name} has no feed")))?;
    Ok(Json(FeedBody::new(feed, status)))
}
