//! HTTP requests, for handlers whose subscription grants them (`grants.http`). A request to a host that
//! is not granted ends the attempt with a fault that names it, as going over one of the grant's limits
//! does. Redirects are not followed: the answer says where to, and the handler decides.
//!
//! A request is an effect outside of Brolly: it happens when it is sent, whatever becomes of the attempt,
//! and happens again with the next attempt. So the host sets the header `idempotency-key` to that of the
//! delivery where the handler sets none: a server that knows it does the work once. A handler that sends
//! several requests for one delivery to the same server gives each a key of its own that begins with
//! `delivery.idempotency_key`.
//!
//! ```
//! use brolly_plugin::{Delivery, Failure, OrFail, handler, http, testing::Harness};
//!
//! #[handler]
//! fn handle(delivery: Delivery<u64>) -> Result<(), Failure> {
//!     let answer = http::Request::post("https://pay.example.com/v1/payments").json(&delivery.payload)?.send()?;
//!     match answer.status {
//!         200..=299 => Ok(()),
//!         400..=499 => Err(Failure::reject(format!("refused: {}", answer.text()?))),
//!         status => Err(Failure::retry(format!("the server answered {status}"))),
//!     }
//! }
//!
//! let mut harness = Harness::new().http(|request| {
//!     let status = if request.body == b"0" { 422 } else { 201 };
//!     Ok(http::Response::new(status).body("no amount"))
//! });
//! let attempt = harness.delivery("7").run(handle);
//! attempt.assert_ack();
//! assert_eq!(attempt.requests[0].url, "https://pay.example.com/v1/payments");
//! harness.delivery("0").run(handle).assert_reject("refused: no amount");
//! ```

use std::{error, fmt, time::Duration};

use serde::{Serialize, de::DeserializeOwned};

use crate::{Failure, OrFail, host};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a request is sent by `send`"]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The whole address: `https` or `http`.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long the answer may take, within the grant's `time_ms`.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A request with any method.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        let (method, url) = (method.into(), url.into());
        Self { method, url, headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST`.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// A `PUT`.
    pub fn put(url: impl Into<String>) -> Self {
        Self::new("PUT", url)
    }

    /// A `PATCH`.
    pub fn patch(url: impl Into<String>) -> Self {
        Self::new("PATCH", url)
    }

    /// A `DELETE`.
    pub fn delete(url: impl Into<String>) -> Self {
        Self::new("DELETE", url)
    }

    /// Adds a header. Those of the connection (`host`, `content-length` and the like) are the host's.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to JSON, and says so.
    ///
    /// # Errors
    /// [`Failure::Retry`] if the value cannot be written as JSON.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).or_retry("the body of a request")?;
        Ok(self.body(body).header("content-type", "application/json"))
    }

    /// Sets how long the answer may take, within the grant's `time_ms`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sends it, and waits for the whole answer. Any status is an answer.
    ///
    /// # Errors
    /// When none comes; with `?` the delivery is tried again.
    pub fn send(self) -> Result<Response, Error> {
        host::http(self)
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without headers and body, for tests.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header, for tests.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into().to_lowercase(), value.into()));
        self
    }

    /// Sets the body, for tests.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first value of a header, in whatever case its name is written.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |(own, _): &&(String, String)| own.eq_ignore_ascii_case(name);
        self.headers.iter().find(named).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// [`Failure::Retry`] if it is not UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        std::str::from_utf8(&self.body).or_retry("the answer is no text")
    }

    /// The body, read as JSON.
    ///
    /// # Errors
    /// [`Failure::Retry`] if it is not the JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).or_retry("the answer is not the JSON that was expected")
    }
}

/// No answer came. The delivery's log has more words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Such as `ConnectionRefused`.
    pub why: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer to a request: {}", self.why)
    }
}

impl error::Error for Error {}
