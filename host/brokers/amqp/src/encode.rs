//! From a message to AMQP: properties and headers.
//!
//! Called before every publish. Pure. INVARIANT: nothing of a message is lost on the way to another
//! Brolly; what AMQP has no place for travels in a header of its own.

use std::collections::BTreeMap;

use brolly_core::{Message, Timestamp};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::Value;

/// Names of the headers that Brolly sets.
pub(crate) mod header {
    /// What all of them begin with.
    pub(crate) const PREFIX: &str = "x-brolly-";
    /// The topic, where the exchange does not tell.
    pub(crate) const TOPIC: &str = "x-brolly-topic";
    /// The key, where the routing key does not tell.
    pub(crate) const KEY: &str = "x-brolly-key";
    /// The id, where the property is too short for it.
    pub(crate) const ID: &str = "x-brolly-id";
    /// Attempts that were made at it.
    pub(crate) const ATTEMPTS: &str = "x-brolly-attempts";
    /// When it was published, in milliseconds; the property has seconds.
    pub(crate) const PUBLISHED_AT: &str = "x-brolly-published-at";
    /// When it expires, in milliseconds.
    pub(crate) const EXPIRES_AT: &str = "x-brolly-expires-at";
    /// Why no handler can be given it, where the headers themselves are the reason.
    pub(crate) const UNFIT: &str = "x-brolly-unfit";
    /// A JSON object of the headers that cannot travel as headers.
    pub(crate) const OTHERS: &str = "x-brolly-headers";
}

/// Which of Brolly's headers stand for AMQP's properties.
pub(crate) mod property {
    pub(crate) const CORRELATION_ID: &str = "amqp-correlation-id";
    pub(crate) const REPLY_TO: &str = "amqp-reply-to";
    pub(crate) const TYPE: &str = "amqp-type";
    pub(crate) const APP_ID: &str = "amqp-app-id";
    pub(crate) const USER_ID: &str = "amqp-user-id";
    pub(crate) const PRIORITY: &str = "amqp-priority";
    pub(crate) const EXPIRATION: &str = "amqp-expiration";
    pub(crate) const CONTENT_ENCODING: &str = "amqp-content-encoding";
}

/// What a copy for one queue carries beyond the message, so that it is the same message when it comes
/// back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub attempts: u32,
    /// How long the wait queue holds it.
    pub expiration_ms: Option<u64>,
}

/// The properties of a message that is published to its topic, or as a copy to one queue.
pub(crate) fn properties(message: &Message, copy: Option<Copy>) -> BasicProperties {
    let mut headers = BTreeMap::new();
    let mut others = BTreeMap::new();
    let mut properties =
        BasicProperties::default().with_delivery_mode(2).with_timestamp(message.published_at.0 / 1_000);
    for (name, value) in &message.headers {
        if set_property(&mut properties, name, value) {
            continue;
        }
        match ShortString::try_new(name.as_str()) {
            Ok(short) if may_travel(name) => {
                headers.insert(short, text(value));
            }
            Ok(_) | Err(_) => {
                others.insert(name.as_str(), Value::from(value.as_str()));
            }
        }
    }
    let mut own = |name: &'static str, value: AMQPValue| {
        headers.insert(ShortString::from(name), value);
    };
    match ShortString::try_new(message.id.as_str()) {
        Ok(id) => properties = properties.with_message_id(id),
        Err(_) => own(header::ID, text(&message.id)),
    }
    if let Ok(content_type) = ShortString::try_new(message.content_type.as_str())
        && !message.content_type.is_empty()
    {
        properties = properties.with_content_type(content_type);
    }
    own(header::PUBLISHED_AT, number(message.published_at.0));
    if let Some(Timestamp(at)) = message.expires_at {
        own(header::EXPIRES_AT, number(at));
    }
    if !others.is_empty() {
        own(header::OTHERS, text(&serde_json::json!(others).to_string()));
    }
    if let Some(copy) = copy {
        own(header::TOPIC, text(message.topic.as_str()));
        own(header::KEY, text(&message.key));
        own(header::ATTEMPTS, AMQPValue::LongLongInt(copy.attempts.into()));
        if let Some(ms) = copy.expiration_ms {
            properties = properties.with_expiration(ShortString::try_new(ms.to_string()).unwrap_or_default());
        }
    }
    properties.with_headers(FieldTable::from(headers))
}

/// Sets the property that a header stands for. Answers false if there is none, or if the value is none
/// that the property can have.
fn set_property(properties: &mut BasicProperties, name: &str, value: &str) -> bool {
    let Ok(short) = ShortString::try_new(value) else { return false };
    let before = std::mem::take(properties);
    let (after, set) = match name {
        property::CORRELATION_ID => (before.with_correlation_id(short), true),
        // The server would take it for a consumer of this channel, and close the channel.
        property::REPLY_TO if value == "amq.rabbitmq.reply-to" => (before, false),
        property::REPLY_TO => (before.with_reply_to(short), true),
        property::TYPE => (before.with_type(short), true),
        property::APP_ID => (before.with_app_id(short), true),
        property::CONTENT_ENCODING => (before.with_content_encoding(short), true),
        property::PRIORITY => match value.parse::<u8>() {
            Ok(priority) if priority.to_string() == value => (before.with_priority(priority), true),
            Ok(_) | Err(_) => (before, false),
        },
        _ => (before, false),
    };
    *properties = after;
    set
}

/// Whether the server leaves a header of this name alone. It routes by CC and BCC, and keeps its own
/// account of dead letters and deliveries.
fn may_travel(name: &str) -> bool {
    !(name.is_empty() || is_of_brolly(name) || is_of_server(name) || matches!(name, "CC" | "BCC"))
}

/// Whether a header is Brolly's own.
pub(crate) fn is_of_brolly(name: &str) -> bool {
    name.starts_with(header::PREFIX)
}

/// The headers in which the server counts how often it has handed a message out; the second since 4.3.
pub(crate) const COUNTS: [&str; 2] = ["x-delivery-count", "x-acquired-count"];

/// Whether a header is the server's own account.
pub(crate) fn is_of_server(name: &str) -> bool {
    name == "x-death"
        || COUNTS.contains(&name)
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// A number; one that AMQP has no type for as text.
fn number(number: u64) -> AMQPValue {
    i64::try_from(number).map_or_else(|_| text(&number.to_string()), AMQPValue::LongLongInt)
}

/// About how many bytes properties have on the wire: they travel in one frame, or not at all.
pub(crate) fn size(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
    ];
    let texts: usize = texts.into_iter().flatten().map(|text| text.as_str().len() + 1).sum();
    let headers: usize = properties.headers().as_ref().map_or(0, |headers| {
        let entry = |(name, value): (&ShortString, &AMQPValue)| match value {
            AMQPValue::LongString(text) => name.as_str().len() + text.len() + 6,
            _ => name.as_str().len() + 10,
        };
        headers.into_iter().map(entry).sum()
    });
    texts + headers + 64
}
