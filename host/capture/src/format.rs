//! The form of a capture, as JSON. Written by hosts, read by whoever replays; a change that an older
//! reader would misunderstand raises [`FORMAT`].

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use brolly_core::{
    Effects, Handled, HttpError, HttpFailure, HttpRequest, HttpResponse, LogLine, Message, Name, Outcome,
    Timestamp, Verdict, whole_ms,
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

/// The number of this form. Form 1 had no reads but of the state, and is read as well.
pub const FORMAT: u32 = 2;

/// One attempt: what it was given, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The number of the form, [`FORMAT`].
    pub brolly_capture: u32,
    /// When the attempt had ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// The subscription.
    pub subscription: Name,
    /// Of its definition: `plugin`, `version`, `config`, `limits`, `grants` and `instances`.
    pub terms: Value,
    /// The message.
    pub message: CapturedMessage,
    /// Counts from 1.
    pub attempt: u32,
    /// Whether the delivery becomes a dead letter if this attempt fails.
    pub last_attempt: bool,
    /// The same for every attempt, redelivery and replay of the delivery.
    pub idempotency_key: String,
    /// What it read of the state, and what it was told by clock, randomness and servers, in order.
    pub reads: Vec<Read>,
    /// What came of it.
    pub happened: Happened,
}

/// The message of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedMessage {
    /// Unique within the topic.
    pub id: String,
    /// The topic.
    pub topic: Name,
    /// Routing and ordering key.
    pub key: String,
    /// Media type of the payload.
    pub content_type: String,
    /// Further envelope fields.
    pub headers: BTreeMap<String, String>,
    /// When the broker accepted it, in milliseconds since 1970.
    pub published_at_ms: u64,
    /// The bytes.
    pub payload: Blob,
}

/// One look at the state, or at what lies outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Read {
    /// A value, or none.
    Get {
        /// The key.
        key: String,
        /// What was there.
        value: Option<Blob>,
    },
    /// A part of a listing.
    List {
        /// What keys begin with.
        prefix: String,
        /// The key after which it begins.
        after: Option<String>,
        /// The most entries.
        limit: usize,
        /// Keys and values.
        entries: Vec<(String, Blob)>,
    },
    /// The time.
    Wall {
        /// Milliseconds since 1970.
        ms: u64,
        /// How often in a row it was asked for and the same.
        times: u32,
    },
    /// The monotonic clock.
    Monotonic {
        /// Milliseconds since some moment.
        ms: u64,
        /// How often in a row it was asked for and the same.
        times: u32,
    },
    /// It waited.
    Wait {
        /// Whether the whole time passed, within the attempt's limit.
        passed: bool,
    },
    /// Random bytes.
    Random {
        /// The bytes.
        bytes: Blob,
    },
    /// A request was sent.
    Http {
        /// The request.
        request: CapturedRequest,
        /// What came of it.
        answer: CapturedAnswer,
    },
}

/// A request that an attempt sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedRequest {
    /// Such as `GET`.
    pub method: String,
    /// The whole address.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, Blob)>,
    /// The bytes.
    pub body: Blob,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturedAnswer {
    /// An answer.
    Response {
        /// The status code.
        status: u16,
        /// Names and values.
        headers: Vec<(String, Blob)>,
        /// The bytes.
        body: Blob,
    },
    /// None came.
    Failed {
        /// dns, connect, timed_out, tls or protocol.
        failure: String,
        /// In words.
        detail: String,
    },
    /// The address is none that the grant covers.
    NotGranted(String),
    /// It was larger than allowed.
    TooLarge,
}

/// What came of an attempt. Two that are equal are the same, bit for bit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// ack, retry, reject, fault, or unavailable where the host could not serve it.
    pub outcome: String,
    /// Why, where it is no ack.
    pub reason: Option<String>,
    /// The delay that a retry asks for.
    pub delay_ms: Option<u64>,
    /// What a retry says cannot be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependency: Option<String>,
    /// State written: the last value of each key; none deletes it.
    pub state: BTreeMap<String, Option<Blob>>,
    /// Messages published, in order.
    pub published: Vec<Published>,
    /// Log lines.
    pub logs: Vec<LogLine>,
    /// Log lines that the limit dropped.
    pub logs_dropped: u64,
}

/// A message that an attempt published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The topic.
    pub topic: Name,
    /// The id, derived or the handler's own.
    pub id: String,
    /// Routing and ordering key.
    pub key: String,
    /// Media type of the payload.
    pub content_type: String,
    /// Further envelope fields.
    pub headers: BTreeMap<String, String>,
    /// The bytes.
    pub payload: Blob,
}

impl Capture {
    /// Reads a capture.
    ///
    /// # Errors
    /// When it is none, or one of another form; the text says which.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| format!("it is no JSON: {error}"))?;
        match value.get("brolly_capture").and_then(Value::as_u64) {
            Some(form) if (1..=u64::from(FORMAT)).contains(&form) => {}
            Some(form) => return Err(format!("it has the form {form}, and this program knows {FORMAT}")),
            None => return Err("it is no capture: brolly_capture is missing".to_owned()),
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// Whether the attempt was not acknowledged.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.happened.outcome != "ack"
    }

    /// The message as a handler is given it.
    #[must_use]
    pub fn message(&self) -> Message {
        let message = self.message.clone();
        Message {
            id: message.id,
            topic: message.topic,
            key: message.key,
            content_type: message.content_type,
            headers: message.headers,
            published_at: Timestamp(message.published_at_ms),
            expires_at: None,
            payload: message.payload.0,
        }
    }

    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let message = &self.message;
        let headers = |headers: &BTreeMap<String, String>| {
            headers.iter().map(|(name, value)| name.len() + value.len() + PER_ITEM).sum::<usize>()
        };
        let published = self.happened.published.iter().map(|published| {
            published.payload.0.len() + published.id.len() + headers(&published.headers) + PER_ITEM
        });
        let written = self.happened.state.iter();
        let written = written
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.0.len()) + PER_ITEM);
        let logs = self.happened.logs.iter().map(|line| line.text.len() + PER_ITEM);
        PER_CAPTURE
            + message.payload.0.len()
            + headers(&message.headers)
            + self.reads.iter().map(Read::size).sum::<usize>()
            + published.chain(written).chain(logs).sum::<usize>()
    }
}

/// What a capture takes beyond its payloads, and one thing in it beyond its texts.
const PER_CAPTURE: usize = 2_048;
const PER_ITEM: usize = 96;

impl Read {
    /// About how much memory it takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        PER_ITEM
            + match self {
                Read::Get { key, value } => key.len() + value.as_ref().map_or(0, |value| value.0.len()),
                Read::List { entries, .. } => size_of_pairs(entries),
                Read::Wall { .. } | Read::Monotonic { .. } | Read::Wait { .. } => 0,
                Read::Random { bytes } => bytes.0.len(),
                Read::Http { request, answer } => {
                    let answered = match answer {
                        CapturedAnswer::Response { headers, body, .. } => {
                            size_of_pairs(headers) + body.0.len()
                        }
                        CapturedAnswer::Failed { detail, .. } => detail.len(),
                        CapturedAnswer::NotGranted(what) => what.len(),
                        CapturedAnswer::TooLarge => 0,
                    };
                    request.url.len() + size_of_pairs(&request.headers) + request.body.0.len() + answered
                }
            }
    }
}

fn size_of_pairs(pairs: &[(String, Blob)]) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.0.len() + PER_ITEM).sum()
}

impl From<&HttpRequest> for CapturedRequest {
    fn from(request: &HttpRequest) -> Self {
        Self {
            method: request.method.clone(),
            url: request.url(),
            headers: blobs(&request.headers),
            body: Blob(request.body.clone()),
        }
    }
}

impl CapturedAnswer {
    /// What came of a request; none if the host could not serve it.
    pub(crate) fn of(answer: &Result<HttpResponse, HttpError>) -> Option<Self> {
        Some(match answer {
            Ok(HttpResponse { status, headers, body }) => {
                Self::Response { status: *status, headers: blobs(headers), body: Blob(body.clone()) }
            }
            Err(HttpError::Failed { failure, detail }) => {
                let word = HttpFailure::ALL.iter().find(|(known, _)| known == failure);
                let failure = word.map_or_else(String::new, |(_, word)| (*word).to_owned());
                Self::Failed { failure, detail: detail.clone() }
            }
            Err(HttpError::NotGranted(what)) => Self::NotGranted(what.clone()),
            Err(HttpError::TooLarge) => Self::TooLarge,
            Err(HttpError::Unreachable(_)) => return None,
        })
    }

    /// The same in the words of the port.
    pub(crate) fn again(&self) -> Result<HttpResponse, HttpError> {
        match self {
            Self::Response { status, headers, body } => {
                let pair = |(name, value): &(String, Blob)| (name.clone(), value.0.clone());
                let headers = headers.iter().map(pair).collect();
                Ok(HttpResponse { status: *status, headers, body: body.0.clone() })
            }
            Self::Failed { failure, detail } => {
                let known = HttpFailure::ALL.iter().find(|(_, word)| word == failure);
                let failure = known.map_or(HttpFailure::Protocol, |(failure, _)| *failure);
                Err(HttpError::Failed { failure, detail: detail.clone() })
            }
            Self::NotGranted(what) => Err(HttpError::NotGranted(what.clone())),
            Self::TooLarge => Err(HttpError::TooLarge),
        }
    }
}

fn blobs(headers: &[(String, Bytes)]) -> Vec<(String, Blob)> {
    headers.iter().map(|(name, value)| (name.clone(), Blob(value.clone()))).collect()
}

impl From<&Message> for CapturedMessage {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id.clone(),
            topic: message.topic.clone(),
            key: message.key.clone(),
            content_type: message.content_type.clone(),
            headers: message.headers.clone(),
            published_at_ms: message.published_at.0,
            payload: Blob(message.payload.clone()),
        }
    }
}

impl From<&Handled> for Happened {
    fn from(handled: &Handled) -> Self {
        let (delay, dependency) = match &handled.verdict {
            Verdict::Outcome(Outcome::Retry { delay, dependency, .. }) => (*delay, dependency.clone()),
            Verdict::Outcome(Outcome::Ack | Outcome::Reject { .. })
            | Verdict::Fault(_)
            | Verdict::Unavailable(_) => (None, None),
        };
        let (outcome, reason) = match &handled.verdict {
            Verdict::Outcome(Outcome::Ack) => ("ack", None),
            Verdict::Outcome(Outcome::Retry { reason, .. }) => ("retry", Some(reason.clone())),
            Verdict::Outcome(Outcome::Reject { reason }) => ("reject", Some(reason.clone())),
            Verdict::Fault(fault) => ("fault", Some(fault.to_string())),
            Verdict::Unavailable(reason) => ("unavailable", Some(reason.clone())),
        };
        let Effects { state, publish } = &handled.effects;
        let write = |(key, value): (&String, &Option<Bytes>)| (key.clone(), value.clone().map(Blob));
        Self {
            outcome: outcome.to_owned(),
            reason,
            delay_ms: delay.map(whole_ms),
            dependency,
            state: state.iter().map(write).collect(),
            published: publish.iter().map(Published::from).collect(),
            logs: handled.logs.clone(),
            logs_dropped: handled.logs_dropped,
        }
    }
}

impl From<&brolly_core::Outgoing> for Published {
    fn from(outgoing: &brolly_core::Outgoing) -> Self {
        let message = &outgoing.message;
        Self {
            topic: outgoing.topic.clone(),
            id: message.id.clone().unwrap_or_default(),
            key: message.key.clone(),
            content_type: message.content_type.clone(),
            headers: message.headers.clone(),
            payload: Blob(message.payload.clone()),
        }
    }
}

/// Bytes: a text where they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blob(pub Bytes);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Shown {
    Text(String),
    Encoded { base64: String },
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Shown::Encoded { base64: BASE64_STANDARD.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Shown::deserialize(deserializer)? {
            Shown::Text(text) => Ok(Self(text.into())),
            Shown::Encoded { base64 } => {
                let bytes =
                    BASE64_STANDARD.decode(base64).map_err(|_| D::Error::custom("this is no base 64"))?;
                Ok(Self(bytes.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn capture() -> Capture {
        Capture {
            brolly_capture: FORMAT,
            at_ms: 5,
            subscription: Name::new("s").unwrap(),
            terms: json!({"config": {"a": "b"}}),
            message: CapturedMessage {
                id: "m".into(),
                topic: Name::new("t").unwrap(),
                key: "k".into(),
                content_type: String::new(),
                headers: BTreeMap::from([("h".into(), "v".into())]),
                published_at_ms: 4,
                payload: Blob(Bytes::from_static(&[0xff, 0])),
            },
            attempt: 2,
            last_attempt: true,
            idempotency_key: "s/t/m".into(),
            reads: vec![
                Read::Get { key: "a".into(), value: None },
                Read::List {
                    prefix: "p".into(),
                    after: None,
                    limit: 9,
                    entries: vec![("p1".into(), Blob("\u{0}x".into()))],
                },
                Read::Wall { ms: 1, times: 2 },
                Read::Wait { passed: true },
                Read::Random { bytes: Blob(Bytes::from_static(&[0xff])) },
                Read::Http {
                    request: CapturedRequest {
                        method: "GET".into(),
                        url: "https://h.example/".into(),
                        headers: vec![("a".into(), Blob("b".into()))],
                        body: Blob::default(),
                    },
                    answer: CapturedAnswer::TooLarge,
                },
            ],
            happened: Happened {
                outcome: "ack".into(),
                state: BTreeMap::from([("a".into(), None), ("b".into(), Some(Blob("1".into())))]),
                ..Happened::default()
            },
        }
    }

    #[test]
    fn a_capture_comes_back_bit_for_bit() {
        let json = serde_json::to_vec(&capture()).unwrap();
        assert_eq!(Capture::from_json(&json), Ok(capture()));
        assert!(String::from_utf8(json).unwrap().contains(r#""payload":{"base64":"/wA="}"#));
        let older = Capture { brolly_capture: 1, ..capture() };
        assert_eq!(Capture::from_json(&serde_json::to_vec(&older).unwrap()), Ok(older));
    }

    #[test]
    fn an_answer_comes_back_as_it_was() {
        let failed = |(failure, _)| Err(HttpError::Failed { failure, detail: "why".into() });
        let response =
            HttpResponse { status: 500, headers: vec![("a".into(), "b".into())], body: "c".into() };
        let refused = HttpError::NotGranted("x".into());
        let answers = HttpFailure::ALL.into_iter().map(failed).chain([
            Ok(response),
            Err(refused),
            Err(HttpError::TooLarge),
        ]);
        for answer in answers {
            assert_eq!(CapturedAnswer::of(&answer).unwrap().again(), answer);
        }
    }

    #[test]
    fn what_is_no_capture_is_told_from_one_of_another_form() {
        let check = |json: Value, why: &str| {
            let told = Capture::from_json(json.to_string().as_bytes()).unwrap_err();
            assert!(told.contains(why), "{told}");
        };
        check(json!({}), "no capture");
        check(json!({"brolly_capture": 3}), "has the form 3, and this program knows 2");
        check(json!({"brolly_capture": 1}), "missing field");
        let mut bad = serde_json::to_value(capture()).unwrap();
        bad["message"]["payload"] = json!({"base64": "?"});
        check(bad, "no base 64");
        assert!(Capture::from_json(b"{").unwrap_err().contains("no JSON"));
    }
}
