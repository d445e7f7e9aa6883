//! From AMQP to a message.
//!
//! Called for everything that is received. Pure. Nothing makes it fail: what breaks a limit of
//! messages is marked as unfit, with everything that came.

use std::collections::{BTreeMap, HashMap};

use brolly_core::{Message, Name, Timestamp, message_limits as limits};
use brolly_remote::Received;
use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    encode::{COUNTS, header, is_of_brolly, is_of_server, property},
    identity,
    value::{to_number, to_text},
};

/// A message as the server hands it out.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub exchange: String,
    pub routing_key: String,
    pub redelivered: bool,
    pub properties: BasicProperties,
    pub body: Bytes,
}

/// What is known where a message arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub queue: &'a Name,
    /// The topics of this broker by their exchanges.
    pub topics: &'a HashMap<String, Name>,
    pub now: Timestamp,
    /// The queue's name on the server, if the message comes from its dead letters.
    pub dead_of: Option<&'a str>,
}

/// Where a message was published to.
struct Origin {
    exchange: String,
    routing_key: String,
}

/// What is handed to the host for a message.
pub(crate) fn received(tag: u64, arrival: Arrival, place: Place<'_>) -> Received {
    let none = FieldTable::default();
    let table = arrival.properties.headers().as_ref().unwrap_or(&none);
    let own = |name: &str| find(table, name);
    let death = place.dead_of.map(|address| Death::of(table, address));
    let origin = match &death {
        Some(death) => Origin { exchange: death.exchange.clone(), routing_key: death.routing_key.clone() },
        None => Origin { exchange: arrival.exchange.clone(), routing_key: arrival.routing_key.clone() },
    };
    let by_route = !origin.exchange.is_empty();
    let topic = match place.topics.get(&origin.exchange) {
        Some(topic) if by_route => topic.clone(),
        None if by_route => place.queue.clone(),
        _ => own(header::TOPIC)
            .and_then(|text| Name::new(&to_text(text)).ok())
            .unwrap_or_else(|| place.queue.clone()),
    };
    let key = match own(header::KEY) {
        Some(key) if !by_route => to_text(key),
        None if !by_route => String::new(),
        _ => origin.routing_key.clone(),
    };
    let given = identity::given(&arrival.properties, table);
    let derived = given.is_none();
    let id = given.unwrap_or_else(|| {
        identity::derived(&origin.exchange, &origin.routing_key, &arrival.properties, table, &arrival.body)
    });
    let seconds = arrival.properties.timestamp().map(|seconds| seconds.saturating_mul(1_000));
    let published_at = own(header::PUBLISHED_AT).and_then(to_number).or(seconds).map_or(place.now, Timestamp);
    let counts = COUNTS.iter().filter_map(|name| find(table, name).and_then(to_number));
    let counted = counts.max().is_some_and(|count| count > 0);
    let message = Message {
        id,
        topic,
        key,
        content_type: arrival.properties.content_type().as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: headers(&arrival.properties, table),
        published_at,
        expires_at: own(header::EXPIRES_AT).and_then(to_number).map(Timestamp),
        payload: arrival.body,
    };
    let given_up = death.as_ref().map(|death| format!("RabbitMQ gave it up: {}", death.reason));
    Received {
        tag,
        attempts: own(header::ATTEMPTS)
            .and_then(to_number)
            .map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        by_route,
        derived,
        redelivered: arrival.redelivered || counted || death.is_some(),
        unfit: given_up.or_else(|| own(header::UNFIT).map(to_text)).or_else(|| unfit(&message)),
        message,
    }
}

fn find<'a>(table: &'a FieldTable, name: &str) -> Option<&'a AMQPValue> {
    table.inner().get(name)
}

/// What the handler sees: the headers without the accounts of Brolly and the server, and the
/// properties that a message has no field for.
fn headers(properties: &BasicProperties, table: &FieldTable) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    for (name, value) in table {
        let name = name.as_str();
        if !is_of_brolly(name) && !is_of_server(name) {
            headers.insert(name.to_owned(), to_text(value));
        }
    }
    if let Some(AMQPValue::LongString(others)) = find(table, header::OTHERS)
        && let Ok(others) = serde_json::from_slice::<BTreeMap<String, String>>(others.as_bytes())
    {
        headers.extend(others);
    }
    let texts: [(&str, &Option<ShortString>); 7] = [
        (property::CORRELATION_ID, properties.correlation_id()),
        (property::REPLY_TO, properties.reply_to()),
        (property::TYPE, properties.kind()),
        (property::APP_ID, properties.app_id()),
        (property::USER_ID, properties.user_id()),
        (property::EXPIRATION, properties.expiration()),
        (property::CONTENT_ENCODING, properties.content_encoding()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            headers.insert(name.to_owned(), value.to_string());
        }
    }
    if let Some(priority) = properties.priority() {
        headers.insert(property::PRIORITY.to_owned(), priority.to_string());
    }
    headers
}

/// Why no handler can be given a message, if so.
fn unfit(message: &Message) -> Option<String> {
    let size = message.payload.len();
    if size > limits::PAYLOAD_BYTES {
        return Some(format!("the payload has {size} bytes, the limit is {}", limits::PAYLOAD_BYTES));
    }
    let count = message.headers.len();
    if count > limits::HEADERS {
        return Some(format!("there are {count} headers, the limit is {}", limits::HEADERS));
    }
    let bytes: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::HEADER_BYTES {
        return Some(format!("the headers have {bytes} bytes, the limit is {}", limits::HEADER_BYTES));
    }
    None
}

/// What the server's account says of how a message left a queue.
struct Death {
    reason: String,
    exchange: String,
    routing_key: String,
}

impl Death {
    fn of(table: &FieldTable, address: &str) -> Self {
        let mut death = Self {
            reason: "for a reason that it does not tell".to_owned(),
            exchange: String::new(),
            routing_key: String::new(),
        };
        let Some(AMQPValue::FieldArray(deaths)) = find(table, "x-death") else { return death };
        for entry in deaths.as_slice() {
            let AMQPValue::FieldTable(entry) = entry else { continue };
            let text = |name: &str| find(entry, name).map(to_text);
            if text("queue").as_deref() != Some(address) {
                continue;
            }
            death.reason = text("reason").unwrap_or(death.reason);
            death.exchange = text("exchange").unwrap_or_default();
            if let Some(AMQPValue::FieldArray(keys)) = find(entry, "routing-keys") {
                death.routing_key = keys.as_slice().first().map(to_text).unwrap_or_default();
            }
            break;
        }
        death
    }
}
