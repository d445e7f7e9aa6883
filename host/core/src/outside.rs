//! The port to what lies outside of a handler: the time, randomness, and servers on the network. What
//! of it a handler may reach is said by its grants ([`crate::Grants`]); the sandbox asks for nothing else.
//!
//! It travels with the call, as the state does, so that what it answered can be noted and given again.

use std::time::Duration;

use bytes::Bytes;

use crate::HttpTarget;

/// What lies outside of a handler. Called from the thread of an attempt, which it may keep busy.
pub trait Outside: Send + Sync {
    /// Milliseconds since the Unix epoch, UTC. May step when the machine's clock is set.
    ///
    /// # Errors
    /// When nobody knows; the attempt is then given up without being counted.
    fn wall_ms(&self) -> Result<u64, Unreachable>;

    /// Milliseconds since some moment that stays the same for as long as the host runs. Never 0: Go's
    /// runtime takes that for a clock that does not work, and ends.
    ///
    /// # Errors
    /// As [`Outside::wall_ms`].
    fn monotonic_ms(&self) -> Result<u64, Unreachable>;

    /// Waits for `wanted`, but no longer than `at_most`; answers whether `wanted` has passed.
    ///
    /// # Errors
    /// As [`Outside::wall_ms`].
    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable>;

    /// As many random bytes, from the system's own source.
    ///
    /// # Errors
    /// As [`Outside::wall_ms`].
    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable>;

    /// Sends a request and waits for the whole answer. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`HttpError`] says who is at fault.
    fn http(&self, request: &HttpRequest, terms: HttpTerms) -> Result<HttpResponse, HttpError>;
}

/// What a request is sent under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpTerms {
    /// Time from the look-up of the name to the last byte of the answer.
    pub time: Duration,
    /// Bytes that the answer may have, names and values of its headers included.
    pub response_bytes: u64,
    /// Whether addresses that only this machine or its own network can reach are allowed.
    pub private: bool,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// Where it goes.
    pub target: HttpTarget,
    /// Path and query, beginning with `/`.
    pub path: String,
    /// Names in lower case, with their values, in the order in which they are sent.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

impl HttpRequest {
    /// The address as people write it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}{}", self.target, self.path)
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names in lower case, with their values, in the order in which they came.
    pub headers: Vec<(String, Bytes)>,
    /// The body.
    pub body: Bytes,
}

/// No answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The handler is told, and decides what follows: the other side, or the way to it.
    Failed {
        /// What kind of trouble it is.
        failure: HttpFailure,
        /// In words.
        detail: String,
    },
    /// The address is one that the grant does not cover: the handler is stopped.
    NotGranted(String),
    /// The answer has more than [`HttpTerms::response_bytes`]: the handler is stopped.
    TooLarge,
    /// The host cannot serve it: no fault of the handler's, so no attempt is counted.
    Unreachable(Unreachable),
}

/// Why a server did not answer, as far as a handler can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpFailure {
    /// Nobody knows its name.
    Dns,
    /// Nothing listens there, or nothing can be reached.
    Connect,
    /// It took longer than it may.
    TimedOut,
    /// It did not prove who it is, or speaks no TLS.
    Tls,
    /// It broke off, or what it said is no HTTP.
    Protocol,
}

impl HttpFailure {
    /// All of them, with the word for each.
    pub const ALL: [(HttpFailure, &'static str); 5] = [
        (HttpFailure::Dns, "dns"),
        (HttpFailure::Connect, "connect"),
        (HttpFailure::TimedOut, "timed_out"),
        (HttpFailure::Tls, "tls"),
        (HttpFailure::Protocol, "protocol"),
    ];
}

/// What lies outside cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// An outside that is not there, for attempts that must reach nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nowhere;

impl Nowhere {
    fn refuse<T>() -> Result<T, Unreachable> {
        Err(Unreachable("this attempt is cut off from clock, randomness and network".to_owned()))
    }
}

impl Outside for Nowhere {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        Self::refuse()
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        Self::refuse()
    }

    fn wait(&self, _: Duration, _: Duration) -> Result<bool, Unreachable> {
        Self::refuse()
    }

    fn random(&self, _: usize) -> Result<Vec<u8>, Unreachable> {
        Self::refuse()
    }

    fn http(&self, _: &HttpRequest, _: HttpTerms) -> Result<HttpResponse, HttpError> {
        Self::refuse().map_err(HttpError::Unreachable)
    }
}

/// Time and randomness as they are, and no network: for an attempt whose effects are let go. A request
/// could not be taken back.
pub struct WithoutNetwork<'a>(pub &'a dyn Outside);

impl Outside for WithoutNetwork<'_> {
    fn wall_ms(&self) -> Result<u64, Unreachable> {
        self.0.wall_ms()
    }

    fn monotonic_ms(&self) -> Result<u64, Unreachable> {
        self.0.monotonic_ms()
    }

    fn wait(&self, wanted: Duration, at_most: Duration) -> Result<bool, Unreachable> {
        self.0.wait(wanted, at_most)
    }

    fn random(&self, count: usize) -> Result<Vec<u8>, Unreachable> {
        self.0.random(count)
    }

    fn http(&self, request: &HttpRequest, _: HttpTerms) -> Result<HttpResponse, HttpError> {
        Err(HttpError::Unreachable(Unreachable(format!(
            "it wants to send {} {}, and what is tried out sends nothing: a request cannot be taken back",
            request.method,
            request.url()
        ))))
    }
}
