//! What watches the host: is it alive, is it ready, its measurements. Nothing here needs a token.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    problem::{NotReady, Problem},
};

/// The host is ready.
#[derive(Debug, Serialize, ToSchema)]
struct Ready {
    /// `true`
    ready: bool,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(metrics))
}

/// Tells that the process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Tells whether every subscription that should run takes deliveries.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()),
    responses((status = 200, body = Ready),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "unavailable; `not_ready` lists the subscriptions that should run and do not")))]
async fn readyz(State(admin): State<Admin>) -> Result<Json<Ready>, Problem> {
    let mut not_ready = Vec::new();
    for (subscription, _) in admin.handle.not_ready() {
        // Anybody may ask this; why a subscription failed is for those with a token.
        let state = admin.handle.status(&subscription)?.state.as_str();
        not_ready.push(NotReady { subscription: subscription.to_string(), state });
    }
    if not_ready.is_empty() {
        return Ok(Json(Ready { ready: true }));
    }
    Err(Problem::not_ready(not_ready))
}

/// Measurements in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, body = String, content_type = "text/plain; version=0.0.4")))]
async fn metrics(State(admin): State<Admin>) -> ([(HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (admin.metrics)())
}
