//! One dead letter on the desk: looked at whole, tried against a plugin version, edited, deleted.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use base64::{Engine, prelude::BASE64_STANDARD};
use brolly_core::{Code, Digest, LogLine, Name, Outcome, Verdict, whole_ms};
use brolly_dispatch::{Edit, Selection, Trial};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin, body,
    dead_letters::{self, Done, Letter},
    extract::{By, Path, Query},
    messages::{AttemptBody, MessageBody, Reference},
    problem::Problem,
    sight::{Seen, Sight},
    value::Encoding,
};

/// A dead letter with its message and every attempt.
#[derive(Debug, Serialize, ToSchema)]
struct WholeLetter {
    #[serde(flatten)]
    letter: Letter,
    /// The message.
    message: MessageBody,
    /// The payload as it is written, to the byte, for whoever wants to edit it; null where it is no UTF-8, and
    /// where not all of it may be seen.
    payload_text: Option<String>,
    /// Oldest first.
    attempts_made: Vec<AttemptBody>,
    /// How often it was replayed.
    replays: u32,
}

/// What is to be different in a copy of the message; what is left out stays as it is. Of `payload`,
/// `text` and `base64`, at most one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    /// Another key.
    key: Option<String>,
    /// Another media type of the payload.
    content_type: Option<String>,
    /// Other headers, all of them.
    headers: Option<BTreeMap<String, String>>,
    /// Another payload, if it is JSON; taken as it is written. `null` is as if left out.
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Another payload, if it is any other text.
    text: Option<String>,
    /// Another payload, if it is anything else: in base 64.
    base64: Option<String>,
}

impl Changes {
    fn edit(self) -> Result<Edit, Problem> {
        let invalid = |detail: &str| Problem::refused(Code::InvalidRequest, detail);
        let payload = match (self.payload, self.text, self.base64) {
            (None, None, None) => None,
            (Some(json), None, None) => Some(Bytes::from(json.get().to_owned())),
            (None, Some(text), None) => Some(Bytes::from(text)),
            (None, None, Some(base64)) => {
                let bytes = BASE64_STANDARD.decode(base64);
                Some(Bytes::from(bytes.map_err(|_| invalid("base64 is not in base 64"))?))
            }
            _ => return Err(invalid("give at most one of payload, text and base64")),
        };
        Ok(Edit { key: self.key, content_type: self.content_type, headers: self.headers, payload })
    }
}

/// What is to be tried.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Attempted {
    /// A version of the subscription's plugin; by default the one that runs.
    #[schema(value_type = Option<String>)]
    version: Option<Digest>,
    /// What is to be different in the message.
    changes: Option<Changes>,
}

/// The edited copy that took a dead letter's place.
#[derive(Debug, Serialize, ToSchema)]
struct Edited {
    /// Its id.
    id: String,
    /// Its topic.
    topic: String,
    /// The message that it was made of.
    edited_from: Reference,
}

/// What came of a trial. Nothing of it has taken effect.
#[derive(Debug, Serialize, ToSchema)]
struct TrialBody {
    /// The plugin version that was tried.
    version: String,
    /// The id that the handler was given: of an edited message, the one that its copy would get.
    message_id: String,
    /// ack, retry, reject, fault, or unavailable where the host could not serve it.
    outcome: &'static str,
    /// Why, where it is no ack.
    reason: Option<String>,
    /// The delay that a retry asks for, in milliseconds.
    delay_ms: Option<u64>,
    /// How long it took, in microseconds.
    duration_us: u64,
    /// The most memory that the handler had, in bytes.
    memory_bytes: u64,
    /// What the handler logged.
    logs: Vec<LogLine>,
    /// Lines that the log limit dropped.
    logs_dropped: u64,
    /// What an acknowledgement would write to the state, by key.
    state: Vec<Written>,
    /// What an acknowledgement would publish, in order.
    published: Vec<WouldPublish>,
}

/// A change of the state.
#[derive(Debug, Serialize, ToSchema)]
struct Written {
    /// The key.
    key: String,
    /// The value, as in `encoding`; null where it is hidden, or the key is deleted.
    #[schema(value_type = Option<serde_json::Value>)]
    value: Option<Box<RawValue>>,
    /// What the value is; null where the key is deleted.
    encoding: Option<Encoding>,
}

/// A message that is not published.
#[derive(Debug, Serialize, ToSchema)]
struct WouldPublish {
    /// The topic.
    topic: String,
    /// Its id.
    id: Option<String>,
    /// Its key.
    key: String,
    /// Media type of the payload.
    content_type: String,
    /// Further fields of its envelope.
    headers: BTreeMap<String, String>,
    /// The payload, as in `payload_encoding`.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// What the payload is.
    payload_encoding: Encoding,
    /// Whether values that its topic masks are shown as `***`.
    payload_masked: bool,
}

impl TrialBody {
    fn new(trial: Trial, sight: Sight, admin: &Admin) -> Result<Self, Problem> {
        let Trial { version, message, handled } = trial;
        let (outcome, reason, delay) = match handled.verdict {
            Verdict::Outcome(Outcome::Ack) => ("ack", None, None),
            Verdict::Outcome(Outcome::Retry { reason, delay, .. }) => ("retry", Some(reason), delay),
            Verdict::Outcome(Outcome::Reject { reason }) => ("reject", Some(reason), None),
            Verdict::Fault(fault) => ("fault", Some(fault.to_string()), None),
            Verdict::Unavailable(reason) => ("unavailable", Some(reason), None),
        };
        let state = handled.effects.state.into_iter().map(|(key, value)| {
            let seen = value.map(|value| sight.show(&value, &[])).transpose()?;
            let (value, encoding) = seen.map(|seen| (seen.value, seen.encoding)).unzip();
            Ok(Written { key, value, encoding })
        });
        let published = handled.effects.publish.into_iter().map(|outgoing| {
            let mask = admin.handle.masks(&outgoing.topic, []);
            let Seen { value, encoding, masked } = sight.show(&outgoing.message.payload, &mask)?;
            Ok(WouldPublish {
                topic: outgoing.topic.to_string(),
                id: outgoing.message.id,
                key: outgoing.message.key,
                content_type: outgoing.message.content_type,
                headers: outgoing.message.headers,
                payload: value,
                payload_encoding: encoding,
                payload_masked: masked,
            })
        });
        Ok(Self {
            version: version.to_string(),
            message_id: message.id.clone(),
            outcome,
            reason,
            delay_ms: delay.map(whole_ms),
            duration_us: u64::try_from(handled.duration.as_micros()).unwrap_or(u64::MAX),
            memory_bytes: handled.memory_bytes,
            logs: handled.logs,
            logs_dropped: handled.logs_dropped,
            state: state.collect::<Result<_, Problem>>()?,
            published: published.collect::<Result<_, Problem>>()?,
        })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InTopic {
    /// The topic, where the queue has dead letters of several with this id.
    topic: Option<String>,
}

impl InTopic {
    fn name(&self) -> Result<Option<Name>, Problem> {
        Ok(self.topic.as_deref().map(Name::new).transpose()?)
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(get_dead_letter, delete_dead_letter))
        .routes(routes!(replay_edited))
        .routes(routes!(try_dead_letter))
}

/// Shows one dead letter: its message, and every attempt with its log.
#[utoipa::path(get, path = "/subscriptions/{subscription}/dead-letters/{message_id}", tag = "dead letters",
    params(("subscription" = String, Path), ("message_id" = String, Path), InTopic),
    responses((status = 200, body = WholeLetter),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn get_dead_letter(
    State(admin): State<Admin>,
    sight: Sight,
    Path((subscription, id)): Path<(String, String)>,
    Query(query): Query<InTopic>,
) -> Result<Json<WholeLetter>, Problem> {
    let found = admin.handle.letter(&Name::new(&subscription)?, &id, query.name()?).await?;
    let mask = admin.handle.masks(&found.message.topic, [&found.queue]);
    let text = std::str::from_utf8(&found.message.payload).ok().filter(|_| sight.is_whole(&mask));
    Ok(Json(WholeLetter {
        letter: found.letter.into(),
        message: MessageBody::new(&found.message, sight, &mask)?,
        payload_text: text.map(str::to_owned),
        replays: found.delivery.replays,
        attempts_made: found.delivery.attempts.into_iter().map(AttemptBody::from).collect(),
    }))
}

/// Deletes one dead letter; the history of its message stays.
#[utoipa::path(delete, path = "/subscriptions/{subscription}/dead-letters/{message_id}", tag = "dead letters",
    params(("subscription" = String, Path), ("message_id" = String, Path)),
    responses((status = 200, body = Done),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found")))]
async fn delete_dead_letter(
    By(handle): By,
    Path((subscription, id)): Path<(String, String)>,
) -> Result<Json<Done>, Problem> {
    let subscription = Name::new(&subscription)?;
    let result = handle.discard(&subscription, Selection::Ids([id.clone()].into())).await?;
    dead_letters::one(&subscription, &id, result)
}

/// Sends an edited copy of a dead letter to its queue, in its place. The copy has an id of its own, which
/// begins with that of the original, and the header `brolly-edited-from` with the id of the original; it
/// does not expire. The history of both leads from one to the other. Who may not see the whole payload can
/// edit everything else.
#[utoipa::path(post, path = "/subscriptions/{subscription}/dead-letters/{message_id}/edit", tag = "dead letters",
    request_body = Changes,
    params(("subscription" = String, Path), ("message_id" = String, Path), InTopic),
    responses((status = 200, body = Edited),
        (status = 400, body = Problem, content_type = "application/problem+json",
            description = "invalid-message, invalid-request"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "too-large")))]
async fn replay_edited(
    By(handle): By,
    sight: Sight,
    Path((subscription, id)): Path<(String, String)>,
    Query(query): Query<InTopic>,
    body::WithPayload(changes): body::WithPayload<Changes>,
) -> Result<Json<Edited>, Problem> {
    let (subscription, topic) = (Name::new(&subscription)?, query.name()?);
    let edit = changes.edit()?;
    if edit.payload.is_some() {
        let letter = handle.letter(&subscription, &id, topic.clone()).await?;
        let mask = handle.masks(&letter.message.topic, [&letter.queue]);
        sight.must_be_whole(&mask, "this would put another payload in the place of one that is not shown")?;
    }
    let copy = handle.replay_edited(&subscription, &id, topic, edit).await?;
    let topic = copy.topic.to_string();
    let edited_from = Reference { topic: topic.clone(), id };
    Ok(Json(Edited { id: copy.id.clone(), topic, edited_from }))
}

/// Gives a dead letter, edited if so wanted, to a version of the subscription's plugin, and tells what
/// comes of it: the outcome, the log, and what it would write and publish. It runs in the sandbox, within
/// the subscription's limits and on its state of now. Nothing is written or published, and the dead letter
/// stays as it is. At most 4 trials run at the same time.
#[utoipa::path(post, path = "/subscriptions/{subscription}/dead-letters/{message_id}/try", tag = "dead letters",
    request_body = Attempted,
    params(("subscription" = String, Path), ("message_id" = String, Path), InTopic),
    responses((status = 200, body = TrialBody),
        (status = 400, body = Problem, content_type = "application/problem+json",
            description = "invalid-message, invalid-request"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "too-large"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "invalid-plugin, unknown-reference; unsupported: the subscription forwards"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "unavailable: as many trials run as may")))]
async fn try_dead_letter(
    State(admin): State<Admin>,
    sight: Sight,
    Path((subscription, id)): Path<(String, String)>,
    Query(query): Query<InTopic>,
    body::WithPayload(wanted): body::WithPayload<Attempted>,
) -> Result<Json<TrialBody>, Problem> {
    let (subscription, topic) = (Name::new(&subscription)?, query.name()?);
    let edit = wanted.changes.unwrap_or_default().edit()?;
    let trial = admin.handle.try_letter(&subscription, &id, topic, wanted.version, edit).await?;
    Ok(Json(TrialBody::new(trial, sight, &admin)?))
}
