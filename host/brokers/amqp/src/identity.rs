//! Which id a message has: the one its producer gave it, or one that is derived from what it is.
//!
//! Called by the decoder. Pure.

use brolly_core::message_limits as limits;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest, Sha256};

use crate::{
    encode::{header, is_of_brolly, is_of_server},
    value::to_text,
};

/// The names that CloudEvents have for themselves in AMQP.
const CLOUD_EVENTS: [(&str, &str); 2] =
    [("cloudEvents:id", "cloudEvents:source"), ("cloudEvents_id", "cloudEvents_source")];

/// The id that the producer gave it: the property, else that of a CloudEvent with its source.
pub(crate) fn given(properties: &BasicProperties, headers: &FieldTable) -> Option<String> {
    let text = |name: &str| headers.inner().get(name).map(to_text).filter(|text| !text.is_empty());
    let property = properties.message_id().as_ref().map(ToString::to_string).filter(|id| is_legal(id));
    let own = || text(header::ID).filter(|id| is_legal(id));
    let event = || {
        CLOUD_EVENTS.iter().find_map(|(id, source)| {
            let id = format!("{}#{}", text(source)?, text(id)?);
            is_legal(&id).then_some(id)
        })
    };
    property.or_else(own).or_else(event)
}

fn is_legal(id: &str) -> bool {
    !id.is_empty() && id.len() <= limits::ID_BYTES && !id.chars().any(char::is_control)
}

/// An id from all that stays the same however often the server hands the message out, also as a dead
/// letter: then `expiration` and `CC` are gone.
pub(crate) fn derived(
    exchange: &str,
    routing_key: &str,
    properties: &BasicProperties,
    headers: &FieldTable,
    body: &[u8],
) -> String {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    field(exchange.as_bytes());
    field(routing_key.as_bytes());
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
    ];
    for text in texts {
        field(text.as_ref().map(|text| text.as_str()).unwrap_or_default().as_bytes());
    }
    let numbers = [properties.priority().map(u64::from), *properties.timestamp()];
    for number in numbers {
        field(&number.map(u64::to_be_bytes).unwrap_or_default());
    }
    for (name, value) in headers {
        let name = name.as_str();
        if !is_of_server(name) && !is_of_brolly(name) && !matches!(name, "CC" | "BCC") {
            field(name.as_bytes());
            field(kind_of(value));
            field(to_text(value).as_bytes());
        }
    }
    field(b"");
    field(body);
    let digest = hash.finalize();
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256-{hex}")
}

/// Keeps a number apart from its text.
fn kind_of(value: &AMQPValue) -> &'static [u8] {
    match value {
        AMQPValue::Boolean(_) => b"t",
        AMQPValue::LongString(_) | AMQPValue::ShortString(_) | AMQPValue::ByteArray(_) => b"S",
        AMQPValue::FieldArray(_) => b"A",
        AMQPValue::FieldTable(_) => b"F",
        AMQPValue::Void => b"V",
        AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::LongInt(_)
        | AMQPValue::LongUInt(_)
        | AMQPValue::LongLongInt(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_) => b"I",
    }
}
