//! The limits and rules of the contract, as the host holds them. Pure: each check answers with the
//! words of the fault.

use std::collections::BTreeSet;

use crate::publish::Message;

const STATE_KEY_BYTES: usize = 512;
const STATE_VALUE_BYTES: usize = 65_536;
const TOPIC_CHARACTERS: usize = 128;
const ID_BYTES: usize = 256;
const KEY_BYTES: usize = 255;
const CONTENT_TYPE_BYTES: usize = 255;
const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
const HEADERS: usize = 128;
const HEADER_BYTES: usize = 32 * 1024;

/// What one attempt may use; the defaults are those of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages published.
    pub publish_messages: u32,
    /// Bytes of payloads, keys, ids and headers published.
    pub publish_bytes: u64,
    /// Keys of state written.
    pub state_writes: u32,
    /// Bytes of state keys and values written.
    pub state_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { publish_messages: 100, publish_bytes: 1 << 20, state_writes: 100, state_bytes: 1 << 20 }
    }
}

/// What breaks the contract, in words.
pub(super) type Broken = String;

fn at_most(what: &str, size: usize, limit: usize) -> Result<(), Broken> {
    if size > limit { Err(format!("{what}: {size} bytes, the limit is {limit}")) } else { Ok(()) }
}

fn no_control(what: &str, text: &str) -> Result<(), Broken> {
    if text.chars().any(char::is_control) {
        Err(format!("{what} contains a control character"))
    } else {
        Ok(())
    }
}

pub(super) fn state_key(key: &str) -> Result<(), Broken> {
    if key.is_empty() {
        return Err("the state key is empty".to_owned());
    }
    at_most("the state key", key.len(), STATE_KEY_BYTES)?;
    no_control("the state key", key)
}

pub(super) fn state_value(value: &[u8]) -> Result<(), Broken> {
    at_most("the state value", value.len(), STATE_VALUE_BYTES)
}

pub(super) fn list_limit(limit: u32) -> Result<(), Broken> {
    let most = crate::state::PAGE;
    if limit > most { Err(format!("a list of {limit} entries, the limit is {most}")) } else { Ok(()) }
}

/// Checks a message and answers with the bytes that count against `publish_bytes`.
pub(super) fn message(message: &Message, granted: Option<&[String]>) -> Result<usize, Broken> {
    topic(&message.topic)?;
    if granted.is_some_and(|granted| !granted.contains(&message.topic)) {
        return Err(format!("not granted: to publish to {:?}", message.topic));
    }
    let id = message.id.as_deref();
    if id == Some("") {
        return Err("the id is empty".to_owned());
    }
    let texts = [
        ("the id", id.unwrap_or_default(), ID_BYTES),
        ("the key", &message.key, KEY_BYTES),
        ("the content type", &message.content_type, CONTENT_TYPE_BYTES),
    ];
    for (what, text, limit) in texts {
        at_most(what, text.len(), limit)?;
        no_control(what, text)?;
    }
    at_most("the payload", message.payload.len(), PAYLOAD_BYTES)?;
    let headers: usize = message.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    at_most("the headers", headers, HEADER_BYTES)?;
    if message.headers.len() > HEADERS {
        return Err(format!("there are {} headers, the limit is {HEADERS}", message.headers.len()));
    }
    let mut names = BTreeSet::new();
    for header in &message.headers {
        if header.name.is_empty() {
            return Err("a header has an empty name".to_owned());
        }
        no_control("the name of a header", &header.name)?;
        if !names.insert(&header.name) {
            return Err(format!("the header {:?} is there twice", header.name));
        }
    }
    Ok(message.payload.len() + message.key.len() + id.map_or(0, str::len) + headers)
}

fn topic(name: &str) -> Result<(), Broken> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= TOPIC_CHARACTERS && name.chars().all(legal) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name of a topic: 1 to {TOPIC_CHARACTERS} characters of A-Z a-z 0-9 . _ - that begin with a \
         letter or a digit"
    ))
}
