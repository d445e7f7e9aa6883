//! Runs a handler natively, without WebAssembly and without a host, for tests.
//!
//! A [`Harness`] is one subscription: it has the configuration and keeps the state. Each delivery
//! that a test hands in is one attempt, with the host's rules: effects take place if and only if the
//! handler answers `Ok`, a broken limit or a panic is a fault.
//!
//! ```
//! use brolly_plugin::{Delivery, Failure, config, state, testing::{Harness, Outcome}};
//!
//! fn handle(delivery: Delivery<i64>) -> Result<(), Failure> {
//!     let factor: i64 = config::parse("factor")?.unwrap_or(1);
//!     state::update_json("sum", |sum: &mut i64| *sum += delivery.payload * factor)?;
//!     if delivery.payload < 0 { Err(Failure::reject("negative")) } else { Ok(()) }
//! }
//!
//! let mut harness = Harness::new().config("factor", "10");
//! harness.delivery("4").run(handle).assert_ack();
//! harness.delivery("-1").run(handle).assert_reject("negative");
//! harness.delivery("four").run(handle).assert_reject("line 1 column 2");
//! assert_eq!(harness.state_json("sum"), 40);
//!
//! let last = harness.delivery("1").key("k").attempt(3).last_attempt(true);
//! assert_eq!(last.run(handle).outcome, Outcome::Ack);
//! ```

mod attempt;
mod contract;
mod outside;
pub(crate) mod sandbox;

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

pub use attempt::{Attempt, LogLine, Outcome};
pub use contract::Limits;

use crate::{
    Delivery, Failure, Header, Payload, Raw,
    http::{Error, Request, Response},
};

/// One subscription: configuration, limits and state.
#[derive(Clone, Debug, Default)]
pub struct Harness {
    config: Arc<BTreeMap<String, String>>,
    state: Arc<BTreeMap<String, Vec<u8>>>,
    granted: Option<Arc<[String]>>,
    limits: Limits,
    outside: outside::Outside,
    deliveries: u64,
}

impl Harness {
    /// A subscription without configuration and state, with the default limits, that may publish
    /// to every topic.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value of the configuration.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.config).insert(name.into(), value.into());
        self
    }

    /// Sets a value of the state, as if an earlier delivery had written it.
    #[must_use]
    pub fn with_state(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Arc::make_mut(&mut self.state).insert(key.into(), value.into());
        self
    }

    /// Names the only topics that may be published to.
    #[must_use]
    pub fn grant_publish<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.granted = Some(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Grants the clock, which stands at `now_ms` (milliseconds since the Unix epoch) and goes on only
    /// while a handler sleeps. Each delivery begins at `now_ms`.
    #[must_use]
    pub fn clock(mut self, now_ms: u64) -> Self {
        self.outside.clock_ms = Some(now_ms);
        self
    }

    /// Grants random numbers: each delivery is given the same ones, which follow from the seed.
    #[must_use]
    pub fn random(mut self, seed: u64) -> Self {
        self.outside.seed = Some(seed);
        self
    }

    /// Grants requests, to any host, which are answered here.
    #[must_use]
    pub fn http(
        mut self,
        respond: impl Fn(&Request) -> Result<Response, Error> + Send + Sync + 'static,
    ) -> Self {
        self.outside.respond = Some(Arc::new(respond));
        self
    }

    /// Sets the limits of an attempt.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// A delivery with this payload, to be run. Its message id is `message-` and its number.
    pub fn delivery(&mut self, payload: impl AsRef<[u8]>) -> Trial<'_> {
        self.deliveries += 1;
        let id = format!("message-{}", self.deliveries);
        let delivery = Delivery {
            idempotency_key: format!("test/{id}"),
            id,
            topic: "test.topic".to_owned(),
            key: String::new(),
            content_type: String::new(),
            headers: Vec::new(),
            published_at_ms: 0,
            payload: Raw(payload.as_ref().to_vec()),
            subscription: "test".to_owned(),
            attempt: 1,
            last_attempt: false,
        };
        Trial { harness: self, delivery }
    }

    /// A delivery with this value as JSON.
    ///
    /// # Panics
    /// If the value cannot be written as JSON.
    #[allow(clippy::expect_used, reason = "a test's own value; the test is to fail")]
    pub fn json<T: Serialize + ?Sized>(&mut self, payload: &T) -> Trial<'_> {
        self.delivery(serde_json::to_vec(payload).expect("a payload that can be written as JSON"))
            .content_type("application/json")
    }

    /// The value under a key.
    #[must_use]
    pub fn state(&self, key: &str) -> Option<&[u8]> {
        self.state.get(key).map(Vec::as_slice)
    }

    /// The value under a key as JSON; `null` if there is none.
    ///
    /// # Panics
    /// If the value is no JSON.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a test is to fail")]
    pub fn state_json(&self, key: &str) -> serde_json::Value {
        self.state(key)
            .map_or(serde_json::Value::Null, |value| serde_json::from_slice(value).expect("a state of JSON"))
    }

    /// The whole state, sorted by key.
    pub fn state_entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.state.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }
}

/// A delivery that is about to be run; made by [`Harness::delivery`] and [`Harness::json`].
#[derive(Debug)]
#[must_use = "nothing happens before `run`"]
pub struct Trial<'a> {
    harness: &'a mut Harness,
    delivery: Delivery<Raw>,
}

impl Trial<'_> {
    /// Sets the message id, and the idempotency key that goes with it.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.delivery.id = id.into();
        self.delivery.idempotency_key = format!("test/{}", self.delivery.id);
        self
    }

    /// Sets the topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.delivery.topic = topic.into();
        self
    }

    /// Sets the key.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.delivery.key = key.into();
        self
    }

    /// Sets the content type.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.delivery.content_type = content_type.into();
        self
    }

    /// Adds a header, in place of one of the same name.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let header = Header { name: name.into(), value: value.into() };
        self.delivery.headers.retain(|present| present.name != header.name);
        self.delivery.headers.push(header);
        self.delivery.headers.sort_by(|one, other| one.name.cmp(&other.name));
        self
    }

    /// Sets when the broker accepted the message, in milliseconds since the Unix epoch, UTC.
    pub fn published_at_ms(mut self, published_at_ms: u64) -> Self {
        self.delivery.published_at_ms = published_at_ms;
        self
    }

    /// Sets which attempt this is, counting from 1.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.delivery.attempt = attempt;
        self
    }

    /// Sets whether the delivery becomes a dead letter if this attempt fails.
    pub fn last_attempt(mut self, last_attempt: bool) -> Self {
        self.delivery.last_attempt = last_attempt;
        self
    }

    /// Runs the handler. The payload is read as `T` first, as on the host. On `Ok` the harness's
    /// state is what the handler made of it; otherwise it is as before.
    pub fn run<T: Payload>(self, handler: impl FnOnce(Delivery<T>) -> Result<(), Failure>) -> Attempt {
        let Trial { harness, delivery } = self;
        let attempt = sandbox::Attempt::new(
            Arc::clone(&harness.config),
            Arc::clone(&harness.state),
            harness.granted.clone(),
            harness.limits.clone(),
            harness.outside.clone(),
        );
        let (outcome, after) = attempt.run(|| delivery.decode().and_then(handler));
        let acked = outcome == Outcome::Ack;
        if acked {
            let state = Arc::make_mut(&mut harness.state);
            for (key, value) in after.written {
                match value {
                    Some(value) => drop(state.insert(key, value)),
                    None => drop(state.remove(&key)),
                }
            }
        }
        let published = if acked { after.published } else { Vec::new() };
        Attempt { outcome, logs: after.logs, published, requests: after.requests }
    }
}
