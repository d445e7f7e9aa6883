//! Captures of attempts, for replaying them elsewhere, and which attempts are recorded.

use std::sync::Arc;

use axum::{Json, extract::State};
use brolly_core::Subscription;
use brolly_dispatch::{Capture, RecordMode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::Defined,
    extract::{NameInPath, Query},
    page,
    problem::Problem,
    sight::Sight,
};

/// Which captures are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only of attempts that were not acknowledged.
    #[serde(default)]
    failing: bool,
    /// The most items: 1 to 1000, default 100.
    limit: Option<u32>,
}

/// The captures of a subscription. They lie in the host's memory: at most 100, and 64 MiB of all
/// subscriptions; the oldest make room.
#[derive(Debug, Serialize, ToSchema)]
struct CapturesBody {
    /// Which attempts are recorded: off, failing or all.
    record: &'static str,
    /// Attempts that were not kept since the host started, because a capture has at most 4 MiB, or there
    /// was no room.
    skipped: u64,
    /// Newest first. Their form is versioned by `brolly_capture`.
    #[schema(value_type = Vec<serde_json::Value>)]
    items: Vec<Arc<Capture>>,
}

/// Which attempts are recorded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RecordWord {
    Off,
    Failing,
    All,
}

/// What is to be recorded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Recording {
    /// off, failing (what a host begins with) or all.
    record: RecordWord,
}

const CAPTURES: &str = "captures show payloads and state as they are";

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(list_captures)).routes(routes!(put_recording))
}

/// Shows the newest captures of a subscription: what an attempt was given and what came of it. A capture is
/// shown whole or not at all: it is there to be replayed. So this needs the right `payloads`, and `unmasked`
/// where a topic or queue of what is captured masks values.
#[utoipa::path(get, path = "/subscriptions/{subscription}/captures", tag = "subscriptions",
    params(("subscription" = String, Path), Wanted),
    responses((status = 200, body = CapturesBody),
        (status = 403, body = Problem, content_type = "application/problem+json",
            description = "forbidden: the token lacks the right payloads or unmasked"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn list_captures(
    State(admin): State<Admin>,
    sight: Sight,
    NameInPath(subscription): NameInPath,
    Query(wanted): Query<Wanted>,
) -> Result<Json<CapturesBody>, Problem> {
    sight.must_be_whole(&[], CAPTURES)?;
    let limit = page::limit(wanted.limit)?;
    let found = admin.handle.captures(&subscription, wanted.failing, limit)?;
    let queue = admin.handle.get::<Subscription>(&subscription)?.value.queue.clone();
    for capture in &found.captures {
        let mut mask = admin.handle.masks(&capture.message.topic, [&queue]);
        for published in &capture.happened.published {
            mask.extend(admin.handle.masks(&published.topic, []));
        }
        sight.must_be_whole(&mask, CAPTURES)?;
    }
    Ok(Json(CapturesBody { record: found.mode.as_str(), skipped: found.skipped, items: found.captures }))
}

/// Sets which attempts of a subscription are recorded from now on, until the host stops.
#[utoipa::path(put, path = "/subscriptions/{subscription}/recording", tag = "subscriptions",
    params(("subscription" = String, Path)), request_body = Recording,
    responses((status = 200, body = Recording),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-definition")))]
async fn put_recording(
    State(admin): State<Admin>,
    NameInPath(subscription): NameInPath,
    Defined(wanted): Defined<Recording>,
) -> Result<Json<Recording>, Problem> {
    let mode = match wanted.record {
        RecordWord::Off => RecordMode::Off,
        RecordWord::Failing => RecordMode::Failing,
        RecordWord::All => RecordMode::All,
    };
    admin.handle.record(&subscription, mode)?;
    Ok(Json(wanted))
}
