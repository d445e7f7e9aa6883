//! The form in which Brolly keeps a message in its own lists and keys: `brolly/1`, a mark (a space,
//! or `+` once it was handed out before), a JSON header, a line break, the payload as it is.
//!
//! The scripts make a header for a payload that came without, and move values about; everything else
//! about the form is here. Also says what no handler can be given ([`fit`]).

use std::collections::BTreeMap;

use brolly_core::{Message, Name, NewMessage, Timestamp, message_limits};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use sha2::{Digest, Sha256};

/// What stands in front of a header.
const MAGIC: &[u8] = b"brolly/1";

/// The largest value that a script hands out whole: the largest payload and the largest header. Of a
/// larger one comes the beginning.
pub(crate) const LARGEST: usize = message_limits::PAYLOAD_BYTES + (512 << 10);

/// The envelope of a message.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Header {
    id: String,
    topic: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    content_type: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u32,
    /// The payload came without an envelope.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    raw: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A message as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The message, within every limit.
    pub message: Message,
    /// Attempts that were made at it.
    pub attempts: u32,
    /// Why no handler can be given it.
    pub unfit: Option<String>,
    /// Whether the id was derived from the content.
    pub derived: bool,
}

/// The header of a message at which so many attempts were made.
pub(crate) fn header(message: &Message, attempts: u32) -> String {
    let header = Header {
        id: message.id.clone(),
        topic: message.topic.to_string(),
        key: message.key.clone(),
        content_type: message.content_type.clone(),
        headers: message.headers.clone(),
        at: message.published_at.0,
        expires: message.expires_at.map(|expires| expires.0),
        attempts,
        raw: false,
    };
    // Texts and numbers can always be written as JSON.
    serde_json::to_string(&header).unwrap_or_default()
}

/// Reads a value of `size` bytes, of which at least the beginning is there. `topic` is where it
/// belongs if its header cannot be read.
pub(crate) fn open(value: &Bytes, size: usize, topic: &Name) -> Opened {
    let Some((header, payload)) = split(value) else { return damaged(value, topic) };
    let name = Name::new(&header.topic).unwrap_or_else(|_| topic.clone());
    let content_type = if header.raw { content_type_of(&payload).to_owned() } else { header.content_type };
    let message = Message {
        id: header.id,
        topic: name,
        key: header.key,
        content_type,
        headers: header.headers,
        published_at: Timestamp(header.at),
        expires_at: header.expires.map(Timestamp),
        payload,
    };
    let cut = size.saturating_sub(value.len());
    let (message, unfit) = fit(message, cut);
    Opened { message, attempts: header.attempts, unfit, derived: false }
}

fn split(value: &Bytes) -> Option<(Header, Bytes)> {
    let rest = value.strip_prefix(MAGIC)?;
    let start = MAGIC.len() + 1;
    let end = rest.iter().position(|byte| *byte == b'\n')? + MAGIC.len();
    let header = serde_json::from_slice(value.get(start..end)?).ok()?;
    Some((header, value.slice(end + 1..)))
}

/// What begins like an envelope and is none. It is nobody's message; its content names it, so that it
/// is the same one whenever it comes.
fn damaged(value: &Bytes, topic: &Name) -> Opened {
    let hash = Sha256::digest(value);
    let id: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let message = Message {
        id: format!("sha256-{id}"),
        topic: topic.clone(),
        key: String::new(),
        content_type: content_type_of(value).to_owned(),
        headers: BTreeMap::new(),
        published_at: Timestamp::default(),
        expires_at: None,
        payload: value.slice(..value.len().min(message_limits::PAYLOAD_BYTES)),
    };
    let unfit = Some("it begins with brolly/1, and what follows is no header that can be read".to_owned());
    Opened { message, attempts: 0, unfit, derived: true }
}

/// The content type of a payload whose producer named none.
pub(crate) fn content_type_of(payload: &[u8]) -> &'static str {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    if matches!(first, Some(b'{' | b'[')) && serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        return "application/json";
    }
    "application/octet-stream"
}

/// Keeps of a message what is within the limits. If that is not all of it, says what is not; `cut` is
/// how many bytes of its payload are not even here.
pub(crate) fn fit(message: Message, cut: usize) -> (Message, Option<String>) {
    let size = message.payload.len() + cut;
    let whole = NewMessage {
        id: Some(message.id.clone()),
        key: message.key.clone(),
        content_type: message.content_type.clone(),
        headers: message.headers.clone(),
        ..NewMessage::default()
    };
    let unfit = match whole.check() {
        Err(refusal) => Some(refusal.detail),
        Ok(()) if size > message_limits::PAYLOAD_BYTES => {
            Some(format!("the payload has {size} bytes, the limit is {}", message_limits::PAYLOAD_BYTES))
        }
        Ok(()) => return (message, None),
    };
    let short = |text: String, limit: usize| {
        let legal: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if legal.len() <= limit { legal } else { String::new() }
    };
    let id = match short(message.id, message_limits::ID_BYTES) {
        id if id.is_empty() => "unnamed".to_owned(),
        id => id,
    };
    let headers = NewMessage { headers: message.headers, ..NewMessage::default() };
    let kept = Message {
        id,
        key: short(message.key, message_limits::KEY_BYTES),
        content_type: short(message.content_type, message_limits::CONTENT_TYPE_BYTES),
        headers: if headers.check().is_ok() { headers.headers } else { BTreeMap::new() },
        payload: message.payload.slice(..message.payload.len().min(message_limits::PAYLOAD_BYTES)),
        ..message
    };
    (kept, unfit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic() -> Name {
        Name::new("orders.paid").unwrap()
    }

    fn value(mark: char, header: &str, payload: &[u8]) -> Bytes {
        [format!("brolly/1{mark}{header}\n").as_bytes(), payload].concat().into()
    }

    fn text() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9 äöü\"\\\\{}:,.#*/-]{1,40}"
    }

    prop_compose! {
        fn messages()(
            id in text(), key in text(), content_type in text(),
            headers in prop::collection::btree_map(text(), ".{0,30}", 0..5),
            at in 0_u64..1 << 52, expires in prop::option::of(0_u64..1 << 52),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Message {
            Message {
                id, topic: topic(), key, content_type, headers, published_at: Timestamp(at),
                expires_at: expires.map(Timestamp), payload: payload.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_comes_back(message in messages(), attempts in any::<u32>(), again in any::<bool>()) {
            let header = header(&message, attempts);
            prop_assert!(!header.contains('\n'));
            let value = value(if again { '+' } else { ' ' }, &header, &message.payload);
            let opened = open(&value, value.len(), &Name::new("other").unwrap());
            prop_assert_eq!(opened, Opened { message, attempts, unfit: None, derived: false });
        }

        #[test]
        fn nothing_that_comes_makes_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..100), tail in 0_usize..100) {
            let value: Bytes = [MAGIC, b" ", &bytes].concat().into();
            let opened = open(&value, value.len() + tail, &topic());
            prop_assert!(opened.message.payload.len() <= message_limits::PAYLOAD_BYTES);
        }
    }

    #[test]
    fn a_payload_without_envelope_has_what_a_script_gave_it() {
        for (payload, expect) in [
            (r#" {"order_id": 1}"#, "application/json"),
            ("[1,2]", "application/json"),
            ("{no", "application/octet-stream"),
            ("12", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            let header = r#"{"id":"brolly-a-1-7","topic":"old","at":5,"raw":true}"#;
            let opened = open(&value(' ', header, payload.as_bytes()), 0, &topic());
            assert_eq!((opened.message.id.as_str(), opened.message.topic.as_str()), ("brolly-a-1-7", "old"));
            assert_eq!((opened.message.content_type.as_str(), opened.unfit), (expect, None), "{payload}");
            assert_eq!(opened.message.payload, payload.as_bytes());
        }
    }

    #[test]
    fn what_is_damaged_or_too_large_is_kept_as_far_as_it_can_be() {
        let broken = value(' ', "{broken", b"p");
        let opened = open(&broken, broken.len(), &topic());
        assert!(opened.derived && opened.unfit.unwrap().contains("no header"));
        assert_eq!(opened.message.id, open(&broken, broken.len(), &topic()).message.id);
        assert_eq!(opened.message.payload, broken);

        let header = r#"{"id":"i","topic":"t","at":1}"#;
        let large = value(' ', header, &vec![b'x'; message_limits::PAYLOAD_BYTES + 1]);
        let opened = open(&large, large.len() + 10, &topic());
        assert!(opened.unfit.unwrap().contains("16777227 bytes"));
        assert_eq!(opened.message.payload.len(), message_limits::PAYLOAD_BYTES);

        let long =
            format!(r#"{{"id":"i","topic":"t","at":1,"key":"{}","headers":{{"a":"b"}}}}"#, "k".repeat(300));
        let opened = open(&value(' ', &long, b"p"), 0, &topic());
        assert!(opened.unfit.unwrap().contains("key has 300 bytes"));
        assert_eq!((opened.message.key.as_str(), opened.message.headers.len()), ("", 1));
    }
}
