//! The message: an immutable payload in its envelope.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{Code, Name, Refusal, Timestamp};

/// The limits of one message; a publish beyond any of them is refused.
pub mod limits {
    /// Bytes of payload: 16 MiB.
    pub const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
    /// Bytes of an id.
    pub const ID_BYTES: usize = 256;
    /// Bytes of a key (AMQP's limit for a routing key).
    pub const KEY_BYTES: usize = 255;
    /// Bytes of a content type.
    pub const CONTENT_TYPE_BYTES: usize = 255;
    /// Number of headers.
    pub const HEADERS: usize = 128;
    /// Bytes of all header names and values together.
    pub const HEADER_BYTES: usize = 32 * 1024;
}

/// A message id: unique within its topic, 1 to 256 bytes, no control characters.
pub type MessageId = String;

/// An immutable payload and its envelope, as accepted by a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique within the topic; a second publish with the same id is accepted and ignored.
    pub id: MessageId,
    /// The topic it was published to.
    pub topic: Name,
    /// Routing and ordering key; empty means none.
    pub key: String,
    /// Media type of the payload; empty if the producer named none.
    pub content_type: String,
    /// Further envelope fields, in the producer's words. Names are compared as they are written.
    pub headers: BTreeMap<String, String>,
    /// When the broker accepted it.
    pub published_at: Timestamp,
    /// After this moment it is not handled any more but becomes a dead letter.
    pub expires_at: Option<Timestamp>,
    /// The bytes that the producer sent.
    pub payload: Bytes,
}

/// A message as a producer hands it in, before a broker has accepted it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// The producer's id; without one the broker makes a UUIDv7.
    pub id: Option<MessageId>,
    /// Routing and ordering key; empty means none.
    pub key: String,
    /// Media type of the payload; may be empty.
    pub content_type: String,
    /// Further envelope fields.
    pub headers: BTreeMap<String, String>,
    /// Held back for so many milliseconds before the first delivery.
    pub delay_ms: Option<u64>,
    /// Becomes a dead letter when not handled within so many milliseconds.
    pub expires_ms: Option<u64>,
    /// The bytes.
    pub payload: Bytes,
}

impl NewMessage {
    /// Checks every limit of [`limits`].
    ///
    /// # Errors
    /// [`Code::TooLarge`] for the payload, [`Code::InvalidMessage`] for anything else; the sentence
    /// names the field, its size and the limit.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |detail: String| Err(Refusal::new(Code::InvalidMessage, detail));
        if self.payload.len() > limits::PAYLOAD_BYTES {
            return Err(Refusal::new(
                Code::TooLarge,
                format!(
                    "the payload has {} bytes, the limit is {}; store it elsewhere and publish a reference",
                    self.payload.len(),
                    limits::PAYLOAD_BYTES
                ),
            ));
        }
        let texts = [
            ("id", self.id.as_deref().unwrap_or("-"), limits::ID_BYTES),
            ("key", self.key.as_str(), limits::KEY_BYTES),
            ("content type", self.content_type.as_str(), limits::CONTENT_TYPE_BYTES),
        ];
        for (field, text, limit) in texts {
            if text.len() > limit {
                return invalid(format!("the {field} has {} bytes, the limit is {limit}", text.len()));
            }
            if text.chars().any(char::is_control) {
                return invalid(format!("the {field} contains a control character"));
            }
        }
        if self.id.as_deref() == Some("") {
            return invalid("the id is empty; leave it out to have one made".into());
        }
        if self.headers.len() > limits::HEADERS {
            return invalid(format!(
                "there are {} headers, the limit is {}",
                self.headers.len(),
                limits::HEADERS
            ));
        }
        let bytes: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > limits::HEADER_BYTES {
            return invalid(format!("the headers have {bytes} bytes, the limit is {}", limits::HEADER_BYTES));
        }
        if self.headers.keys().any(|name| name.is_empty() || name.chars().any(char::is_control)) {
            return invalid("a header has an empty name or one with a control character".into());
        }
        Ok(())
    }

    /// For how long it is held back, if at all.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.delay_ms.filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// The message that a broker accepts at this moment, with the id that it has or was given.
    #[must_use]
    pub fn accepted(self, id: MessageId, topic: Name, at: Timestamp) -> Message {
        Message {
            id,
            topic,
            key: self.key,
            content_type: self.content_type,
            headers: self.headers,
            published_at: at,
            expires_at: self.expires_ms.map(|ms| at.after(Duration::from_millis(ms))),
            payload: self.payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &NewMessage, expect: Option<Code>) {
        assert_eq!(message.check().err().map(|refusal| refusal.code), expect);
    }

    #[test]
    fn every_limit_from_both_sides() {
        let base = NewMessage::default();
        check(&base, None);
        let payload = |n| NewMessage { payload: vec![0; n].into(), ..base.clone() };
        check(&payload(limits::PAYLOAD_BYTES), None);
        check(&payload(limits::PAYLOAD_BYTES + 1), Some(Code::TooLarge));
        let id = |text: String| NewMessage { id: Some(text), ..base.clone() };
        check(&id("x".repeat(limits::ID_BYTES)), None);
        check(&id("x".repeat(limits::ID_BYTES + 1)), Some(Code::InvalidMessage));
        check(&id(String::new()), Some(Code::InvalidMessage));
        check(&id("a\0b".into()), Some(Code::InvalidMessage));
        let key = |n| NewMessage { key: "k".repeat(n), ..base.clone() };
        check(&key(limits::KEY_BYTES), None);
        check(&key(limits::KEY_BYTES + 1), Some(Code::InvalidMessage));
        let headers = |n: usize, size: usize| NewMessage {
            headers: (0..n).map(|i| (format!("{i:04}"), "v".repeat(size))).collect(),
            ..base.clone()
        };
        check(&headers(limits::HEADERS, 1), None);
        check(&headers(limits::HEADERS + 1, 1), Some(Code::InvalidMessage));
        check(&headers(1, limits::HEADER_BYTES - 4), None);
        check(&headers(1, limits::HEADER_BYTES - 3), Some(Code::InvalidMessage));
    }
}
