//! Topics: the names that producers publish to.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use brolly_core::Topic;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::{self, Entity},
    extract::{By, NameInPath, Query},
    page::{Items, Part},
    problem::Problem,
};

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(list_topics)).routes(routes!(get_topic, put_topic, delete_topic))
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
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<Topic>,
) -> Result<Response, Problem> {
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
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    definitions::delete::<Topic>(&handle, &name, &headers).await
}
