//! Publishing: one message as it is, a CloudEvent in any of its three forms, or many as NDJSON.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName},
};
use brolly_core::{Code, NewMessage, Topic, message_limits::PAYLOAD_BYTES};
use brolly_dispatch::TraceContext;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Admin,
    body::media_type,
    cloudevents,
    extract::{NameInPath, Query},
    ndjson,
    problem::Problem,
};

/// Messages of one request.
pub(crate) const BULK_MESSAGES: usize = 200_000;
/// Bytes of a request with many messages.
const BULK_BYTES: usize = 128 * 1024 * 1024;
/// Bytes of a structured CloudEvent: the largest payload in base 64, and its attributes.
const EVENT_BYTES: usize = PAYLOAD_BYTES / 3 * 4 + 64 * 1024;

/// What may be said of a message beside its bytes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Said {
    /// Routing and ordering key, for a single message; also as header `brolly-key`.
    key: Option<String>,
    /// The message's id, for a single message; also as header `brolly-id`. The same id twice is
    /// accepted once. Without one the host makes one.
    id: Option<String>,
    /// Milliseconds to hold the message back; with many messages, the default for each.
    pub delay_ms: Option<u64>,
    /// Milliseconds after which the message becomes a dead letter if it is not handled; with many
    /// messages, the default for each.
    pub expires_ms: Option<u64>,
}

/// The ids of what was published.
#[derive(Debug, Serialize, ToSchema)]
struct Published {
    /// In the order of the messages.
    ids: Vec<String>,
    /// How many of them the topic had already; nothing was done for those.
    duplicates: usize,
}

/// In which form messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    EventInHeaders,
    Event,
    Events,
    Lines,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media = media_type(headers);
        match media.as_str() {
            "application/x-ndjson" | "application/ndjson" => Ok(Self::Lines),
            "application/cloudevents+json" => Ok(Self::Event),
            "application/cloudevents-batch+json" => Ok(Self::Events),
            other if other.starts_with("application/cloudevents") => {
                let detail = format!("CloudEvents are taken as JSON or in HTTP headers, not as {other:?}");
                Err(Problem::media_type(detail))
            }
            _ if headers.contains_key("ce-specversion") => Ok(Self::EventInHeaders),
            _ => Ok(Self::Plain),
        }
    }

    fn limit(self) -> usize {
        match self {
            Self::Plain | Self::EventInHeaders => PAYLOAD_BYTES,
            Self::Event => EVENT_BYTES,
            Self::Events | Self::Lines => BULK_BYTES,
        }
    }

    fn is_bulk(self) -> bool {
        matches!(self, Self::Events | Self::Lines)
    }
}

pub(crate) fn router() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(publish_messages))
}

/// Publishes messages: all of them, durably, or none.
///
/// * Any body of at most 16 MiB is one message. Headers `brolly-header-NAME: VALUE` become its
///   headers (NAME in lower case), and `traceparent` and `tracestate` are kept.
/// * CloudEvents 1.0 in binary, structured or batch form: the message's id is `SOURCE#ID`, its key
///   the extension `partitionkey`, and every attribute a header `ce-NAME`.
/// * NDJSON (`application/x-ndjson`) is many messages, one
///   `{"payload": any JSON, "id"?, "key"?, "headers"?, "content_type"?, "delay_ms"?, "expires_ms"?}` a
///   line. At most 200,000 messages and 128 MiB.
#[utoipa::path(post, path = "/topics/{topic}/messages", tag = "messages",
    params(("topic" = String, Path), Said,
        ("brolly-key" = Option<String>, Header, description = "As the query parameter `key`, which wins"),
        ("brolly-id" = Option<String>, Header, description = "As the query parameter `id`, which wins")),
    request_body(content(
        (Vec<u8> = "application/octet-stream"), (serde_json::Value = "application/json"),
        (serde_json::Value = "application/cloudevents+json"),
        (Vec<serde_json::Value> = "application/cloudevents-batch+json"), (String = "application/x-ndjson"))),
    responses((status = 200, body = Published, description = "Every message is durable"),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "invalid-message, invalid-request"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "not-found: the topic"),
        (status = 413, body = Problem, content_type = "application/problem+json", description = "too-large"),
        (status = 429, body = Problem, content_type = "application/problem+json", description = "queue-full; too-many-attempts"),
        (status = 507, body = Problem, content_type = "application/problem+json", description = "disk-full")))]
async fn publish_messages(
    State(admin): State<Admin>,
    NameInPath(topic): NameInPath,
    Query(said): Query<Said>,
    request: Request,
) -> Result<Json<Published>, Problem> {
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let trace = trace(&parts.headers)?;
    admin.handle.get::<Topic>(&topic)?;
    let held = admin.read(&parts.headers, body, form.limit()).await?;
    let messages = if form.is_bulk() {
        let (bytes, headers) = (held.bytes.clone(), parts.headers);
        let parsed = tokio::task::spawn_blocking(move || parse(form, &bytes, &said, &headers)).await;
        parsed.map_err(|error| {
            tracing::error!(%error, "reading messages broke off");
            Problem::internal()
        })??
    } else {
        parse(form, &held.bytes, &said, &parts.headers)?
    };
    let accepted =
        if messages.is_empty() { Vec::new() } else { admin.handle.publish(&topic, messages, &trace).await? };
    let duplicates = accepted.iter().filter(|accepted| accepted.duplicate).count();
    Ok(Json(Published { ids: accepted.into_iter().map(|accepted| accepted.id).collect(), duplicates }))
}

/// What a request with nothing but these headers and this body would publish.
#[cfg(fuzzing)]
pub(crate) fn read(headers: &HeaderMap, body: &Bytes) -> Result<Vec<NewMessage>, Problem> {
    parse(Form::of(headers)?, body, &Said::default(), headers)
}

fn parse(form: Form, bytes: &Bytes, said: &Said, headers: &HeaderMap) -> Result<Vec<NewMessage>, Problem> {
    let envelope = Envelope::read(said, headers)?;
    if form.is_bulk() && (envelope.id.is_some() || envelope.key.is_some()) {
        let detail = "with many messages in one request, ids and keys stand in the messages themselves";
        return Err(Problem::refused(Code::InvalidRequest, detail));
    }
    let mut messages = match form {
        Form::Plain => vec![NewMessage {
            content_type: text(headers, "content-type")?.unwrap_or_default(),
            headers: own_headers(headers)?,
            payload: bytes.clone(),
            ..NewMessage::default()
        }],
        Form::EventInHeaders => {
            let mut message = cloudevents::from_headers(headers, bytes.clone())?;
            message.headers.extend(own_headers(headers)?);
            vec![message]
        }
        Form::Event => vec![cloudevents::from_json(bytes)?],
        Form::Events => cloudevents::from_batch(bytes)?,
        Form::Lines => ndjson::parse(bytes)?,
    };
    for message in &mut messages {
        envelope.complete(message);
        message.check()?;
    }
    Ok(messages)
}

/// The place in a trace that a request has.
fn trace(headers: &HeaderMap) -> Result<TraceContext, Problem> {
    let mut trace = TraceContext::new();
    for name in ["traceparent", "tracestate"] {
        if let Some(value) = text(headers, name)? {
            trace.insert(name.to_owned(), value);
        }
    }
    Ok(trace)
}

/// What a request says of its messages outside of them.
struct Envelope {
    id: Option<String>,
    key: Option<String>,
    delay_ms: Option<u64>,
    expires_ms: Option<u64>,
}

impl Envelope {
    fn read(said: &Said, headers: &HeaderMap) -> Result<Self, Problem> {
        let or_header = |said: &Option<String>, name| match said {
            Some(said) => Ok(Some(said.clone())),
            None => text(headers, name),
        };
        Ok(Self {
            id: or_header(&said.id, "brolly-id")?,
            key: or_header(&said.key, "brolly-key")?,
            delay_ms: said.delay_ms,
            expires_ms: said.expires_ms,
        })
    }

    /// Adds what the message itself does not say; the id and key of the request win.
    fn complete(&self, message: &mut NewMessage) {
        if let Some(id) = &self.id {
            message.id = Some(id.clone());
        }
        if let Some(key) = &self.key {
            message.key.clone_from(key);
        }
        message.delay_ms = message.delay_ms.or(self.delay_ms);
        message.expires_ms = message.expires_ms.or(self.expires_ms);
    }
}

/// A header's value as text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Problem::refused(Code::InvalidRequest, format!("the header {name} is not UTF-8"))),
    }
}

/// The headers that a producer gives to its message.
fn own_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Problem> {
    let mut own = BTreeMap::new();
    for name in headers.keys().map(HeaderName::as_str) {
        if let Some(stripped) = name.strip_prefix("brolly-header-") {
            own.insert(stripped.to_owned(), text(headers, name)?.unwrap_or_default());
        }
    }
    Ok(own)
}
