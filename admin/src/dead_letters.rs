//! The dead-letter desk: look at dead letters, send them back, delete them.

use std::{collections::HashSet, num::NonZeroU32};

use axum::{Json, extract::State};
use brolly_core::{Code, Name, Refusal};
use brolly_dispatch::{DeadLetter, DeskResult, Handle, Selection};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin, body,
    extract::{By, NameInPath, Path, Query},
    page::{Items, Part},
    problem::Problem,
};

/// A delivery that nobody will handle until someone decides what becomes of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Letter {
    /// The message's id.
    message_id: String,
    /// The message's topic.
    topic: String,
    /// The message's key.
    key: String,
    /// The subscription that gave it up.
    subscription: String,
    /// Why.
    reason: String,
    /// Attempts since it was published or last replayed.
    attempts: u32,
    /// When it was given up, in milliseconds since 1970.
    at_ms: u64,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        Self {
            message_id: letter.message_id,
            topic: letter.topic.to_string(),
            key: letter.key,
            subscription: letter.subscription.to_string(),
            reason: letter.reason,
            attempts: letter.attempts,
            at_ms: letter.at.0,
        }
    }
}

/// What became of the dead letters that were meant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Done {
    /// The message ids of those that were replayed or deleted.
    done: Vec<String>,
    /// Ids that were named and are no dead letters (any more).
    not_found: Vec<String>,
    /// Those that could not be replayed and are dead letters still.
    refused: Vec<RefusedLetter>,
    /// Whether there are more than the 10,000 that one call handles; call again.
    more: bool,
}

/// A dead letter that could not be replayed.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedLetter {
    /// The message's id.
    id: String,
    /// The code of the problem, such as queue-full.
    code: &'static str,
    /// What keeps it where it is.
    detail: String,
}

impl From<DeskResult> for Done {
    fn from(result: DeskResult) -> Self {
        let DeskResult { done, not_found, refused, more } = result;
        let refused = refused.into_iter().map(|(id, Refusal { code, detail })| RefusedLetter {
            id,
            code: code.as_str(),
            detail,
        });
        Self { done, not_found, refused: refused.collect(), more }
    }
}

/// Which dead letters are meant: one of `ids`, `all`, `reason` and `shape`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Replay {
    /// Those of these messages, at most 10,000.
    ids: Option<HashSet<String>>,
    /// `true`: all.
    all: Option<bool>,
    /// Those whose reason contains this text.
    reason: Option<String>,
    /// Those whose reason is this but for the numbers, for which it has `#`: the `shape` of a reason.
    shape: Option<String>,
    /// At most so many a second.
    #[schema(value_type = Option<u32>, minimum = 1)]
    per_second: Option<NonZeroU32>,
}

impl Replay {
    fn selection(self) -> Result<Selection, Problem> {
        let invalid = |detail: String| Problem::refused(Code::InvalidRequest, detail);
        match (self.ids, self.all, self.reason, self.shape) {
            (Some(ids), None, None, None) if ids.len() <= Handle::DESK_LIMIT => Ok(Selection::Ids(ids)),
            (Some(ids), None, None, None) => {
                Err(invalid(format!("there are {} ids, the limit is {}", ids.len(), Handle::DESK_LIMIT)))
            }
            (None, Some(true), None, None) => Ok(Selection::Reason(String::new())),
            (None, None, Some(reason), None) if !reason.is_empty() => Ok(Selection::Reason(reason)),
            (None, None, None, Some(shape)) => Ok(Selection::Shape(shape)),
            _ => Err(invalid(
                "say which dead letters are meant with exactly one of: ids, all (true), reason (a text that is \
                 not empty), shape"
                    .to_owned(),
            )),
        }
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters, delete_dead_letters))
        .routes(routes!(list_reasons))
        .routes(routes!(replay_dead_letters))
        .routes(routes!(replay_dead_letter))
}

/// Lists the dead letters of a subscription's queue, the oldest message first.
#[utoipa::path(get, path = "/subscriptions/{subscription}/dead-letters", tag = "dead letters",
    params(("subscription" = String, Path), Part),
    responses((status = 200, body = Items<Letter>),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn list_dead_letters(
    State(admin): State<Admin>,
    NameInPath(subscription): NameInPath,
    Query(part): Query<Part>,
) -> Result<Json<Items<Letter>>, Problem> {
    let page = admin.handle.dead_letters(&subscription, part.after_number()?, part.limit()?).await?;
    Ok(Json(Items { items: page.items.into_iter().map(Letter::from).collect(), next: page.next }))
}

/// A reason of dead letters.
#[derive(Debug, Serialize, ToSchema)]
struct ReasonBody {
    /// The reason, with `#` for every number.
    shape: String,
    /// The reason of the latest of them, whole.
    example: String,
    /// How many there are.
    count: u64,
    /// When the first of them was given up, in milliseconds since 1970.
    first_at_ms: u64,
    /// When the latest of them was given up, in milliseconds since 1970.
    latest_at_ms: u64,
}

/// What dead letters were given up for.
#[derive(Debug, Serialize, ToSchema)]
struct ReasonsBody {
    /// The reasons, the most frequent first; at most 200.
    items: Vec<ReasonBody>,
    /// Dead letters looked at: all, or the 50,000 of the oldest messages.
    looked_at: u64,
    /// Those of them with a reason that is not among the items.
    others: u64,
}

/// Groups the dead letters of a subscription's queue by their reasons; reasons that differ only in
/// their numbers are one.
#[utoipa::path(get, path = "/subscriptions/{subscription}/dead-letter-reasons", tag = "dead letters",
    params(("subscription" = String, Path)),
    responses((status = 200, body = ReasonsBody),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn list_reasons(
    State(admin): State<Admin>,
    NameInPath(subscription): NameInPath,
) -> Result<Json<ReasonsBody>, Problem> {
    let reasons = admin.handle.dead_letter_reasons(&subscription).await?;
    let items = reasons.items.into_iter().map(|reason| ReasonBody {
        shape: reason.shape,
        example: reason.example,
        count: reason.count,
        first_at_ms: reason.first.0,
        latest_at_ms: reason.latest.0,
    });
    let (looked_at, others) = (reasons.looked_at, reasons.others);
    Ok(Json(ReasonsBody { items: items.collect(), looked_at, others }))
}

/// Sends dead letters back to their queue. Answers when the last of them is back, which takes its
/// time where `per_second` is low.
#[utoipa::path(post, path = "/subscriptions/{subscription}/dead-letters/replay", tag = "dead letters",
    request_body = Replay, params(("subscription" = String, Path)),
    responses((status = 200, body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found: the subscription")))]
async fn replay_dead_letters(
    By(handle): By,
    NameInPath(subscription): NameInPath,
    body::Json(replay): body::Json<Replay>,
) -> Result<Json<Done>, Problem> {
    let per_second = replay.per_second;
    Ok(Json(handle.replay(&subscription, replay.selection()?, per_second).await?.into()))
}

#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "the description of parameters that are read one by one, as ids may repeat")]
struct Deletion {
    /// The message id of a dead letter; may be repeated.
    id: Option<Vec<String>>,
    /// `true`: all.
    all: Option<bool>,
    /// Those whose reason contains this text.
    reason: Option<String>,
    /// Those whose reason is this but for the numbers, for which it has `#`.
    shape: Option<String>,
}

/// Deletes dead letters: those of `id`, which may be repeated, those of a `reason` or `shape`, or `all`. The
/// history of their messages stays.
#[utoipa::path(delete, path = "/subscriptions/{subscription}/dead-letters", tag = "dead letters",
    params(("subscription" = String, Path), Deletion),
    responses((status = 200, body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found: the subscription")))]
async fn delete_dead_letters(
    By(handle): By,
    NameInPath(subscription): NameInPath,
    Query(parameters): Query<Vec<(String, String)>>,
) -> Result<Json<Done>, Problem> {
    let mut wanted = Replay::default();
    for (name, value) in parameters {
        match (name.as_str(), value.as_str()) {
            ("id", _) => wanted.ids.get_or_insert_default().extend([value]),
            ("all", "true") => wanted.all = Some(true),
            ("reason", _) => wanted.reason = Some(value),
            ("shape", _) => wanted.shape = Some(value),
            _ => {
                let detail = format!(
                    "{name}={value} is not known; known are id=ID, all=true, reason=TEXT, shape=TEXT"
                );
                return Err(Problem::refused(Code::InvalidRequest, detail));
            }
        }
    }
    Ok(Json(handle.discard(&subscription, wanted.selection()?).await?.into()))
}

/// Sends one dead letter back to its queue.
#[utoipa::path(post, path = "/subscriptions/{subscription}/dead-letters/{message_id}/replay", tag = "dead letters",
    params(("subscription" = String, Path), ("message_id" = String, Path)),
    responses((status = 200, body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn replay_dead_letter(
    By(handle): By,
    Path((subscription, id)): Path<(String, String)>,
) -> Result<Json<Done>, Problem> {
    let subscription = Name::new(&subscription)?;
    let result = handle.replay(&subscription, Selection::Ids([id.clone()].into()), None).await?;
    one(&subscription, &id, result)
}

pub(crate) fn one(subscription: &Name, id: &str, mut result: DeskResult) -> Result<Json<Done>, Problem> {
    if let Some((_, refusal)) = result.refused.pop() {
        return Err(refusal.into());
    }
    if result.done.is_empty() {
        let detail = format!("the subscription {subscription} has no dead letter of the message {id:?}");
        return Err(Problem::refused(Code::NotFound, detail));
    }
    Ok(Json(result.into()))
}
