//! Publishing further messages. They are published if and only if the attempt is acknowledged, in
//! the same commit.
//!
//! ```
//! # use brolly_plugin::{testing::Harness, publish, Delivery};
//! # let handle = |delivery: Delivery| {
//! publish::Message::new("coupons.issued")
//!     .id("coupon-o000003")
//!     .key("0001")
//!     .header("origin", &delivery.topic)
//!     .json(&serde_json::json!({"customer_id": "0001"}))?
//!     .send();
//! # Ok(())
//! # };
//! # Harness::new().delivery("").run(handle).assert_ack();
//! ```

use serde::Serialize;

use crate::{Failure, Header, OrFail, host};

/// A message to be published. Nothing happens before [`Message::send`].
///
/// Limits, each of which ends the attempt: id 1 to 256 bytes, key and content type up to 255,
/// 128 headers and 32 KiB of them, none with control characters; payload up to 16 MiB; the topic
/// must be one that the subscription is granted; an attempt publishes at most as many messages and
/// bytes as the subscription's `publish_messages` and `publish_bytes` say (by default 100 and 1 MiB).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a message is published by its `send`"]
pub struct Message {
    /// Where it is published.
    pub topic: String,
    /// Its id; the topic accepts each id once. None has the host derive one from the delivery, so
    /// that an attempt which is run again publishes the same id.
    pub id: Option<String>,
    /// Routing and ordering key; may be empty.
    pub key: String,
    /// Media type of the payload; may be empty.
    pub content_type: String,
    /// Further envelope fields; a name occurs once.
    pub headers: Vec<Header>,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Message {
    /// An empty message for a topic, without id, key or headers.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            id: None,
            key: String::new(),
            content_type: String::new(),
            headers: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Sets the id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Sets the routing and ordering key.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Sets a header, in place of one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.headers.retain(|header| header.name != name);
        self.headers.push(Header { name, value: value.into() });
        self
    }

    /// Sets the payload to JSON and the content type to `application/json`.
    ///
    /// # Errors
    /// [`Failure::Retry`] if the value cannot be written as JSON, such as a map whose keys are not
    /// texts.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Failure> {
        let payload = serde_json::to_vec(value).or_retry(format_args!("a message for {}", self.topic))?;
        Ok(self.bytes(payload, "application/json"))
    }

    /// Sets the payload to text and the content type to `text/plain; charset=utf-8`.
    pub fn text(self, text: impl Into<String>) -> Self {
        self.bytes(text.into(), "text/plain; charset=utf-8")
    }

    /// Sets the payload and its content type, which may be empty.
    pub fn bytes(mut self, payload: impl Into<Vec<u8>>, content_type: impl Into<String>) -> Self {
        self.payload = payload.into();
        self.content_type = content_type.into();
        self
    }

    /// Publishes the message once the attempt is acknowledged.
    pub fn send(self) {
        host::publish(self);
    }
}
