//! Routes: the rules from topics to queues.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use brolly_core::Route;
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
    OpenApiRouter::new().routes(routes!(list_routes)).routes(routes!(get_route, put_route, delete_route))
}

/// Lists routes by name.
#[utoipa::path(get, path = "/routes", tag = "routes", params(Part),
    responses((status = 200, body = Items<Entity<Route>>)))]
async fn list_routes(
    State(admin): State<Admin>,
    Query(part): Query<Part>,
) -> Result<Json<Items<Entity<Route>>>, Problem> {
    definitions::list(&admin, &part)
}

/// Shows a route.
#[utoipa::path(get, path = "/routes/{route}", tag = "routes",
    params(("route" = String, Path), ("if-none-match" = Option<String>, Header, description = "The ETag that the caller has")),
    responses((status = 200, body = Entity<Route>, headers(("etag" = String))),
        (status = 304, description = "The caller has it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_route(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    definitions::get::<Route>(&admin, &name, &headers)
}

/// Creates or replaces a route. Putting the same again changes nothing.
#[utoipa::path(put, path = "/routes/{route}", tag = "routes", request_body = Route,
    params(("route" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = Entity<Route>, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = Entity<Route>, description = "Created", headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "invalid-definition, invalid-pattern, invalid-filter, unknown-reference, unsupported")))]
async fn put_route(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(value): Defined<Route>,
) -> Result<Response, Problem> {
    let put = definitions::put(&handle, &name, value, &headers).await?;
    Ok(definitions::answer(&put, Entity::new(&name, &put.entry)))
}

/// Deletes a route that nothing uses.
#[utoipa::path(delete, path = "/routes/{route}", tag = "routes",
    params(("route" = String, Path), ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "in-use")))]
async fn delete_route(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    definitions::delete::<Route>(&handle, &name, &headers).await
}
