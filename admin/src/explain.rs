//! The route tester: where a message would go, and why.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use brolly_core::NewMessage;
use brolly_dispatch::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{Admin, body, extract::NameInPath, problem::Problem};

/// A message that is not published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Draft {
    /// Its id; default none.
    id: Option<String>,
    /// Its key; default none.
    key: String,
    /// Media type of the payload.
    content_type: String,
    /// Further fields of its envelope.
    headers: BTreeMap<String, String>,
    /// The payload, if it is JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// The payload, if it is any other text.
    text: Option<String>,
}

/// What a route says of the message.
#[derive(Debug, Serialize, ToSchema)]
struct Said {
    /// The route.
    route: String,
    /// Where it leads.
    queue: String,
    /// Its key pattern.
    key_pattern: String,
    /// Its filter.
    filter: Option<String>,
    /// `matches`; `key-differs`: the key does not match the pattern; `filtered-out`: the filter is not
    /// true; `filter-fails`: the filter cannot be evaluated, so that the route does not match.
    verdict: &'static str,
    /// Why the filter cannot be evaluated.
    reason: Option<String>,
}

/// Where the message would go.
#[derive(Debug, Serialize, ToSchema)]
struct Explanation {
    /// The queues that would get it, each once.
    queues: BTreeSet<String>,
    /// What each route of the topic says, by name.
    routes: Vec<Said>,
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(explain_message))
}

/// Tells where a message published to the topic would go, and what each route says of it. Nothing is
/// published, so viewers may ask, too.
#[utoipa::path(post, path = "/topics/{topic}/explain", tag = "routes", request_body = Draft,
    params(("topic" = String, Path)),
    responses((status = 200, body = Explanation),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "unsupported: the topic has more than 1,000 routes")))]
async fn explain_message(
    State(admin): State<Admin>,
    NameInPath(topic): NameInPath,
    body::Json(draft): body::Json<Draft>,
) -> Result<Json<Explanation>, Problem> {
    let payload = draft.payload.map(|json| json.get().to_owned()).or(draft.text).unwrap_or_default();
    let message = NewMessage {
        id: draft.id,
        key: draft.key,
        content_type: draft.content_type,
        headers: draft.headers,
        payload: payload.into(),
        ..NewMessage::default()
    };
    let mut explanation = Explanation { queues: BTreeSet::new(), routes: Vec::new() };
    for (name, entry, verdict) in admin.handle.explain(&topic, &message)? {
        let route = &*entry.value;
        if verdict == Verdict::Matches {
            explanation.queues.insert(route.queue.to_string());
        }
        let (word, reason) = match verdict {
            Verdict::Matches => ("matches", None),
            Verdict::KeyDiffers => ("key-differs", None),
            Verdict::FilteredOut => ("filtered-out", None),
            Verdict::FilterFails(reason) => ("filter-fails", Some(reason)),
        };
        explanation.routes.push(Said {
            route: name.to_string(),
            queue: route.queue.to_string(),
            key_pattern: route.key_pattern.clone(),
            filter: route.filter.clone(),
            verdict: word,
            reason,
        });
    }
    Ok(Json(explanation))
}
