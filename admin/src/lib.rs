//! The HTTP API and the console: one file per noun, and around them what every request goes through.
//!
//! Called by the binary, which hands in the [`Handle`] to everything and a listener. Knows no broker,
//! no store and no plugin runtime: whatever is seen or changed goes through the handle. A request
//! passes, from the outside in: `problem::describe` (bodies of errors, security headers),
//! `gate::admit` (how many at once), `auth::authenticate`, `gate::see_through` (time limits; a change
//! runs to its end though its client goes away), and a handler.

mod alerts;
mod audit;
mod auth;
mod backups;
mod body;
mod brokers;
mod captures;
mod channels;
mod cloudevents;
mod console;
mod dead_letters;
mod definitions;
mod desk;
mod etag;
mod events;
mod explain;
mod extract;
mod forwards;
#[cfg(fuzzing)]
pub mod fuzzing;
mod gate;
mod guesses;
mod health;
mod mask;
mod messages;
mod ndjson;
mod openapi;
mod page;
mod plugins;
mod problem;
mod publish;
mod pulse;
mod queues;
mod routes;
mod samples;
mod serve;
mod session;
mod shipping;
mod sight;
mod state;
mod subscriptions;
mod tls;
mod tokens;
mod topics;
mod value;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{Router, middleware, response::Response};
use brolly_dispatch::Handle;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_http::catch_panic::CatchPanicLayer;

pub use serve::{Error, serve};
pub use tls::{Tls, TlsFiles};

use crate::{guesses::Guesses, pulse::Pulse, session::Sessions};

/// The path that every call of the API begins with.
pub const BASE: &str = "/api/v1";

/// What the API may use.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Connections open at once; further ones wait to be accepted.
    pub connections: usize,
    /// Milliseconds that a connection may be open without a whole request head.
    pub idle_ms: u64,
    /// Requests handled at once; further ones are refused with status 503.
    pub requests: usize,
    /// Memory for request bodies, in MiB; a request whose body finds no room waits.
    pub body_memory_mib: u32,
    /// Milliseconds that a reading request may take.
    pub read_ms: u64,
    /// Milliseconds after which a client is told that its change takes longer; the change goes on.
    pub change_ms: u64,
    /// Milliseconds without a byte after which a request body is given up.
    pub body_idle_ms: u64,
    /// Milliseconds that requests have to finish when the host stops.
    pub drain_ms: u64,
    /// Milliseconds after which a session of the console ends.
    pub session_ms: u64,
    /// Streams of events, one for each open console; further ones are refused with status 503.
    pub streams: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: 1024,
            idle_ms: 60_000,
            requests: 512,
            body_memory_mib: 512,
            read_ms: 30_000,
            change_ms: 3_600_000,
            body_idle_ms: 30_000,
            drain_ms: 10_000,
            session_ms: 12 * 60 * 60 * 1000,
            streams: 64,
        }
    }
}

/// What answers `/metrics`: the host's measurements in Prometheus' text format.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub handle: Handle,
    pub metrics: Metrics,
    pub config: Config,
    /// What connections are encrypted with, if they are.
    pub tls: Option<Tls>,
    /// Room for requests.
    pub requests: Arc<Semaphore>,
    /// Room for request bodies, in MiB.
    pub bodies: Arc<Semaphore>,
    /// The changes that are being made.
    pub changes: TaskTracker,
    /// Room for streams of events.
    pub streams: Arc<Semaphore>,
    /// Who has signed in.
    pub sessions: Sessions,
    /// Wrong tokens at the sign-in.
    pub sign_ins: Guesses,
    /// Wrong tokens in the header Authorization.
    pub guesses: Guesses,
    /// What everything is doing.
    pub pulse: Pulse,
    /// Told when the host stops, so that streams end.
    pub stopping: CancellationToken,
    /// The API's description.
    pub openapi: String,
}

impl std::ops::Deref for Admin {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// The API and the console, ready to be served.
#[derive(Clone)]
pub struct App {
    router: Router,
    admin: Admin,
}

impl App {
    /// The routes, for a caller that serves them itself.
    pub fn router(&self) -> Router {
        self.router.clone()
    }
}

/// Puts the API and the console together, to be served with TLS or without.
#[must_use]
pub fn app(handle: Handle, metrics: Metrics, config: Config, tls: Option<Tls>) -> App {
    let (routes, document) = openapi::routes().split_for_parts();
    let shared = Shared {
        handle,
        metrics,
        tls,
        requests: Arc::new(Semaphore::new(config.requests)),
        bodies: Arc::new(Semaphore::new(config.body_memory_mib as usize)),
        changes: TaskTracker::new(),
        streams: Arc::new(Semaphore::new(config.streams)),
        sessions: Sessions::default(),
        sign_ins: Guesses::after(session::FREE_SIGN_INS),
        guesses: Guesses::after(auth::FREE_TOKENS),
        pulse: Pulse::default(),
        stopping: CancellationToken::new(),
        openapi: openapi::finish(document),
        config,
    };
    let admin = Admin { shared: Arc::new(shared) };
    let router = routes
        .merge(console::routes())
        .fallback(gate::unknown_path)
        .method_not_allowed_fallback(gate::unknown_method)
        .layer(CatchPanicLayer::custom(caught))
        .layer(middleware::from_fn_with_state(admin.clone(), gate::see_through))
        .layer(middleware::from_fn_with_state(admin.clone(), auth::authenticate))
        .layer(middleware::from_fn_with_state(admin.clone(), gate::admit))
        .layer(middleware::from_fn_with_state(admin.clone(), problem::describe))
        .with_state(admin.clone());
    App { router, admin }
}

fn caught(panic: Box<dyn std::any::Any + Send>) -> Response {
    let said = panic.downcast_ref::<&str>().map(ToString::to_string);
    let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(panic = said, "a request handler panicked");
    axum::response::IntoResponse::into_response(problem::Problem::internal())
}
