//! What is answered when something goes wrong: problem details as RFC 9457 has them, with a stable
//! code. Whatever is the host's own affair goes to the log, not into the answer.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use brolly_core::{Code, Refusal};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::Admin;

/// Why a request was not done.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:brolly:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: Urn,
    /// The kind of problem in a few words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong here, and how to mend it.
    detail: String,
    /// What programs match on; never renamed.
    code: &'static str,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    instance: Option<Box<str>>,
    /// Where the host is not ready: the subscriptions that should run and do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_ready: Vec<NotReady>,
    /// Seconds after which to try again, where that helps; for the header Retry-After.
    #[serde(skip)]
    retry_after: u16,
}

/// The type of a problem, from its code.
#[derive(Clone, Copy, Debug)]
struct Urn(&'static str);

impl Serialize for Urn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("urn:brolly:problem:{}", self.0))
    }
}

/// A subscription that should run and does not.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct NotReady {
    /// Its name.
    pub subscription: String,
    /// What it is doing instead: starting or failed.
    pub state: &'static str,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: Urn(code),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            code,
            instance: None,
            not_ready: Vec::new(),
            retry_after: 1,
        }
    }

    /// Something the caller is to mend.
    pub fn refused(code: Code, detail: impl Into<String>) -> Self {
        let (status, title) = meaning(code);
        Self::new(status, code.as_str(), title, detail)
    }

    /// A path that leads nowhere.
    pub fn unknown_path(path: &str) -> Self {
        Self::refused(
            Code::NotFound,
            format!("there is nothing at {path}; GET /api/v1/openapi.json lists what there is"),
        )
    }

    /// A method that the path does not have.
    pub fn unknown_method(method: &str, path: &str) -> Self {
        let detail = format!("{path} has no {method}; the header Allow lists what it has");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    /// A media type that the path does not take.
    pub fn media_type(detail: impl Into<String>) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "unsupported-media-type", "Unsupported media type", detail)
    }

    /// A request body that does not come.
    pub fn body_late(idle_ms: u64) -> Self {
        let detail = format!("no byte of the body came for {idle_ms} ms");
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "Request time-out", detail)
    }

    /// Too many wrong tokens from one address.
    pub fn too_many_attempts(wait: Duration) -> Self {
        let seconds = u16::try_from(wait.as_secs()).unwrap_or(u16::MAX).saturating_add(1);
        let detail = format!("too many wrong tokens came from this address; try again in {seconds} s");
        let status = StatusCode::TOO_MANY_REQUESTS;
        let problem = Self::new(status, "too-many-attempts", "Too many attempts", detail);
        Self { retry_after: seconds, ..problem }
    }

    /// A failure of the host, of which the log has the details.
    pub fn internal() -> Self {
        let detail = "the host failed at this request; its log has the reason";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    /// Subscriptions do not run that should.
    pub fn not_ready(not_ready: Vec<NotReady>) -> Self {
        let detail = format!(
            "{} subscriptions should run and do not; GET /api/v1/subscriptions/NAME says why",
            not_ready.len()
        );
        Self { not_ready, ..Self::refused(Code::Unavailable, detail) }
    }
}

/// The status and the title of each code.
fn meaning(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidName => (StatusCode::BAD_REQUEST, "Invalid name"),
        Code::InvalidRequest => (StatusCode::BAD_REQUEST, "Invalid request"),
        Code::InvalidMessage => (StatusCode::BAD_REQUEST, "Invalid message"),
        Code::InvalidDefinition => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid definition"),
        Code::InvalidPattern => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid key pattern"),
        Code::InvalidFilter => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid filter"),
        Code::InvalidPlugin => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid plugin"),
        Code::InvalidSignature => (StatusCode::UNPROCESSABLE_ENTITY, "Invalid signature"),
        Code::SamplesFailed => (StatusCode::UNPROCESSABLE_ENTITY, "Samples failed"),
        Code::UnknownReference => (StatusCode::UNPROCESSABLE_ENTITY, "Unknown reference"),
        Code::Unsupported => (StatusCode::UNPROCESSABLE_ENTITY, "Unsupported setting"),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
        Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        Code::InUse => (StatusCode::CONFLICT, "In use"),
        Code::NotEmpty => (StatusCode::CONFLICT, "Not empty"),
        Code::Changed => (StatusCode::PRECONDITION_FAILED, "Changed since"),
        Code::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "Queue full"),
        Code::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "Disk full"),
        Code::Unauthorized => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Code::Forbidden => (StatusCode::FORBIDDEN, "Forbidden"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Unavailable"),
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.code, refusal.detail)
    }
}

impl From<brolly_dispatch::Error> for Problem {
    fn from(error: brolly_dispatch::Error) -> Self {
        use brolly_dispatch::Error;
        match error {
            Error::Refused(refusal) => refusal.into(),
            Error::Broker(error) => {
                tracing::error!(%error, "a request failed at a broker");
                Self::refused(
                    Code::Unavailable,
                    "a broker does not answer as it should; try again, the log has the reason",
                )
            }
            Error::Alerts(_)
            | Error::Ledger(_)
            | Error::Catalog(_)
            | Error::Plugin(_)
            | Error::Task { .. } => {
                tracing::error!(%error, "a request failed");
                Self::internal()
            }
        }
    }
}

impl From<serde_json::Error> for Problem {
    /// Something that the host itself wrote cannot be written as JSON.
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "an answer cannot be written");
        Self::internal()
    }
}

impl IntoResponse for Problem {
    /// Leaves the body to [`describe`], which knows the path.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"brolly\""));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives problems their body and every answer its security headers.
pub(crate) async fn describe(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        problem.instance = Some(path.into());
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.remove(header::CONTENT_LENGTH);
        *response.body_mut() = body.into();
    }
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers.entry(*name).or_insert(HeaderValue::from_static(value));
    }
    if admin.tls.is_some() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(TLS_ONLY));
    }
    response
}

/// Whoever has come by TLS once comes by nothing else for a year.
const TLS_ONLY: &str = "max-age=31536000";

/// Nothing that comes from here may be framed, guessed at, kept, or load anything from elsewhere; and
/// no script may make markup or code out of text.
const SECURITY: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];
