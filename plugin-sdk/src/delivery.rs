//! The delivery that a handler gets, and how its payload becomes a type.

use std::{any, fmt, ops::Deref};

use serde::de::DeserializeOwned;

use crate::Failure;

/// One message for one subscription, in one attempt.
///
/// `T` is what the payload is read as: any type that serde can deserialize is read as JSON,
/// [`Raw`] is the bytes as they are, and other formats implement [`Payload`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery<T = Raw> {
    /// The message id: unique within its topic, 1 to 256 bytes.
    pub id: String,
    /// The topic that it was published to.
    pub topic: String,
    /// The key that it was published with, up to 255 bytes; empty means none.
    pub key: String,
    /// Media type of the payload; empty if the producer named none.
    pub content_type: String,
    /// Further envelope fields, sorted by name; at most 128, 32 KiB in all.
    pub headers: Vec<Header>,
    /// When the broker accepted it, in milliseconds since the Unix epoch, UTC.
    pub published_at_ms: u64,
    /// What the producer sent.
    pub payload: T,
    /// The subscription that this plugin handles.
    pub subscription: String,
    /// Which attempt this is, counting from 1. A redelivery after a crash of the host repeats the
    /// number of the attempt that it interrupted.
    pub attempt: u32,
    /// Whether the delivery becomes a dead letter if this attempt fails.
    pub last_attempt: bool,
    /// The same for every attempt, redelivery and replay of this delivery, and different for every
    /// other one. Send it along with any effect outside Brolly, so that the other side can
    /// recognise a repetition.
    pub idempotency_key: String,
}

/// One further field of a message's envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// In the producer's spelling.
    pub name: String,
    /// The value.
    pub value: String,
}

impl<T> Delivery<T> {
    /// The value of a header; none if the message has no header of exactly this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name == name).map(|header| header.value.as_str())
    }

    fn with_payload<U>(self, payload: U) -> Delivery<U> {
        Delivery {
            id: self.id,
            topic: self.topic,
            key: self.key,
            content_type: self.content_type,
            headers: self.headers,
            published_at_ms: self.published_at_ms,
            payload,
            subscription: self.subscription,
            attempt: self.attempt,
            last_attempt: self.last_attempt,
            idempotency_key: self.idempotency_key,
        }
    }
}

impl Delivery<Raw> {
    /// Reads the payload as `T`, which is what happens before a handler of `Delivery<T>` is called.
    ///
    /// Useful in a handler of raw deliveries that decides by topic or header what to read.
    ///
    /// # Errors
    /// Whatever [`Payload::from_payload`] says; for JSON a [`Failure::Reject`].
    pub fn decode<T: Payload>(mut self) -> Result<Delivery<T>, Failure> {
        let payload = T::from_payload(std::mem::take(&mut self.payload), &self.content_type)?;
        Ok(self.with_payload(payload))
    }
}

/// What the payload of a delivery can be read as.
///
/// Every type that implements serde's `Deserialize` is read as JSON, whatever the content type
/// says. That includes `Vec<u8>`, which is read as a JSON array of numbers: for the bytes
/// themselves take [`Raw`]. Implement this trait for types of other formats:
///
/// ```
/// use brolly_plugin::{Delivery, Failure, OrFail, Payload, Raw, handler};
///
/// struct Line(Vec<String>);
///
/// impl Payload for Line {
///     fn from_payload(payload: Raw, _content_type: &str) -> Result<Self, Failure> {
///         Ok(Line(payload.text()?.split(';').map(str::to_owned).collect()))
///     }
/// }
///
/// #[handler]
/// fn handle(delivery: Delivery<Line>) -> Result<(), Failure> {
///     delivery.payload.0.first().or_reject("the first field").map(drop)
/// }
/// ```
pub trait Payload: Sized {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Failure::reject`] for a payload that can never be read, which is nearly always right;
    /// the attempt ends with this failure and the handler is not called.
    fn from_payload(payload: Raw, content_type: &str) -> Result<Self, Failure>;
}

impl<T: DeserializeOwned> Payload for T {
    fn from_payload(payload: Raw, _content_type: &str) -> Result<Self, Failure> {
        serde_json::from_slice(&payload).map_err(|error| {
            let name = any::type_name::<T>();
            let name = if name.contains('<') { name } else { name.rsplit(':').next().unwrap_or(name) };
            Failure::reject(format_args!("the payload is not the JSON of {name}: {error}"))
        })
    }
}

impl Payload for Raw {
    fn from_payload(payload: Raw, _content_type: &str) -> Result<Self, Failure> {
        Ok(payload)
    }
}

/// A payload as the bytes that the producer sent, at most 16 MiB.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// The payload as text.
    ///
    /// # Errors
    /// [`Failure::Reject`] if it is not UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.0)
            .map_err(|error| Failure::reject(format_args!("the payload is no text: {error}")))
    }
}

impl Deref for Raw {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({:?})", String::from_utf8_lossy(&self.0))
    }
}
