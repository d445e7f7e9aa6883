//! What became of messages: the story of one, and the search for many.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use brolly_core::{Code, LogLine, Message, MessageId, Name, Timestamp};
use brolly_dispatch::{Attempt, AttemptOutcome, DeliveryHistory, DeliveryStatus as Status, History, Search};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    extract::{Path, Query},
    page::{self, Items},
    problem::Problem,
    sight::{Seen, Sight},
    value::Encoding,
};

/// Topic and id of a message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reference {
    /// The topic.
    pub topic: String,
    /// The id.
    pub id: String,
}

impl From<(Name, MessageId)> for Reference {
    fn from((topic, id): (Name, MessageId)) -> Self {
        Self { topic: topic.to_string(), id }
    }
}

/// A route whose filter could not be evaluated for a message, so that it did not match.
#[derive(Debug, Serialize, ToSchema)]
struct FilterError {
    /// The route.
    route: String,
    /// Why.
    reason: String,
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageBody {
    /// Unique within its topic.
    id: String,
    /// Its topic.
    topic: String,
    /// Routing and ordering key; empty if there is none.
    key: String,
    /// Media type of the payload; empty if the producer named none.
    content_type: String,
    /// Further fields of its envelope.
    headers: BTreeMap<String, String>,
    /// When it was accepted, in milliseconds since 1970.
    published_at_ms: u64,
    /// When it becomes a dead letter unless it is handled, in milliseconds since 1970.
    expires_at_ms: Option<u64>,
    /// Bytes of the payload.
    size_bytes: u64,
    /// The payload: JSON where it is JSON, else a string where it is UTF-8, else `{"base64": "…"}`; null
    /// where it is hidden.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Which of these it is.
    payload_encoding: Encoding,
    /// Whether values that its topic or queue masks are shown as `***`.
    payload_masked: bool,
}

impl MessageBody {
    pub(crate) fn new(message: &Message, sight: Sight, mask: &[String]) -> Result<Self, Problem> {
        let Seen { value, encoding, masked } = sight.show(&message.payload, mask)?;
        Ok(Self {
            id: message.id.clone(),
            topic: message.topic.to_string(),
            key: message.key.clone(),
            content_type: message.content_type.clone(),
            headers: message.headers.clone(),
            published_at_ms: message.published_at.0,
            expires_at_ms: message.expires_at.map(|at| at.0),
            size_bytes: message.payload.len() as u64,
            payload: value,
            payload_encoding: encoding,
            payload_masked: masked,
        })
    }
}

/// A message and its way.
#[derive(Debug, Serialize, ToSchema)]
struct RoutedMessage {
    #[serde(flatten)]
    message: MessageBody,
    /// The queues that it was routed to.
    queues: Vec<String>,
    /// Routes whose filter could not be evaluated.
    filter_errors: Vec<FilterError>,
    /// The message whose handling published it; of an edited copy, the message that it was made of.
    parent: Option<Reference>,
}

/// One attempt at a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptBody {
    /// Counts from 1 over the whole history, replays included.
    number: u32,
    /// When it began, in milliseconds since 1970.
    at_ms: u64,
    /// How long it took, in microseconds.
    duration_us: u64,
    /// The most memory that the handler had, in bytes.
    memory_bytes: u64,
    /// The plugin version.
    version: Option<String>,
    /// ack, retry, reject, fault or expired.
    outcome: &'static str,
    /// Why, where it was not acknowledged.
    reason: Option<String>,
    /// Milliseconds until the next attempt, where there is one.
    retry_after_ms: Option<u64>,
    /// What the handler logged.
    logs: Vec<LogLine>,
    /// Lines that the log limit dropped.
    logs_dropped: u64,
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        Self {
            number: attempt.number,
            at_ms: attempt.at.0,
            duration_us: attempt.duration_us,
            memory_bytes: attempt.memory_bytes,
            version: attempt.version().map(|digest| digest.to_string()),
            outcome: match attempt.outcome {
                AttemptOutcome::Ack => "ack",
                AttemptOutcome::Retry => "retry",
                AttemptOutcome::Reject => "reject",
                AttemptOutcome::Fault => "fault",
                AttemptOutcome::Expired => "expired",
                AttemptOutcome::Unfit => "unfit",
            },
            logs: attempt.log_lines().collect(),
            reason: attempt.reason,
            retry_after_ms: attempt.retry_after_ms,
            logs_dropped: attempt.logs_dropped,
        }
    }
}

/// What became of a message at one subscription.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryBody {
    /// The subscription.
    subscription: String,
    /// waiting, acked, dead, discarded (a dead letter that was deleted) or replaced (a dead letter whose
    /// place an edited copy has taken).
    status: &'static str,
    /// How often it was replayed.
    replays: u32,
    /// Oldest first.
    attempts: Vec<AttemptBody>,
    /// What its acknowledged attempt published, as far as the ledger lists it; of a replaced delivery, the
    /// edited copy.
    published: Vec<Reference>,
    /// How many more it published.
    published_more: u32,
}

impl From<DeliveryHistory> for DeliveryBody {
    fn from(delivery: DeliveryHistory) -> Self {
        Self {
            subscription: delivery.subscription.to_string(),
            status: word(delivery.status),
            replays: delivery.replays,
            attempts: delivery.attempts.into_iter().map(AttemptBody::from).collect(),
            published: delivery.published.into_iter().map(Reference::from).collect(),
            published_more: delivery.published_more,
        }
    }
}

/// Everything that is known of one message.
#[derive(Debug, Serialize, ToSchema)]
struct Story {
    /// The message.
    message: RoutedMessage,
    /// What became of it.
    deliveries: Vec<DeliveryBody>,
    /// Other topics that have a message of the same id; ask for them with `topic`.
    other_topics: Vec<String>,
}

impl Story {
    fn new(history: History, sight: Sight, mask: &[String]) -> Result<Self, Problem> {
        let filter_errors = history
            .stored
            .filter_errors
            .iter()
            .map(|(route, reason)| FilterError { route: route.to_string(), reason: reason.clone() });
        Ok(Self {
            message: RoutedMessage {
                message: MessageBody::new(&history.stored.message, sight, mask)?,
                queues: history.stored.routed.iter().map(ToString::to_string).collect(),
                filter_errors: filter_errors.collect(),
                parent: history.parent.map(Reference::from),
            },
            deliveries: history.deliveries.into_iter().map(DeliveryBody::from).collect(),
            other_topics: history.other_topics.iter().map(ToString::to_string).collect(),
        })
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Waiting => "waiting",
        Status::Acked => "acked",
        Status::Dead => "dead",
        Status::Discarded => "discarded",
        Status::Replaced => "replaced",
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(get_message)).routes(routes!(search_messages))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InTopic {
    /// The topic, where several have a message of this id.
    topic: Option<String>,
}

/// Tells the story of a message: where it went, every attempt, what came of it.
#[utoipa::path(get, path = "/messages/{id}", tag = "messages", params(("id" = String, Path), InTopic),
    responses((status = 200, body = Story),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_message(
    State(admin): State<Admin>,
    sight: Sight,
    Path(id): Path<String>,
    Query(query): Query<InTopic>,
) -> Result<Json<Story>, Problem> {
    let topic = query.topic.as_deref().map(Name::new).transpose()?;
    match admin.handle.history(id.clone(), topic).await? {
        Some(history) => {
            let mask = admin.handle.masks(&history.stored.message.topic, &history.stored.routed);
            Ok(Json(Story::new(history, sight, &mask)?))
        }
        None => {
            let place = query.topic.map(|topic| format!(" in the topic {topic}")).unwrap_or_default();
            let detail =
                format!("there is no message with the id {id:?}{place}; GET /api/v1/messages searches");
            Err(Problem::refused(Code::NotFound, detail))
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Direction {
    #[default]
    Desc,
    Asc,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StatusWord {
    Waiting,
    Acked,
    Dead,
    Discarded,
    Replaced,
}

/// What to look for; everything given must hold.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Of this topic.
    topic: Option<String>,
    /// With this key.
    key: Option<String>,
    /// With this header of this value, as `name:value`.
    header: Option<String>,
    /// Published then or later, in milliseconds since 1970.
    from_ms: Option<u64>,
    /// Published before then, in milliseconds since 1970.
    until_ms: Option<u64>,
    /// With an attempted delivery that stands so.
    #[param(inline)]
    status: Option<StatusWord>,
    /// With an attempted delivery to this subscription; with `status`, one and the same delivery.
    subscription: Option<String>,
    /// Newest first (`desc`, the default) or oldest first.
    #[serde(default)]
    #[param(inline, value_type = Option<Direction>)]
    order: Direction,
    /// The most items: 1 to 1000, default 100.
    limit: Option<u32>,
    /// What the part before answered as `next` or `last`.
    after: Option<String>,
}

impl Wanted {
    fn search(&self) -> Result<Search, Problem> {
        let header = match self.header.as_deref().map(|header| header.split_once(':')) {
            None => None,
            Some(Some((name, value))) => Some((name.trim().to_owned(), value.trim().to_owned())),
            Some(None) => {
                return Err(Problem::refused(Code::InvalidRequest, "header is not of the form name:value"));
            }
        };
        Ok(Search {
            topic: self.topic.as_deref().map(Name::new).transpose()?,
            key: self.key.clone(),
            header,
            from: self.from_ms.map(Timestamp),
            until: self.until_ms.map(Timestamp),
            status: self.status.map(|status| match status {
                StatusWord::Waiting => Status::Waiting,
                StatusWord::Acked => Status::Acked,
                StatusWord::Dead => Status::Dead,
                StatusWord::Discarded => Status::Discarded,
                StatusWord::Replaced => Status::Replaced,
            }),
            subscription: self.subscription.as_deref().map(Name::new).transpose()?,
        })
    }
}

/// Where a delivery stands.
#[derive(Debug, Serialize, ToSchema)]
struct Standing {
    /// The subscription.
    subscription: String,
    /// waiting, acked, dead, discarded or replaced.
    status: &'static str,
}

/// A message that was found.
#[derive(Debug, Serialize, ToSchema)]
struct FoundMessage {
    /// Unique within its topic.
    id: String,
    /// Its topic.
    topic: String,
    /// Its key.
    key: String,
    /// Media type of the payload.
    content_type: String,
    /// When it was accepted, in milliseconds since 1970.
    published_at_ms: u64,
    /// Bytes of the payload.
    size_bytes: u64,
    /// Its deliveries that were attempted.
    deliveries: Vec<Standing>,
}

/// A part of what was found.
#[derive(Debug, Serialize, ToSchema)]
struct FoundMessages {
    #[serde(flatten)]
    found: Items<FoundMessage>,
    /// The place of the last message that was looked at, whether it was found or not; what was given
    /// as `after` if there was none to look at, null if there is no place at all.
    last: Option<String>,
}

/// Looks for messages. A part may hold fewer items than asked for, even none, and still have a `next`.
///
/// To follow what comes, ask with `order=asc`, and give the `last` of each answer as `after` of the
/// next call. Two things come later than their place: a message that a handler published may appear
/// up to a moment after others with later places, so whoever must see every one goes back to a `last`
/// that is some seconds old; and a message may come to match `status` or `subscription` when it is
/// handled.
#[utoipa::path(get, path = "/messages", tag = "messages", params(Wanted),
    responses((status = 200, body = FoundMessages)))]
async fn search_messages(
    State(admin): State<Admin>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<FoundMessages>, Problem> {
    let (limit, after) = (page::limit(wanted.limit)?, page::number(wanted.after.as_deref())?);
    let ascending = matches!(wanted.order, Direction::Asc);
    let found = admin.handle.search(wanted.search()?, after, ascending, limit).await?;
    let items = found.items.into_iter().map(|(stored, deliveries)| FoundMessage {
        id: stored.message.id.clone(),
        topic: stored.message.topic.to_string(),
        key: stored.message.key.clone(),
        content_type: stored.message.content_type.clone(),
        published_at_ms: stored.message.published_at.0,
        size_bytes: stored.message.payload.len() as u64,
        deliveries: deliveries
            .into_iter()
            .map(|(subscription, status)| Standing {
                subscription: subscription.to_string(),
                status: word(status),
            })
            .collect(),
    });
    let place = |number: Option<u64>| number.map(|number| number.to_string());
    Ok(Json(FoundMessages {
        last: place(found.last),
        found: Items { items: items.collect(), next: place(found.next) },
    }))
}
