//! What every request goes through but its own business: how many at once, for how long, and what
//! leads nowhere.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{Method, Uri},
    middleware::Next,
    response::{IntoResponse, Response},
};
use brolly_core::Code;

use crate::{Admin, problem::Problem};

/// Refuses requests beyond the limit. Health is always told: a host that is busy lives.
pub(crate) async fn admit(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" {
        return next.run(request).await;
    }
    match admin.requests.clone().try_acquire_owned() {
        Ok(_permit) => next.run(request).await,
        Err(_) => Problem::refused(
            Code::Unavailable,
            format!("{} requests are being handled, the limit; try again", admin.config.requests),
        )
        .into_response(),
    }
}

/// Bounds the time of a request. A change is not broken off halfway when its client goes away or
/// loses patience: it belongs to the tasks that [`crate::serve`] waits for.
pub(crate) async fn see_through(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        let limit = admin.config.read_ms;
        let answer = tokio::time::timeout(Duration::from_millis(limit), next.run(request));
        return answer.await.unwrap_or_else(|_| late(format!("this took longer than {limit} ms")));
    }
    let limit = admin.config.change_ms;
    let change = admin.changes.spawn(next.run(request));
    match tokio::time::timeout(Duration::from_millis(limit), change).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!(%error, "a change broke off");
            Problem::internal().into_response()
        }
        Err(_) => late(format!("this takes longer than {limit} ms and goes on; look later")),
    }
}

fn late(detail: String) -> Response {
    Problem::refused(Code::Unavailable, detail).into_response()
}

pub(crate) async fn unknown_path(uri: Uri) -> Problem {
    Problem::unknown_path(uri.path())
}

pub(crate) async fn unknown_method(method: Method, uri: Uri) -> Problem {
    Problem::unknown_method(method.as_str(), uri.path())
}
