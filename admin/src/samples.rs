//! Samples: what every version of a plugin must do with some messages before it may be used.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use brolly_dispatch::Samples;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    definitions::{self, Entity},
    etag,
    extract::{By, NameInPath},
    problem::Problem,
};

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(get_samples, put_samples, delete_samples))
}

/// Shows the samples of a plugin.
#[utoipa::path(get, path = "/plugins/{plugin}/samples", tag = "plugins",
    params(("plugin" = String, Path),
        ("if-none-match" = Option<String>, Header, description = "The ETag that the caller has")),
    responses((status = 200, body = Entity<Samples>, headers(("etag" = String))),
        (status = 304, description = "The caller has it"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_samples(
    State(admin): State<Admin>,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    definitions::get::<Samples>(&admin, &name, &headers)
}

/// Sets the samples of a plugin: a document as `brolly test` takes it, in TOML, that stands alone. From then on a
/// version that does otherwise is refused at its upload, and one that was uploaded before is refused when a
/// subscription or a rollout is to begin to use it. What runs goes on, and a rollback is always possible. At most
/// 100 samples of 10 s each; none is begun after 30 s.
#[utoipa::path(put, path = "/plugins/{plugin}/samples", tag = "plugins", request_body = Samples,
    params(("plugin" = String, Path),
        ("if-match" = Option<String>, Header, description = "The ETag that it must have"),
        ("if-none-match" = Option<String>, Header, description = "`*`: it must not exist")),
    responses((status = 200, body = Entity<Samples>, description = "Replaced", headers(("etag" = String))),
        (status = 201, body = Entity<Samples>, description = "Created", headers(("etag" = String))),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "too-large"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition, with all mistakes of the document")))]
async fn put_samples(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
    Defined(samples): Defined<Samples>,
) -> Result<Response, Problem> {
    let put = handle.put_samples(&name, samples, etag::precondition(&headers)?).await?;
    Ok(definitions::answer(&put, Entity::new(&name, &put.entry)))
}

/// Asks no samples of a plugin any more.
#[utoipa::path(delete, path = "/plugins/{plugin}/samples", tag = "plugins",
    params(("plugin" = String, Path),
        ("if-match" = Option<String>, Header, description = "The ETag that it must have")),
    responses((status = 204, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 412, body = Problem, content_type = "application/problem+json", description = "changed")))]
async fn delete_samples(
    By(handle): By,
    NameInPath(name): NameInPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    definitions::delete::<Samples>(&handle, &name, &headers).await
}
