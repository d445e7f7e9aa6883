//! What a caller is told when a request cannot be done: a stable code and a sentence that says
//! what is wrong, where, and how to mend it. Never an internal detail; those go to the log.

use std::fmt;

use crate::Name;

/// The stable code of a refusal; outside programs match on it, so a code is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// A name breaks the rule for names ([`crate::Name`]).
    InvalidName,
    /// A field of a definition is missing, unknown, of the wrong type or out of its range.
    InvalidDefinition,
    /// A key pattern breaks the rule for patterns ([`crate::Pattern`]).
    InvalidPattern,
    /// A filter is not a CEL expression, or names something a message does not have.
    InvalidFilter,
    /// A message breaks a limit or a rule of its format.
    InvalidMessage,
    /// A query parameter or header cannot be understood.
    InvalidRequest,
    /// The bytes are no plugin that this host can run.
    InvalidPlugin,
    /// An upload is not signed as its plugin asks for.
    InvalidSignature,
    /// A plugin version does other than its plugin's samples expect.
    SamplesFailed,
    /// A payload, body or upload is larger than its limit.
    TooLarge,
    /// The named thing does not exist.
    NotFound,
    /// A definition refers to something that does not exist.
    UnknownReference,
    /// It cannot be deleted while something uses it.
    InUse,
    /// It holds messages; only a forced delete drops them.
    NotEmpty,
    /// It was changed by someone else since it was read.
    Changed,
    /// The queue holds as much as its limit allows.
    QueueFull,
    /// The disk has less free space than the host keeps in reserve.
    DiskFull,
    /// The setting cannot be honoured here.
    Unsupported,
    /// No token, or one that is not known.
    Unauthorized,
    /// The token's role does not allow this.
    Forbidden,
    /// The host is stopping, or has not started what is needed.
    Unavailable,
}

impl Code {
    /// The code as it stands in a problem document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidName => "invalid-name",
            Code::InvalidDefinition => "invalid-definition",
            Code::InvalidPattern => "invalid-pattern",
            Code::InvalidFilter => "invalid-filter",
            Code::InvalidMessage => "invalid-message",
            Code::InvalidRequest => "invalid-request",
            Code::InvalidPlugin => "invalid-plugin",
            Code::InvalidSignature => "invalid-signature",
            Code::SamplesFailed => "samples-failed",
            Code::TooLarge => "too-large",
            Code::NotFound => "not-found",
            Code::UnknownReference => "unknown-reference",
            Code::InUse => "in-use",
            Code::NotEmpty => "not-empty",
            Code::Changed => "changed",
            Code::QueueFull => "queue-full",
            Code::DiskFull => "disk-full",
            Code::Unsupported => "unsupported",
            Code::Unauthorized => "unauthorized",
            Code::Forbidden => "forbidden",
            Code::Unavailable => "unavailable",
        }
    }
}

/// A request that was refused, in words for the one who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// What is wrong, where, and how to mend it; one or two sentences.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its code and its sentence.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// "There is no {kind} {name:?}", with the call that lists what there is.
    #[must_use]
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(
            Code::NotFound,
            format!("there is no {kind} named {name:?}; GET /api/v1/{kind}s lists them"),
        )
    }

    /// A feed is wanted of a broker that keeps whatever is published.
    #[must_use]
    pub fn no_channels() -> Self {
        let detail = "a feed is a channel of Redis pub/sub; this broker keeps its messages, so use a queue and a forward";
        Self::new(Code::Unsupported, detail)
    }

    /// A message that is moved to a topic would be in no queue there.
    #[must_use]
    pub fn no_queue(topic: &Name, key: &str) -> Self {
        let detail = format!(
            "no queue takes a message of the topic {topic} with the key {key:?}, so it stays where it is; add a route"
        );
        Self::new(Code::Unavailable, detail)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code.as_str())
    }
}

impl std::error::Error for Refusal {}
